// SPDX-License-Identifier: Apache-2.0
//
// The device's side of a split virtqueue (virtio 1.2, 2.7), over rings in memory that the guest
// writes to at any time. Nothing in it is trusted: each word is read once, checked, and used as it
// was read. Without EVENT_IDX, indirect descriptors and IN_ORDER.
//
// The device has at most one chain in hand, and a chain counts as taken only when it is given back:
// CompleteChain() publishes it and raises QueueState::index in one step, and until then PeekChain()
// gives the same chain again. So the index says all that there is to know about a queue at rest.
#ifndef REHOME_VMM_REFERENCE_VIRTIO_SPLIT_QUEUE_H_
#define REHOME_VMM_REFERENCE_VIRTIO_SPLIT_QUEUE_H_

#include <cstdint>

#include "vmm/reference/virtio/chain.h"
#include "vmm/reference/virtio/guest_memory.h"
#include "vmm/reference/virtio/state.h"

namespace rehome::virtio {

// What the driver got wrong, in words that stay valid; nullptr if nothing. A device that meets a
// fault says DEVICE_NEEDS_RESET and touches that queue no more.
using Fault = const char*;

// Whether a queue of this size at these addresses can be used: a power of two up to kMaxQueueSize,
// each part aligned and wholly in RAM.
Fault CheckQueue(const GuestMemory& memory, const QueueState& queue);

struct Peeked {
  bool found = false;     // `chain` is filled
  Fault fault = nullptr;  // then nothing is found
};

// The next chain that the driver has made available, into `chain`, whose vectors are reused. Faults
// besides memory that is not RAM: an available index further ahead than the queue is long, a
// descriptor number beyond the queue, a loop, a descriptor of no bytes, an indirect descriptor, one
// that the device reads after one that it writes. Reads at most queue.size descriptors. REQUIRES:
// queue.ready.
Peeked PeekChain(const GuestMemory& memory, const QueueState& queue, Chain& chain);

struct Completed {
  bool interrupt = false;  // the driver wants to know
  Fault fault = nullptr;   // then nothing is published
};

// Gives the chain back, of which `written` bytes of the writable part were written. Everything that
// was written to memory before is visible to a driver that sees the new index.
Completed CompleteChain(GuestMemory& memory, QueueState& queue, uint16_t head, uint32_t written);

}  // namespace rehome::virtio

#endif  // REHOME_VMM_REFERENCE_VIRTIO_SPLIT_QUEUE_H_
