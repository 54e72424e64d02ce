// One program per preset: MOE_PRESET names a struct of model.hpp.
#include "model.hpp"

#include <examples/common/model_engine.hpp>
#include <examples/common/process.hpp>

int main(int argc, char** argv) {
  trainer::calm_waiting_threads(argv);
  using preset = moe_transformer::MOE_PRESET;
  trainer::model_engine<preset::model> model;
  return trainer::run(argc, argv, model, preset::defaults);
}
