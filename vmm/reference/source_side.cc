// SPDX-License-Identifier: Apache-2.0
#include "vmm/reference/source_side.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <string>

#include "vmm/reference/serial.h"
#include "vmm/reference/wait.h"

namespace rehome {
namespace {

void CopyText(const std::string& text, char* out, size_t size) {
  const size_t count = std::min(text.size(), size - 1);
  std::memcpy(out, text.data(), count);
  out[count] = '\0';
}

void AddFd(rehome_vm& vm, uint32_t role, uint32_t index, const char* name, BorrowedFd fd) {
  rehome_vm_fd& entry = vm.fds[vm.fd_count++];
  entry = {};
  entry.entry.role = role;
  entry.entry.index = index;
  CopyText(name, entry.entry.name, sizeof(entry.entry.name));
  entry.fd = fd.raw();
}

// Returns their number.
uint32_t DescribeSlots(const GuestRam& ram, rehome_memslot slots[REHOME_MAX_SLOTS]) {
  uint32_t count = 0;
  for (const RamSlot& slot : ram.slots()) {
    slots[count++] = {.slot = slot.slot.slot,
                      .address_space = slot.slot.address_space,
                      .gpa = slot.slot.gpa,
                      .size = slot.slot.size_bytes,
                      .flags = slot.slot.flags,
                      .memory_index = slot.memory_index,
                      .offset = slot.slot.offset,
                      .hva = slot.slot.hva,
                      .device = slot.slot.inode.device,
                      .inode = slot.slot.inode.inode,
                      .reserved = 0};
  }
  return count;
}

}  // namespace

void DescribeBindings(Machine& machine, rehome_vm& vm) {
  const VmConfig& config = machine.config();
  CopyText(config.vm_id, vm.vm_id, sizeof(vm.vm_id));
  vm.vm_type = static_cast<uint32_t>(config.vm_type);
  vm.vcpu_count = machine.vcpu_count();
  vm.slot_count = DescribeSlots(machine.ram(), vm.slots);
  vm.layout_digest = rehome_layout_digest(vm.slots, vm.slot_count);
  vm.fd_count = 0;
  AddFd(vm, REHOME_FD_VM, 0, "", machine.vm().fd());
  for (uint32_t i = 0; i < machine.ram().file_count(); ++i) {
    AddFd(vm, REHOME_FD_MEMORY, i, "", machine.ram().file(i));
  }
}

SourceSide::Buffers::Buffers(uint32_t format, uint32_t vcpu_count)
    : writer(format, vcpu_count), vcpus(vcpu_count), results(vcpu_count + 1) {
  devices.console.pending.reserve(kMaxPending);
  // Zeroing them is also what takes the page faults now and not in the blackout.
  std::memset(vcpus.data(), 0, vcpus.size() * sizeof(VcpuState));
  std::memset(&vm, 0, sizeof(vm));
}

SourceSide::SourceSide(Machine& machine, VcpuCrew& crew, FormatRange state_formats,
                       const TestHooks& hooks)
    : machine_(machine), crew_(crew), state_formats_(state_formats), hooks_(hooks) {}

void SourceSide::Describe(bool hold, rehome_vm& vm) {
  hooks_.Reach(HookPoint::kDescribe);
  DescribeBindings(machine_, vm);
  vm.state_format = state_formats_.newest;
  vm.state_format_oldest = state_formats_.oldest;
  // None of the older ones has more in it.
  vm.state_capacity = StateWriter(state_formats_.newest, machine_.vcpu_count()).capacity();
  AddFd(vm, REHOME_FD_CONFIG, 0, "", machine_.config_file());

  for (size_t i = 0; i < machine_.devices().virtio_count(); ++i) {
    AddFd(vm, REHOME_FD_NAMED, 0, DeviceFdName(i).c_str(), machine_.devices().virtio_fd(i));
  }
  // Sockets that are not held are not described: they can change while the answer is sent.
  Console& console = machine_.devices().console();
  if (hold) console.Hold();
  if (!console.held()) return;
  if (console.listener().valid()) {
    AddFd(vm, REHOME_FD_NAMED, 0, kConsoleListenFd, console.listener());
  }
  if (console.client().valid()) {
    AddFd(vm, REHOME_FD_NAMED, 0, kConsoleClientFd, console.client());
  }
  if (hold) described_digest_ = vm.layout_digest;
}

uint64_t SourceSide::LayoutDigest() const {
  rehome_memslot slots[REHOME_MAX_SLOTS];
  return rehome_layout_digest(slots, DescribeSlots(machine_.ram(), slots));
}

void SourceSide::Arm(uint32_t state_format) {
  hooks_.Reach(HookPoint::kArm);
  buffers_ = std::make_unique<Buffers>(state_format, machine_.vcpu_count());
  machine_.devices().LimitInput(SerialDepthOf(state_format));
}

// What the guest asks of its devices meanwhile waits. A disk that needs most of the time which the
// daemon gives the hand-over would only have the guest stand still for nothing.
absl::Status SourceSide::Quiesce(const rehome_block& block) {
  const auto limit = std::chrono::nanoseconds(block.claim_timeout_ns / 2);
  return machine_.devices().Quiesce(std::chrono::duration_cast<std::chrono::milliseconds>(limit));
}

absl::StatusOr<uint64_t> SourceSide::PauseAndSave(rehome_block& block) {
  hooks_.Reach(HookPoint::kPause);
  block_ = &block;
  area_ = {reinterpret_cast<std::byte*>(block.state), block.state_capacity};
  saved_ = 0;
  absl::Status status = crew_.Pause(*this);
  if (!status.ok()) return status;
  for (const absl::Status& result : buffers_->results) {
    if (!result.ok()) return result;
  }
  return buffers_->size;
}

void SourceSide::OnAllStopped(bool guest_ended) {
  guest_ended_ = guest_ended;
  // Before any vCPU is saved, which an interrupt under way would still change.
  frozen_ = machine_.devices().Freeze();
  rehome_block_stamp(block_, REHOME_PHASE_VCPUS_STOPPED);
}

void SourceSide::Run(uint32_t index) {
  const uint32_t count = machine_.vcpu_count();
  const bool in_turn = hooks_.without.Has(BlackoutStep::kParallel);
  if (in_turn) AwaitAtLeast(saved_, index, std::chrono::nanoseconds(0));
  buffers_->results[index] = SaveVcpu(index);
  const uint32_t saved = saved_.fetch_add(1) + 1;
  if (in_turn) saved_.notify_all();
  if (saved != count) return;
  buffers_->results[count] = SaveTheRest();
  for (const absl::Status& result : buffers_->results) {
    if (!result.ok()) return;
  }
  // A guest that switched itself off at this moment must not go on elsewhere.
  if (!guest_ended_ && !hooks_.without.Has(BlackoutStep::kAnnounce)) Announce();
}

// The library announces the state when PauseAndSave() returns, and finds it announced: done here,
// it costs the blackout no wake-up of the library's thread. What the library would have checked
// first is checked here; that it took too long it can find afterwards as well, because the verdict
// is still to be claimed.
void SourceSide::Announce() {
  hooks_.Reach(HookPoint::kSaved);
  if (LayoutDigest() != described_digest_) return;
  rehome_block_stamp(block_, REHOME_PHASE_STATE_SAVED);
  rehome_block_set_source_ready(block_, buffers_->size);
  hooks_.Reach(HookPoint::kAnnounced);
}

absl::Status SourceSide::SaveVcpu(uint32_t index) {
  VcpuState& state = buffers_->vcpus[index];
  absl::Status status = machine_.vcpus()[index]->SaveState(state);
  return status.ok() ? buffers_->writer.PutVcpu(area_, state) : status;
}

absl::Status SourceSide::SaveTheRest() {
  absl::Status status = frozen_;
  if (status.ok()) status = machine_.vm().SaveState(buffers_->vm);
  if (status.ok()) status = machine_.devices().Save(buffers_->devices);
  if (status.ok()) status = buffers_->writer.PutVm(area_, buffers_->vm);
  if (status.ok()) status = buffers_->writer.PutDevices(area_, buffers_->devices);
  if (status.ok()) buffers_->size = buffers_->writer.Finish(area_);
  return status;
}

void SourceSide::Resume() {
  hooks_.Reach(HookPoint::kResume);
  machine_.devices().Thaw();
  crew_.Resume();
  Cancelled();
}

void SourceSide::Cancelled() {
  machine_.devices().LimitInput(kSerialFifoMax);
  machine_.devices().console().Release();
  buffers_.reset();
}

}  // namespace rehome
