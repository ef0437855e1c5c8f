// SPDX-License-Identifier: Apache-2.0
//
// A virtio block device (virtio 1.2, 5.2) on a file: read, write, flush, and the disk's id.
#ifndef REHOME_VMM_REFERENCE_VIRTIO_BLOCK_H_
#define REHOME_VMM_REFERENCE_VIRTIO_BLOCK_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string_view>

#include "vmm/reference/virtio/backend.h"
#include "vmm/reference/virtio/disk_file.h"

namespace rehome::virtio {

// 5.2.6.1: what VIRTIO_BLK_T_GET_ID gives, padded with zeros.
inline constexpr size_t kDiskIdBytes = 20;

// Of one request's data, so that Stop() waits for a bounded piece of work. What the driver may ask
// for by the configuration (SIZE_MAX, SEG_MAX) fits; more is an error to the request.
inline constexpr uint32_t kMaxSegmentBytes = 64 << 10;
inline constexpr uint32_t kMaxSegments = 64;
inline constexpr uint64_t kMaxRequestBytes = uint64_t{kMaxSegmentBytes} * kMaxSegments;

// `id` is cut to kDiskIdBytes. The features: FLUSH, SIZE_MAX, SEG_MAX, and RO for a read-only disk.
// A driver that does not take FLUSH gets a disk that writes through (5.2.6.2). A request that
// cannot be done (past the end of the disk, not whole sectors, written to a read-only disk, or the
// file gives an error) ends with VIRTIO_BLK_S_IOERR, one of another type with UNSUPP. What has no
// header or no place for the status breaks the device.
std::unique_ptr<Backend> MakeBlockBackend(DiskFile disk, std::string_view id);

}  // namespace rehome::virtio

#endif  // REHOME_VMM_REFERENCE_VIRTIO_BLOCK_H_
