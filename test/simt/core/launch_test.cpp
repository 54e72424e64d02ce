// What the cuda space says when something is wrong with the device, the launch, the memory or the work before it. The stand-in is told to fail.
#include <moe/core/buffer.cuh>
#include <moe/core/launch.cuh>
#include <moe/core/ptx.cuh>
#include <moe/core/tensor_map.cuh>

#include "test/simt/device.hpp"
#include "test/simt/support.hpp"

namespace {

using moe::cuda;
using moe::device_buffer;
using moe::errc;
using moe::index_t;
using moe::launch;

__global__ void nothing_kernel() {}
__global__ void add_kernel(float* x, float a) { x[threadIdx.x] += a; }
struct large_layout {
  float v[15000];
};
__global__ void large_kernel(float* to) { to[0] = moe::ptx::dynamic_shared<large_layout>().v[14999]; }

struct thrown {
  errc code{};
  std::string what;
};
template <class F>
thrown thrown_by(F&& f) {
  try {
    f();
  } catch (moe::error const& e) {
    return {e.code, e.what()};
  }
  return {};
}
void start(moe::launch_shape s = {.blocks = 1, .threads = 32}, cuda space = {}) { launch("op", nothing_kernel, s, space); }

/// A device with faults, for one scope.
struct faulty : simt::device_state {
  explicit faulty(simt::device_state const& d) { simt::device() = d; }
  ~faulty() {
    simt::device() = {};
    cudaGetLastError();
  }
};

constexpr char const* here = ": device 0 (test/simt, a stand-in, sm_90), kernels compiled for sm_80, sm_90";

}  // namespace

TEST_CASE("launch: no blocks is no launch; what the device cannot run is refused before it starts, with the numbers") {
  auto const refused = [](moe::launch_shape s) { return thrown_by([&] { start(s); }); };
  CHECK(refused({.blocks = 0, .threads = 0}).what.empty());
  CHECK(refused({.blocks = -1, .threads = 1}).what.empty());
  CHECK(refused({.blocks = 1, .threads = 1024}).what.empty());
  CHECK(refused({.blocks = 1, .threads = 1025}).what == "op: 1025 threads per block, a block has 1 to 1024");
  CHECK(refused({.blocks = 1, .threads = 0}).what == "op: 0 threads per block, a block has 1 to 1024");
  CHECK(refused({.blocks = 1, .threads = 0}).code == errc::bad_argument);
  CHECK(refused({.blocks = 1, .threads = 1, .shared_bytes = 232448}).what.empty());  // launch sets the attribute
  CHECK(refused({.blocks = 1, .threads = 1, .shared_bytes = 232449}).what == "op: 232449 bytes of shared memory per block, the device has 232448");
  faulty const small({.shared_limit = 101376});
  CHECK(refused({.blocks = 1, .threads = 1, .shared_bytes = 101377}).what == "op: 101377 bytes of shared memory per block, the device has 101376");
  CHECK(refused({.blocks = 1, .threads = 1, .shared_bytes = 101377}).code == errc::unsupported_machine);
}

TEST_CASE("launch: more than 48 KiB of shared memory is asked for, and holds NaN at first") {
  float to[1];
  cudaLaunchConfig_t config{};  // the raw call, without the attribute
  config.gridDim = 1, config.blockDim = 1, config.dynamicSmemBytes = 60000;
  CHECK(cudaLaunchKernelEx(&config, large_kernel, static_cast<float*>(to)) == cudaErrorInvalidValue);
  CHECK(cudaGetLastError() == cudaErrorInvalidValue);
  launch("large", large_kernel, {.blocks = 1, .threads = 1, .shared_bytes = 60000}, cuda{}, static_cast<float*>(to));
  CHECK(to[0] != to[0]);
  std::string const small =
      test::failure_of([&] { launch("large", large_kernel, {.blocks = 1, .threads = 1, .shared_bytes = 59996}, cuda{}, static_cast<float*>(to)); });
  CHECK_MESSAGE(test::contains(small, "a layout of 60000 bytes where the launch gave 59996 bytes of shared memory"), small);
}

