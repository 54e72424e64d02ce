#include <moe/core/space.hpp>

#include "test/support.hpp"

static_assert(moe::execution_space<moe::cpu>);
static_assert(!moe::execution_space<int>);

TEST_CASE("cpu: as many threads as OpenMP offers unless told otherwise") {
  CHECK(moe::cpu{}.threads == omp_get_max_threads());
  CHECK(moe::cpu{3}.threads == 3);
  moe::cpu{}.wait();
}

TEST_CASE("the machine that runs the tests has the instruction set they were compiled for") {
  CHECK(moe::machine_has_instruction_set());
  CHECK_NOTHROW(moe::check_machine());
}

#if defined(MOE_AVX512_BF16)
TEST_CASE("a machine without products of bf16 does not have avx512_bf16, whatever else it has") {
  CHECK(moe::machine_has_instruction_set() == (__builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512bw")));
}
#endif
