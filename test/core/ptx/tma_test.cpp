// The boxes that TMA moves, over every edge, against the tensor element by element and the 128-byte swizzle as the manual draws it.
#include <moe/core/buffer.cuh>
#include <moe/core/launch.cuh>
#include <moe/core/ptx.cuh>
#include <moe/core/tensor_map.cuh>

#include "test/support.hpp"

namespace {

using moe::bf16;
using moe::box_layout;
using moe::box_of_tensor;
using moe::index_t;
using moe::launch;
namespace ptx = moe::ptx;

struct box_buffer {
  alignas(1024) std::uint16_t element[4096];
  std::uint64_t full;
};

/// Loads one box, copies the shared memory it fills to `to`, and stores the box again one element further in every dimension.
template <int Rank>
__global__ void move_kernel(CUtensorMap const __grid_constant__ map, CUtensorMap const __grid_constant__ target, std::uint16_t* to, int elements,
                            int x, int y, int z) {
  if constexpr (ptx::sm90a) {
    auto& shared = ptx::dynamic_shared<box_buffer>();
    if (threadIdx.x == 0) {
      ptx::mbarrier_init(&shared.full, 1);
      ptx::fence_mbarrier_init();
    }
    __syncthreads();
    if (threadIdx.x == 0) {
      ptx::mbarrier_arrive_expect_tx(&shared.full, 2 * static_cast<unsigned>(elements));
      if constexpr (Rank == 2) ptx::tma_load(shared.element, map, &shared.full, x, y);
      else ptx::tma_load(shared.element, map, &shared.full, x, y, z);
    }
    ptx::mbarrier_wait(&shared.full, 0);
    for (int i = static_cast<int>(threadIdx.x); i < elements; i += 32) to[i] = shared.element[i];
    if (threadIdx.x == 0) {
      if constexpr (Rank == 2) ptx::tma_store(target, shared.element, x + 1, y + 1);
      else ptx::tma_store(target, shared.element, x + 1, y + 1, z + 1);
      ptx::bulk_commit();
      ptx::bulk_wait_read<0>();
    }
  }
}

/// A tensor of Rank dimensions and the number of each of its elements.
template <int Rank>
struct numbered {
  box_of_tensor<Rank> t;
  index_t depth() const { return Rank == 3 ? t.size[Rank - 1] : 1; }
  index_t plane() const { return Rank == 3 ? t.stride[Rank - 2] : t.size[1] * t.stride[0]; }
  index_t total() const { return depth() * plane(); }
  index_t at(index_t i, index_t j, index_t k) const {  // -1: outside
    bool const inside = i >= 0 && i < t.size[0] && j >= 0 && j < t.size[1] && k >= 0 && k < depth();
    return inside ? i + j * t.stride[0] + k * plane() : -1;
  }
};

template <int Rank>
void check_box(box_of_tensor<Rank> const& t, int x, int y, int z) {
  if (!ptx::runs_sm90a_code()) return;
  numbered<Rank> const tensor{t};
  auto const total = static_cast<std::size_t>(tensor.total());
  int const box_x = t.box[0], box_y = t.box[1], box_z = Rank == 3 ? t.box[Rank - 1] : 1, elements = box_x * box_y * box_z;
  moe::device_buffer const from(2 * total), sink(2 * total), to(2 * static_cast<std::size_t>(elements));
  std::vector<std::uint16_t> numbers(total), blank(total, 0x7fff), stored(total), shared(static_cast<std::size_t>(elements));
  for (std::size_t i = 0; i < total; ++i) numbers[i] = static_cast<std::uint16_t>(i + 1);
  auto const map = moe::encode_tensor_map("test", "from", from.template as<bf16>(), t),
             target = moe::encode_tensor_map("test", "sink", sink.template as<bf16>(), t);
  test::for_each_execution([&](moe::cuda const& space, int) {
    moe::copy(space, from.as<std::uint16_t>(), numbers.data(), tensor.total());
    moe::copy(space, sink.as<std::uint16_t>(), blank.data(), tensor.total());
    launch("move", move_kernel<Rank>, {.blocks = 1, .threads = 32, .shared_bytes = sizeof(box_buffer)}, space, map, target, to.as<std::uint16_t>(),
           elements, x, y, z);
    moe::copy(space, stored.data(), sink.as<std::uint16_t const>(), tensor.total());
    moe::copy(space, shared.data(), to.as<std::uint16_t const>(), index_t{elements});
    space.wait();
    int wrong = 0;
    for (int k = 0; k < box_z; ++k)
      for (int j = 0; j < box_y; ++j)
        for (int i = 0; i < box_x; ++i) {  // chunk c of row r of 128 bytes stands where chunk c xor r % 8 would
          int const row = k * box_y + j, chunk = t.layout == box_layout::swizzle_128 ? i / 8 ^ row % 8 : i / 8;
          wrong += shared[static_cast<std::size_t>(row * box_x + chunk * 8 + i % 8)] == tensor.at(x + i, y + j, z + k) + 1 ? 0 : 1;
        }
    CHECK(wrong == 0);
    for (int k = 0; k < tensor.depth(); ++k)
      for (int j = 0; j < t.size[1]; ++j)
        for (int i = 0; i < t.size[0]; ++i) {
          int const bi = i - x - 1, bj = j - y - 1, bk = Rank == 3 ? k - z - 1 : 0;  // in the box
          bool const inside = bi >= 0 && bi < box_x && bj >= 0 && bj < box_y && bk >= 0 && bk < box_z;
          index_t const expected = inside ? tensor.at(i - 1, j - 1, Rank == 3 ? k - 1 : 0) + 1 : 0x7fff;
          wrong += stored[static_cast<std::size_t>(tensor.at(i, j, k))] == expected ? 0 : 1;
        }
    CHECK(wrong == 0);
  });
}

}  // namespace

TEST_CASE("TMA: boxes move, also over the edges, with and without the 128-byte swizzle") {
  for (box_layout layout : {box_layout::swizzle_128, box_layout::plain}) {
    check_box<2>({{96, 20}, {104}, {64, 16}, layout}, 0, 0, 0);
    check_box<2>({{96, 20}, {104}, {64, 16}, layout}, 40, 9, 0);
    check_box<2>({{90, 20}, {96}, {64, 8}, layout}, -3, -2, 0);
    check_box<3>({{70, 6, 3}, {72, 432}, {64, 4, 2}, layout}, 8, 4, 2);
    check_box<3>({{70, 6, 3}, {72, 432}, {64, 4, 2}, layout}, 0, 0, -1);
  }
  check_box<2>({{24, 5}, {24}, {8, 3}, box_layout::plain}, 17, 1, 0);
}
