// SPDX-License-Identifier: Apache-2.0
//
// Rings of a hostile guest, for block and network, first at rest, then while the guest changes them
// under the device's eyes. Promises: the device writes to the writable buffers of the chain in hand
// and to the used ring's next place, and nowhere else; the index goes up by one for each chain and
// the used length is no longer than the buffers; no chain has more descriptors than its queue; the
// disk keeps its size; it all ends.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <memory>
#include <utility>

#include "kvmglue/fd.h"
#include "tools/fuzz/fuzz_target.h"
#include "tools/fuzz/other_process.h"
#include "vmm/reference/virtio/abi.h"
#include "vmm/reference/virtio/block.h"
#include "vmm/reference/virtio/guest_memory.h"
#include "vmm/reference/virtio/net.h"
#include "vmm/reference/virtio/split_queue.h"

namespace rehome::fuzz {
namespace {

using namespace ::rehome::virtio;  // NOLINT(google-build-using-namespace)

// An offset into RAM is any 16-bit number.
constexpr uint64_t kGpa = 0x10000;
constexpr size_t kRamBytes = 0x10000;
constexpr uint16_t kSize = 8;
constexpr uint64_t kQueueBytes = 0x400;
constexpr uint64_t kAvailableOffset = 0x100;
constexpr uint64_t kUsedOffset = 0x200;
constexpr uint64_t kBuffersOffset = 0x1000;
constexpr uint64_t kDiskSectors = 8;
// A guest that makes chains available as fast as they are served would never let us go.
constexpr int kMaxChains = 64;

struct Terms {
  uint8_t device;    // even: block, odd: network
  uint8_t frames;    // that wait in the network
  uint8_t features;  // bit 0: FLUSH
  // 1 modulo 8: the other process runs. Not for most inputs, because it costs as much as a hundred
  // that are at rest.
  uint8_t other_process;
};

// The guest's RAM, in a file, so that another process can map it.
class Ram {
 public:
  Ram() : fd_(memfd_create("fuzz-ram", MFD_CLOEXEC)) {
    REHOME_PROMISE(ftruncate(fd_.borrow().raw(), kRamBytes) == 0);
    void* start =
        mmap(nullptr, kRamBytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd_.borrow().raw(), 0);
    REHOME_PROMISE(start != MAP_FAILED);
    bytes_ = {static_cast<std::byte*>(start), kRamBytes};
  }
  ~Ram() { munmap(bytes_.data(), bytes_.size()); }
  Ram(const Ram&) = delete;
  Ram& operator=(const Ram&) = delete;

  std::span<std::byte> bytes() { return bytes_; }
  BorrowedFd fd() const { return fd_.borrow(); }

 private:
  const UniqueFd fd_;
  std::span<std::byte> bytes_;
};

// Memory that knows where the device may write at the moment.
class WatchedMemory final : public GuestMemory {
 public:
  explicit WatchedMemory(std::span<std::byte> bytes) : inner_({{.gpa = kGpa, .memory = bytes}}) {}

  void Allow(std::span<const Segment> segments) { allowed_ = segments; }

  bool Contains(uint64_t gpa, uint64_t size) const override { return inner_.Contains(gpa, size); }
  bool Read(uint64_t gpa, std::span<std::byte> out) const override { return inner_.Read(gpa, out); }
  bool Write(uint64_t gpa, std::span<const std::byte> in) override {
    REHOME_PROMISE(IsAllowed(gpa, in.size()));
    return inner_.Write(gpa, in);
  }
  std::optional<uint16_t> LoadIndex(uint64_t gpa) const override { return inner_.LoadIndex(gpa); }
  bool StoreIndex(uint64_t gpa, uint16_t value) override {
    REHOME_PROMISE(IsAllowed(gpa, sizeof(value)));
    return inner_.StoreIndex(gpa, value);
  }

 private:
  bool IsAllowed(uint64_t gpa, uint64_t size) const {
    for (const Segment& segment : allowed_) {
      if (gpa >= segment.gpa && size <= segment.length &&
          gpa - segment.gpa <= segment.length - size) {
        return true;
      }
    }
    return false;
  }

