#include <bench/ssm/plain_scan.hpp>

void bench::scan_simd(plain_scan const& p, int threads) {
  for_rows(p, threads, [&p](float* h, float dt, float input, long row, long d) {
    float const *const a = p.a + d * p.states, *const b = p.b + row * p.states, *const c = p.c + row * p.states;
    float y = 0;
#pragma omp simd reduction(+ : y)
    for (long n = 0; n < p.states; ++n) {
      h[n] = std::exp(dt * a[n]) * h[n] + input * b[n];
      y += h[n] * c[n];
    }
    return y;
  });
}
