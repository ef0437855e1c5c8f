// SPDX-License-Identifier: Apache-2.0
#include "kvmglue/vm_type.h"

#include <array>
#include <utility>

namespace rehome {
namespace {

constexpr std::array<std::pair<VmType, std::string_view>, 6> kNames = {{
    {VmType::kDefault, "default"},
    {VmType::kSwProtected, "sw-protected"},
    {VmType::kSev, "sev"},
    {VmType::kSevEs, "sev-es"},
    {VmType::kSnp, "snp"},
    {VmType::kTdx, "tdx"},
}};

}  // namespace

std::string_view VmTypeName(VmType type) {
  for (const auto& [candidate, name] : kNames) {
    if (candidate == type) return name;
  }
  return "unknown";  // a number cast without VmTypeFromNumber(); still printable
}

std::optional<VmType> VmTypeFromName(std::string_view name) {
  for (const auto& [type, candidate] : kNames) {
    if (candidate == name) return type;
  }
  return std::nullopt;
}

std::optional<VmType> VmTypeFromNumber(uint32_t number) {
  for (const auto& [type, name] : kNames) {
    if (static_cast<uint32_t>(type) == number) return type;
  }
  return std::nullopt;
}

}  // namespace rehome
