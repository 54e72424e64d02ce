// same_code A.cubin B.cubin: says which kernels differ in their instructions, and ends with 1 if any does. Two builds of one source, with nvcc's
// -fmad=true and =false, must agree: then no kernel has a product and a sum that the compiler may or may not fuse, and its bits are those of its source.
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>
#include <map>
#include <stdexcept>
#include <string>

namespace {

/// The code sections of a 64-bit ELF file, by name.
class kernels {
 public:
  explicit kernels(char const* path) {
    std::ifstream file(path, std::ios::binary);
    bytes_.assign(std::istreambuf_iterator<char>(file), {});
    if (bytes_.compare(0, 4, "\177ELF") != 0) throw std::runtime_error(std::string(path) + " is no ELF file");
    auto const sections = at<std::uint64_t>(0x28), size = std::uint64_t{64};
    auto const count = at<std::uint16_t>(0x3c), names = at<std::uint16_t>(0x3e);
    auto const strings = at<std::uint64_t>(sections + size * names + 24);
    for (std::uint64_t i = 0; i < count; ++i) {
      std::uint64_t const header = sections + size * i;
      std::string const name = bytes_.c_str() + strings + at<std::uint32_t>(header);
      if (name.compare(0, 6, ".text.") == 0) code[name.substr(6)] = part(at<std::uint64_t>(header + 24), at<std::uint64_t>(header + 32));
    }
    if (code.empty()) throw std::runtime_error(std::string(path) + " has no kernels");
  }
  std::map<std::string, std::string> code;

 private:
  template <class T>
  T at(std::uint64_t offset) const {
    T x;
    std::string const field = part(offset, sizeof x);
    std::memcpy(&x, field.data(), sizeof x);
    return x;
  }
  std::string part(std::uint64_t offset, std::uint64_t n) const {
    if (offset > bytes_.size() || n > bytes_.size() - offset) throw std::runtime_error("the ELF file is cut off");
    return bytes_.substr(offset, n);
  }
  std::string bytes_;
};

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  try {
    kernels const a(argv[1]), b(argv[2]);
    int differences = a.code.size() != b.code.size();
    for (auto const& [name, instructions] : a.code)
      if (auto const other = b.code.find(name); other == b.code.end() || other->second != instructions)
        ++differences, std::printf("contraction changes %s\n", name.c_str());
    std::printf("%zu kernels, %d that contraction changes\n", a.code.size(), differences);
    return differences > 0;
  } catch (std::exception const& e) {
    std::printf("same_code: %s\n", e.what());
    return 2;
  }
}
