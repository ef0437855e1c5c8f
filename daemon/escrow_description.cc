// SPDX-License-Identifier: Apache-2.0
#include "daemon/escrow_description.h"

#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <map>
#include <span>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "daemon/reasons.h"
#include "daemon/vm_description.h"
#include "daemon/wire_codec.h"
#include "kvmglue/status_reason.h"

namespace rehome {
namespace {

// The file: this, then both descriptions as agents send them.
struct DescriptionHeader {
  uint64_t magic;
  uint32_t version;
  uint32_t source_bytes;
  uint32_t target_bytes;
  uint32_t source_fds;
  uint32_t target_fds;
  uint32_t reserved;
};
static_assert(sizeof(DescriptionHeader) == 32);
constexpr uint64_t kMagic = 0x31435345454d4852;  // "RHMEESC1"
constexpr uint32_t kVersion = 1;
static_assert(sizeof(DescriptionHeader) +
                  2 * (sizeof(rehome_description) + REHOME_MAX_SLOTS * sizeof(rehome_memslot) +
                       REHOME_MAX_FDS * sizeof(rehome_fd_entry)) <=
              kMaxEscrowDescriptionBytes);

absl::Status Damaged(const std::string& what) {
  return MakeStatus(absl::StatusCode::kDataLoss, reason::kEscrowDamaged,
                    absl::StrCat("escrow from the service manager: ", what));
}

absl::StatusOr<UniqueFd> SealedFile(std::span<const std::byte> bytes) {
  UniqueFd file(memfd_create("rehome-escrow", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  const int raw = file.borrow().raw();
  constexpr int kSeals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL;
  if (file && write(raw, bytes.data(), bytes.size()) == static_cast<ssize_t>(bytes.size()) &&
      fcntl(raw, F_ADD_SEALS, kSeals) == 0) {
    return file;
  }
  return MakeStatus(absl::StatusCode::kResourceExhausted, reason::kFdLimit,
                    absl::StrCat("a memfd for the escrow's description: ", strerror(errno)));
}

absl::StatusOr<WireDescription> WireOf(const VmDescription& vm) {
  absl::StatusOr<OutgoingDescription> out = DescribeForTarget(vm, /*with_vm=*/true, BorrowedFd());
  if (!out.ok()) return out.status();
  out->wire.fds.pop_back();  // the block, which is an item of its own
  return std::move(out->wire);
}

// ---- reading back ----

// The items by name; each is taken once.
class Items {
 public:
  absl::Status Add(std::vector<NamedFd> fds) {
    for (NamedFd& fd : fds) {
      if (!fd.fd.valid() || !fds_.emplace(fd.name, std::move(fd.fd)).second) {
        return Damaged(absl::StrCat("item ", fd.name, " is there twice"));
      }
    }
    return absl::OkStatus();
  }
  absl::StatusOr<UniqueFd> Take(const std::string& name) {
    const auto found = fds_.find(name);
    if (found == fds_.end()) return Damaged(absl::StrCat("item ", name, " is missing"));
    UniqueFd fd = std::move(found->second);
    fds_.erase(found);
    return fd;
  }
  // Invalid if there is none.
  UniqueFd TakeIfThere(const std::string& name) {
    if (!fds_.contains(name)) return UniqueFd();
    return std::move(fds_.extract(name).mapped());
  }
  bool Has(const std::string& name) const { return fds_.contains(name); }
  absl::Status CheckEmpty() const {
    if (fds_.empty()) return absl::OkStatus();
    return Damaged(absl::StrCat("item ", fds_.begin()->first, " belongs to nothing"));
  }

 private:
  std::map<std::string, UniqueFd> fds_;
};

struct Descriptions {
  WireDescription source, target;
};

absl::StatusOr<Descriptions> Parse(std::span<const std::byte> bytes) {
  DescriptionHeader header;
  if (bytes.size() < sizeof(header)) return Damaged("the description is too short");
  memcpy(&header, bytes.data(), sizeof(header));
  bytes = bytes.subspan(sizeof(header));
  if (header.magic != kMagic || header.version != kVersion || header.reserved != 0) {
    return Damaged("the description is not one, or of another version");
  }
  if (header.source_bytes > bytes.size() ||
      header.target_bytes != bytes.size() - header.source_bytes) {
    return Damaged("the description's lengths do not fit its file");
  }
  absl::StatusOr<WireDescription> source = ParseDescription(
      bytes.first(header.source_bytes), header.source_fds, DescriptionKind::kSource);
  if (!source.ok()) return Damaged(std::string(source.status().message()));
  absl::StatusOr<WireDescription> target = ParseDescription(
      bytes.subspan(header.source_bytes), header.target_fds, DescriptionKind::kPrepared);
  if (!target.ok()) return Damaged(std::string(target.status().message()));
  return Descriptions{*std::move(source), *std::move(target)};
}

absl::StatusOr<Descriptions> Read(BorrowedFd file, const FdKinds& kinds) {
  // The same demands as on an agent's CONFIG: a memfd that nobody can change any more.
  if (absl::Status status = kinds.CheckConfig(file); !status.ok()) {
    return Damaged(std::string(status.message()));
  }
  std::vector<std::byte> bytes(kMaxEscrowDescriptionBytes + 1);
  const ssize_t size = pread(file.raw(), bytes.data(), bytes.size(), 0);
  if (size < 0 || static_cast<size_t>(size) > kMaxEscrowDescriptionBytes) {
    return Damaged("the description cannot be read or is too long");
  }
  return Parse(std::span(bytes).first(static_cast<size_t>(size)));
}

absl::StatusOr<std::vector<UniqueFd>> SourceFds(const WireDescription& wire, Items& items) {
  std::vector<UniqueFd> fds;
  size_t named = 0;
  for (const WireFd& entry : wire.fds) {
    std::string name = kEscrowSourceVm;
    if (entry.role == REHOME_FD_MEMORY) name = absl::StrCat(kEscrowMemoryPrefix, entry.index);
    if (entry.role == REHOME_FD_CONFIG) name = kEscrowConfig;
    if (entry.role == REHOME_FD_NAMED) name = absl::StrCat(kEscrowNamedPrefix, named++);
    absl::StatusOr<UniqueFd> fd = items.Take(name);
    if (!fd.ok()) return fd.status();
    fds.push_back(*std::move(fd));
  }
  return fds;
}

// systemd keeps one descriptor of each open file (same_fd()): a target that maps the source's own
// file has no item for it. AssembleDescription() holds what is taken instead against the slot's
// inode.
absl::StatusOr<std::vector<UniqueFd>> TargetFds(const WireDescription& wire,
                                                const VmDescription& source, Items& items) {
  std::vector<UniqueFd> fds;
  for (const WireFd& entry : wire.fds) {
    const bool is_memory = entry.role == REHOME_FD_MEMORY;
    if (is_memory && !items.Has(absl::StrCat(kEscrowTargetMemoryPrefix, entry.index)) &&
        entry.index < source.memory.size()) {
      absl::StatusOr<UniqueFd> same = Duplicate(source.memory[entry.index].borrow());
      if (!same.ok()) return same.status();
      fds.push_back(*std::move(same));
      continue;
    }
    absl::StatusOr<UniqueFd> fd = items.Take(
        entry.role == REHOME_FD_VM ? std::string(kEscrowTargetVm)
                                   : absl::StrCat(kEscrowTargetMemoryPrefix, entry.index));
    if (!fd.ok()) return fd.status();
    fds.push_back(*std::move(fd));
  }
  return fds;
}

absl::StatusOr<VmDescription> Assemble(const WireDescription& wire,
                                       absl::StatusOr<std::vector<UniqueFd>> fds,
                                       const FdKinds& kinds) {
  if (!fds.ok()) return fds.status();
  absl::StatusOr<VmDescription> vm = AssembleDescription(wire, *std::move(fds), kinds);
  if (!vm.ok()) return Damaged(std::string(vm.status().message()));
  return vm;
}

}  // namespace

absl::StatusOr<UniqueFd> DescribeEscrow(const VmDescription& source, const VmDescription& target) {
  absl::StatusOr<WireDescription> from = WireOf(source);
  if (!from.ok()) return from.status();
  absl::StatusOr<WireDescription> to = WireOf(target);
  if (!to.ok()) return to.status();
  const std::vector<std::byte> first = EncodeDescription(*from);
  const std::vector<std::byte> second = EncodeDescription(*to);
  const DescriptionHeader header = {.magic = kMagic,
                                    .version = kVersion,
                                    .source_bytes = static_cast<uint32_t>(first.size()),
                                    .target_bytes = static_cast<uint32_t>(second.size()),
                                    .source_fds = static_cast<uint32_t>(from->fds.size()),
                                    .target_fds = static_cast<uint32_t>(to->fds.size()),
                                    .reserved = 0};
  const auto raw = std::as_bytes(std::span(&header, 1));
  std::vector<std::byte> bytes(raw.begin(), raw.end());
  bytes.insert(bytes.end(), first.begin(), first.end());
  bytes.insert(bytes.end(), second.begin(), second.end());
  return SealedFile(bytes);
}

std::vector<EscrowItem> EscrowItems(const VmDescription& source, const VmDescription& target,
                                    BorrowedFd block, BorrowedFd description) {
  std::vector<EscrowItem> items = {{kEscrowBlock, block},
                                   {kEscrowSourceVm, source.vm.borrow()},
                                   {kEscrowTargetVm, target.vm.borrow()},
                                   {kEscrowDescription, description}};
  for (size_t i = 0; i < source.memory.size(); ++i) {
    items.push_back({absl::StrCat(kEscrowMemoryPrefix, i), source.memory[i].borrow()});
  }
  for (size_t i = 0; i < target.memory.size(); ++i) {
    items.push_back({absl::StrCat(kEscrowTargetMemoryPrefix, i), target.memory[i].borrow()});
  }
  if (source.config.valid()) items.push_back({kEscrowConfig, source.config.borrow()});
  for (size_t i = 0; i < source.named.size(); ++i) {
    items.push_back({absl::StrCat(kEscrowNamedPrefix, i), source.named[i].fd.borrow()});
  }
  return items;
}

absl::StatusOr<RestoredEscrow> RestoreEscrow(std::vector<NamedFd> fds, const FdKinds& kinds) {
  Items items;
  if (absl::Status status = items.Add(std::move(fds)); !status.ok()) return status;
  absl::StatusOr<UniqueFd> description = items.Take(kEscrowDescription);
  if (!description.ok()) return description.status();
  absl::StatusOr<Descriptions> wire = Read(description->borrow(), kinds);
  if (!wire.ok()) return wire.status();

  absl::StatusOr<VmDescription> source =
      Assemble(wire->source, SourceFds(wire->source, items), kinds);
  if (!source.ok()) return source.status();
  absl::StatusOr<VmDescription> target =
      Assemble(wire->target, TargetFds(wire->target, *source, items), kinds);
  if (!target.ok()) return target.status();
  if (source->vm_id != target->vm_id) return Damaged("source and target are of different VMs");
  absl::StatusOr<UniqueFd> block = items.Take(kEscrowBlock);
  if (!block.ok()) return block.status();
  RestoredEscrow restored{.source = *std::move(source),
                          .target = *std::move(target),
                          .block = *std::move(block),
                          .rescue_block = items.TakeIfThere(kEscrowRescueBlock),
                          .rescue_vms = {}};
  for (size_t i = 0; i < kMaxStoredRescueVms; ++i) {
    ContextVm rescue{.vm = items.TakeIfThere(absl::StrCat(kEscrowRescueVmPrefix, i)), .memory = {}};
    if (!rescue.vm.valid()) continue;
    if (absl::Status status = kinds.CheckVm(rescue.vm.borrow()); !status.ok()) {
      return Damaged(std::string(status.message()));
    }
    for (size_t n = 0; n < REHOME_MAX_MEMORIES; ++n) {
      UniqueFd memory =
          items.TakeIfThere(absl::StrCat(kEscrowRescueMemoryPrefix, i * REHOME_MAX_MEMORIES + n));
      // Only kept open for the bindings of its VM; nobody reads or passes it on.
      if (memory.valid()) rescue.memory.push_back(std::move(memory));
    }
    restored.rescue_vms.push_back(std::move(rescue));
  }
  if (absl::Status status = items.CheckEmpty(); !status.ok()) return status;
  return restored;
}

}  // namespace rehome
