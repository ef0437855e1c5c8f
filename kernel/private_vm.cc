// SPDX-License-Identifier: Apache-2.0
#include "kernel/private_vm.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace rehome::testing {
namespace {

constexpr uint64_t kHuge = 2 * kMiB;
constexpr uint64_t kCodeBytes = kHuge;
constexpr uint32_t kCodeSlot = 0;
constexpr uint8_t kPort = 0x10;
constexpr uint64_t kRead = 0x1000, kWrite = 0x2000, kTouch = 0x3000, kSpin = 0x4000;

// 32-bit code: mov eax, [ebx]; out kPort, eax
constexpr uint8_t kReadCode[] = {0x8b, 0x03, 0xe7, kPort};
// mov [ebx], eax; out kPort, eax
constexpr uint8_t kWriteCode[] = {0x89, 0x03, 0xe7, kPort};
// loop: mov edx, [ebx]; add ebx, 4096; dec eax; jnz loop; out kPort, eax
constexpr uint8_t kTouchCode[] = {0x8b, 0x13, 0x81, 0xc3, 0x00, 0x10, 0x00,
                                  0x00, 0x48, 0x75, 0xf5, 0xe7, kPort};
// loop: inc dword [ebx]; jmp loop
constexpr uint8_t kSpinCode[] = {0xff, 0x03, 0xeb, 0xfc};

// A test cannot go on without it.
void Require(bool condition, const char* what) {
  if (condition) return;
  std::fprintf(stderr, "%s: %s\n", what, std::strerror(errno));
  std::abort();
}

int Call(BorrowedFd fd, unsigned long request, void* argument) {
  return ioctl(fd.raw(), request, argument) < 0 ? errno : 0;
}

kvm_segment Flat(uint16_t selector, uint8_t type) {
  kvm_segment segment = {};
  segment.limit = 0xffffffff;
  segment.selector = selector;
  segment.type = type;
  segment.present = segment.db = segment.s = segment.g = 1;
  return segment;
}

void Interrupt(int) {}

int Allocate(BorrowedFd guest_memfd, int mode, uint64_t offset, uint64_t bytes) {
  return fallocate(guest_memfd.raw(), mode, static_cast<off_t>(offset),
                   static_cast<off_t>(bytes)) != 0
             ? errno
             : 0;
}

}  // namespace