  MappedGuestMemory inner_;
  std::span<const Segment> allowed_;
};

QueueState QueueOf(uint32_t number) {
  const uint64_t gpa = kGpa + number * kQueueBytes;
  return {.descriptors = gpa,
          .available = gpa + kAvailableOffset,
          .used = gpa + kUsedOffset,
          .size = kSize,
          .ready = 1};
}

// Where a device may write when it gives the next chain back.
std::vector<Segment> NextUsedPlace(const QueueState& queue) {
  return {{queue.used + kRingHeaderBytes + queue.index % kSize * sizeof(UsedElement),
           sizeof(UsedElement)},
          {queue.used + kRingIndexOffset, sizeof(uint16_t)}};
}

void CheckChain(const GuestMemory& memory, const Chain& chain) {
  REHOME_PROMISE(chain.head < kSize);
  REHOME_PROMISE(chain.readable.size() + chain.writable.size() <= kSize);
  for (const auto* segments : {&chain.readable, &chain.writable}) {
    for (const Segment& segment : *segments) {
      REHOME_PROMISE(segment.length > 0 && memory.Contains(segment.gpa, segment.length));
    }
  }
}

// What VirtioDevice's thread does. Whether chains were served and none was a fault.
bool ServeQueue(Backend& backend, uint32_t number, uint64_t features, WatchedMemory& memory) {
  QueueState queue = QueueOf(number);
  REHOME_PROMISE(CheckQueue(memory, queue) == nullptr);
  Chain chain;
  int chains = 0;
  for (; chains < kMaxChains; ++chains) {
    const Peeked peeked = PeekChain(memory, queue, chain);
    if (peeked.fault != nullptr) return false;
    if (!peeked.found) break;
    CheckChain(memory, chain);
    memory.Allow(chain.writable);
    const Served served = backend.Serve(number, chain, features, memory);
    memory.Allow({});
    if (served.result == ServeResult::kBroken) return false;
    if (served.result != ServeResult::kDone) break;
    REHOME_PROMISE(served.written <= chain.writable_bytes());
    const std::vector<Segment> place = NextUsedPlace(queue);
    const auto next = static_cast<uint16_t>(queue.index + 1);
    memory.Allow(place);
    REHOME_PROMISE(CompleteChain(memory, queue, chain.head, served.written).fault == nullptr);
    memory.Allow({});
    REHOME_PROMISE(queue.index == next);
  }
  return chains > 0;
}

UniqueFd NewDisk() {
  UniqueFd disk(memfd_create("fuzz-disk", MFD_CLOEXEC));
  REHOME_PROMISE(ftruncate(disk.borrow().raw(), kDiskSectors * kSectorBytes) == 0);
  return disk;
}

bool ServeBlock(uint64_t features, WatchedMemory& memory) {
  static const UniqueFd disk = NewDisk();
  static const std::unique_ptr<Backend> backend =
      MakeBlockBackend(AdoptDisk(Duplicate(disk.borrow()).value(), false).value(), "fuzz");
  const bool sound = ServeQueue(*backend, 0, features, memory);
  REHOME_PROMISE(Identify(disk.borrow())->size_bytes == kDiskSectors * kSectorBytes);
  return sound;
}

bool ServeNet(uint8_t frames, WatchedMemory& memory) {
  int pair[2];
  REHOME_PROMISE(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) == 0);
  const UniqueFd network(pair[1]);
  const auto backend = MakeNetBackend(UniqueFd(pair[0]), {2, 0, 0, 0, 0, 1}).value();
  char frame[64] = "a frame";
  for (int i = 0; i < frames % 4; ++i) {
    REHOME_PROMISE(send(network.borrow().raw(), frame, sizeof(frame), 0) == sizeof(frame));
  }
  const bool received = ServeQueue(*backend, kReceiveQueue, 0, memory);
  const bool sent = ServeQueue(*backend, kTransmitQueue, 0, memory);
  return received && sent;
}

bool Serve(const Terms& terms, WatchedMemory& memory) {
  const uint64_t flush = (terms.features & 1) != 0 ? 1u << 9 : 0;
  return terms.device % 2 == 0 ? ServeBlock(kFeatureVersion1 | flush, memory)
                               : ServeNet(terms.frames, memory);
}

// ---- seeds

class SeedBuilder {
 public:
  SeedBuilder(const Terms& terms, const std::vector<OtherProcess::Change>& changes) {
    Append(bytes_, terms);
    OtherProcess::AppendChanges(bytes_, changes);
  }

