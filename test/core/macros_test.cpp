#include <moe/core/macros.hpp>
#include <moe/core/simd.hpp>
#include <moe/core/space.hpp>

#include "test/support.hpp"

namespace moe::MOE_ISA {
struct only_here {};
}  // namespace moe::MOE_ISA

TEST_CASE("the namespace of the instruction set is inline: users never write it") {
  CHECK(std::is_same_v<moe::only_here, moe::MOE_ISA::only_here>);
  CHECK(std::is_same_v<moe::cpu, moe::MOE_ISA::cpu>);
}

TEST_CASE("the name of the instruction set says which vectors are used") {
  std::string const name = moe::instruction_set();
  CHECK(name == MOE_STRINGIFY(MOE_ISA));
  CHECK(moe::vector_bytes == (name.starts_with("avx512") ? 64 : name == "avx2" ? 32 : 16));
#if defined(MOE_AVX512_BF16)
  CHECK(name == "avx512_bf16");  // its products of bf16 have bits of their own, so it needs a name of its own
#else
  CHECK(name != "avx512_bf16");
#endif
#if defined(MOE_AVX512) || defined(MOE_AVX2)
  CHECK(name != "portable");
#if !defined(MOE_HAS_FMA)
  FAIL("wide vectors without a fused multiply-add");
#endif
#endif
}
