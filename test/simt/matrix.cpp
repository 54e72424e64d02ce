#include "test/simt/matrix.hpp"

namespace simt {
namespace {

constexpr std::uint32_t all_lanes = 0xffffffffu;

struct move_part {
  std::uint32_t* r;
  std::byte* row;
};

std::uint32_t two_elements(std::byte const* first, std::byte const* second) {
  std::uint16_t low = 0, high = 0;
  std::memcpy(&low, first, 2);
  std::memcpy(&high, second, 2);
  return low | std::uint32_t{high} << 16;
}

template <bool Transposed>
void finish_load(void* const* lanes, std::uint32_t) {
  auto const part = [&](int lane) { return *static_cast<move_part const*>(lanes[lane]); };
  for (int lane = 0; lane < 32; ++lane)
    for (int i = 0; i < 4; ++i) {
      int const g = lane / 4, t = lane % 4;
      part(lane).r[i] = Transposed ? two_elements(part(8 * i + 2 * t).row + 2 * g, part(8 * i + 2 * t + 1).row + 2 * g)
                                   : two_elements(part(8 * i + g).row + 4 * t, part(8 * i + g).row + 4 * t + 2);
    }
}

template <bool Transposed>
void finish_store(void* const* lanes, std::uint32_t) {
  auto const part = [&](int lane) { return *static_cast<move_part const*>(lanes[lane]); };
  for (int lane = 0; lane < 32; ++lane)
    for (int i = 0; i < 8; ++i) {  // element i % 2 of register i / 2
      int const g = lane / 4, t = 2 * (lane % 4) + i % 2, row = Transposed ? t : g, column = Transposed ? g : t;
      auto const element = static_cast<std::uint16_t>(part(lane).r[i / 2] >> (16 * (i % 2)));
      std::memcpy(part(i / 2 * 8 + row).row + 2 * column, &element, 2);
    }
}

struct product_part {
  float* d;
  std::uint32_t const* a;
  std::uint32_t b[2];
};

float element(std::uint32_t const* registers, int i) { return __builtin_bit_cast(float, registers[i / 2] >> (16 * (i % 2)) << 16); }

void finish_product(void* const* lanes, std::uint32_t) {
  float a[16][16], b[16][8], d[16][8];
  auto const each = [&](int elements, auto&& f) {
    for (int lane = 0; lane < 32; ++lane)
      for (int i = 0; i < elements; ++i) f(*static_cast<product_part const*>(lanes[lane]), lane / 4, lane % 4, i);
  };
  each(8, [&](product_part const& p, int g, int t, int i) { a[g + 8 * (i / 2 % 2)][2 * t + i % 2 + 8 * (i / 4)] = element(p.a, i); });
  each(4, [&](product_part const& p, int g, int t, int i) { b[2 * t + i % 2 + 8 * (i / 2)][g] = element(p.b, i); });
  each(4, [&](product_part const& p, int g, int t, int i) { d[g + 8 * (i / 2)][2 * t + i % 2] = p.d[i]; });
  for (int m = 0; m < 16; ++m)
    for (int k = 0; k < 16; ++k)
      for (int n = 0; n < 8; ++n) multiply_add(d[m][n], a[m][k], b[k][n]);
  each(4, [&](product_part const& p, int g, int t, int i) { p.d[i] = d[g + 8 * (i / 2)][2 * t + i % 2]; });
}

}  // namespace

void load_matrices(std::uint32_t (&r)[4], void const* row, bool transposed, place where) {
  check_shared(row, 16, 16, "ldmatrix", where);
  move_part mine{r, static_cast<std::byte*>(const_cast<void*>(row))};
  warp_collective({transposed ? "ldmatrix.trans" : "ldmatrix", all_lanes, &mine, transposed ? finish_load<true> : finish_load<false>}, where);
}
void store_matrices(void* row, std::uint32_t const (&r)[4], bool transposed, place where) {
  check_shared(row, 16, 16, "stmatrix", where);
  move_part mine{const_cast<std::uint32_t*>(r), static_cast<std::byte*>(row)};
  warp_collective({transposed ? "stmatrix.trans" : "stmatrix", all_lanes, &mine, transposed ? finish_store<true> : finish_store<false>}, where);
}
void multiply_matrices(float (&d)[4], std::uint32_t const (&a)[4], std::uint32_t b0, std::uint32_t b1, place where) {
  product_part mine{d, a, {b0, b1}};
  warp_collective({"mma.m16n8k16", all_lanes, &mine, finish_product}, where);
}

}  // namespace simt
