// SPDX-License-Identifier: Apache-2.0
//
// rehome vm list | get
#include <string>
#include <utility>

#include "client/cli/command.h"
#include "client/cli/commands.h"
#include "client/cli/format.h"
#include "client/cli/json_output.h"
#include "client/cli/steps.h"
#include "client/cli/table.h"
#include "client/unresolved.h"

namespace rehome {
namespace {

std::string MigrationText(const v1::VirtualMachine& vm, const UnresolvedByVm& unresolved) {
  const auto held = unresolved.find(vm.name());
  if (held != unresolved.end()) return IdOf(held->second.name()) + ", INDETERMINATE";
  return vm.active_migration().empty() ? "-" : IdOf(vm.active_migration());
}

void PrintVmTable(const v1::ListVirtualMachinesResponse& list, UnresolvedByVm unresolved,
                  const Console& console) {
  using Align = Table::Align;
  Table table({Align::kLeft, Align::kLeft, Align::kRight, Align::kRight, Align::kLeft,
               Align::kRight, Align::kLeft});
  table.Add({"VM", "TYPE", "VCPUS", "MEMORY", "VMM", "PID", "MIGRATION"});
  for (const v1::VirtualMachine& vm : list.virtual_machines()) {
    table.Add({IdOf(vm.name()), v1::VmType_Name(vm.vm_type()), std::to_string(vm.vcpu_count()),
               FormatBytes(vm.memory_bytes()), Printable(vm.process().vmm()),
               std::to_string(vm.process().pid()), MigrationText(vm, unresolved)});
    unresolved.erase(vm.name());
  }
  // No VMM of theirs is connected, but the guest may live.
  for (const auto& [name, migration] : unresolved) {
    table.Add({IdOf(name), v1::VmType_Name(migration.vm_type()),
               std::to_string(migration.vcpu_count()), FormatBytes(migration.memory_bytes()), "-",
               "-", IdOf(migration.name()) + ", INDETERMINATE"});
  }
  table.Print("", console.out);
}

void ListVms(CommandContext* context) {
  const auto client = context->NewClient();
  v1::ListVirtualMachinesResponse all;
  v1::ListVirtualMachinesRequest request;
  // The most that the daemon gives at once; a list is wanted whole.
  request.set_page_size(1000);
  do {
    auto page = client->ListVirtualMachines(request);
    if (!page.ok()) return context->Fail(page.status());
    request.set_page_token(page->next_page_token());
    for (auto& vm : *page->mutable_virtual_machines()) *all.add_virtual_machines() = std::move(vm);
  } while (!request.page_token().empty());

  if (context->json) return PrintJson(all, context->console);
  auto unresolved = ListUnresolved(client.get());
  if (!unresolved.ok()) return context->Fail(unresolved.status());
  if (all.virtual_machines().empty() && unresolved->empty()) {
    context->console.err << "no virtual machine is registered\n";
    return;
  }
  PrintVmTable(all, *std::move(unresolved), context->console);
}

void PrintVm(const v1::VirtualMachine& vm, const Console& console) {
  Table table({Table::Align::kLeft, Table::Align::kLeft});
  table.Add({"vm", IdOf(vm.name())});
  table.Add({"type", v1::VmType_Name(vm.vm_type())});
  table.Add({"size", Count(vm.vcpu_count(), "vCPU") + ", " + FormatBytes(vm.memory_bytes())});
  table.Add({"runs on", ProcessText(vm.process())});
  table.Add({"state format", std::to_string(vm.state_format())});
  table.Add({"registered", FormatTime(vm.register_time())});
  table.Add({"migration",
             vm.active_migration().empty() ? "none under way" : IdOf(vm.active_migration())});
  table.Print("", console.out);
}

void GetVm(CommandContext* context, const std::string& vm) {
  v1::GetVirtualMachineRequest request;
  request.set_name(FullVmName(vm));
  const auto found = context->NewClient()->GetVirtualMachine(request);
  if (!found.ok()) return context->Fail(found.status());
  if (context->json) return PrintJson(*found, context->console);
  PrintVm(*found, context->console);
}

}  // namespace

void AddVmCommands(CLI::App* app, CommandContext* context) {
  CLI::App* const vm = app->add_subcommand("vm", "Show the virtual machines of this host");
  vm->require_subcommand(1);

  CLI::App* const list = vm->add_subcommand("list", "List the virtual machines");
  list->callback([context] { ListVms(context); });
  list->footer(HelpFooter("Example:\n  rehome vm list --json | jq -r '.virtualMachines[].name'"));

  CLI::App* const get = vm->add_subcommand("get", "Show one virtual machine");
  const auto id = std::make_shared<std::string>();
  get->add_option("VM", *id, "Its id")->required();
  get->callback([context, id] { GetVm(context, *id); });
  get->footer(HelpFooter("Example:\n  rehome vm get web-1"));
}

}  // namespace rehome
