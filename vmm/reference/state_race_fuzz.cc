// SPDX-License-Identifier: Apache-2.0
//
// The same, in shared memory, while another process changes it. What is read then is one thing or
// the other or refused; whatever it is, it keeps every bound.
#include <sys/mman.h>
#include <unistd.h>

#include "kvmglue/fd.h"
#include "tools/fuzz/fuzz_target.h"
#include "tools/fuzz/other_process.h"
#include "vmm/reference/state_format.h"
#include "vmm/reference/state_samples.h"

namespace rehome::fuzz {
namespace {

// Readings of each input; each meets the other process somewhere else.
constexpr int kReadings = 8;

class SharedArea {
 public:
  explicit SharedArea(const Bytes& content)
      : fd_(memfd_create("fuzz-state", MFD_CLOEXEC)), size_(content.size()) {
    REHOME_PROMISE(write(fd_.borrow().raw(), content.data(), size_) == static_cast<ssize_t>(size_));
    void* start = mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_SHARED, fd_.borrow().raw(), 0);
    REHOME_PROMISE(start != MAP_FAILED);
    start_ = static_cast<std::byte*>(start);
  }
  ~SharedArea() { munmap(start_, size_); }
  SharedArea(const SharedArea&) = delete;
  SharedArea& operator=(const SharedArea&) = delete;

  std::span<const std::byte> bytes() const { return {start_, size_}; }
  BorrowedFd fd() const { return fd_.borrow(); }

 private:
  UniqueFd fd_;
  size_t size_;
  std::byte* start_ = nullptr;
};

// Where the first entry of the table has its length.
constexpr uint32_t kFirstLengthAt =
    sizeof(SectionHeader) + static_cast<uint32_t>(offsetof(SectionEntry, length));

Seed MakeSeed(const char* name, const std::vector<OtherProcess::Change>& changes) {
  Seed seed{.name = name, .bytes = {static_cast<std::byte>(kNewestStateFormat)}};
  OtherProcess::AppendChanges(seed.bytes, changes);
  return seed;
}

}  // namespace

// One byte: the format. Then the changes, to a state that is sound at first.
bool Feed(std::span<const std::byte> input) {
  Input in(input);
  const uint8_t terms = in.Take<uint8_t>();
  const uint32_t format = FormatOf(terms);
  static const Bytes samples[] = {SampleState(1), SampleState(2), SampleState(3)};
  static_assert(std::size(samples) == kNewestStateFormat - kOldestStateFormat + 1);
  const SharedArea area(samples[format - kOldestStateFormat]);
  const std::vector<OtherProcess::Change> changes = OtherProcess::TakeChanges(in);
  WholeState state;
  bool quiet = ReadWholeState(area.bytes(), format, &state);
  const OtherProcess other(area.fd(), changes);
  for (int i = 0; i < kReadings; ++i) {
    const bool read = ReadWholeState(area.bytes(), format, &state);
    REHOME_PROMISE(read || !changes.empty());
  }
  return quiet;
}

std::vector<Seed> Seeds() {
  return {
      MakeSeed("quiet", {}),
      MakeSeed("section-count-turns", {{offsetof(SectionHeader, section_count), 0xffffffff, 1}}),
      MakeSeed("total-size-turns", {{offsetof(SectionHeader, total_size), 0xffffffff, 1}}),
      MakeSeed("length-turns", {{kFirstLengthAt, 0x7fffffff, 1}}),
      MakeSeed("checksum-counts-up", {{offsetof(SectionHeader, checksum), 0, 0}}),
      MakeSeed("contents-turn", {{4096, 0xffffffff, 1}, {8192, 0xffffffff, 1}}),
  };
}

}  // namespace rehome::fuzz
