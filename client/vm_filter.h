// SPDX-License-Identifier: Apache-2.0
//
// Which virtual machines of a host are meant: conditions on what their VMMs announced.
#ifndef REHOME_CLIENT_VM_FILTER_H_
#define REHOME_CLIENT_VM_FILTER_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "rehome/v1/virtual_machine.pb.h"

namespace rehome {

// Conditions that must all hold; none: every VM is meant. Thread-safe once built.
class VmFilter {
 public:
  // "FIELD=GLOB[,GLOB...]" or "FIELD!=GLOB[,GLOB...]", FIELD being vm (the id), vmm ("rehome-vmm
  // 1.0") or type ("SEV_ES"); GLOB as in fnmatch(3), case counts. INVALID_ARGUMENT, and nothing is
  // added.
  absl::Status Add(const std::string& condition);

  bool Selects(const v1::VirtualMachine& vm) const;
  bool empty() const { return conditions_.empty(); }

 private:
  enum class Field { kVm, kVmm, kType };
  struct Condition {
    Field field = Field::kVm;
    bool negated = false;
    std::vector<std::string> globs;
  };
  static std::string ValueOf(Field field, const v1::VirtualMachine& vm);

  std::vector<Condition> conditions_;
};

}  // namespace rehome

#endif  // REHOME_CLIENT_VM_FILTER_H_
