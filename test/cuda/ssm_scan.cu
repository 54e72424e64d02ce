// The kernels of moe/ssm/selective_scan, instantiated for the build check: they must compile without a warning and without a spill.
#include <moe/ssm/selective_scan.cuh>

namespace {
using namespace moe;

template <selective_scan_config C, class T>
void all(cuda const& space, selective_scan_inputs<T> const& in, selective_scan_gradients<T> const& g, arena& scratch) {
  selective_scan<C, T>(space, in, {}, {}, g.d_u, {}, {}, scratch);
  selective_scan_backward<C, T>(space, in, {}, {}, {}, in.u, {}, g, {}, scratch);
}
}  // namespace

void instantiate(arena& scratch) {
  all<selective_scan_config{}, float>({}, {}, {}, scratch);
  all<selective_scan_config{}, double>({}, {}, {}, scratch);
  all<selective_scan_config{}, bf16>({}, {}, {}, scratch);
}
