// SPDX-License-Identifier: Apache-2.0
#include "kvmglue/sim/options.h"

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "kvmglue/sim/errno_name.h"
#include "kvmglue/status_reason.h"

namespace rehome {
namespace {

bool ParseSwitch(std::string_view value, bool& into) {
  if (value != "on" && value != "off") return false;
  into = value == "on";
  return true;
}

bool ParseTypes(std::string_view value, std::set<VmType>& into) {
  into.clear();
  if (value == "none") return true;
  for (const std::string& name :
       std::vector<std::string>(absl::StrSplit(std::string(value), '+'))) {
    const std::optional<VmType> type = VmTypeFromName(name);
    if (!type) return false;
    into.insert(*type);
  }
  return true;
}

bool ParseLink(std::string_view value, std::optional<uint32_t>& into) {
  into.reset();
  if (value == "none") return true;
  uint32_t number = 0;
  // _IOC_NR() has eight bits.
  if (!absl::SimpleHexAtoi(std::string(value), &number) || number > 0xff) return false;
  into = number;
  return true;
}

bool ParseErrno(std::string_view value, int& into) {
  const std::optional<int> error = ErrnoFromName(value);
  if (error) into = *error;
  return error.has_value();
}

bool ParseItem(std::string_view key, std::string_view value, SimulatedKernelOptions& options) {
  if (key == "types") return ParseTypes(value, options.vm_types);
  if (key == "move") return ParseTypes(value, options.move_types);
  if (key == "link") return ParseLink(value, options.link_ioctl_number);
  if (key == "gate") return ParseSwitch(value, options.gate);
  if (key == "rfc_v2_move") return ParseSwitch(value, options.rfc_v2_move);
  if (key == "rfc_v2_vendor_error") return ParseErrno(value, options.rfc_v2_vendor_error);
  if (key == "smm") return ParseSwitch(value, options.smm_with_private_memory);
  return false;
}

absl::Status Invalid(std::string_view what) {
  return MakeStatus(absl::StatusCode::kInvalidArgument, "SIM_OPTIONS_INVALID",
                    absl::StrCat("simulated kernel: ", std::string(what)));
}

}  // namespace

absl::StatusOr<SimulatedKernelOptions> ParseSimulatedKernelOptions(std::string_view text) {
  SimulatedKernelOptions options;
  if (text.empty()) return options;
  for (const std::string& item : std::vector<std::string>(absl::StrSplit(std::string(text), ','))) {
    const std::pair<std::string, std::string> pair = absl::StrSplit(item, absl::MaxSplits('=', 1));
    if (!ParseItem(pair.first, pair.second, options)) return Invalid(item);
  }
  if (options.rfc_v2_vendor_error != 0 && !options.rfc_v2_move) {
    return Invalid("rfc_v2_vendor_error needs rfc_v2_move=on");
  }
  return options;
}

}  // namespace rehome
