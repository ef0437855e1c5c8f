// SPDX-License-Identifier: Apache-2.0
#include "client/cli/exit_code.h"

#include <algorithm>

#include "client/api_error.h"
#include "client/client_reasons.h"

namespace rehome {
namespace {

bool HasFailedCheck(const v1::Migration& migration) {
  return std::any_of(
      migration.preflight_checks().begin(), migration.preflight_checks().end(),
      [](const v1::PreflightCheck& check) { return check.result() == v1::PreflightCheck::FAILED; });
}

}  // namespace

ExitCode ExitCodeOf(const absl::Status& error) {
  if (error.ok()) return ExitCode::kOk;
  const std::string reason = ApiReasonOf(error);
  if (reason == client_reason::kWaitTimeout) return ExitCode::kDetached;
  if (reason == client_reason::kPeerNotAllowed) return ExitCode::kUnreachable;
  if (error.code() == absl::StatusCode::kUnavailable) return ExitCode::kUnreachable;
  return ExitCode::kError;
}

ExitCode ExitCodeOf(const v1::Migration& migration) {
  if (migration.state() == v1::Migration::SUCCEEDED) return ExitCode::kOk;
  if (migration.state() == v1::Migration::INDETERMINATE) return ExitCode::kIndeterminate;
  if (migration.guest_owner() == v1::Migration::NOBODY) return ExitCode::kGuestLost;
  if (migration.guest_owner() == v1::Migration::UNDECIDED) return ExitCode::kIndeterminate;
  // On the target, but not as promised: the source is not proven gone.
  if (migration.guest_owner() == v1::Migration::TARGET) return ExitCode::kError;
  return HasFailedCheck(migration) ? ExitCode::kBlocked : ExitCode::kRolledBack;
}

std::string ExitCodeHelp() {
  return R"(Exit codes:
  0  done
  1  an error that has no code of its own
  2  wrong usage; nothing was sent
  3  blocked by preflight; nothing was touched
  4  not moved; the guest runs on the source
  5  indeterminate; nobody knows who owns the guest
  6  stopped waiting (Ctrl-C, --timeout); the migration goes on
  7  the guest is lost
  8  no daemon answers
  9  of --all: stopped by Ctrl-C before all were started; none failed)";
}

}  // namespace rehome
