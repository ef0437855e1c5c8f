// SPDX-License-Identifier: Apache-2.0
#include "tools/fuzz/other_process.h"

#include <sys/mman.h>

namespace rehome::fuzz {

std::vector<OtherProcess::Change> OtherProcess::TakeChanges(Input& in) {
  std::vector<Change> changes(in.Take<uint8_t>() % (kMaxChanges + 1));
  for (Change& change : changes) {
    change.offset = in.Take<uint32_t>();
    change.value = in.Take<uint32_t>();
    change.mode = in.Take<uint8_t>();
  }
  return changes;
}

void OtherProcess::AppendChanges(Bytes& seed, const std::vector<Change>& changes) {
  Append(seed, static_cast<uint8_t>(changes.size()));
  for (const Change& change : changes) {
    Append(seed, change.offset);
    Append(seed, change.value);
    Append(seed, change.mode);
  }
}

OtherProcess::OtherProcess(BorrowedFd file, std::vector<Change> changes)
    : changes_(std::move(changes)) {
  const auto identity = Identify(file);
  REHOME_PROMISE(identity.ok());
  size_ = identity->size_bytes;
  if (size_ < sizeof(uint32_t) || changes_.empty()) return;
  void* start = mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_SHARED, file.raw(), 0);
  REHOME_PROMISE(start != MAP_FAILED);
  memory_ = static_cast<std::byte*>(start);
  thread_ = std::thread([this] { Run(); });
  while (!started_.load()) std::this_thread::yield();
}

OtherProcess::~OtherProcess() {
  stopping_.store(true);
  if (thread_.joinable()) thread_.join();
  if (memory_ != nullptr) munmap(memory_, size_);
}

void OtherProcess::Run() {
  struct Place {
    uint32_t* word;
    uint32_t original;
  };
  std::vector<Place> places;
  for (const Change& change : changes_) {
    const size_t offset = change.offset % (size_ - sizeof(uint32_t) + 1) / 4 * 4;
    auto* word = reinterpret_cast<uint32_t*>(memory_ + offset);
    places.push_back({word, __atomic_load_n(word, __ATOMIC_RELAXED)});
  }
  for (uint32_t turn = 0; !stopping_.load(std::memory_order_relaxed); ++turn) {
    for (size_t i = 0; i < places.size(); ++i) {
      const Change& change = changes_[i];
      uint32_t value = change.value + turn;
      if (change.mode != 0) value = turn % 2 == 0 ? change.value : places[i].original;
      __atomic_store_n(places[i].word, value, __ATOMIC_RELAXED);
    }
    started_.store(true, std::memory_order_relaxed);
  }
}

}  // namespace rehome::fuzz
