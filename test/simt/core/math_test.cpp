#include <moe/core/math.hpp>
#include <moe/core/simd.hpp>

#include "test/simt/support.hpp"

// Kernels of both spaces then agree on softmax weights bit by bit.
TEST_CASE("exp_scalar: the bits of a lane of the vector function") {
  auto const check = [](float x) {
    float const a = moe::exp_scalar(x), b = moe::exp_one(x);
    return std::memcmp(&a, &b, sizeof a) == 0;
  };
  float const inf = std::numeric_limits<float>::infinity();
  for (float x : {0.0f, -0.0f, 1.0f, 88.722839f, 88.72284f, 88.8f, -103.9f, -104.0f, -104.1f, -87.4f, inf, -inf, test::quiet_nan<float>(), 1e-40f})
    CHECK_MESSAGE(check(x), "at " << x);
  int wrong = 0;
  for (int i = -110000; i < 90000; ++i) wrong += check(static_cast<float>(i) * 1.0007e-3f) ? 0 : 1;
  CHECK(wrong == 0);
  CHECK(moe::exp_scalar(1.5) == std::exp(1.5));
}
