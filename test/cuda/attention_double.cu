// The kernels of attention in double, instantiated for the build check: they must compile without a warning and without a spill.
#include "attention_kernels.cuh"

void instantiate(arena& scratch) { attend<double, 64>({}, {}, {}, scratch); }
