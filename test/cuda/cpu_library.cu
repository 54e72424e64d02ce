// The whole CPU library passes nvcc without a warning, so a .cu file can include it beside the kernels.
#include <moe/moe.hpp>
