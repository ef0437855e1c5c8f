// SPDX-License-Identifier: Apache-2.0
#include "client/cli/account.h"

#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "client/api_error.h"
#include "client/cli/fence_account.h"
#include "client/cli/format.h"
#include "client/cli/steps.h"
#include "client/cli/table.h"
#include "client/migration_client.h"

namespace rehome {
namespace {

constexpr size_t kBarColumns = 40;

std::string Lowercase(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(),
                 [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; });
  return text;
}

// "the target refused (AGENT_REFUSED_KERNEL)".
std::string ErrorText(const google::rpc::Status& error) {
  const std::string reason = DetailsOf(error).info.reason();
  const std::string message = Printable(error.message());
  if (reason.empty()) return message;
  return (message.empty() ? "" : message + " ") + "(" + Printable(reason) + ")";
}

// Where docs/reasons.md speaks of it; "" without a reason.
std::string HelpText(const google::rpc::Status& error) {
  const std::string reason = DetailsOf(error).info.reason();
  return reason.empty() ? "" : "docs/reasons.md#" + Lowercase(Printable(reason));
}

std::string Bar(int64_t part, int64_t total, const Console& console) {
  if (part <= 0 || total <= 0) return "";
  const auto columns = static_cast<size_t>(
      static_cast<double>(part) / static_cast<double>(total) * kBarColumns + 0.5);
  std::string bar;
  for (size_t i = 0; i < std::max<size_t>(columns, 1); ++i) bar += console.bar();
  return bar;
}

void PrintBlackout(const v1::Blackout& blackout, const Console& console, std::ostream& out) {
  out << "\n  " << console.Bold("Blackout") << "  "
      << FormatNanos(blackout.total_ns(), console.micro()) << "\n";
  if (!blackout.has_phases()) return;
  const v1::Blackout::Phases& phases = blackout.phases();
  const std::vector<std::pair<std::string, int64_t>> rows = {
      {"stop vCPUs", phases.stop_vcpus_ns()},
      {"save state", phases.save_state_ns()},
      {"claim", phases.claim_ns()},
      {"move", phases.move_ns()},
      {"restore state", phases.restore_state_ns()},
      {"fence", phases.fence_ns()},
      {"resume", phases.resume_ns()},
  };
  Table table({Table::Align::kLeft, Table::Align::kRight, Table::Align::kLeft});
  for (const auto& [name, nanos] : rows) {
    table.Add(
        {name, FormatNanos(nanos, console.micro()), Bar(nanos, blackout.total_ns(), console)});
  }
  table.Print("    ", out);
}

void PrintChecks(const v1::Migration& migration, const Console& console, std::ostream& out) {
  Table table({Table::Align::kLeft, Table::Align::kLeft, Table::Align::kLeft});
  for (const v1::PreflightCheck& check : migration.preflight_checks()) {
    std::string mark = console.Dim("-");
    std::string detail = Printable(check.detail());
    if (check.result() == v1::PreflightCheck::PASSED) mark = console.Green(console.ok_mark());
    if (check.result() == v1::PreflightCheck::FAILED) {
      mark = console.Red(console.failed_mark());
      detail += " (" + Printable(check.reason()) + ")";
    }
    table.Add({mark, Printable(check.name()), detail});
  }
  table.Print("    ", out);
}

// What an operator does about a migration that nobody knows the outcome of.
void PrintWayOut(const v1::Migration& migration, std::ostream& out) {
  out << "  Nothing was started and nothing that the guest may need was dropped. Look again with:\n"
      << "    rehome migration resolve " << IdOf(migration.name()) << "\n"
      << "  docs/runbooks/indeterminate.md says what to do before, and what not to do.\n";
}

std::string RescueText(const v1::Rescue& rescue) {
  return "attempt " + std::to_string(rescue.attempts()) + ", in place of pid " +
         std::to_string(rescue.dead_target().pid()) + "; began with: " + ErrorText(rescue.cause());
}

std::string RestartText(const v1::Migration& migration) {
  std::string text = "the daemon ended " + Count(migration.restarts(), "time") + " meanwhile";
  if (migration.interrupted_step().empty()) return text;
  return text + ", first in step " + Printable(migration.interrupted_step());
}

void PrintFailure(const v1::Migration& migration, const Console& console, std::ostream& out) {
  out << "  The guest " << GuestStatus(migration) << ".\n";
  for (const v1::PreflightCheck& check : migration.preflight_checks()) {
    if (check.result() != v1::PreflightCheck::FAILED) continue;
    // The headline has said it.
    if (check.detail() == migration.error().message()) continue;
    out << "  " << console.Red(console.failed_mark()) << " " << Printable(check.name()) << ": "
        << Printable(check.detail()) << " (" << Printable(check.reason()) << ")\n";
  }
  PrintForeignHolders(migration.fence_proof(), out);
  if (migration.state() == v1::Migration::INDETERMINATE) PrintWayOut(migration, out);
  const std::string help = HelpText(migration.error());
  if (!help.empty()) out << "  What to do: " << help << "\n";
}

std::string Headline(const v1::Migration& migration) {
  const std::string vm = IdOf(migration.vm());
  switch (migration.state()) {
    case v1::Migration::CANCELLED:
      return vm + " was not moved: cancelled";
    case v1::Migration::INDETERMINATE:
      return "the outcome is unknown: " + ErrorText(migration.error());
    default:
      break;
  }
  if (migration.guest_owner() == v1::Migration::NOBODY) {
    return vm + " is lost: " + ErrorText(migration.error());
  }
  if (migration.guest_owner() == v1::Migration::TARGET) {
    return vm + " was moved, but not as promised: " + ErrorText(migration.error());
  }
  return vm + " was not moved: " + ErrorText(migration.error());
}

// The head of an account: label and value.
void PrintFacts(const v1::Migration& migration, std::ostream& out) {
  Table table({Table::Align::kLeft, Table::Align::kLeft});
  table.Add({"migration", IdOf(migration.name())});
  table.Add({"vm", IdOf(migration.vm()) + ", " + v1::VmType_Name(migration.vm_type()) + ", " +
                       Count(migration.vcpu_count(), "vCPU") + ", " +
                       FormatBytes(migration.memory_bytes())});
  table.Add({"profile", Printable(migration.target_profile())});
  table.Add({"state", v1::Migration::State_Name(migration.state()) +
                          (migration.cancel_requested() ? ", cancel requested" : "")});
  table.Add({"guest", GuestStatus(migration)});
  table.Add({"requested",
             FormatTime(migration.create_time()) + " by " + Printable(migration.requested_by())});
  if (migration.has_end_time()) table.Add({"ended", FormatTime(migration.end_time())});
  if (migration.has_error()) table.Add({"error", ErrorText(migration.error())});
  if (migration.has_rescue()) table.Add({"rescued", RescueText(migration.rescue())});
  for (const auto& failure : migration.rescue().failed_attempts()) {
    table.Add({"rescue failed", ErrorText(failure)});
  }
  if (migration.restarts() != 0) table.Add({"restarts", RestartText(migration)});
  if (migration.has_journal_error()) {
    table.Add({"journal", ErrorText(migration.journal_error())});
  }
  table.Print("", out);
}

}  // namespace

