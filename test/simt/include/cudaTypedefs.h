#pragma once
// Stands in for the header that types the driver's entry points.
#include <cuda.h>

using PFN_cuTensorMapEncodeTiled_v12000 = CUresult (*)(CUtensorMap* map, CUtensorMapDataType type, cuuint32_t rank, void* address,
                                                       cuuint64_t const* size, cuuint64_t const* stride, cuuint32_t const* box,
                                                       cuuint32_t const* element_stride, CUtensorMapInterleave interleave, CUtensorMapSwizzle swizzle,
                                                       CUtensorMapL2promotion promotion, CUtensorMapFloatOOBfill fill);