TEST_CASE("cuda: no device and no driver are told apart, wherever they are met, and say what to do") {
  struct kind {
    cudaError_t status;
    char const* words;
  };
  for (kind k :
       {kind{cudaErrorNoDevice,
             "no CUDA-capable device is detected; see that one is there and CUDA_VISIBLE_DEVICES does not hide it, or use moe::cpu"},
        kind{
            cudaErrorInsufficientDriver,
            "CUDA driver version is insufficient for CUDA runtime version; install an NVIDIA driver as new as this CUDA runtime, or use moe::cpu"}}) {
    faulty const f({.present = k.status});
    float x[4] = {};
    thrown const all[] = {thrown_by([] { start(); }),
                          thrown_by([] { cuda{}.wait(); }),
                          thrown_by([] { device_buffer(64); }),
                          thrown_by([] { moe::current_device("op"); }),
                          thrown_by([&] { moe::copy(cuda{}, x, x + 2, 2); }),
                          thrown_by([&] {
                            moe::encode_tensor_map("op", "x", x, moe::box_of_tensor<2>{{4, 1}, {4}, {4, 1}, moe::box_layout::plain});
                          })};
    for (thrown const& t : all) {
      CHECK(t.code == errc::no_device);
      CHECK_MESSAGE(test::contains(t.what, std::string(": ") + k.words), t.what);
    }
    CHECK(all[0].what.substr(0, 4) == "op: ");
    CHECK_FALSE(moe::ptx::runs_sm90a_code());
    CHECK(thrown_by([] { start({.blocks = 0, .threads = 32}); }).what.empty());  // nothing to run, nothing to miss
  }
  CHECK(thrown_by([] { start(); }).what.empty());
}

TEST_CASE("launch: code for another architecture is told with both architectures and the flags that would help") {
  faulty const f({.major = 7, .minor = 5, .image = cudaErrorNoKernelImageForDevice});
  thrown const t = thrown_by([] { start({.blocks = 3, .threads = 64}); });
  CHECK(t.code == errc::unsupported_machine);
  CHECK(t.what ==
        "op: no kernel image is available for execution on the device (3 blocks of 64 threads, 0 bytes of shared memory): device 0 (test/simt, a "
        "stand-in, "
        "sm_75), kernels compiled for sm_80, sm_90; compile with -gencode arch=compute_75,code=sm_75");
  simt::device().major = 9, simt::device().minor = 0;
  CHECK(test::contains(thrown_by([] { start(); }).what, "compile with -gencode arch=compute_90a,code=sm_90a"));
  CHECK_FALSE(moe::ptx::runs_sm90a_code());
}

TEST_CASE("device_buffer: holds what was copied; says how much memory there is when it ends; a smaller one can still be had") {
  {
    device_buffer b(4 * sizeof(float));
    float const from[] = {1, 2, 3, 4};
    float to[4] = {};
    moe::copy(cuda{}, b.as<float>(), from, 4);
    device_buffer c(std::move(b));
    moe::copy<float>(cuda{}, to, c.as<float>(), 4);
    cuda{}.wait();
    CHECK(to[3] == 4);
    CHECK(b.data() == nullptr);
    CHECK(simt::allocated_bytes() == 16);
  }
  CHECK(simt::allocated_bytes() == 0);
  faulty const f({.memory = 1000});
  device_buffer const first(300);
  thrown const t = thrown_by([] { device_buffer(701); });
  CHECK(t.code == errc::out_of_memory);
  CHECK(t.what == std::string("device_buffer: out of memory (701 bytes asked, 700 of 1000 free)") + here);
  CHECK(cudaPeekAtLastError() == cudaSuccess);
  CHECK(device_buffer(700).bytes() == 700);
  simt::device().successful_allocations = 1;  // the second fails whatever its size
  std::vector<device_buffer> some;
  CHECK(thrown_by([&] {
          for (int i = 0; i < 3; ++i) some.emplace_back(1);
        }).code == errc::out_of_memory);
  CHECK(some.size() == 1);
  CHECK(simt::allocated_bytes() == 301);
}

