#include <cstdio>

#include <moe/core/buffer.cuh>

/// Memory to the device and back; without a device, the error that says so.
int main() {
  try {
    moe::cuda const space;
    float const sent[] = {1, 2, 3};
    float received[3] = {};
    moe::device_buffer const memory(sizeof sent);
    moe::copy(space, memory.as<float>(), sent, 3);
    moe::copy(space, received, static_cast<float const*>(memory.as<float>()), 3);
    space.wait();
    return received[0] == 1 && received[1] == 2 && received[2] == 3 ? 0 : 1;
  } catch (moe::error const& e) {
    std::printf("%s\n", e.what());
    return e.code == moe::errc::no_device ? 0 : 1;
  }
}