  template <typename T>
  void Put(uint64_t offset, const T& value) {
    Append(bytes_, static_cast<uint16_t>(offset));
    Append(bytes_, static_cast<uint8_t>(sizeof(value)));
    Append(bytes_, value);
  }
  void PutChain(uint32_t queue, uint16_t first, std::vector<Descriptor> chain) {
    for (size_t i = 0; i < chain.size(); ++i) {
      const auto number = static_cast<uint16_t>(first + i);
      if (i + 1 < chain.size()) {
        chain[i].flags |= kDescriptorNext;
        chain[i].next = static_cast<uint16_t>(number + 1);
      }
      Put(queue * kQueueBytes + number * sizeof(Descriptor), chain[i]);
    }
    const uint64_t available = queue * kQueueBytes + kAvailableOffset;
    Put(available + kRingHeaderBytes + 2 * offered_[queue], first);
    Put(available + kRingIndexOffset, ++offered_[queue]);
  }
  Seed Finish(const char* name) { return {.name = name, .bytes = std::move(bytes_)}; }

 private:
  Bytes bytes_;
  uint16_t offered_[2] = {};
};

struct BlockHeader {
  uint32_t type;
  uint32_t reserved;
  uint64_t sector;
};

Seed BlockSeed(const char* name, const std::vector<OtherProcess::Change>& changes) {
  SeedBuilder seed({.device = 0, .frames = 0, .features = 1, .other_process = 1}, changes);
  const uint64_t data = kGpa + kBuffersOffset + 0x100;
  const uint64_t status = kGpa + kBuffersOffset + 0x800;
  seed.Put(kBuffersOffset, BlockHeader{1, 0, 2});
  seed.Put(kBuffersOffset + 16, BlockHeader{0, 0, 2});
  seed.Put(kBuffersOffset + 32, BlockHeader{8, 0, 0});
  seed.PutChain(
      0, 0,
      {{kGpa + kBuffersOffset, 16, 0, 0}, {data, 512, 0, 0}, {status, 1, kDescriptorWritable, 0}});
  seed.PutChain(0, 3,
                {{kGpa + kBuffersOffset + 16, 16, 0, 0}, {data, 513, kDescriptorWritable, 0}});
  seed.PutChain(0, 5,
                {{kGpa + kBuffersOffset + 32, 16, 0, 0},
                 {data, 20, kDescriptorWritable, 0},
                 {status, 1, kDescriptorWritable, 0}});
  return seed.Finish(name);
}

Seed NetSeed(const char* name, const std::vector<OtherProcess::Change>& changes) {
  SeedBuilder seed({.device = 1, .frames = 2, .features = 0, .other_process = 1}, changes);
  const uint64_t buffers = kGpa + kBuffersOffset;
  seed.PutChain(
      0, 0, {{buffers, 12, kDescriptorWritable, 0}, {buffers + 0x40, 512, kDescriptorWritable, 0}});
  seed.PutChain(0, 2, {{buffers + 0x400, 1024, kDescriptorWritable, 0}});
  seed.PutChain(1, 0, {{buffers + 0x800, 12, 0, 0}, {buffers + 0x840, 60, 0, 0}});
  return seed.Finish(name);
}

}  // namespace

// The terms; the changes of the other process; then what the guest has written beforehand, each
// with a 16-bit offset, a byte of length, and so many bytes.
bool Feed(std::span<const std::byte> input) {
  Input in(input);
  const Terms terms = in.Take<Terms>();
  const std::vector<OtherProcess::Change> changes = OtherProcess::TakeChanges(in);
  static Ram ram;
  std::fill(ram.bytes().begin(), ram.bytes().end(), std::byte{0});
  while (!in.empty()) {
    const auto offset = in.Take<uint16_t>();
    const std::span<const std::byte> bytes = in.TakeBytes(in.Take<uint8_t>());
    const size_t size = std::min(bytes.size(), kRamBytes - offset);
    if (size > 0) std::memcpy(ram.bytes().data() + offset, bytes.data(), size);
  }
  WatchedMemory memory(ram.bytes());
  const bool sound = Serve(terms, memory);
  if (!changes.empty() && terms.other_process % 8 == 1) {
    const OtherProcess guest(ram.fd(), changes);
    Serve(terms, memory);
  }
  return sound;
}

std::vector<Seed> Seeds() {
  // Descriptor 1's length, first descriptor's next, and the available index.
  const std::vector<OtherProcess::Change> lengths = {{24, 0xffffffff, 1}, {12, 0x70001, 1}};
  const std::vector<OtherProcess::Change> indices = {{kAvailableOffset, 0x10000, 0},
                                                     {kQueueBytes + kAvailableOffset, 0x80000, 1}};
  return {BlockSeed("block", {}),
          BlockSeed("block-lengths-turn", lengths),
          BlockSeed("block-index-runs", indices),
          NetSeed("net", {}),
          NetSeed("net-lengths-turn", lengths),
          NetSeed("net-index-runs", indices)};
}

}  // namespace rehome::fuzz
