// SPDX-License-Identifier: Apache-2.0
#include "vmm/agent/fake_vmm.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <climits>
#include <mutex>
#include <new>
#include <vector>

#include "vmm/agent/rehome_agent.h"

namespace rehome {
namespace {

constexpr uint64_t kMemorySize = 1 << 20;
constexpr uint64_t kStateCapacity = 64 << 10;
constexpr uint32_t kVcpus = 2;

struct FakeVmm;

struct Vcpu {
  FakeVmm* vmm = nullptr;
  bool leads = false;
  pthread_t thread;
};

struct FakeVmm {
  VmmPage* page = nullptr;
  std::atomic<bool> owns_guest = false;
  std::mutex starting;  // held until `agent` is set: callbacks can come before
  rehome_agent* agent = nullptr;
  int memory = -1;
  int vm = -1;
  int config = -1;
  uint32_t strategy = 0;
  rehome_block* block = nullptr;
  pthread_barrier_t restored;
  std::vector<Vcpu> vcpus;
};

FakeVmm* Self(void* opaque) { return static_cast<FakeVmm*>(opaque); }

void Mark(VmmPage* page, std::atomic<uint32_t>* counter) {
  counter->fetch_add(1);
  Announce(page);
}

// Says that `step` is reached and stays there while it is the one to hang at.
void Reach(VmmPage* page, Step step) {
  page->reached.fetch_or(1u << static_cast<uint32_t>(step));
  Announce(page);
  while (page->hang_at.load() == static_cast<uint32_t>(step)) {
    uint32_t seen = page->changes.load();
    if (page->hang_at.load() != static_cast<uint32_t>(step)) break;
    syscall(SYS_futex, &page->changes, FUTEX_WAIT, seen, nullptr, nullptr, 0);
  }
}

void SetRuns(VmmPage* page, std::atomic<uint32_t>* mine, std::atomic<uint32_t>* other, bool runs) {
  mine->store(runs ? 1 : 0);
  if (runs && other->load() != 0) page->ran_twice.store(1);
  Announce(page);
}

bool Moves(uint32_t strategy) {
  return strategy == REHOME_STRATEGY_LINK_MOVE || strategy == REHOME_STRATEGY_MAP_MOVE;
}

int NewMemory(const char* name) {
  int fd = memfd_create(name, MFD_CLOEXEC);
  if (fd < 0 || ftruncate(fd, kMemorySize) != 0) abort();
  return fd;
}

int NewConfig() {
  int fd = memfd_create("config", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (fd < 0 || write(fd, "cpuid", 5) != 5) abort();
  if (fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE) != 0) abort();
  return fd;
}

void FillVm(const FakeVmm& self, rehome_vm* vm, bool with_devices) {
  struct stat memory;
  if (fstat(self.memory, &memory) != 0) abort();
  strcpy(vm->vm_id, kFakeVmId);
  vm->vcpu_count = kVcpus;
  vm->state_capacity = with_devices ? kStateCapacity : 0;
  vm->layout_digest = kFakeLayoutDigest;
  vm->state_format = 1;
  vm->slot_count = 1;
  vm->slots[0].size = kMemorySize;
  vm->slots[0].device = memory.st_dev;
  vm->slots[0].inode = memory.st_ino;
  vm->fds[0] = {{REHOME_FD_VM, 0, ""}, self.vm};
  vm->fds[1] = {{REHOME_FD_MEMORY, 0, ""}, self.memory};
  vm->fds[2] = {{REHOME_FD_CONFIG, 0, ""}, self.config};
  vm->fds[3] = {{REHOME_FD_NAMED, 0, "serial0"}, self.vm};
  vm->fd_count = with_devices ? 4 : 2;
}

int Fail(rehome_error* error, const char* text) {
  error->refusal = REHOME_REFUSED_KERNEL;
  snprintf(error->text, sizeof(error->text), "%s", text);
  return -EIO;
}

// ---- source ----

int Describe(void* opaque, int, rehome_vm* vm, rehome_error*) {
  FillVm(*Self(opaque), vm, true);
  Reach(Self(opaque)->page, Step::kDescribe);
  return 0;
}

int ArmSource(void* opaque, rehome_block*, uint32_t, rehome_error*) {
  Reach(Self(opaque)->page, Step::kArmSource);
  return 0;
}

int Quiesce(void* opaque, rehome_block*, rehome_error* error) {
  VmmPage* page = Self(opaque)->page;
  Reach(page, Step::kQuiesce);
  page->quiesced_ns.store(rehome_monotonic_ns());
  return page->quiesce_fails.load() != 0 ? Fail(error, "DEVICE_BUSY: a flush") : 0;
}

int PauseAndSave(void* opaque, rehome_block* block, uint64_t* size, rehome_error* error) {
  VmmPage* page = Self(opaque)->page;
  SetRuns(page, &page->source_runs, &page->target_runs, false);
  Mark(page, &page->pauses);
  rehome_block_stamp(block, REHOME_PHASE_VCPUS_STOPPED);
  Reach(page, Step::kPause);
  if (page->pause_fails.load() != 0) return Fail(error, "KVM_GET_REGS: EIO");
  for (uint64_t i = 0; i < kFakeStateSize; i++) block->state[i] = FakeStateByte(i);
  *size = page->state_too_large.load() != 0 ? block->state_capacity + 1 : kFakeStateSize;
  return 0;
}

uint64_t LayoutDigest(void* opaque) {
  return kFakeLayoutDigest + Self(opaque)->page->layout_changes.load();
}

int ProbeVm(void* opaque) { return Self(opaque)->page->vm_moved.load() != 0 ? -EIO : 0; }

void Resume(void* opaque) {
  VmmPage* page = Self(opaque)->page;
  SetRuns(page, &page->source_runs, &page->target_runs, true);
  Mark(page, &page->resumes);
}

void HandedOver(void* opaque) {
  VmmPage* page = Self(opaque)->page;
  Mark(page, &page->handed_over);
  Reach(page, Step::kHandedOver);
}

void Released(void* opaque) {
  VmmPage* page = Self(opaque)->page;
  Mark(page, &page->released);
  _exit(0);
}

// ---- target ----

bool StateIsIntact(const rehome_block& block) {
  uint64_t size = rehome_block_state_size(&block);
  if (size != kFakeStateSize) return false;
  for (uint64_t i = 0; i < size; i++) {
    if (block.state[i] != FakeStateByte(i)) return false;
  }
  return true;
}

// "MOVE": what the kernel does to the source's VM.
bool Move(FakeVmm* self) {
  if (!Moves(self->strategy)) return true;
  self->page->vm_moved.store(1);
  rehome_block_stamp(self->block, REHOME_PHASE_MOVED);
  return self->page->move_kills_and_fails.load() == 0;
}

// -ECANCELED and the like: leave without running the guest.
[[noreturn]] void Leave(FakeVmm* self) {
  Announce(self->page);
  _exit(1);
}

void TakeOver(FakeVmm* self) {
  VmmPage* page = self->page;
  page->claim_result.store(rehome_target_claim(self->agent));
  if (page->claim_result.load() != 0) Leave(self);
  Reach(page, Step::kClaimed);
  if (Moves(self->strategy) && rehome_target_may_move(self->agent) != 0) Leave(self);
  if (page->target_refuses.load() != 0 || !Move(self)) {
    rehome_target_refuse(self->agent, "KVM_SET_SREGS: EINVAL");
    Announce(page);
    for (;;) pause();  // until cancelled() or the daemon ends this process
  }
  Reach(page, Step::kMoved);
  page->commit_result.store(rehome_target_commit(self->agent));
  if (page->commit_result.load() != 0) Leave(self);
  Reach(page, Step::kCommitted);
}

void RunGuest(FakeVmm* self) {
  VmmPage* page = self->page;
  page->run_result.store(rehome_target_run(self->agent));
  if (page->run_result.load() != 0) Leave(self);
  Reach(page, Step::kRunning);
  SetRuns(page, &page->target_runs, &page->source_runs, true);
  Reach(page, Step::kRan);
  rehome_register vm = {};
  strcpy(vm.vm_id, kFakeVmId);
  vm.vcpu_count = kVcpus;
  const char* failure = page->first_run_fails.load() != 0 ? "KVM_RUN: EFAULT" : nullptr;
  self->owns_guest.store(failure == nullptr);
  if (failure != nullptr) SetRuns(page, &page->target_runs, &page->source_runs, false);
  rehome_target_first_run(self->agent, &vm, failure);
}

void* VcpuThread(void* opaque) {
  FakeVmm* self = static_cast<Vcpu*>(opaque)->vmm;
  VmmPage* page = self->page;
  bool leads = static_cast<Vcpu*>(opaque)->leads;
  int result = rehome_target_wait(self->agent, leads ? 1000 : 0);
  if (leads) {
    page->wait_result.store(result);
    Announce(page);
  }
  if (leads && result != 0) return nullptr;
  if (leads) {
    page->state_intact.store(StateIsIntact(*self->block) ? 1 : 0);
    Reach(page, Step::kStateSeen);
    TakeOver(self);
  }
  // Also who woke after the verdict was ABORTED: the thread that leads is not to wait for it.
  pthread_barrier_wait(&self->restored);
  if (leads) RunGuest(self);
  return nullptr;
}

// Every fd of the source has arrived, close-on-exec, and the memory is the memory.
bool FdsAreIntact(const FakeVmm& self, const rehome_vm& source) {
  uint32_t expected = Moves(self.strategy) ? 4 : 3;
  if (source.fd_count != expected) return false;
  for (uint32_t i = 0; i < source.fd_count; i++) {
    const rehome_vm_fd& fd = source.fds[i];
    if ((fcntl(fd.fd, F_GETFD) & FD_CLOEXEC) == 0) return false;
    if (fd.entry.role == REHOME_FD_NAMED && strcmp(fd.entry.name, "serial0") != 0) return false;
    struct stat memory;
    if (fd.entry.role != REHOME_FD_MEMORY) continue;
    if (fstat(fd.fd, &memory) != 0 || memory.st_ino != source.slots[0].inode) return false;
  }
  return true;
}

int Prepare(void* opaque, uint32_t strategy, uint32_t, const rehome_vm* source, rehome_block* block,
            rehome_vm* target, rehome_error* error) {
  FakeVmm* self = Self(opaque);
  { std::lock_guard<std::mutex> started(self->starting); }
  self->strategy = strategy;
  self->block = block;
  self->page->fds_intact.store(FdsAreIntact(*self, *source) ? 1 : 0);
  for (uint32_t i = 0; i < source->fd_count; i++) {
    if (source->fds[i].entry.role == REHOME_FD_MEMORY) self->memory = source->fds[i].fd;
  }
  Reach(self->page, Step::kPrepare);
  if (self->page->prepare_fails.load() != 0) return Fail(error, "KVM_CREATE_VM: ENOMEM");
  FillVm(*self, target, false);
  target->vm_id[0] = '\0';
  pthread_barrier_init(&self->restored, nullptr, kVcpus);
  self->vcpus.resize(kVcpus);
  for (uint32_t i = 0; i < kVcpus; i++) {
    Vcpu& vcpu = self->vcpus[i];
    vcpu.vmm = self;
    vcpu.leads = i == 0;
    if (pthread_create(&vcpu.thread, nullptr, VcpuThread, &vcpu) != 0) abort();
  }
  return 0;
}

int ArmTarget(void* opaque, rehome_block*, rehome_error*) {
  Reach(Self(opaque)->page, Step::kArmTarget);
  return 0;
}

// ---- both ----

// Whoever has the guest keeps it; whoever waited for it is of no use any more.
void Cancelled(void* opaque) {
  VmmPage* page = Self(opaque)->page;
  if (Self(opaque)->owns_guest.load()) {
    Mark(page, &page->source_cancelled);
    return;
  }
  Mark(page, &page->target_cancelled);
  if (page->target_stays.load() != 0) return;
  _exit(0);
}

rehome_agent_ops MakeOps() {
  rehome_agent_ops ops = {};
  ops.describe = Describe;
  ops.arm_source = ArmSource;
  ops.quiesce = Quiesce;
  ops.pause_and_save = PauseAndSave;
  ops.layout_digest = LayoutDigest;
  ops.probe_vm = ProbeVm;
  ops.resume = Resume;
  ops.handed_over = HandedOver;
  ops.released = Released;
  ops.prepare = Prepare;
  ops.arm_target = ArmTarget;
  ops.cancelled = Cancelled;
  return ops;
}

[[noreturn]] void Serve(VmmPage* page, int agent_fd, uint32_t role) {
  const uid_t nobody = 65534;
  if (role == REHOME_ROLE_TARGET && page->target_is_nobody.load() != 0 &&
      setresuid(nobody, nobody, nobody) != 0) {
    abort();
  }
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  static FakeVmm self;
  static rehome_agent_ops ops;
  ops = MakeOps();
  self.page = page;
  self.vm = NewMemory("vm");
  self.config = NewConfig();
  self.owns_guest.store(role == REHOME_ROLE_OWNER);
  if (role == REHOME_ROLE_OWNER) self.memory = NewMemory("memory");
  if (role == REHOME_ROLE_OWNER) SetRuns(page, &page->source_runs, &page->target_runs, true);
  rehome_agent_config config = {};
  config.connection_fd = agent_fd;
  if (page->agent_socket[0] != '\0') config.socket_path = page->agent_socket;
  config.role = role;
  config.features = REHOME_FEATURES_ALL;
  config.state_format_write = 1;
  config.state_format_read_min = 1;
  config.state_format_read_max = 2;
  config.vmm_name = "fake";
  config.vmm_version = "1";
  {
    std::lock_guard<std::mutex> lock(self.starting);
    self.agent = rehome_agent_start(&config, &ops, &self);
  }
  if (self.agent == nullptr) abort();
  if (role == REHOME_ROLE_OWNER) {
    rehome_register vm = {};
    strcpy(vm.vm_id, kFakeVmId);
    vm.vcpu_count = kVcpus;
    if (rehome_agent_register(self.agent, &vm) != 0) abort();
  }
  for (;;) pause();
}

}  // namespace

VmmPage* NewVmmPage() {
  void* memory =
      mmap(nullptr, sizeof(VmmPage), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) abort();
  VmmPage* page = new (memory) VmmPage();
  for (auto* result :
       {&page->wait_result, &page->claim_result, &page->commit_result, &page->run_result}) {
    result->store(kNotReturned);
  }
  return page;
}

void FreeVmmPage(VmmPage* page) { munmap(page, sizeof(*page)); }

void Announce(VmmPage* page) {
  page->changes.fetch_add(1);
  syscall(SYS_futex, &page->changes, FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
}

void RunFakeSource(VmmPage* page, int agent_fd) { Serve(page, agent_fd, REHOME_ROLE_OWNER); }
void RunFakeTarget(VmmPage* page, int agent_fd) { Serve(page, agent_fd, REHOME_ROLE_TARGET); }

}  // namespace rehome
