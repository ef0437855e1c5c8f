// SPDX-License-Identifier: Apache-2.0
#include "daemon/escrow_store.h"

#include <algorithm>
#include <map>
#include <mutex>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "daemon/reasons.h"
#include "kvmglue/status_reason.h"
#include "vmm/agent/protocol.h"

namespace rehome {
namespace {

static_assert(kMaxFdsPerEscrow == REHOME_MAX_DESCRIBED_FDS + REHOME_MAX_MEMORIES + 4 +
                                      kMaxStoredRescueVms * (1 + REHOME_MAX_MEMORIES));

bool IsNumberBelow(std::string_view text, unsigned limit) {
  if (text.empty() || text.size() > 2 || (text.size() == 2 && text[0] == '0')) return false;
  unsigned number = 0;
  for (char c : text) {
    if (c < '0' || c > '9') return false;
    number = number * 10 + static_cast<unsigned>(c - '0');
  }
  return number < limit;
}

bool IsItem(std::string_view name) {
  for (std::string_view whole : {kEscrowBlock, kEscrowSourceVm, kEscrowTargetVm, kEscrowConfig,
                                 kEscrowDescription, kEscrowRescueBlock}) {
    if (name == whole) return true;
  }
  for (auto [prefix, limit] :
       {std::pair<std::string_view, unsigned>{kEscrowMemoryPrefix, REHOME_MAX_MEMORIES},
        {kEscrowNamedPrefix, REHOME_MAX_DESCRIBED_FDS},
        {kEscrowTargetMemoryPrefix, REHOME_MAX_MEMORIES},
        {kEscrowRescueVmPrefix, kMaxStoredRescueVms},
        {kEscrowRescueMemoryPrefix, kMaxStoredRescueVms * REHOME_MAX_MEMORIES}}) {
    if (name.starts_with(prefix)) return IsNumberBelow(name.substr(prefix.size()), limit);
  }
  return false;
}

// Of a migration: what may stand before the dot.
bool IsId(std::string_view id) {
  return !id.empty() && id.size() < REHOME_ID_SIZE && std::all_of(id.begin(), id.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-';
  });
}

// A name that can stand in a line to the manager: nothing in it ends the line.
bool IsPrintable(std::string_view name) {
  return std::all_of(name.begin(), name.end(), [](char c) { return c >= ' ' && c <= '~'; });
}

absl::Status BadItem(const std::string& name) {
  return MakeStatus(absl::StatusCode::kInvalidArgument, reason::kBadEscrowItem,
                    absl::StrCat("\"", name, "\" is no item of an escrow, or is there twice"));
}

class ManagerEscrowStore final : public EscrowStore {
 public:
  explicit ManagerEscrowStore(ServiceManager* manager) : manager_(manager) {
    for (NamedFd& fd : manager_->TakeDescriptors()) TakeBack(std::move(fd));
  }

  bool supported() const override { return manager_->present(); }
  bool all_came_back() const override { return manager_->descriptors_whole(); }
  absl::Status Put(const std::string& migration_id, const std::vector<EscrowItem>& items) override;
  absl::Status Remove(const std::string& migration_id) override;
  absl::Status Barrier() override { return manager_->Barrier(); }
  std::vector<NamedFd> Take(const std::string& migration_id) override;
  std::vector<std::string> restored() const override;
  size_t DropUnclaimed(const std::set<std::string>& unfinished) override;
  size_t stored_fds() const override {
    std::lock_guard lock(mutex_);
    return CountStored();
  }

 private:
  struct Entry {
    std::set<std::string> items;  // that the manager has of it
    std::vector<NamedFd> fds;     // that came back and were not taken
    bool came_back = false;
    bool doomed = false;  // its removal was asked for and failed; tried again
  };

  void TakeBack(NamedFd fd);
  absl::Status CheckItems(const std::string& migration_id,
                          const std::vector<EscrowItem>& items) const;
  // These REQUIRE mutex_.
  size_t CountStored() const;
  absl::Status CheckRoom(const std::string& migration_id,
                         const std::vector<EscrowItem>& items) const;
  absl::Status Store(const std::string& migration_id, Entry& entry, const EscrowItem& item);
  // Makes the manager close `items`, and takes those off the entry that it has closed.
  absl::Status Forget(const std::string& migration_id, Entry& entry, std::set<std::string> items);
  absl::Status RetryDoomed();

