// SPDX-License-Identifier: Apache-2.0
#include "client/cli/command.h"

#include "client/api_error.h"
#include "client/cli/format.h"
#include "client/cli/json_output.h"

namespace rehome {
namespace {

std::string WithCollection(const std::string& collection, const std::string& id_or_name) {
  return id_or_name.starts_with(collection) ? id_or_name : collection + id_or_name;
}

// What a person can do about it at once; "" if nothing comes to mind.
std::string HintFor(const std::string& reason) {
  if (reason == "VM_NOT_FOUND") return "rehome vm list shows the virtual machines of this host";
  if (reason == "PROFILE_NOT_FOUND") return "rehome host shows the profiles of this host";
  if (reason == "MIGRATION_NOT_FOUND") return "rehome migration list shows what is on record";
  if (reason == "MIGRATION_UNRESOLVED") return "rehome migration resolve ID goes on with it";
  if (reason == "NOT_INDETERMINATE") return "rehome migration get ID shows how it stands";
  if (reason == "DAEMON_UNREACHABLE") {
    return "is rehomed running? --socket or REHOME_SOCKET name another socket";
  }
  return "";
}

}  // namespace

std::unique_ptr<MigrationClient> CommandContext::NewClient() const {
  return std::make_unique<MigrationClient>(ClientOptions{.socket_path = socket_path});
}

void CommandContext::Fail(const absl::Status& error) {
  exit_code = ExitCodeOf(error);
  if (json) return PrintJsonError(error, console);
  const ApiError details = DetailsOf(error);
  const std::string reason = Printable(details.info.reason());
  console.err << "rehome: " << Printable(std::string(error.message()));
  if (!reason.empty()) console.err << " (" << reason << ")";
  console.err << "\n";
  if (!details.resource.resource_name().empty()) {
    console.err << "  resource: " << Printable(details.resource.resource_name()) << "\n";
  }
  if (details.retry.has_retry_delay()) {
    console.err << "  try again in " << details.retry.retry_delay().seconds() << " s\n";
  }
  const std::string hint = HintFor(reason);
  if (!hint.empty()) console.err << "  " << hint << "\n";
}

std::string FullVmName(const std::string& id_or_name) {
  return WithCollection("virtualMachines/", id_or_name);
}

std::string FullMigrationName(const std::string& id_or_name) {
  return WithCollection("migrations/", id_or_name);
}

std::string HelpFooter(const std::string& text) {
  return "Every command also takes --json and --socket PATH; see rehome --help.\n\n" + text;
}

std::string CheckDuration(const std::string& text) {
  if (ParseDuration(text).has_value()) return "";
  return "'" + text + "' is not a duration; write 250ms, 5s, 2m or 1h";
}

}  // namespace rehome