TEST_CASE("launch: an error that earlier work left behind is reported as such, once, and the kernel does not start") {
  float x[1] = {1};
  auto const add = [&] { launch("add", add_kernel, {.blocks = 1, .threads = 1}, cuda{}, static_cast<float*>(x), 2.0f); };
  simt::leave_error(cudaErrorInvalidValue);
  thrown const t = thrown_by(add);
  CHECK(t.code == errc::cuda);
  CHECK(t.what == std::string("add: not started: an error of earlier work is pending: invalid argument") + here);
  CHECK(x[0] == 1);
  add();
  CHECK(x[0] == 3);
  simt::leave_error(cudaErrorNotReady);  // of a cudaEventQuery: an answer, not an error
  add();
  CHECK(x[0] == 5);
  CHECK(cudaGetLastError() == cudaErrorNotReady);
}

TEST_CASE("cuda: after an error that took the context every call says so, and destructors neither throw nor hang") {
  device_buffer b(64);
  faulty const f({.lost = cudaErrorIllegalAddress});
  std::string const lost =
      "an illegal memory access was encountered; a kernel of this process failed, and its context is lost: no call succeeds any more, only a new "
      "process can use "
      "the device (compute-sanitizer names the kernel)";
  CHECK(thrown_by([] { cuda{}.wait(); }).what == "cuda::wait: " + lost);
  CHECK(thrown_by([] { device_buffer(64); }).what == "device_buffer: " + lost);
  for (int i = 0; i < 2; ++i) {  // not only once
    thrown const t = thrown_by([] { start(); });
    CHECK(t.code == errc::cuda);
    CHECK(t.what == "op: not started: an error of earlier work is pending: " + lost);
  }
  b = device_buffer();
  CHECK(simt::allocated_bytes() == 0);
}

TEST_CASE("cuda: launches and copies can be captured; what waits or allocates meanwhile is an error") {
  cudaStream_t stream = nullptr;
  REQUIRE(cudaStreamCreate(&stream) == cudaSuccess);
  cuda const space{stream};
  float x[4] = {}, y[4] = {};
  cudaGraph_t graph = nullptr;
  auto const capture = [&](auto&& work) {
    REQUIRE(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal) == cudaSuccess);
    thrown const t = thrown_by(work);
    cudaError_t const status = cudaStreamEndCapture(stream, &graph);
    CHECK((status == cudaSuccess) == t.what.empty());
    cudaGetLastError();
    return t.what;
  };
  auto const add = [&](cuda s) { launch("add", add_kernel, {.blocks = 1, .threads = 4, .shared_bytes = 100000}, s, static_cast<float*>(x), 2.0f); };

  CHECK(capture([&] {
          add(space);
          moe::copy<float>(space, y, x, 4);
        }).empty());
  CHECK((x[0] == 0 && y[0] == 0));  // recorded, not run
  std::size_t nodes = 0;
  cudaGraphExec_t executable = nullptr;
  CHECK(cudaGraphGetNodes(graph, nullptr, &nodes) == cudaSuccess);
  CHECK(nodes == 2);
  CHECK(cudaGraphInstantiate(&executable, graph) == cudaSuccess);
  for (int i = 0; i < 3; ++i) CHECK(cudaGraphLaunch(executable, stream) == cudaSuccess);
  CHECK((x[3] == 6 && y[3] == 6));
  CHECK(cudaGraphExecDestroy(executable) == cudaSuccess);
  CHECK(cudaGraphDestroy(graph) == cudaSuccess);

  CHECK(test::contains(capture([&] { space.wait(); }), "cuda::wait: operation not permitted when stream is capturing"));
  CHECK(test::contains(capture([&] { device_buffer(64); }), "device_buffer: operation not permitted when stream is capturing"));
  CHECK(test::contains(capture([&] { add(cuda{}); }),
                       "add: operation would make the legacy stream depend on a capturing blocking stream (1 blocks of 4 threads, 100000 bytes"));
  CHECK(x[0] == 6);
  CHECK(cudaStreamDestroy(stream) == cudaSuccess);
}

TEST_CASE("current_device: what launchers ask") {
  moe::cuda_device const d = moe::current_device("op");
  CHECK((d.number == 0 && d.multiprocessors == 4 && d.major == 9 && d.minor == 0 && d.shared_bytes == 232448));
  CHECK(moe::ptx::runs_sm90a_code());
  faulty const f({.hopper_code = false});
  CHECK_FALSE(moe::ptx::runs_sm90a_code());
}