  ServiceManager* const manager_;
  mutable std::mutex mutex_;  // guards what follows; held while the manager is told
  std::map<std::string, Entry> entries_;
  std::vector<NamedFd> strays_;  // with names that we never gave
};

void ManagerEscrowStore::TakeBack(NamedFd fd) {
  const size_t dot = fd.name.find('.');
  const std::string id = fd.name.substr(0, dot);
  const std::string item = dot == std::string::npos ? "" : fd.name.substr(dot + 1);
  if (!IsId(id) || !IsItem(item)) {
    strays_.push_back(std::move(fd));
    return;
  }
  Entry& entry = entries_[id];
  entry.came_back = true;
  entry.items.insert(item);
  entry.fds.push_back({.name = item, .fd = std::move(fd.fd)});
}

absl::Status ManagerEscrowStore::CheckItems(const std::string& migration_id,
                                            const std::vector<EscrowItem>& items) const {
  if (!IsId(migration_id)) return BadItem(migration_id);
  std::set<std::string_view> names;
  for (const EscrowItem& item : items) {
    if (!IsItem(item.name) || !item.fd.valid() || !names.insert(item.name).second) {
      return BadItem(item.name);
    }
  }
  return absl::OkStatus();
}

size_t ManagerEscrowStore::CountStored() const {
  size_t count = strays_.size();
  for (const auto& [id, entry] : entries_) count += entry.items.size();
  return count;
}

absl::Status ManagerEscrowStore::CheckRoom(const std::string& migration_id,
                                           const std::vector<EscrowItem>& items) const {
  std::set<std::string> of_this;
  const auto found = entries_.find(migration_id);
  if (found != entries_.end()) of_this = found->second.items;
  const size_t before = of_this.size();
  for (const EscrowItem& item : items) of_this.insert(item.name);
  if (of_this.size() <= kMaxFdsPerEscrow &&
      CountStored() + of_this.size() - before <= kMaxStoredFds) {
    return absl::OkStatus();
  }
  return MakeStatus(absl::StatusCode::kResourceExhausted, reason::kEscrowStoreFull,
                    absl::StrCat("the service manager keeps ", CountStored(), " of ", kMaxStoredFds,
                                 " descriptors, ", before, " of this migration"));
}

absl::Status ManagerEscrowStore::Store(const std::string& migration_id, Entry& entry,
                                       const EscrowItem& item) {
  // FDPOLL=0: the manager would drop what reports an error or a hang-up, as a console of a dead
  // VMM does.
  const absl::Status sent = manager_->Notify(
      absl::StrCat("FDSTORE=1\nFDPOLL=0\nFDNAME=", migration_id, ".", item.name), {&item.fd, 1});
  if (sent.ok()) entry.items.insert(item.name);
  return sent;
}

absl::Status ManagerEscrowStore::Forget(const std::string& migration_id, Entry& entry,
                                        std::set<std::string> items) {
  for (const std::string& item : items) {
    const absl::Status sent =
        manager_->Notify(absl::StrCat("FDSTOREREMOVE=1\nFDNAME=", migration_id, ".", item));
    if (!sent.ok()) return sent;
    entry.items.erase(item);
  }
  return absl::OkStatus();
}

absl::Status ManagerEscrowStore::Put(const std::string& migration_id,
                                     const std::vector<EscrowItem>& items) {
  absl::Status status = CheckItems(migration_id, items);
  if (!status.ok() || !supported()) return status;
  std::lock_guard lock(mutex_);
  // Else what is put now could be taken for what is to go.
  status = RetryDoomed();
  if (!status.ok()) return status;
  status = CheckRoom(migration_id, items);
  if (!status.ok()) return status;
  Entry& entry = entries_[migration_id];
  std::set<std::string> replaced, put;
  for (const EscrowItem& item : items) {
    if (entry.items.contains(item.name)) replaced.insert(item.name);
  }
  status = Forget(migration_id, entry, replaced);
  for (const EscrowItem& item : items) {
    if (!status.ok()) break;
    status = Store(migration_id, entry, item);
    if (status.ok()) put.insert(item.name);
  }
  // What cannot be taken back now stays on the entry, for Remove().
  if (!status.ok()) Forget(migration_id, entry, put).IgnoreError();
  if (entry.items.empty() && entry.fds.empty()) entries_.erase(migration_id);
  return status;
}

absl::Status ManagerEscrowStore::Remove(const std::string& migration_id) {
  std::lock_guard lock(mutex_);
  RetryDoomed().IgnoreError();
  const auto found = entries_.find(migration_id);
  if (found == entries_.end()) return absl::OkStatus();
  found->second.fds.clear();
  const absl::Status status = Forget(migration_id, found->second, found->second.items);
  found->second.doomed = !status.ok();
  if (status.ok()) entries_.erase(found);
  return status;
}

absl::Status ManagerEscrowStore::RetryDoomed() {
  for (auto it = entries_.begin(); it != entries_.end();) {
    if (!it->second.doomed) {
      ++it;
      continue;
    }
    absl::Status status = Forget(it->first, it->second, it->second.items);
    if (!status.ok()) return status;
    it = entries_.erase(it);
  }
  return absl::OkStatus();
}

std::vector<NamedFd> ManagerEscrowStore::Take(const std::string& migration_id) {
  std::lock_guard lock(mutex_);
  const auto found = entries_.find(migration_id);
  if (found == entries_.end()) return {};
  return std::exchange(found->second.fds, {});
}

std::vector<std::string> ManagerEscrowStore::restored() const {
  std::lock_guard lock(mutex_);
  std::vector<std::string> ids;
  for (const auto& [id, entry] : entries_) {
    if (!entry.fds.empty()) ids.push_back(id);
  }
  return ids;
}

size_t ManagerEscrowStore::DropUnclaimed(const std::set<std::string>& unfinished) {
  std::lock_guard lock(mutex_);
  size_t dropped = strays_.size();
  for (const NamedFd& stray : strays_) {
    if (!IsPrintable(stray.name)) continue;
    manager_->Notify(absl::StrCat("FDSTOREREMOVE=1\nFDNAME=", stray.name)).IgnoreError();
  }
  strays_.clear();
  for (auto it = entries_.begin(); it != entries_.end();) {
    auto& [id, entry] = *it;
    if (!entry.came_back || unfinished.contains(id)) {
      ++it;
      continue;
    }
    dropped += std::max(entry.items.size(), entry.fds.size());
    entry.fds.clear();
    entry.doomed = !Forget(id, entry, entry.items).ok();
    it = entry.doomed ? std::next(it) : entries_.erase(it);
  }
  return dropped;
}

}  // namespace

std::unique_ptr<EscrowStore> NewEscrowStore(ServiceManager* manager) {
  return std::make_unique<ManagerEscrowStore>(manager);
}

}  // namespace rehome