void PrintOutcome(const v1::Migration& migration, const Console& console, std::ostream& out) {
  if (migration.state() != v1::Migration::SUCCEEDED) {
    const bool cancelled = migration.state() == v1::Migration::CANCELLED;
    const std::string mark(console.failed_mark());
    out << (cancelled ? console.Yellow(mark) : console.Red(mark)) << " " << Headline(migration)
        << "\n";
    PrintFailure(migration, console, out);
    return;
  }
  out << console.Green(console.ok_mark()) << " " << console.Bold(IdOf(migration.vm()))
      << " runs on " << ProcessText(migration.target());
  if (migration.has_blackout()) {
    out << "; it was paused for "
        << console.Bold(FormatNanos(migration.blackout().total_ns(), console.micro()));
  }
  out << "\n";
  if (migration.has_blackout()) PrintBlackout(migration.blackout(), console, out);
}

void PrintAccount(const v1::Migration& migration, const Console& console, std::ostream& out) {
  PrintFacts(migration, out);
  if (migration.state() == v1::Migration::INDETERMINATE) {
    out << "\n";
    PrintWayOut(migration, out);
  }
  out << "\n  " << console.Bold("Steps") << "\n";
  Table steps({Table::Align::kLeft, Table::Align::kLeft, Table::Align::kLeft});
  for (const StepView& step : StepsOf(migration, console)) {
    std::string mark = console.Dim("-");
    if (step.mark == StepView::Mark::kDone) mark = console.Green(console.ok_mark());
    if (step.mark == StepView::Mark::kActive) mark = ">";
    if (step.mark == StepView::Mark::kFailed) mark = console.Red(console.failed_mark());
    steps.Add({mark, step.title, step.detail});
  }
  steps.Print("    ", out);
  if (migration.has_blackout()) PrintBlackout(migration.blackout(), console, out);
  PrintFence(migration, console, out);
  if (migration.preflight_checks().empty()) return;
  out << "\n  " << console.Bold("Preflight") << "\n";
  PrintChecks(migration, console, out);
}

void PrintDryRun(const v1::Migration& migration, const Console& console, std::ostream& out) {
  const bool possible = migration.state() == v1::Migration::SUCCEEDED;
  const std::string_view mark = possible ? console.ok_mark() : console.failed_mark();
  out << (possible ? console.Green(mark) : console.Red(mark)) << " " << IdOf(migration.vm())
      << (possible ? " can" : " cannot") << " be migrated to profile "
      << Printable(migration.target_profile());
  if (migration.strategy() != v1::Migration::STRATEGY_UNSPECIFIED) {
    out << " (strategy " << v1::Migration::Strategy_Name(migration.strategy()) << ", "
        << FencePolicyText(migration.fence_policy()) << ")";
  }
  out << "\n";
  if (!possible && migration.has_error()) out << "  " << ErrorText(migration.error()) << "\n";
  PrintChecks(migration, console, out);
}

}  // namespace rehome
