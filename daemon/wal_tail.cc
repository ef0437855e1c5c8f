// SPDX-License-Identifier: Apache-2.0
#include "daemon/wal_tail.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <bit>
#include <cstddef>
#include <cstring>
#include <span>
#include <vector>

#include "kvmglue/fd.h"

namespace rehome {
namespace {

constexpr size_t kHeaderBytes = 32;
constexpr size_t kFrameHeaderBytes = 24;
constexpr uint32_t kMagic = 0x377f0682;  // with bit 0: sums over big-endian words
constexpr uint32_t kMinPage = 512, kMaxPage = 65536;
// SQLite's default, of which every journal is made.
constexpr uint32_t kJournalPage = 4096;
// A log that is begun anew counts its first salt up by one, so what is behind it has one a little
// smaller; a journal is not begun anew this often between two starts.
constexpr uint32_t kMaxEarlierLogs = 1u << 20;

uint32_t BigEndian(std::span<const std::byte> bytes, size_t at) {
  uint32_t value;
  std::memcpy(&value, bytes.data() + at, sizeof(value));
  return __builtin_bswap32(value);
}

// The running sum over words, two at a time.
struct Sum {
  uint32_t first = 0, second = 0;
  bool big_endian = false;

  void Add(std::span<const std::byte> bytes) {
    for (size_t at = 0; at + 8 <= bytes.size(); at += 8) {
      first += Word(bytes, at) + second;
      second += Word(bytes, at + 4) + first;
    }
  }
  bool Matches(std::span<const std::byte> bytes, size_t at) const {
    return BigEndian(bytes, at) == first && BigEndian(bytes, at + 4) == second;
  }

 private:
  uint32_t Word(std::span<const std::byte> bytes, size_t at) const {
    const uint32_t swapped = BigEndian(bytes, at);
    return big_endian ? swapped : __builtin_bswap32(swapped);
  }
};
static_assert(std::endian::native == std::endian::little);

bool ReadAt(BorrowedFd file, uint64_t at, std::span<std::byte> out) {
  return pread(file.raw(), out.data(), out.size(), static_cast<off_t>(at)) ==
         static_cast<ssize_t>(out.size());
}

class Log {
 public:
  Log(BorrowedFd file, uint64_t size) : file_(file), size_(size) {}

  // False: SQLite does not look at anything behind such a header.
  bool ReadHeader() {
    header_.resize(kHeaderBytes);
    if (!ReadAt(file_, 0, header_)) return false;
    const uint32_t magic = BigEndian(header_, 0);
    page_ = BigEndian(header_, 8);
    if ((magic & ~1u) != kMagic || page_ < kMinPage || page_ > kMaxPage ||
        !std::has_single_bit(page_)) {
      return false;
    }
    sum_.big_endian = (magic & 1) != 0;
    sum_.Add(std::span(header_).first(24));
    return sum_.Matches(header_, 24);
  }

  WalTail Tail() {
    uint64_t used_until = kHeaderBytes;
    bool sound = true;     // no frame so far was damaged
    bool is_ours = true;   // the latest frame is this log's
    WalTail tail, behind;  // behind `used_until`: up to the last frame of this log, and all
    std::vector<std::byte> frame(kFrameHeaderBytes + page_);
    uint64_t at = kHeaderBytes;
    for (; at + frame.size() <= size_ && ReadAt(file_, at, frame); at += frame.size()) {
      sound = sound && IsNext(frame);
      is_ours = !IsOfEarlierLog(frame);
      const bool commit = BigEndian(frame, 4) != 0;
      ++behind.frames;
      behind.commits += commit ? 1 : 0;
      if (sound && commit) {
        used_until = at + frame.size();
        tail = behind = WalTail();
      } else if (is_ours) {
        // An earlier log's frames are behind this one's; one among them is a damaged one.
        tail = behind;
        tail.bytes = at + frame.size() - used_until;
      }
    }
    // A last piece, too short for a frame.
    if (at >= size_ || at + frame.size() <= size_) return tail;
    std::vector<std::byte> rest(static_cast<size_t>(size_ - at));
    if (!ReadAt(file_, at, rest)) return tail;
    if (rest.size() < kFrameHeaderBytes ? !is_ours : IsOfEarlierLog(rest)) return tail;
    behind.bytes = size_ - used_until;
    return behind;
  }

  // Of a log whose header says nothing: which frames are of an earlier one cannot be told, so all
  // are taken for its own. As if they had the pages that a journal has.
  WalTail WithoutHeader() {
    WalTail tail{.bytes = size_};
    std::vector<std::byte> head(kFrameHeaderBytes);
    constexpr uint64_t kFrame = kFrameHeaderBytes + kJournalPage;
    for (uint64_t at = kHeaderBytes; at + kFrame <= size_ && ReadAt(file_, at, head);
         at += kFrame) {
      ++tail.frames;
      tail.commits += BigEndian(head, 4) != 0 ? 1 : 0;
    }
    return tail;
  }

 private:
  // The second salt is another random number for each log.
  bool IsOfEarlierLog(std::span<const std::byte> frame) const {
    const uint32_t behind = BigEndian(header_, 16) - BigEndian(frame, 8);
    return behind != 0 && behind <= kMaxEarlierLogs &&
           BigEndian(header_, 20) != BigEndian(frame, 12);
  }
  bool IsNext(std::span<const std::byte> frame) {
    if (std::memcmp(frame.data() + 8, header_.data() + 16, 8) != 0) return false;
    sum_.Add(frame.first(8));
    sum_.Add(frame.subspan(kFrameHeaderBytes));
    return BigEndian(frame, 0) != 0 && sum_.Matches(frame, 16);
  }

  const BorrowedFd file_;
  const uint64_t size_;
  std::vector<std::byte> header_;
  uint32_t page_ = 0;
  Sum sum_;
};

}  // namespace

WalTail InspectWal(const std::string& path) {
  const UniqueFd file(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  struct stat info = {};
  if (!file || fstat(file.borrow().raw(), &info) != 0 || info.st_size == 0) return {};
  const auto size = static_cast<uint64_t>(info.st_size);
  Log log(file.borrow(), size);
  return log.ReadHeader() ? log.Tail() : log.WithoutHeader();
}

}  // namespace rehome
