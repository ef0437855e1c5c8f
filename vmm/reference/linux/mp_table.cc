// SPDX-License-Identifier: Apache-2.0
#include "vmm/reference/linux/mp_table.h"

#include <cstring>
#include <numeric>
#include <span>

namespace rehome {
namespace {

constexpr uint32_t kLocalApicAddress = 0xfee00000;
constexpr uint32_t kIoApicAddress = 0xfec00000;
constexpr uint8_t kSpec14 = 4;
constexpr uint8_t kLocalApicVersion = 0x14;
constexpr uint8_t kIoApicVersion = 0x11;
constexpr uint8_t kIsaBus = 0;
constexpr uint8_t kIsaInterrupts = 16;
constexpr uint8_t kCascade = 2;  // of the two PICs: no source
constexpr uint8_t kAllApics = 0xff;

struct FloatingPointer {
  char signature[4] = {'_', 'M', 'P', '_'};
  uint32_t table = 0;
  uint8_t paragraphs = 1;
  uint8_t spec = kSpec14;
  uint8_t checksum = 0;
  uint8_t features[5] = {};  // a table is there; virtual wire mode
};
static_assert(sizeof(FloatingPointer) == 16);

struct TableHeader {
  char signature[4] = {'P', 'C', 'M', 'P'};
  uint16_t length = 0;
  uint8_t spec = kSpec14;
  uint8_t checksum = 0;
  char oem[8] = {'R', 'E', 'H', 'O', 'M', 'E', ' ', ' '};
  char product[12] = {'R', 'E', 'F', 'E', 'R', 'E', 'N', 'C', 'E', ' ', ' ', ' '};
  uint32_t oem_table = 0;
  uint16_t oem_table_size = 0;
  uint16_t entry_count = 0;
  uint32_t local_apic = kLocalApicAddress;
  uint32_t reserved = 0;
};
static_assert(sizeof(TableHeader) == 44);

struct Processor {
  uint8_t type = 0;
  uint8_t apic_id = 0;
  uint8_t apic_version = kLocalApicVersion;
  uint8_t flags = 1;  // enabled; 2: the boot processor
  uint8_t signature[4] = {};
  uint8_t feature_flags[4] = {};
  uint8_t reserved[8] = {};
};
static_assert(sizeof(Processor) == 20);

struct Bus {
  uint8_t type = 1;
  uint8_t id = kIsaBus;
  char name[6] = {'I', 'S', 'A', ' ', ' ', ' '};
};
static_assert(sizeof(Bus) == 8);

struct IoApic {
  uint8_t type = 2;
  uint8_t id = 0;
  uint8_t version = kIoApicVersion;
  uint8_t flags = 1;  // enabled
  uint32_t address = kIoApicAddress;
};
static_assert(sizeof(IoApic) == 8);

enum SourceKind : uint8_t { kInt = 0, kNmi = 1, kExtInt = 3 };

// Of an I/O interrupt (3) or of a local one (4). Flags 0: polarity and trigger as the bus has it.
struct Interrupt {
  uint8_t type = 3;
  uint8_t kind = kInt;
  uint8_t flags[2] = {};
  uint8_t bus = kIsaBus;
  uint8_t bus_interrupt = 0;
  uint8_t apic = 0;
  uint8_t pin = 0;
};
static_assert(sizeof(Interrupt) == 8);

// That the sum of all bytes is 0.
uint8_t ChecksumOf(std::span<const std::byte> bytes) {
  const auto add = [](unsigned sum, std::byte byte) {
    return sum + std::to_integer<unsigned>(byte);
  };
  return static_cast<uint8_t>(0u - std::accumulate(bytes.begin(), bytes.end(), 0u, add));
}

class TableBuilder {
 public:
  template <typename Entry>
  void Add(const Entry& entry) {
    const auto bytes = std::as_bytes(std::span<const Entry>(&entry, 1));
    entries_.insert(entries_.end(), bytes.begin(), bytes.end());
    ++count_;
  }

  // The whole, with the floating pointer before it.
  std::vector<std::byte> Finish() const {
    FloatingPointer pointer{.table = static_cast<uint32_t>(kMpTableAddress + sizeof(pointer))};
    pointer.checksum = ChecksumOf(std::as_bytes(std::span(&pointer, 1)));
    TableHeader header{.length = static_cast<uint16_t>(sizeof(header) + entries_.size()),
                       .entry_count = count_};
    std::vector<std::byte> bytes(sizeof(pointer) + header.length);
    std::byte* table = bytes.data() + sizeof(pointer);
    std::memcpy(bytes.data(), &pointer, sizeof(pointer));
    std::memcpy(table, &header, sizeof(header));
    std::memcpy(table + sizeof(header), entries_.data(), entries_.size());
    table[offsetof(TableHeader, checksum)] =
        std::byte{ChecksumOf(std::span(bytes).subspan(sizeof(pointer)))};
    return bytes;
  }

 private:
  std::vector<std::byte> entries_;
  uint16_t count_ = 0;
};

}  // namespace

std::vector<std::byte> MakeMpTable(uint32_t cpu_count) {
  TableBuilder table;
  for (uint32_t i = 0; i < cpu_count; ++i) {
    table.Add(Processor{.apic_id = static_cast<uint8_t>(i),
                        .flags = static_cast<uint8_t>(i == 0 ? 3 : 1)});
  }
  table.Add(Bus{});
  const auto io_apic = static_cast<uint8_t>(cpu_count);
  table.Add(IoApic{.id = io_apic});
  for (uint8_t i = 0; i < kIsaInterrupts; ++i) {
    if (i != kCascade) table.Add(Interrupt{.bus_interrupt = i, .apic = io_apic, .pin = i});
  }
  table.Add(Interrupt{.type = 4, .kind = kExtInt, .apic = 0, .pin = 0});
  table.Add(Interrupt{.type = 4, .kind = kNmi, .apic = kAllApics, .pin = 1});
  return table.Finish();
}

}  // namespace rehome
