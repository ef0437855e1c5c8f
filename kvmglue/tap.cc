// SPDX-License-Identifier: Apache-2.0
#include "kvmglue/tap.h"

#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <sys/ioctl.h>

#include <cerrno>
#include <utility>

#include "kvmglue/errno_status.h"
#include "kvmglue/status_reason.h"
#include "kvmglue/sys_result.h"

namespace rehome {
namespace {

// Whether an interface has that name; asking makes none (SIOCGIFINDEX).
absl::Status FindInterface(const std::string& name) {
  if (if_nametoindex(name.c_str()) != 0) return absl::OkStatus();
  return ErrnoStatus(KernelCall::kFindTap, errno, name);
}

}  // namespace

absl::StatusOr<UniqueFd> OpenTap(const std::string& name) {
  // '%' would make it a pattern, and each open another interface.
  const bool has_stranger = name.find_first_of(std::string("%/\0", 3)) != std::string::npos;
  if (name.empty() || name.size() >= IFNAMSIZ || has_stranger) {
    return MakeStatus(absl::StatusCode::kInvalidArgument, "TAP_NAME_INVALID",
                      "a network interface's name has 1 to 15 bytes, and no % or / in it");
  }
  // TUNSETIFF makes an interface of a name that has none.
  if (absl::Status status = FindInterface(name); !status.ok()) return status;
  const SysResult opened = CaptureErrno(open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK));
  if (!opened.ok()) return ErrnoStatus(KernelCall::kOpenTap, opened.error, name);
  UniqueFd fd(static_cast<int>(opened.value));
  ifreq request = {};
  // NO_PI: nothing in front of the frame. The header of virtio-net is the device's affair, as long
  // as there are no offloads in it.
  request.ifr_flags = IFF_TAP | IFF_NO_PI;
  name.copy(request.ifr_name, IFNAMSIZ - 1);
  const SysResult set = CaptureErrno(ioctl(fd.borrow().raw(), TUNSETIFF, &request));
  if (!set.ok()) return ErrnoStatus(KernelCall::kOpenTap, set.error, name);
  return fd;
}

}  // namespace rehome
