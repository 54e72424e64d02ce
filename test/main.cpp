#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>

#include <cstdlib>
#if defined(__CUDACC__)
#include <cuda_runtime.h>

#include <cstdio>
#endif

int main(int argc, char** argv) {
#if defined(__CUDACC__)
  setenv("CUDA_LAUNCH_BLOCKING", "1", 1);  // on a GPU the tests read results as soon as an operator has returned
  int devices = 0;
  if (cudaError_t const status = cudaGetDeviceCount(&devices); status != cudaSuccess || devices == 0) {
    std::printf("no CUDA device: %s\n", status != cudaSuccess ? cudaGetErrorString(status) : "none is visible");
    return 77;
  }
#endif
  return doctest::Context(argc, argv).run();
}
