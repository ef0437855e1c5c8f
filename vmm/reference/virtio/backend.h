// SPDX-License-Identifier: Apache-2.0
//
// The part of a device that knows what a request means. VirtioDevice (device.h) knows the rest.
#ifndef REHOME_VMM_REFERENCE_VIRTIO_BACKEND_H_
#define REHOME_VMM_REFERENCE_VIRTIO_BACKEND_H_

#include <array>
#include <cstddef>
#include <cstdint>

#include "kvmglue/fd.h"
#include "vmm/reference/virtio/chain.h"
#include "vmm/reference/virtio/guest_memory.h"
#include "vmm/reference/virtio/split_queue.h"
#include "vmm/reference/virtio/state.h"

namespace rehome::virtio {

// What the driver sees of a device before it does anything. Constant.
struct DeviceProfile {
  uint32_t device_id = 0;
  uint64_t features = 0;  // offered, with VERSION_1
  uint32_t queue_count = 0;
  std::array<uint8_t, kConfigBytes> config{};
};

// What became of a chain.
enum class ServeResult : uint8_t {
  kDone,          // it is to be given back
  kWaitReadable,  // nothing has happened; the same chain again when fd() can be read
  kWaitWritable,  // nothing has happened; the same chain again when fd() can be written
  kIdle,          // nothing has happened, nor will; the same chain again at the next notification
  kBroken,        // the driver broke the device's rules
};

struct Served {
  ServeResult result = ServeResult::kDone;
  uint32_t written = 0;   // bytes, from the start of the writable part; kDone
  Fault fault = nullptr;  // kBroken
};

class Backend {
 public:
  virtual ~Backend() = default;

  virtual const DeviceProfile& profile() const = 0;

  // Serves one chain of `queue`, wholly or not at all. `features` are those that the driver took.
  // Called by one thread at a time, without any lock of the device.
  virtual Served Serve(uint32_t queue, const Chain& chain, uint64_t features,
                       GuestMemory& memory) = 0;

  // What the device works on: the disk, or the network's end. It goes with the guest. Owned by the
  // backend.
  virtual BorrowedFd fd() const = 0;
};

}  // namespace rehome::virtio

#endif  // REHOME_VMM_REFERENCE_VIRTIO_BACKEND_H_
