// SPDX-License-Identifier: Apache-2.0
//
// The MultiProcessor Specification 1.4's tables: how a guest without ACPI finds its processors and
// how its interrupts are wired.
#ifndef REHOME_VMM_REFERENCE_LINUX_MP_TABLE_H_
#define REHOME_VMM_REFERENCE_LINUX_MP_TABLE_H_

#include <cstddef>
#include <cstdint>
#include <vector>

namespace rehome {

// In the BIOS's 64 KiB, which guests search; page-aligned. No RAM of a guest's.
inline constexpr uint64_t kMpTableAddress = 0xf0000;
inline constexpr size_t kMpTableMaxBytes = 4096;

// Floating pointer and configuration table, to be put at kMpTableAddress: processors 0 to count - 1
// of which 0 boots, an ISA bus, KVM's IOAPIC with ISA interrupt n at its pin n (which is KVM's
// default routing, the PIT's included), ExtINT at LINT0 and NMI at LINT1. REQUIRES: 1 <= count <=
// 64.
std::vector<std::byte> MakeMpTable(uint32_t cpu_count);

}  // namespace rehome

#endif  // REHOME_VMM_REFERENCE_LINUX_MP_TABLE_H_
