#pragma once
#include <string>

namespace test {

/// The format's example: tensor "a", F32 [2, 2], 1 2 -0.5 0.25.
inline std::string safetensors_example() {
  std::string const header = R"({"a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]}})";
  float const data[] = {1.0f, 2.0f, -0.5f, 0.25f};
  return std::string("\x40\0\0\0\0\0\0\0", 8) + header + std::string(64 - header.size(), ' ') +
         std::string(reinterpret_cast<char const*>(data), sizeof data);
}

}  // namespace test
