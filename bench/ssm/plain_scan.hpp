#pragma once
// The selective scan as plain loops: what a program without this library would have.
#include <cmath>

namespace bench {

/// Row-major; b and c [rows, states]. `length` rows of each sequence; delta through softplus, no gate, no initial state.
struct plain_scan {
  long sequences, length, channels, states;  ///< states <= 64
  float const *u, *delta, *a, *b, *c, *skip, *bias;
  float* out;
};
/// The loop over states under #pragma omp simd, compiled with -ffast-math: only then does g++ take the exponentials of several lanes from libmvec. A
/// file of its own, which sees no header of the library.
void scan_simd(plain_scan const& p, int threads);

namespace {  // a copy for each file: they are compiled with different options

/// Calls step(h, dt, dt u, row, channel), which returns y, for the rows of each channel.
template <class Step>
void for_rows(plain_scan const& p, int threads, Step const& step) {
#pragma omp parallel for collapse(2) num_threads(threads)
  for (long s = 0; s < p.sequences; ++s)
    for (long d = 0; d < p.channels; ++d) {
      float h[64] = {};
      for (long row = s * p.length; row < (s + 1) * p.length; ++row) {
        float const x = p.delta[row * p.channels + d] + p.bias[d], dt = x > 20 ? x : std::log1p(std::exp(x)), u = p.u[row * p.channels + d];
        p.out[row * p.channels + d] = step(h, dt, dt * u, row, d) + p.skip[d] * u;
      }
    }
}

}  // namespace
}  // namespace bench
