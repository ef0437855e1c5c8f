// SPDX-License-Identifier: Apache-2.0
//
// A backend around another one that lets a test be there when a chain is served, and a stream of
// block requests whose every byte is known.
#ifndef REHOME_VMM_REFERENCE_VIRTIO_TEST_BACKEND_H_
#define REHOME_VMM_REFERENCE_VIRTIO_TEST_BACKEND_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "vmm/reference/virtio/backend.h"
#include "vmm/reference/virtio/test_driver.h"

namespace rehome::virtio::testing {

class WatchedBackend final : public Backend {
 public:
  // Called before each chain, by the device's thread.
  using Before = std::function<void(uint32_t queue, const Chain& chain)>;

  WatchedBackend(std::unique_ptr<Backend> inner, Before before)
      : inner_(std::move(inner)), before_(std::move(before)) {}

  const DeviceProfile& profile() const override { return inner_->profile(); }
  BorrowedFd fd() const override { return inner_->fd(); }
  Served Serve(uint32_t queue, const Chain& chain, uint64_t features,
               GuestMemory& memory) override {
    before_(queue, chain);
    return inner_->Serve(queue, chain, features, memory);
  }

 private:
  const std::unique_ptr<Backend> inner_;
  const Before before_;
};

// `count` requests, by turns: a write to one of a few sectors, and a read of the sector that was
// written. So a request that is lost, doubled or out of order leaves a wrong byte somewhere.
class BlockStream {
 public:
  static constexpr uint64_t kDiskSectors = 4;
  // Three descriptors each.
  static constexpr uint16_t kMaxRequests = kMaxQueueSize / 3;

  BlockStream(TestRam& ram, TestQueue& queue, uint16_t count);

  // Makes the next request available.
  void Offer();
  uint16_t offered() const { return offered_; }
  bool all_offered() const { return offered_ == count_; }
  bool AllUsed() const { return queue_.used_index() == count_; }

  // Fails the test unless every request was used once, in order, with status OK and the right
  // bytes, and the disk is as it should be. REQUIRES: AllUsed().
  void Check(BorrowedFd disk);

 private:
  static std::byte ByteOf(uint16_t request, size_t at);
  uint64_t DataAt(uint16_t request) const;
  uint64_t HeaderAt(uint16_t request) const;
  uint64_t StatusAt(uint16_t request) const;
  void Build(uint16_t request);

  TestRam& ram_;
  TestQueue& queue_;
  const uint16_t count_;
  uint16_t offered_ = 0;
};

// A disk for the stream, in memory.
UniqueFd NewStreamDisk();
// A block device over it.
std::unique_ptr<Backend> StreamBackend(BorrowedFd disk);

}  // namespace rehome::virtio::testing

#endif  // REHOME_VMM_REFERENCE_VIRTIO_TEST_BACKEND_H_
