#pragma once
#include <omp.h>

#include <algorithm>

#include <moe/core/space.hpp>

namespace moe::inline MOE_ISA {

namespace detail {
inline constinit thread_local int worker = 0;  ///< of the innermost parallel_for that this thread works for
}

/// Calls f(i) for i in [0, n), items dealt to the threads in order as they become free. Each item must be independent of who runs it.
/// f must not throw. `work` is a rough count of scalar operations per item: small loops stay on the calling thread.
template <class F>
void parallel_for(cpu const& space, index_t n, double work, F const& f) {
  if (n <= 0) return;
  double const total = work * static_cast<double>(n);
  int const threads = static_cast<int>(std::min<index_t>(std::max(space.threads, 1), n)), outer = detail::worker;
  if (threads == 1 || total < 20000.0) {  // a fork and join costs about as much as this many operations
    detail::worker = 0;  // the caller may itself be thread 5 of somebody's parallel region
    for (index_t i = 0; i < n; ++i) f(i);
    detail::worker = outer;
    return;
  }
  index_t const grain = std::max<index_t>(1, std::min<index_t>(n / (8 * threads), static_cast<index_t>(20000.0 / std::max(work, 1.0))));
#pragma omp parallel num_threads(threads)
  {
    detail::worker = omp_get_thread_num();
#pragma omp for schedule(dynamic, grain) nowait
    for (index_t i = 0; i < n; ++i) f(i);
  }
  detail::worker = outer;
}

/// Calls f(chunk, begin, end) for the chunks of [0, n): `chunk` elements each, the last one shorter. The boundaries depend on n and `chunk`
/// alone, so partial sums formed per chunk and added in order are the same for any number of threads.
template <class F>
void parallel_chunks(cpu const& space, index_t n, index_t chunk, double work, F const& f) {
  parallel_for(space, (n + chunk - 1) / chunk, work * static_cast<double>(chunk),
               [&](index_t c) { f(c, c * chunk, std::min(n, (c + 1) * chunk)); });
}

/// Number of threads parallel_for uses at most, for scratch per thread; inside f, thread_index() is in [0, that), also where the caller runs in a
/// parallel region of its own.
inline int thread_count(cpu const& space) { return std::max(space.threads, 1); }
inline int thread_index() { return detail::worker; }

}  // namespace moe::inline MOE_ISA
