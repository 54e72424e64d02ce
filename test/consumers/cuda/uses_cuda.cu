#include <cstdio>

#include <moe/core/elementwise.cuh>

/// Memory to the device, a kernel there, and back; without a device, the error that says so.
int main() {
  try {
    moe::cuda const space;
    float const sent[] = {1, 2, 3};
    float received[3] = {};
    moe::device_buffer const memory(sizeof sent);
    auto const view = moe::mat(memory.as<float>(), 1, 3);
    moe::copy(space, memory.as<float>(), sent, 3);
    moe::add<float>(space, view, view);
    moe::copy(space, received, static_cast<float const*>(memory.as<float>()), 3);
    space.wait();
    return received[0] == 2 && received[1] == 4 && received[2] == 6 ? 0 : 1;
  } catch (moe::error const& e) {
    std::printf("%s\n", e.what());
    return e.code == moe::errc::no_device ? 0 : 1;
  }
}
