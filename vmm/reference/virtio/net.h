// SPDX-License-Identifier: Apache-2.0
//
// A virtio network device (virtio 1.2, 5.1) without offloads, on a descriptor that carries one
// Ethernet frame per read and write: a tap (kvmglue/tap.h), or for tests a UNIX datagram or
// seqpacket socket.
//
// A frame is taken from the descriptor only when the guest has a buffer for it, and a frame that
// the descriptor does not take yet stays in the guest's ring. So the device holds no frame, and
// what waits in the kernel goes with the descriptor.
#ifndef REHOME_VMM_REFERENCE_VIRTIO_NET_H_
#define REHOME_VMM_REFERENCE_VIRTIO_NET_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "kvmglue/fd.h"
#include "vmm/reference/virtio/backend.h"

namespace rehome::virtio {

using MacAddress = std::array<uint8_t, 6>;

inline constexpr uint32_t kReceiveQueue = 0;
inline constexpr uint32_t kTransmitQueue = 1;

// 5.1.6: in front of each frame. Without offloads all of it is zero but the last two bytes of a
// received frame, which are 1 (one buffer).
inline constexpr size_t kNetHeaderBytes = 12;
// Of a frame without its header; more than any tap can be told to carry.
inline constexpr size_t kMaxFrameBytes = 65536;

// Makes `fd` non-blocking, which goes for every holder of it. A frame that cannot go anywhere (too
// long for the guest's buffer or for the network, or the other end is gone) is dropped, as on any
// network. INVALID_ARGUMENT / NET_FD_INVALID: neither a character device nor a UNIX socket that
// keeps messages apart, or a group address.
absl::StatusOr<std::unique_ptr<Backend>> MakeNetBackend(UniqueFd fd, const MacAddress& mac);

}  // namespace rehome::virtio

#endif  // REHOME_VMM_REFERENCE_VIRTIO_NET_H_
