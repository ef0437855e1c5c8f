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

// The file: this, both descriptions as agents send them, and for each of their descriptors a
// uint32_t: the number of the first that is the same open file, its own if it is that. Numbers go
// through the source's, then the target's.
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
constexpr uint32_t kVersion = 2;
static_assert(sizeof(DescriptionHeader) +
                  2 * (sizeof(rehome_description) + REHOME_MAX_SLOTS * sizeof(rehome_memslot) +
                       REHOME_MAX_FDS * (sizeof(rehome_fd_entry) + sizeof(uint32_t))) <=
              kMaxEscrowDescriptionBytes);

absl::Status Damaged(const std::string& what) {
  return MakeStatus(absl::StatusCode::kDataLoss, reason::kEscrowDamaged,
                    absl::StrCat("escrow from the service manager: ", what));
}

// That we could not look at an item is no damage: the next daemon gets it again.
absl::Status SpoiltBy(const absl::Status& status) {
  return ReasonOf(status) == reason::kSyscallFailed ? status
                                                    : Damaged(std::string(status.message()));
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

// All that is described, in the order of the wire: the source's, then the target's.
std::vector<EscrowItem> Described(const VmDescription& source, const VmDescription& target) {
  std::vector<EscrowItem> items = {{kEscrowSourceVm, source.vm.borrow()}};
  for (size_t i = 0; i < source.memory.size(); ++i) {
    items.push_back({absl::StrCat(kEscrowMemoryPrefix, i), source.memory[i].borrow()});
  }
  if (source.config.valid()) items.push_back({kEscrowConfig, source.config.borrow()});
  for (size_t i = 0; i < source.named.size(); ++i) {
    items.push_back({absl::StrCat(kEscrowNamedPrefix, i), source.named[i].fd.borrow()});
  }
  items.push_back({kEscrowTargetVm, target.vm.borrow()});
  for (size_t i = 0; i < target.memory.size(); ++i) {
    items.push_back({absl::StrCat(kEscrowTargetMemoryPrefix, i), target.memory[i].borrow()});
  }
  return items;
}

// Of each item the first that is the same open file.
std::vector<uint32_t> FindSame(const std::vector<EscrowItem>& items) {
  std::vector<uint32_t> same(items.size());
  for (uint32_t i = 0; i < items.size(); ++i) {
    while (same[i] < i && !IsSameOpenFile(items[same[i]].fd, items[i].fd)) ++same[i];
  }
  return same;
}

void Append(std::vector<std::byte>& bytes, std::span<const std::byte> more) {
  bytes.insert(bytes.end(), more.begin(), more.end());
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
  absl::Status CheckEmpty() const {
    if (fds_.empty()) return absl::OkStatus();
    return Damaged(absl::StrCat("item ", fds_.begin()->first, " belongs to nothing"));
  }

 private:
  std::map<std::string, UniqueFd> fds_;
};

struct Descriptions {
  WireDescription source, target;
  std::vector<uint32_t> same;  // for each descriptor of both, none above its own number
};

absl::StatusOr<Descriptions> Parse(std::span<const std::byte> bytes) {
  DescriptionHeader header;
  if (bytes.size() < sizeof(header)) return Damaged("the description is too short");
  memcpy(&header, bytes.data(), sizeof(header));
  bytes = bytes.subspan(sizeof(header));
  if (header.magic != kMagic || header.version != kVersion || header.reserved != 0) {
    return Damaged("the description is not one, or of another version");
  }
  const uint64_t fds = uint64_t{header.source_fds} + header.target_fds;
  const uint64_t described = uint64_t{header.source_bytes} + header.target_bytes;
  if (fds > 2 * REHOME_MAX_FDS || described + fds * sizeof(uint32_t) != bytes.size()) {
    return Damaged("the description's lengths do not fit its file");
  }
  absl::StatusOr<WireDescription> source = ParseDescription(
      bytes.first(header.source_bytes), header.source_fds, DescriptionKind::kSource);
  if (!source.ok()) return Damaged(std::string(source.status().message()));
  absl::StatusOr<WireDescription> target =
      ParseDescription(bytes.subspan(header.source_bytes, header.target_bytes), header.target_fds,
                       DescriptionKind::kPrepared);
  if (!target.ok()) return Damaged(std::string(target.status().message()));
  std::vector<uint32_t> same(fds);
  memcpy(same.data(), bytes.data() + described, fds * sizeof(uint32_t));
  for (uint32_t i = 0; i < fds; ++i) {
    if (same[i] > i) return Damaged("a descriptor that is the same as a later one");
  }
  return Descriptions{*std::move(source), *std::move(target), std::move(same)};
}

absl::StatusOr<Descriptions> Read(BorrowedFd file, const FdKinds& kinds) {
  // The same demands as on an agent's CONFIG: a memfd that nobody can change any more.
  if (absl::Status status = kinds.CheckConfig(file); !status.ok()) return SpoiltBy(status);
  std::vector<std::byte> bytes(kMaxEscrowDescriptionBytes + 1);
  const ssize_t size = pread(file.raw(), bytes.data(), bytes.size(), 0);
  if (size < 0) {
    return MakeStatus(absl::StatusCode::kInternal, reason::kSyscallFailed,
                      absl::StrCat("pread of the escrow's description: ", strerror(errno)));
  }
  if (static_cast<size_t>(size) > kMaxEscrowDescriptionBytes) {
    return Damaged("the description is too long");
  }
  return Parse(std::span(bytes).first(static_cast<size_t>(size)));
}

// The item in which a descriptor would be. `named`: how many NAMED came before.
std::string ItemOf(const WireFd& entry, bool is_target, size_t named) {
  switch (entry.role) {
    case REHOME_FD_VM:
      return is_target ? kEscrowTargetVm : kEscrowSourceVm;
    case REHOME_FD_MEMORY:
      return absl::StrCat(is_target ? kEscrowTargetMemoryPrefix : kEscrowMemoryPrefix, entry.index);
    case REHOME_FD_CONFIG:
      return kEscrowConfig;
    case REHOME_FD_NAMED:
      return absl::StrCat(kEscrowNamedPrefix, named);
    case REHOME_FD_BLOCK:
    case REHOME_FD_PEER_PIDFD:
      return "";  // in no description; AssembleDescription() would refuse it
  }
  return "";
}

// The descriptors of one description. `all`: those of the ones before, to which these are added;
// whoever owns them keeps them open.
absl::StatusOr<std::vector<UniqueFd>> TakeFds(const WireDescription& wire, bool is_target,
                                              const std::vector<uint32_t>& same,
                                              std::vector<BorrowedFd>& all, Items& items) {
  std::vector<UniqueFd> fds;
  size_t named = 0;
  for (const WireFd& entry : wire.fds) {
    const std::string name = ItemOf(entry, is_target, named);
    if (entry.role == REHOME_FD_NAMED) ++named;
    const uint32_t first = same[all.size()];
    absl::StatusOr<UniqueFd> fd = first == all.size() ? items.Take(name) : Duplicate(all[first]);
    if (!fd.ok()) return fd.status();
    all.push_back(fd->borrow());
    fds.push_back(*std::move(fd));
  }
  return fds;
}

absl::StatusOr<VmDescription> Assemble(const WireDescription& wire,
                                       absl::StatusOr<std::vector<UniqueFd>> fds,
                                       const FdKinds& kinds) {
  if (!fds.ok()) return fds.status();
  absl::StatusOr<VmDescription> vm = AssembleDescription(wire, *std::move(fds), kinds);
  if (!vm.ok()) return SpoiltBy(vm.status());
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
  const std::vector<uint32_t> same = FindSame(Described(source, target));
  std::vector<std::byte> bytes;
  Append(bytes, std::as_bytes(std::span(&header, 1)));
  Append(bytes, first);
  Append(bytes, second);
  Append(bytes, std::as_bytes(std::span(same)));
  return SealedFile(bytes);
}

std::vector<EscrowItem> EscrowItems(const VmDescription& source, const VmDescription& target,
                                    BorrowedFd block, BorrowedFd description) {
  std::vector<EscrowItem> items = {{kEscrowBlock, block}, {kEscrowDescription, description}};
  std::vector<EscrowItem> described = Described(source, target);
  const std::vector<uint32_t> same = FindSame(described);
  for (size_t i = 0; i < described.size(); ++i) {
    if (same[i] == i) items.push_back(std::move(described[i]));
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

  std::vector<BorrowedFd> all;
  absl::StatusOr<VmDescription> source = Assemble(
      wire->source, TakeFds(wire->source, /*is_target=*/false, wire->same, all, items), kinds);
  if (!source.ok()) return source.status();
  absl::StatusOr<VmDescription> target = Assemble(
      wire->target, TakeFds(wire->target, /*is_target=*/true, wire->same, all, items), kinds);
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
      return SpoiltBy(status);
    }
    for (size_t n = 0; n < REHOME_MAX_MEMORIES; ++n) {
      UniqueFd memory =
          items.TakeIfThere(absl::StrCat(kEscrowRescueMemoryPrefix, i * REHOME_MAX_MEMORIES + n));
      // Kept open for the bindings of its VM; a next target gets them if none is missing.
      if (memory.valid()) rescue.memory.push_back(std::move(memory));
    }
    restored.rescue_vms.push_back(std::move(rescue));
  }
  if (absl::Status status = items.CheckEmpty(); !status.ok()) return status;
  return restored;
}

}  // namespace rehome
