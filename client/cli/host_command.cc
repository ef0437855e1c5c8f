// SPDX-License-Identifier: Apache-2.0
//
// rehome host
#include <string>

#include "client/cli/command.h"
#include "client/cli/commands.h"
#include "client/cli/format.h"
#include "client/cli/json_output.h"
#include "client/cli/table.h"

namespace rehome {
namespace {

using Align = Table::Align;

void PrintFacts(const v1::Host& host, const Console& console) {
  Table table({Align::kLeft, Align::kLeft});
  table.Add({"rehomed", Printable(host.version()) + ", since " + FormatTime(host.start_time())});
  table.Add({"backend", Printable(host.backend())});
  table.Add({"kernel", Printable(host.kernel_release()) + ", boot " + Printable(host.boot_id())});
  table.Add({"machine", Printable(host.machine())});
  const v1::Limits& limits = host.limits();
  table.Add({"limits", std::to_string(limits.max_concurrent_migrations()) +
                           " migrations at once, " +
                           std::to_string(limits.max_pending_migrations()) + " waiting, " +
                           std::to_string(limits.max_virtual_machines()) + " VMs"});
  if (host.has_pinned_memory()) {
    const v1::PinnedMemory& pinned = host.pinned_memory();
    std::string text = FormatBytes(pinned.active_bytes()) + " by migrations under way, " +
                       FormatBytes(pinned.indeterminate_bytes()) + " by unresolved ones";
    if (pinned.finished_bytes() != 0) {
      text += ", " + console.Red(FormatBytes(pinned.finished_bytes()) + " LEAKED by finished ones");
    }
    table.Add({"pins", text});
  }
  table.Print("", console.out);
}

void PrintCapabilities(const v1::Host& host, const Console& console) {
  console.out << "\n" << console.Bold("Capabilities") << " (tried, not asked for)\n";
  Table table({Align::kLeft, Align::kLeft, Align::kLeft});
  for (const v1::Capability& capability : host.capabilities()) {
    const std::string mark = capability.available() ? console.Green("yes") : console.Yellow("no");
    std::string detail = Printable(capability.detail());
    if (!capability.available() && !capability.reason().empty()) {
      detail = Printable(capability.reason()) + (detail.empty() ? "" : ": " + detail);
    }
    table.Add({Printable(capability.name()), mark, detail});
  }
  table.Print("  ", console.out);
}

void PrintProfiles(const v1::Host& host, const Console& console) {
  console.out << "\n" << console.Bold("VMM profiles") << "\n";
  if (host.vmm_profiles().empty()) {
    console.out << "  none; the daemon's configuration file names them\n";
    return;
  }
  Table table({Align::kLeft, Align::kLeft, Align::kLeft});
  for (const v1::VmmProfile& profile : host.vmm_profiles()) {
    std::string formats;
    for (const int32_t format : profile.reads_state_formats()) {
      formats += (formats.empty() ? "reads state formats " : ", ") + std::to_string(format);
    }
    table.Add({Printable(profile.name()), profile.enabled() ? "enabled" : "disabled", formats});
  }
  table.Print("  ", console.out);
}

void ShowHost(CommandContext* context) {
  const auto host = context->NewClient()->GetHost();
  if (!host.ok()) return context->Fail(host.status());
  if (context->json) return PrintJson(*host, context->console);
  PrintFacts(*host, context->console);
  PrintCapabilities(*host, context->console);
  PrintProfiles(*host, context->console);
}

}  // namespace

void AddHostCommand(CLI::App* app, CommandContext* context) {
  CLI::App* const host =
      app->add_subcommand("host", "Show what this host can do, and why not what it cannot");
  host->callback([context] { ShowHost(context); });
  host->footer(
      HelpFooter("Example:\n"
                 "  rehome host --json | jq '.capabilities[] | select(.available | not)'"));
}

}  // namespace rehome
