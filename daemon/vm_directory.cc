// SPDX-License-Identifier: Apache-2.0
#include "daemon/vm_directory.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "daemon/reasons.h"
#include "kvmglue/status_reason.h"

namespace rehome {
namespace {

constexpr size_t kMaxVmIdLength = 63;

bool IsLowerOrDigit(char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9'); }

absl::Status NotFound(const std::string& vm_id) {
  return MakeStatus(absl::StatusCode::kNotFound, reason::kVmNotFound,
                    absl::StrCat("no VM ", vm_id, " is registered"));
}

}  // namespace

bool IsValidVmId(std::string_view vm_id) {
  if (vm_id.empty() || vm_id.size() > kMaxVmIdLength) return false;
  if (!IsLowerOrDigit(vm_id.front()) || !IsLowerOrDigit(vm_id.back())) return false;
  for (char c : vm_id) {
    if (!IsLowerOrDigit(c) && c != '-') return false;
  }
  return true;
}

absl::Status VmDirectory::Register(const VmEntry& vm, const std::string& migration_id,
                                   std::shared_ptr<VmmLink> link) {
  if (!IsValidVmId(vm.vm_id)) {
    return MakeStatus(absl::StatusCode::kInvalidArgument, reason::kBadVmId,
                      "a VM id is 1 to 63 of [a-z0-9-], not starting or ending with '-'");
  }
  std::lock_guard<std::mutex> lock(mutex_);
  const auto found = slots_.find(vm.vm_id);
  if (found == slots_.end()) {
    if (slots_.size() >= max_vms_) {
      return MakeStatus(absl::StatusCode::kResourceExhausted, reason::kTooManyVms,
                        absl::StrCat(max_vms_, " VMs are registered already"));
    }
    Slot& slot = slots_[vm.vm_id];
    slot.entry = vm;
    slot.link = std::move(link);
    slot.entry.active_migration.clear();
    Changed(&slot);
    return absl::OkStatus();
  }

  Slot& slot = found->second;
  const std::string active = slot.entry.active_migration;
  const bool same_process = slot.entry.process == vm.process;
  if (!same_process) {
    const bool free_to_wait = slot.waiting_link == nullptr || slot.waiting_link->closed() ||
                              slot.waiting.process == vm.process;
    if (!active.empty() && migration_id == active && free_to_wait) {
      slot.waiting = vm;
      slot.waiting_link = std::move(link);
      return absl::OkStatus();
    }
    const bool living = slot.link != nullptr && !slot.link->closed();
    if (living || !active.empty()) {
      return MakeStatus(
          absl::StatusCode::kAlreadyExists, reason::kVmIdTaken,
          absl::StrCat("VM ", vm.vm_id, " is registered by process ", slot.entry.process.pid));
    }
  }
  if (slot.waiting.process == vm.process) slot.waiting_link.reset();
  slot.entry = vm;
  slot.link = std::move(link);
  slot.entry.active_migration = active;
  Changed(&slot);
  return absl::OkStatus();
}

void VmDirectory::Reserve(const VmEntry& vm, const std::string& migration_id) {
  std::lock_guard<std::mutex> lock(mutex_);
  Slot& slot = slots_[vm.vm_id];
  slot.entry = vm;
  slot.entry.active_migration = migration_id;
}

void VmDirectory::Unregister(const VmmLink* link) {
  std::lock_guard<std::mutex> lock(mutex_);
  for (auto it = slots_.begin(); it != slots_.end();) {
    Slot& slot = it->second;
    if (slot.waiting_link.get() == link) slot.waiting_link.reset();
    if (slot.link.get() != link) {
      ++it;
      continue;
    }
    slot.link.reset();
    Changed(&slot);
    const bool stays = !slot.entry.active_migration.empty() || PassToWaiting(&slot);
    it = stays ? std::next(it) : slots_.erase(it);
  }
}

void VmDirectory::KeepListed(const std::string& vm_id) {
  std::lock_guard<std::mutex> lock(mutex_);
  const auto found = slots_.find(vm_id);
  if (found != slots_.end() && found->second.link != nullptr) found->second.kept = true;
}

void VmDirectory::HandOver(const std::string& vm_id, std::shared_ptr<VmmLink> link) {
  std::lock_guard<std::mutex> lock(mutex_);
  const auto found = slots_.find(vm_id);
  // Without a slot the VM was never migrated: there is nothing that could pass over.
  if (found == slots_.end()) return;
  Slot& slot = found->second;
  // It has been said before, and the VMM has registered since on a newer connection.
  const bool superseded = link->closed() && slot.link != nullptr && !slot.link->closed() &&
                          slot.entry.process == link->process();
  if (superseded) return;
  const VmmHello& hello = link->hello();
  slot.entry.vmm = absl::StrCat(hello.vmm_name, " ", hello.vmm_version);
  slot.entry.state_format_write = hello.state_format_write;
  slot.entry.process = link->process();
  if (slot.waiting.process == slot.entry.process) {
    // The newer connection of the two is the one that it says things on.
    if (link->closed() && slot.waiting_link != nullptr) link = slot.waiting_link;
    slot.waiting_link.reset();
  }
  // A link that closed before it got the VM has been unregistered already, in vain.
  const bool alive = !link->closed();
  slot.link = alive ? std::move(link) : nullptr;
  slot.kept = true;
  Changed(&slot);
}

void VmDirectory::LoseOwner(const std::string& vm_id) {
  std::lock_guard<std::mutex> lock(mutex_);
  const auto found = slots_.find(vm_id);
  if (found == slots_.end() || found->second.entry.active_migration.empty()) return;
  Slot& slot = found->second;
  const bool was_visible = slot.IsVisible();
  slot.kept = false;
  if (was_visible && !slot.IsVisible()) Changed(&slot);
}

absl::StatusOr<VmEntry> VmDirectory::Get(const std::string& vm_id) const {
  std::lock_guard<std::mutex> lock(mutex_);
  const Slot* slot = FindVisible(vm_id);
  if (slot == nullptr) return NotFound(vm_id);
  return slot->entry;
}

std::vector<VmEntry> VmDirectory::List() const {
  std::lock_guard<std::mutex> lock(mutex_);
  std::vector<VmEntry> entries;
  entries.reserve(slots_.size());
  for (const auto& [vm_id, slot] : slots_) {
    if (slot.IsVisible()) entries.push_back(slot.entry);
  }
  return entries;
}

absl::StatusOr<std::shared_ptr<VmmLink>> VmDirectory::LinkOf(const std::string& vm_id) const {
  std::lock_guard<std::mutex> lock(mutex_);
  const Slot* slot = FindVisible(vm_id);
  if (slot == nullptr || slot->link == nullptr) return NotFound(vm_id);
  return slot->link;
}

void VmDirectory::SetActiveMigration(const std::string& vm_id, const std::string& migration_id) {
  std::lock_guard<std::mutex> lock(mutex_);
  const auto found = slots_.find(vm_id);
  if (found == slots_.end()) return;
  Slot& slot = found->second;
  if (slot.link == nullptr && migration_id.empty()) {
    slot.entry.active_migration.clear();
    if (PassToWaiting(&slot)) return;
    if (slot.IsVisible()) Changed(&slot);
    slots_.erase(found);
    return;
  }
  // Whoever waited did so for a migration before this one.
  if (!migration_id.empty()) slot.waiting_link.reset();
  slot.kept = false;
  slot.entry.active_migration = migration_id;
  Changed(&slot);
}

uint64_t VmDirectory::revision() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return revision_;
}

uint64_t VmDirectory::WaitForChange(uint64_t seen, std::chrono::milliseconds timeout) const {
  std::unique_lock<std::mutex> lock(mutex_);
  changed_.wait_for(lock, timeout, [&] { return revision_ > seen; });
  return revision_;
}

void VmDirectory::Changed(Slot* slot) {
  slot->entry.revision = ++revision_;
  changed_.notify_all();
}

bool VmDirectory::PassToWaiting(Slot* slot) {
  if (slot->waiting_link == nullptr || slot->waiting_link->closed()) return false;
  slot->entry = slot->waiting;
  slot->entry.active_migration.clear();
  slot->link = std::move(slot->waiting_link);
  slot->waiting_link.reset();
  slot->kept = false;
  Changed(slot);
  return true;
}

const VmDirectory::Slot* VmDirectory::FindVisible(const std::string& vm_id) const {
  const auto found = slots_.find(vm_id);
  if (found == slots_.end() || !found->second.IsVisible()) return nullptr;
  return &found->second;
}

}  // namespace rehome
