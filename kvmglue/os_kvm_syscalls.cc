// SPDX-License-Identifier: Apache-2.0
#include "kvmglue/os_kvm_syscalls.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

namespace rehome {
namespace {

class OsKvmSyscalls final : public KvmSyscalls {
 public:
  SysResult OpenKvm() override { return CaptureErrno(open("/dev/kvm", O_RDWR | O_CLOEXEC)); }

  SysResult Ioctl(BorrowedFd fd, unsigned long request, void* argument) override {
    return CaptureErrno(ioctl(fd.raw(), request, argument));
  }

  SysResult MapShared(BorrowedFd fd, size_t length, off_t offset, void** address) override {
    void* mapped = mmap(nullptr, length, PROT_READ | PROT_WRITE, MAP_SHARED, fd.raw(), offset);
    const SysResult result = CaptureErrno(mapped == MAP_FAILED ? -1 : 0);
    if (result.ok()) *address = mapped;
    return result;
  }

  const char* Name() const override { return "kvm"; }
};

}  // namespace

std::unique_ptr<KvmSyscalls> OpenRealKvm() { return std::make_unique<OsKvmSyscalls>(); }

}  // namespace rehome
