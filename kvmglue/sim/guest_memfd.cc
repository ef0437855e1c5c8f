// SPDX-License-Identifier: Apache-2.0
#include "kvmglue/sim/guest_memfd.h"

#include <sys/mman.h>
#include <sys/stat.h>

#include <algorithm>
#include <climits>
#include <iterator>
#include <mutex>
#include <utility>

#include "kvmglue/kvm_abi.h"
#include "kvmglue/sim/outcome.h"

namespace rehome::sim {
namespace {

// A place in the VM's file table, or kMaxGuestMemfdFiles. REQUIRES: vm.lock is held.
uint32_t FreePlace(const VmObject& vm) {
  uint32_t index = 0;
  while (index < kMaxGuestMemfdFiles && vm.files[index].used != 0) ++index;
  return index;
}

// Makes a new open file description of the inode behind `inode_fd` a file of `vm`. `tag` says what
// the inode and the gate are; the VM and the index are filled in.
SysResult AddFile(LocalVm& vm, BorrowedFd inode_fd, FileTag tag, bool close_on_exec) {
  VmObject& object = vm.object();
  const auto lock = LockVm(object);
  const uint32_t index = FreePlace(object);
  if (index == kMaxGuestMemfdFiles) return Failure(ENFILE);

  const SysResult opened = ReopenInode(inode_fd, close_on_exec);
  if (!opened.ok()) return opened;
  UniqueFd fd(static_cast<int>(opened.value));
  struct stat status;
  tag.kind = FileKind::kGuestMemfd;
  tag.vm_id = object.id;
  tag.index = index;
  SysResult step = CaptureErrno(fstat(fd.borrow().raw(), &status));
  if (step.ok()) step = WriteTag(fd.borrow(), tag);
  if (step.ok()) step = SetMark(fd.borrow(), GuestMemfdMark(object.id, index));
  if (!step.ok()) return step;

  object.files[index] = {.device = status.st_dev,
                         .inode = status.st_ino,
                         .size = static_cast<uint64_t>(status.st_size),
                         .used = 1,
                         .mappable = tag.mappable ? 1u : 0u,
                         .gated = tag.gated ? 1u : 0u,
                         .woken_by = 0};
  return Success(fd.Release());
}

// What the patch looks at beyond the RFC.
bool IsStrict(const LinkGuestMemfdArgs& request) {
  return request.fd <= INT_MAX &&
         std::all_of(std::begin(request.reserved), std::end(request.reserved),
                     [](uint64_t word) { return word == 0; });
}

// A mapping that cannot be touched: pages beyond the end of a file raise SIGBUS.
SysResult MapFaulting(size_t length, void** address) {
  const UniqueFd empty(memfd_create("kvm-gmem-private", MFD_CLOEXEC));
  if (!empty.valid()) return Failure(errno);
  *address = mmap(nullptr, length, PROT_READ | PROT_WRITE, MAP_SHARED, empty.borrow().raw(), 0);
  return *address == MAP_FAILED ? Failure(errno) : Success();
}

}  // namespace

uint64_t SupportedGuestMemfdFlags(VmType type) {
  return GUEST_MEMFD_FLAG_MMAP | (HasPrivateMemory(type) ? 0 : GUEST_MEMFD_FLAG_INIT_SHARED);
}

SysResult CreateGuestMemfd(LocalVm& vm, void* argument) {
  kvm_create_guest_memfd request;
  if (!CopyIn(argument, request)) return Failure(EFAULT);
  if ((request.flags & ~SupportedGuestMemfdFlags(vm.object().vm_type())) != 0) {
    return Failure(EINVAL);
  }
  if (request.size == 0 || request.size > INT64_MAX || !IsPageAligned(request.size)) {
    return Failure(EINVAL);
  }
  const SysResult created = CreateSealedMemfd("kvm-gmem", request.size);
  if (!created.ok()) return created;
  const UniqueFd inode(static_cast<int>(created.value));
  return AddFile(vm, inode.borrow(),
                 {.mappable = (request.flags & GUEST_MEMFD_FLAG_MMAP) != 0,
                  .init_shared = (request.flags & GUEST_MEMFD_FLAG_INIT_SHARED) != 0},
                 /*close_on_exec=*/false);
}

SysResult LinkGuestMemfd(LocalVm& vm, bool gate, void* argument) {
  LinkGuestMemfdArgs request;
  if (!CopyIn(argument, request)) return Failure(EFAULT);
  if (request.flags != 0) return Failure(EINVAL);
  if (gate && !IsStrict(request)) return Failure(EINVAL);
  // fdget() takes an unsigned int: the RFC does not look at the upper half of `fd`.
  const BorrowedFd source(static_cast<int>(static_cast<uint32_t>(request.fd)));
  FileTag tag = ReadTag(source);
  if (tag.kind != FileKind::kGuestMemfd || tag.vm_id == vm.object().id) return Failure(EINVAL);
  tag.gated = gate && vm.object().vm_type() != VmType::kDefault;
  return AddFile(vm, source, tag, /*close_on_exec=*/gate);
}

SysResult MapGuestMemfd(const LocalVm* vm, BorrowedFd fd, const FileTag& tag, size_t length,
                        off_t offset, void** address) {
  if (!tag.mappable) return Failure(ENODEV);
  if (tag.gated && (vm == nullptr || !vm->object().IsAwake(vm->object().files[tag.index]))) {
    return Failure(EPERM);
  }
  if (!tag.init_shared) return MapFaulting(length, address);
  *address = mmap(nullptr, length, PROT_READ | PROT_WRITE, MAP_SHARED, fd.raw(), offset);
  return *address == MAP_FAILED ? Failure(errno) : Success();
}

}  // namespace rehome::sim
