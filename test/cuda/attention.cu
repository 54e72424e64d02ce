// The kernels of attention in float and bf16, instantiated for the build check: they must compile without a warning and without a spill.
#include "attention_kernels.cuh"

void instantiate(arena& scratch) {
  attend<float, 128>({}, {}, {}, scratch);
  attend<bf16, 64>({}, {}, {}, scratch);
}
