#pragma once
// adamw_by_group on the cuda space: that of group_adamw.hpp, with the CUDA overload of adamw that it calls.
#include <moe/optim/adamw.cuh>
#include <moe/optim/group_adamw.hpp>
