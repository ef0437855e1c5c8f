// SPDX-License-Identifier: Apache-2.0
#include "client/vm_filter.h"

#include <fnmatch.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace rehome {

absl::Status VmFilter::Add(const std::string& condition) {
  const size_t equals = condition.find('=');
  if (equals == std::string::npos) {
    return absl::InvalidArgumentError(
        absl::StrCat("'", condition, "' is not a filter; write FIELD=GLOB or FIELD!=GLOB"));
  }
  Condition parsed;
  std::string name = condition.substr(0, equals);
  if (name.ends_with('!')) {
    parsed.negated = true;
    name.pop_back();
  }
  if (name == "vm") {
    parsed.field = Field::kVm;
  } else if (name == "vmm") {
    parsed.field = Field::kVmm;
  } else if (name == "type") {
    parsed.field = Field::kType;
  } else {
    return absl::InvalidArgumentError(
        absl::StrCat("no field '", name, "' to filter by; there are vm, vmm and type"));
  }
  parsed.globs = absl::StrSplit(condition.substr(equals + 1), ',');
  const bool blank = std::any_of(parsed.globs.begin(), parsed.globs.end(),
                                 [](const std::string& glob) { return glob.empty(); });
  if (blank) {
    return absl::InvalidArgumentError(absl::StrCat("'", condition, "' has an empty pattern"));
  }
  conditions_.push_back(std::move(parsed));
  return absl::OkStatus();
}

bool VmFilter::Selects(const v1::VirtualMachine& vm) const {
  return std::all_of(conditions_.begin(), conditions_.end(), [&vm](const Condition& condition) {
    const std::string value = ValueOf(condition.field, vm);
    const bool matches = std::any_of(
        condition.globs.begin(), condition.globs.end(),
        [&value](const std::string& glob) { return fnmatch(glob.c_str(), value.c_str(), 0) == 0; });
    return matches != condition.negated;
  });
}

std::string VmFilter::ValueOf(Field field, const v1::VirtualMachine& vm) {
  switch (field) {
    case Field::kVm:
      return vm.name().substr(vm.name().rfind('/') + 1);
    case Field::kVmm:
      return vm.process().vmm();
    case Field::kType:
      return v1::VmType_Name(vm.vm_type());
  }
  return "";
}

}  // namespace rehome
