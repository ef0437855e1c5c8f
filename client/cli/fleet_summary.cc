// SPDX-License-Identifier: Apache-2.0
#include "client/cli/fleet_summary.h"

#include <algorithm>
#include <array>
#include <utility>

#include "client/api_error.h"
#include "client/cli/format.h"
#include "client/cli/steps.h"
#include "client/cli/table.h"

namespace rehome {
namespace {

using Kind = FleetResult::Kind;

// Of several failures the first of these counts.
constexpr std::array kWorstFirst = {ExitCode::kGuestLost,  ExitCode::kIndeterminate,
                                    ExitCode::kError,      ExitCode::kUnreachable,
                                    ExitCode::kRolledBack, ExitCode::kBlocked};

ExitCode CodeOfFailure(const FleetResult& result, bool dry_run) {
  const ExitCode code = HasRecord(result) ? ExitCodeOf(result.migration) : ExitCodeOf(result.error);
  // In a dry run nothing has come of anything: the VM would be refused.
  const bool refused = dry_run && code != ExitCode::kUnreachable;
  return refused ? ExitCode::kBlocked : code;
}

ExitCode WorstOf(const std::vector<FleetResult>& results, bool dry_run) {
  auto worst = kWorstFirst.end();
  for (const FleetResult& result : results) {
    if (result.kind != Kind::kFailed) continue;
    worst = std::min(
        worst, std::find(kWorstFirst.begin(), kWorstFirst.end(), CodeOfFailure(result, dry_run)));
  }
  return worst == kWorstFirst.end() ? ExitCode::kOk : *worst;
}

std::string WithReason(const std::string& message, const std::string& reason) {
  if (reason.empty()) return Printable(message);
  return Printable(message) + (message.empty() ? "(" : " (") + Printable(reason) + ")";
}

std::string WhyFailed(const FleetResult& result) {
  if (!HasRecord(result)) {
    return WithReason(std::string(result.error.message()), ApiReasonOf(result.error));
  }
  const google::rpc::Status& error = result.migration.error();
  std::string why = WithReason(error.message(), DetailsOf(error).info.reason());
  for (const v1::PreflightCheck& check : result.migration.preflight_checks()) {
    if (check.result() != v1::PreflightCheck::FAILED) continue;
    why += "; " + Printable(check.name()) + ": " + WithReason(check.detail(), check.reason());
  }
  if (!why.empty()) return why;
  return "ended " + v1::Migration::State_Name(result.migration.state());
}

// "" if there is none, or none that is known.
std::string MigrationId(const FleetResult& result) { return IdOf(result.migration.name()); }

void AddCount(const std::string& what, size_t count, const std::string& more, Table* table) {
  if (count > 0) table->Add({what, std::to_string(count), more});
}

std::string BlackoutText(const FleetSummary& summary, const Console& console) {
  if (!summary.blackout_p50_ns.has_value()) return "";
  return "blackout p50 " + FormatNanos(*summary.blackout_p50_ns, console.micro()) + ", max " +
         FormatNanos(*summary.blackout_max_ns, console.micro());
}

void PrintFailures(const std::vector<FleetResult>& results, bool dry_run, std::ostream& out) {
  Table table({Table::Align::kLeft, Table::Align::kLeft, Table::Align::kLeft, Table::Align::kLeft});
  table.Add({"VM", "GUEST", "MIGRATION", dry_run ? "REFUSED BECAUSE" : "FAILED BECAUSE"});
  for (const FleetResult& result : results) {
    if (result.kind != Kind::kFailed) continue;
    const bool known = HasRecord(result) && !dry_run;
    const std::string id = MigrationId(result);
    table.Add({IdOf(result.vm), known ? GuestStatus(result.migration) : "-", id.empty() ? "-" : id,
               WhyFailed(result)});
  }
  out << "\n";
  table.Print("  ", out);
}

void PrintUnderWay(const std::vector<FleetResult>& results, std::ostream& out) {
  out << "\n  Under way without this program; follow them with:\n";
  for (const FleetResult& result : results) {
    if (result.kind != Kind::kUnderWay) continue;
    const std::string id = MigrationId(result);
    if (id.empty()) {
      out << "    rehome migration list --vm " << IdOf(result.vm) << "   (may not have started)\n";
    } else {
      out << "    rehome migration watch " << id << "   (" << IdOf(result.vm) << ")\n";
    }
  }
}

}  // namespace

FleetSummary Summarize(const std::vector<FleetResult>& results, bool dry_run,
                       std::chrono::nanoseconds elapsed) {
  FleetSummary summary{.elapsed = elapsed};
  std::vector<int64_t> blackouts;
  for (const FleetResult& result : results) {
    summary.moved += result.kind == Kind::kMoved ? 1 : 0;
    summary.movable += result.kind == Kind::kMovable ? 1 : 0;
    summary.already_there += result.kind == Kind::kAlreadyThere ? 1 : 0;
    summary.failed += result.kind == Kind::kFailed ? 1 : 0;
    // A check that is left leaves nothing behind.
    const bool left = result.kind == Kind::kUnderWay;
    summary.under_way += left && !dry_run ? 1 : 0;
    summary.not_started += result.kind == Kind::kNotStarted || (left && dry_run) ? 1 : 0;
    if (result.kind == Kind::kMoved && result.migration.has_blackout()) {
      blackouts.push_back(result.migration.blackout().total_ns());
    }
  }
  if (!blackouts.empty()) {
    std::sort(blackouts.begin(), blackouts.end());
    summary.blackout_p50_ns = blackouts[(blackouts.size() - 1) / 2];
    summary.blackout_max_ns = blackouts.back();
  }
  summary.exit_code = WorstOf(results, dry_run);
  if (summary.exit_code == ExitCode::kOk && summary.under_way > 0) {
    summary.exit_code = ExitCode::kDetached;
  } else if (summary.exit_code == ExitCode::kOk && summary.not_started > 0) {
    summary.exit_code = ExitCode::kIncomplete;
  }
  return summary;
}

std::string FleetResultText(const FleetResult& result, const Console& console) {
  const std::string vm = IdOf(result.vm);
  std::string id = MigrationId(result);
  if (!id.empty()) id = "  " + id;
  if (result.kind == Kind::kFailed) {
    std::string text =
        console.Red(console.failed_mark()) + " " + vm + id + "  " + WhyFailed(result);
    if (HasRecord(result) && !id.empty()) text += "; the guest " + GuestStatus(result.migration);
    return text;
  }
  std::string text = console.Green(console.ok_mark()) + " " + vm + id;
  if (result.kind == Kind::kMovable)
    return text + (result.joined ? "  under way" : "  can be moved");
  if (result.migration.has_blackout()) {
    text += "  paused for " + FormatNanos(result.migration.blackout().total_ns(), console.micro());
  }
  return text + (result.joined ? "  (joined)" : "");
}

void PrintFleetSummary(const FleetSummary& summary, const std::vector<FleetResult>& results,
                       bool dry_run, const Console& console, std::ostream& out) {
  Table table({Table::Align::kLeft, Table::Align::kRight, Table::Align::kLeft});
  if (dry_run) {
    table.Add({"can be moved", std::to_string(summary.movable), ""});
  } else {
    table.Add({"moved", std::to_string(summary.moved), BlackoutText(summary, console)});
  }
  AddCount("already there", summary.already_there, "", &table);
  AddCount(dry_run ? "refused" : "failed", summary.failed, "", &table);
  AddCount("under way", summary.under_way, "", &table);
  AddCount(dry_run ? "not checked" : "not started", summary.not_started, "", &table);
  out << "\n";
  table.Print("  ", out);
  out << "  time  " << FormatNanos(summary.elapsed.count(), console.micro()) << "\n";
  if (summary.failed > 0) PrintFailures(results, dry_run, out);
  if (summary.under_way > 0) PrintUnderWay(results, out);
  if (summary.not_started == 0 || dry_run) return;
  out << "\n  " << summary.not_started << " not started; the same command again continues"
      << (summary.failed > 0 ? ", --keep-going goes on past failures" : "") << "\n";
}

}  // namespace rehome
