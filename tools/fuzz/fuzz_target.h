// SPDX-License-Identifier: Apache-2.0
//
// What a fuzz target is here. The same file is linked twice: with libFuzzer (`./dev fuzz`), and
// with a test that feeds it its seeds and the corpus in the tree under every build that tests run
// in.
#ifndef REHOME_TOOLS_FUZZ_FUZZ_TARGET_H_
#define REHOME_TOOLS_FUZZ_FUZZ_TARGET_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

namespace rehome::fuzz {

using Bytes = std::vector<std::byte>;

// An input made from a real encoding.
struct Seed {
  std::string name;  // a file name
  Bytes bytes;
};

// ---- each target defines these two ----

// Feeds the unit one input, any bytes. Returns whether the unit took it for sound. Does not return
// if a promise is broken. Leaves nothing behind, so that any input can follow.
bool Feed(std::span<const std::byte> input);
// The same at each call; Feed() takes every one of them for sound.
std::vector<Seed> Seeds();

// ---- tools for them ----

[[noreturn]] inline void Broken(const char* promise, const char* file, int line) {
  std::fprintf(stderr, "%s:%d: broken promise: %s\n", file, line, promise);
  std::abort();
}

// Ends the process if the condition does not hold, in every build.
#define REHOME_PROMISE(condition) \
  ((condition) ? static_cast<void>(0) : ::rehome::fuzz::Broken(#condition, __FILE__, __LINE__))

// Takes an input apart from its front. An input that is too short reads as zeros, so that every
// input means something.
class Input {
 public:
  explicit Input(std::span<const std::byte> bytes) : rest_(bytes) {}

  bool empty() const { return rest_.empty(); }
  std::span<const std::byte> rest() const { return rest_; }

  template <typename T>
  T Take() {
    static_assert(std::is_trivially_copyable_v<T>);
    T value = {};
    const std::span<const std::byte> taken = TakeBytes(sizeof(value));
    if (!taken.empty()) std::memcpy(&value, taken.data(), taken.size());
    return value;
  }
  // At most `size` bytes.
  std::span<const std::byte> TakeBytes(size_t size) {
    const std::span<const std::byte> taken = rest_.first(std::min(size, rest_.size()));
    rest_ = rest_.subspan(taken.size());
    return taken;
  }
  std::string_view TakeText(size_t size) { return Text(TakeBytes(size)); }

  static std::string_view Text(std::span<const std::byte> bytes) {
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
  }

 private:
  std::span<const std::byte> rest_;
};

// ---- and for their seeds ----

inline void AppendBytes(Bytes& bytes, std::span<const std::byte> more) {
  // Not insert(): GCC 12 warns of its copy where it can see both ends.
  const size_t before = bytes.size();
  bytes.resize(before + more.size());
  if (!more.empty()) std::memcpy(bytes.data() + before, more.data(), more.size());
}

template <typename T>
void Append(Bytes& bytes, const T& value) {
  static_assert(std::is_trivially_copyable_v<T>);
  AppendBytes(bytes, std::as_bytes(std::span(&value, 1)));
}

inline void AppendText(Bytes& bytes, std::string_view text) {
  AppendBytes(bytes, std::as_bytes(std::span(text)));
}

inline Bytes BytesOfText(std::string_view text) {
  Bytes bytes;
  AppendText(bytes, text);
  return bytes;
}

}  // namespace rehome::fuzz

#endif  // REHOME_TOOLS_FUZZ_FUZZ_TARGET_H_
