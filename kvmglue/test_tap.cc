// SPDX-License-Identifier: Apache-2.0
#include "kvmglue/test_tap.h"

#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <sys/ioctl.h>

#include <cerrno>

#include "absl/strings/str_cat.h"
#include "kvmglue/fd.h"

namespace rehome::testing {

absl::Status TestTap::Persist(const std::string& name, bool stays) {
  const UniqueFd fd(open("/dev/net/tun", O_RDWR | O_CLOEXEC));
  if (!fd.valid()) return absl::UnavailableError(absl::ErrnoToStatus(errno, "tun").message());
  ifreq request = {};
  request.ifr_flags = IFF_TAP | IFF_NO_PI;
  name.copy(request.ifr_name, IFNAMSIZ - 1);
  if (ioctl(fd.borrow().raw(), TUNSETIFF, &request) == 0 &&
      ioctl(fd.borrow().raw(), TUNSETPERSIST, stays ? 1 : 0) == 0) {
    return absl::OkStatus();
  }
  return absl::UnavailableError(absl::ErrnoToStatus(errno, absl::StrCat("tap ", name)).message());
}

absl::StatusOr<std::unique_ptr<TestTap>> TestTap::Make(const std::string& name) {
  if (absl::Status status = Persist(name, true); !status.ok()) return status;
  return std::unique_ptr<TestTap>(new TestTap(name));
}

TestTap::~TestTap() { Persist(name_, false).IgnoreError(); }

}  // namespace rehome::testing
