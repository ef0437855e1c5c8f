// SPDX-License-Identifier: Apache-2.0
//
// What the service manager's descriptor store gives back after a restart. Promises: what is put
// together again is a VM twice over the same memory, true of the descriptors; anything else is
// ESCROW_DAMAGED; and no descriptor is left open.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <memory>

#include "daemon/escrow_description.h"
#include "daemon/testing/wire_messages.h"
#include "daemon/vm_description.h"
#include "kvmglue/status_reason.h"
#include "tools/fuzz/descriptors.h"
#include "tools/fuzz/fuzz_target.h"

namespace rehome::fuzz {
namespace {

// Names that items have, and one that none has.
const std::string kNames[] = {kEscrowBlock,
                              kEscrowSourceVm,
                              kEscrowTargetVm,
                              kEscrowConfig,
                              std::string(kEscrowMemoryPrefix) + "0",
                              std::string(kEscrowMemoryPrefix) + "1",
                              std::string(kEscrowNamedPrefix) + "0",
                              std::string(kEscrowNamedPrefix) + "1",
                              kEscrowRescueBlock,
                              std::string(kEscrowRescueVmPrefix) + "0",
                              "unknown"};
constexpr size_t kMaxItems = 16;
// Of the file's own header; what follows are two descriptions of these lengths.
constexpr size_t kHeaderBytes = 32;
constexpr size_t kSourceBytesAt = 12;

struct Item {
  uint8_t name;
  FdKind kind;
};

UniqueFd SealedFile(std::span<const std::byte> bytes) {
  UniqueFd file(memfd_create("fuzz-escrow", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  REHOME_PROMISE(write(file.borrow().raw(), bytes.data(), bytes.size()) ==
                 static_cast<ssize_t>(bytes.size()));
  REHOME_PROMISE(fcntl(file.borrow().raw(), F_ADD_SEALS,
                       F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL) == 0);
  return file;
}

InodeId MemoryOf(uint32_t index) {
  const UniqueFd file =
      OpenKind(static_cast<uint8_t>(index % 2 == 0 ? FdKind::kMemory : FdKind::kOtherMemory));
  return Identify(file.borrow()).value().id;
}

// Inodes and digest of one description: of the files that there are here, or zeros, so that a seed
// is the same everywhere.
void SetIdentities(std::span<std::byte> bytes, bool are_true) {
  rehome_description head;
  if (bytes.size() < sizeof(head)) return;
  std::memcpy(&head, bytes.data(), sizeof(head));
  std::vector<rehome_memslot> slots(std::min<size_t>(head.slot_count, REHOME_MAX_SLOTS));
  const size_t slot_bytes = slots.size() * sizeof(rehome_memslot);
  if (slots.empty() || bytes.size() - sizeof(head) < slot_bytes) return;
  std::memcpy(slots.data(), bytes.data() + sizeof(head), slot_bytes);
  for (rehome_memslot& slot : slots) {
    const InodeId memory = are_true ? MemoryOf(slot.memory_index) : InodeId{};
    slot.device = memory.device;
    slot.inode = memory.inode;
  }
  head.layout_digest = are_true ? rehome_layout_digest(slots.data(), slots.size()) : 0;
  std::memcpy(bytes.data(), &head, sizeof(head));
  std::memcpy(bytes.data() + sizeof(head), slots.data(), slot_bytes);
}

void SetIdentitiesOfBoth(std::span<std::byte> file, bool are_true) {
  uint32_t source_bytes = 0;
  if (file.size() < kHeaderBytes) return;
  std::memcpy(&source_bytes, file.data() + kSourceBytesAt, sizeof(source_bytes));
  const std::span<std::byte> both = file.subspan(kHeaderBytes);
  const size_t first = std::min<size_t>(source_bytes, both.size());
  SetIdentities(both.first(first), are_true);
  SetIdentities(both.subspan(first), are_true);
}

void CheckVm(const VmDescription& vm) {
  REHOME_PROMISE(vm.vm.valid() && !vm.memory.empty() && !vm.layout.slots.empty());
  for (const Memslot& slot : vm.layout.slots) {
    const bool is_backed =
        std::any_of(vm.memory.begin(), vm.memory.end(), [&slot](const UniqueFd& memory) {
          const auto file = Identify(memory.borrow());
          return file.ok() && file->id == slot.inode;
        });
    REHOME_PROMISE(is_backed);
  }
}

VmDescription MakeVm(bool is_source) {
  testing_support::DescriptionParts parts = testing_support::MakeDescriptionParts();
  if (!is_source) parts.entries.resize(3);
  parts.head.fd_count = static_cast<uint32_t>(parts.entries.size());
  for (rehome_memslot& slot : parts.slots) slot.size = kMemoryBytes;
  Bytes payload = parts.Payload();
  SetIdentities(payload, true);
  const std::vector<FdKind> kinds = {FdKind::kMemory,       FdKind::kMemory, FdKind::kOtherMemory,
                                     FdKind::kSealedConfig, FdKind::kSocket, FdKind::kEventFd};
  std::vector<UniqueFd> fds;
  for (size_t i = 0; i < parts.entries.size(); ++i) {
    fds.push_back(OpenKind(static_cast<uint8_t>(kinds[i])));
  }
  const auto wire = ParseDescription(
      payload, fds.size(), is_source ? DescriptionKind::kSource : DescriptionKind::kPrepared);
  REHOME_PROMISE(wire.ok());
  auto vm = AssembleDescription(*wire, std::move(fds), *NewSimFdKinds());
  REHOME_PROMISE(vm.ok());
  return *std::move(vm);
}

}  // namespace

// One byte: how many items; each is two bytes, its name and the kind of its descriptor. The rest is
// the description, with the inodes and digests that are true here.
bool Feed(std::span<const std::byte> input) {
  static const std::unique_ptr<FdKinds> kinds = NewSimFdKinds();
  const size_t before = CountOpenFds();
  bool sound = false;
  {
    Input in(input);
    std::vector<NamedFd> items(in.Take<uint8_t>() % (kMaxItems + 1));
    for (NamedFd& item : items) {
      const Item which = in.Take<Item>();
      item.name = kNames[which.name % std::size(kNames)];
      item.fd = OpenKind(static_cast<uint8_t>(which.kind));
    }
    Bytes description(in.rest().begin(), in.rest().end());
    SetIdentitiesOfBoth(description, true);
    items.push_back({.name = kEscrowDescription, .fd = SealedFile(description)});
    const auto restored = RestoreEscrow(std::move(items), *kinds);
    sound = restored.ok();
    if (sound) {
      CheckVm(restored->source);
      CheckVm(restored->target);
      REHOME_PROMISE(restored->source.vm_id == restored->target.vm_id && restored->block.valid());
    } else {
      REHOME_PROMISE(ReasonOf(restored.status()) == "ESCROW_DAMAGED");
    }
  }
  REHOME_PROMISE(CountOpenFds() == before);
  return sound;
}

std::vector<Seed> Seeds() {
  const VmDescription source = MakeVm(true), target = MakeVm(false);
  const auto file = DescribeEscrow(source, target);
  REHOME_PROMISE(file.ok());
  Bytes description(kMaxEscrowDescriptionBytes);
  const ssize_t size =
      pread(file->borrow().raw(), description.data(), description.size(), /*offset=*/0);
  REHOME_PROMISE(size > 0);
  description.resize(static_cast<size_t>(size));
  SetIdentitiesOfBoth(description, false);
  // In the order of kNames.
  // kMemory is always the same open file, so what else is it has no item.
  const Item items[] = {{0, FdKind::kEmptyMemfd},  {1, FdKind::kMemory}, {3, FdKind::kSealedConfig},
                        {5, FdKind::kOtherMemory}, {6, FdKind::kSocket}, {7, FdKind::kEventFd}};
  Seed seed{.name = "escrow", .bytes = {}};
  Append(seed.bytes, static_cast<uint8_t>(std::size(items)));
  for (const Item& item : items) Append(seed.bytes, item);
  AppendBytes(seed.bytes, description);
  return {seed};
}

}  // namespace rehome::fuzz
