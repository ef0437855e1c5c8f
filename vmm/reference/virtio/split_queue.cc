// SPDX-License-Identifier: Apache-2.0
#include "vmm/reference/virtio/split_queue.h"

#include <atomic>
#include <bit>
#include <optional>
#include <span>

#include "vmm/reference/virtio/abi.h"

namespace rehome::virtio {
namespace {

constexpr Fault kNotRam = "a queue is not in RAM";

template <typename T>
bool ReadObject(const GuestMemory& memory, uint64_t gpa, T& object) {
  return memory.Read(gpa, std::as_writable_bytes(std::span(&object, 1)));
}

template <typename T>
bool WriteObject(GuestMemory& memory, uint64_t gpa, const T& object) {
  return memory.Write(gpa, std::as_bytes(std::span(&object, 1)));
}

uint64_t AvailableBytes(uint64_t size) {
  return kRingHeaderBytes + size * sizeof(uint16_t) + kRingTailBytes;
}

uint64_t UsedBytes(uint64_t size) {
  return kRingHeaderBytes + size * sizeof(UsedElement) + kRingTailBytes;
}

// Adds one descriptor to the chain.
Fault AddSegment(const GuestMemory& memory, const Descriptor& descriptor, Chain& chain) {
  if ((descriptor.flags & kDescriptorIndirect) != 0) return "an indirect descriptor";
  if (descriptor.length == 0) return "a descriptor of no bytes";
  if (!memory.Contains(descriptor.gpa, descriptor.length)) return "a buffer is not in RAM";
  const bool writable = (descriptor.flags & kDescriptorWritable) != 0;
  if (!writable && !chain.writable.empty()) {
    return "a descriptor to be read after one to be written";
  }
  (writable ? chain.writable : chain.readable).push_back({descriptor.gpa, descriptor.length});
  return nullptr;
}

Fault WalkChain(const GuestMemory& memory, const QueueState& queue, Chain& chain) {
  chain.readable.clear();
  chain.writable.clear();
  uint16_t next = chain.head;
  // A chain with more descriptors than there are comes back to one of them.
  for (uint32_t count = 0; count < queue.size; ++count) {
    if (next >= queue.size) return "a descriptor number beyond the queue";
    Descriptor descriptor;
    if (!ReadObject(memory, queue.descriptors + uint64_t{next} * sizeof(descriptor), descriptor)) {
      return kNotRam;
    }
    if (Fault fault = AddSegment(memory, descriptor, chain)) return fault;
    if ((descriptor.flags & kDescriptorNext) == 0) return nullptr;
    next = descriptor.next;
  }
  return "a chain that does not end";
}

}  // namespace

Fault CheckQueue(const GuestMemory& memory, const QueueState& queue) {
  if (!std::has_single_bit(queue.size) || queue.size > kMaxQueueSize) return "a queue's size";
  if (queue.descriptors % kDescriptorsAlignment != 0 ||
      queue.available % kAvailableAlignment != 0 || queue.used % kUsedAlignment != 0) {
    return "a queue's alignment";
  }
  if (!memory.Contains(queue.descriptors, uint64_t{queue.size} * sizeof(Descriptor)) ||
      !memory.Contains(queue.available, AvailableBytes(queue.size)) ||
      !memory.Contains(queue.used, UsedBytes(queue.size))) {
    return kNotRam;
  }
  return nullptr;
}

Peeked PeekChain(const GuestMemory& memory, const QueueState& queue, Chain& chain) {
  const std::optional<uint16_t> available = memory.LoadIndex(queue.available + kRingIndexOffset);
  if (!available) return {.fault = kNotRam};
  const auto waiting = static_cast<uint16_t>(*available - queue.index);
  if (waiting == 0) return {};
  if (waiting > queue.size) return {.fault = "more chains than the queue has entries"};
  const uint64_t entry = queue.index % queue.size;
  if (!ReadObject(memory, queue.available + kRingHeaderBytes + entry * sizeof(uint16_t),
                  chain.head)) {
    return {.fault = kNotRam};
  }
  if (Fault fault = WalkChain(memory, queue, chain)) return {.fault = fault};
  return {.found = true};
}

Completed CompleteChain(GuestMemory& memory, QueueState& queue, uint16_t head, uint32_t written) {
  const uint64_t entry = queue.index % queue.size;
  const UsedElement element = {.id = head, .length = written};
  const auto next = static_cast<uint16_t>(queue.index + 1);
  if (!WriteObject(memory, queue.used + kRingHeaderBytes + entry * sizeof(element), element) ||
      !memory.StoreIndex(queue.used + kRingIndexOffset, next)) {
    return {.fault = kNotRam};
  }
  queue.index = next;
  // The driver clears the flag, then looks for used chains; we do it the other way round, so one of
  // us sees the other (2.7.7.2). Without the fence the load could come first.
  std::atomic_thread_fence(std::memory_order_seq_cst);
  const std::optional<uint16_t> flags = memory.LoadIndex(queue.available);
  return {.interrupt = !flags || (*flags & kAvailableNoInterrupt) == 0};
}

}  // namespace rehome::virtio
