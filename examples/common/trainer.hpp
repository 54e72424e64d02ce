#pragma once
#include <examples/common/engine.hpp>
#include <examples/common/preset.hpp>

namespace trainer {

/// The program: reads the command line, trains, evaluates or samples, and returns the exit code.
///
///   0    done                      2    wrong command line
///   1    an error, told on stderr  3    the loss or a gradient was not finite
///   128 + n   stopped by signal n after the step at hand was finished and saved
/// `devices` are those that the program was compiled for, the default first; `vocab` is that of the model.
int run(int argc, char const* const* argv, std::span<device_choice const> devices, preset const& settings, index_t vocab);

}  // namespace trainer
