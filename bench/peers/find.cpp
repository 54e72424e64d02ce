#include <cstdio>

#include <bench/peers/products.hpp>

namespace bench::peers {

std::vector<std::unique_ptr<peer>> find_peers() {
  std::vector<std::unique_ptr<peer>> found;
  auto const add = [&](std::unique_ptr<peer> p) {
    if (p) found.push_back(std::move(p));
  };
  add(find_openblas());
  add(find_blis());
#if defined(MOE_BENCH_ONEDNN)
  add(find_onednn());
#else
  std::fprintf(stderr, "peers: compiled without oneDNN (Debian: libdnnl-dev)\n");
#endif
#if defined(MOE_BENCH_EIGEN)
  add(find_eigen());
#else
  std::fprintf(stderr, "peers: compiled without Eigen (Debian: libeigen3-dev)\n");
#endif
  return found;
}

}  // namespace bench::peers
