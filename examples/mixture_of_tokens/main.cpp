// One program per preset: MOE_PRESET names a struct of model.hpp. For the CPU alone this source is two units, so that two cores share the work of the
// compiler: with MOE_EXAMPLE_BF16 it is the model in bf16, without everything else.
#include <examples/common/devices.hpp>
#include <examples/common/process.hpp>

#include "model.hpp"

#if defined(MOE_EXAMPLE_BF16)
template struct trainer::engine_of<mixture_of_tokens::MOE_PRESET, trainer::cpu_device, moe::bf16>;
#else
#if !defined(MOE_EXAMPLE_CUDA)
extern template struct trainer::engine_of<mixture_of_tokens::MOE_PRESET, trainer::cpu_device, moe::bf16>;
#endif

int main(int argc, char** argv) {
  trainer::calm_waiting_threads(argv);
  return trainer::run_preset<mixture_of_tokens::MOE_PRESET>(argc, argv);
}
#endif
