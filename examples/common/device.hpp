#pragma once
// The CPU as a device of the trainer. device.cuh has the GPU.
#include <string>

#include <moe/core/buffer.hpp>
#include <moe/core/space.hpp>

namespace trainer {

struct cpu_device {
  using space = moe::cpu;
  using buffer = moe::buffer;
  static constexpr bool is_host = true;
  static void use_threads(space& s, int n) { s.threads = n; }
  static std::string describe(space const& s) { return std::to_string(s.threads) + " threads, " + moe::instruction_set(); }
};

}  // namespace trainer