SharedMemory::SharedMemory(uint64_t bytes) : bytes_(bytes) {
  mapping_ = mmap(nullptr, bytes + kHuge, PROT_READ | PROT_WRITE,
                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  Require(mapping_ != MAP_FAILED, "mmap");
  const auto address = reinterpret_cast<uint64_t>(mapping_);
  data_ = reinterpret_cast<uint8_t*>((address + kHuge - 1) / kHuge * kHuge);
  madvise(data_, bytes, MADV_HUGEPAGE);
}

SharedMemory::~SharedMemory() { munmap(mapping_, bytes_ + kHuge); }

void SharedMemory::Fill(uint32_t word) {
  for (uint64_t offset = 0; offset < bytes_; offset += sizeof(word))
    std::memcpy(data_ + offset, &word, sizeof(word));
}

TestVcpu::TestVcpu(UniqueFd fd, uint64_t run_bytes) : fd_(std::move(fd)), run_bytes_(run_bytes) {
  void* run = mmap(nullptr, run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd_.borrow().raw(), 0);
  Require(run != MAP_FAILED, "mmap of kvm_run");
  run_ = static_cast<kvm_run*>(run);
}

TestVcpu::~TestVcpu() { munmap(run_, run_bytes_); }

Exit TestVcpu::Run(uint64_t code, uint64_t gpa, uint32_t value) {
  Exit exit;
  kvm_sregs sregs = {};
  if ((exit.error = Call(fd(), KVM_GET_SREGS, &sregs)) != 0) return exit;
  sregs.cs = Flat(0x08, 11);
  sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = Flat(0x10, 3);
  sregs.cr0 |= 1;  // protected mode, no paging: an address is a guest physical one
  if ((exit.error = Call(fd(), KVM_SET_SREGS, &sregs)) != 0) return exit;
  kvm_regs regs = {};
  regs.rip = code;
  regs.rbx = gpa;
  regs.rax = value;
  regs.rflags = 2;
  if ((exit.error = Call(fd(), KVM_SET_REGS, &regs)) != 0) return exit;

  exit.error = Call(fd(), KVM_RUN, nullptr);
  exit.reason = run_->exit_reason;
  if (exit.error == 0 && exit.reason == KVM_EXIT_IO) {
    std::memcpy(&exit.value, reinterpret_cast<char*>(run_) + run_->io.data_offset,
                sizeof(exit.value));
  }
  if (exit.reason == KVM_EXIT_MEMORY_FAULT) {
    MemoryFaultExit fault;
    std::memcpy(&fault, &run_->hw, sizeof(fault));
    exit.fault_gpa = fault.gpa;
    exit.fault_flags = fault.flags;
  }
  return exit;
}

Exit TestVcpu::Read(uint64_t gpa) { return Run(kRead, gpa, 0); }
Exit TestVcpu::Write(uint64_t gpa, uint32_t value) { return Run(kWrite, gpa, value); }
Exit TestVcpu::Touch(uint64_t gpa, uint64_t pages) {
  return Run(kTouch, gpa, static_cast<uint32_t>(pages));
}

void TestVcpu::SetImmediateExit(bool on) {
  __atomic_store_n(&run_->immediate_exit, on ? 1 : 0, __ATOMIC_RELEASE);
}

Exit TestVcpu::Spin(uint64_t gpa) { return Run(kSpin, gpa, 0); }

int TestVcpu::PreFault(uint64_t gpa, uint64_t bytes) {
  kvm_pre_fault_memory range = {.gpa = gpa, .size = bytes, .flags = 0, .padding = {}};
  while (range.size != 0) {
    const int error = Call(fd(), KVM_PRE_FAULT_MEMORY, &range);
    if (error != 0 && error != EINTR) return error;
  }
  return 0;
}

Spinner::Spinner(TestVcpu& vcpu, uint64_t gpa) : vcpu_(vcpu) {
  struct sigaction action = {};
  action.sa_handler = Interrupt;
  sigaction(SIGUSR1, &action, nullptr);
  thread_ = std::thread([this, gpa] { exit_ = vcpu_.Spin(gpa); });
}

Spinner::~Spinner() { Stop(); }

void Spinner::Kick() {
  // In this order: a thread that the signal finds outside of KVM_RUN is told by the flag.
  vcpu_.SetImmediateExit(true);
  pthread_kill(thread_.native_handle(), SIGUSR1);
}

Exit Spinner::Stop() {
  if (!thread_.joinable()) return exit_;
  Kick();
  thread_.join();
  vcpu_.SetImmediateExit(false);
  return exit_;
}

PrivateVm::PrivateVm(uint32_t vcpus, uint32_t type)
    : kvm_(open("/dev/kvm", O_RDWR | O_CLOEXEC)), code_(kCodeBytes) {
  Require(kvm_.valid(), "open /dev/kvm");
  fd_ = UniqueFd(ioctl(kvm_.borrow().raw(), KVM_CREATE_VM, type));
  Require(fd_.valid(), "KVM_CREATE_VM");
  std::memcpy(code_.data() + kRead, kReadCode, sizeof(kReadCode));
  std::memcpy(code_.data() + kWrite, kWriteCode, sizeof(kWriteCode));
  std::memcpy(code_.data() + kTouch, kTouchCode, sizeof(kTouchCode));
  std::memcpy(code_.data() + kSpin, kSpinCode, sizeof(kSpinCode));
  Require(Bind(kCodeSlot, 0, code_, BorrowedFd()) == 0, "slot of the code");
  const int run_bytes = ioctl(kvm_.borrow().raw(), KVM_GET_VCPU_MMAP_SIZE, 0);
  Require(run_bytes > 0, "KVM_GET_VCPU_MMAP_SIZE");
  for (uint32_t i = 0; i < vcpus; ++i) {
    UniqueFd vcpu(ioctl(fd().raw(), KVM_CREATE_VCPU, i));
    Require(vcpu.valid(), "KVM_CREATE_VCPU");
    vcpus_.push_back(std::make_unique<TestVcpu>(std::move(vcpu), static_cast<uint64_t>(run_bytes)));
  }
}

UniqueFd PrivateVm::CreateGuestMemfd(uint64_t bytes) {
  kvm_create_guest_memfd request = {.size = bytes, .flags = 0, .reserved = {}};
  return UniqueFd(ioctl(fd().raw(), KVM_CREATE_GUEST_MEMFD, &request));
}

UniqueFd PrivateVm::Link(BorrowedFd guest_memfd) {
  LinkGuestMemfdArgs request = {
      .fd = static_cast<uint64_t>(guest_memfd.raw()), .flags = 0, .reserved = {}};
  return UniqueFd(ioctl(fd().raw(), LinkGuestMemfdRequest(kLinkNumber), &request));
}

int PrivateVm::Bind(uint32_t slot, uint64_t gpa, const SharedMemory& shared, BorrowedFd guest_memfd,
                    uint64_t offset) {
  kvm_userspace_memory_region2 region = {};
  region.slot = slot;
  region.flags = guest_memfd.valid() ? KVM_MEM_GUEST_MEMFD : 0;
  region.guest_phys_addr = gpa;
  region.memory_size = shared.bytes();
  region.userspace_addr = reinterpret_cast<uint64_t>(shared.data());
  region.guest_memfd = guest_memfd.valid() ? static_cast<uint32_t>(guest_memfd.raw()) : 0;
  region.guest_memfd_offset = offset;
  return Call(fd(), KVM_SET_USER_MEMORY_REGION2, &region);
}

int PrivateVm::Unbind(uint32_t slot) {
  kvm_userspace_memory_region2 region = {};
  region.slot = slot;
  return Call(fd(), KVM_SET_USER_MEMORY_REGION2, &region);
}

int PrivateVm::SetPrivate(uint64_t gpa, uint64_t bytes, bool is_private) {
  kvm_memory_attributes attributes = {
      .address = gpa,
      .size = bytes,
      .attributes = is_private ? uint64_t{KVM_MEMORY_ATTRIBUTE_PRIVATE} : 0,
      .flags = 0};
  return Call(fd(), KVM_SET_MEMORY_ATTRIBUTES, &attributes);
}

int PrivateVm::MoveFrom(BorrowedFd source) {
  kvm_enable_cap enable = {};
  enable.cap = KVM_CAP_VM_MOVE_ENC_CONTEXT_FROM;
  enable.args[0] = static_cast<uint64_t>(source.raw());
  return Call(fd(), KVM_ENABLE_CAP, &enable);
}

int PrivateVm::Probe() { return CheckExtension(KVM_CAP_VM_TYPES) < 0 ? errno : 0; }

long PrivateVm::CheckExtension(unsigned long capability) {
  return ioctl(fd().raw(), KVM_CHECK_EXTENSION, capability);
}

int Populate(BorrowedFd guest_memfd, uint64_t offset, uint64_t bytes) {
  return Allocate(guest_memfd, FALLOC_FL_KEEP_SIZE, offset, bytes);
}

int Punch(BorrowedFd guest_memfd, uint64_t offset, uint64_t bytes) {
  return Allocate(guest_memfd, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE, offset, bytes);
}

}  // namespace rehome::testing
