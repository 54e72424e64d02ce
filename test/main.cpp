#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>

#include <cstdlib>

int main(int argc, char** argv) {
  setenv("CUDA_LAUNCH_BLOCKING", "1", 1);  // on a GPU the tests read results as soon as an operator has returned
  return doctest::Context(argc, argv).run();
}
