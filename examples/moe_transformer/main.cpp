// One program per preset: MOE_PRESET names a struct of model.hpp.
#include <examples/common/devices.hpp>
#include <examples/common/process.hpp>

#include "model.hpp"

int main(int argc, char** argv) {
  trainer::calm_waiting_threads(argv);
  return trainer::run_preset<moe_transformer::MOE_PRESET>(argc, argv);
}
