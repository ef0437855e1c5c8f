// SPDX-License-Identifier: Apache-2.0
#include "daemon/config.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <utility>

#include "absl/strings/str_cat.h"
#include "daemon/config_reader.h"
#include "daemon/reasons.h"
#include "kvmglue/fd.h"
#include "kvmglue/status_reason.h"

namespace rehome {
namespace {

// [A-Za-z0-9] first, then also "._-": a profile's name is typed on command lines and logged.
bool IsProfileName(std::string_view name) {
  if (name.empty() || name.size() > kMaxProfileNameLength) return false;
  const auto is_alphanumeric = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
  };
  return is_alphanumeric(name.front()) && std::all_of(name.begin(), name.end(), [&](char c) {
           return is_alphanumeric(c) || c == '.' || c == '_' || c == '-';
         });
}

// POSIX, 8.1: what a shell can set.
bool IsVariableName(std::string_view name) {
  const auto is_letter = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
  };
  return !name.empty() && is_letter(name.front()) &&
         std::all_of(name.begin(), name.end(),
                     [&](char c) { return is_letter(c) || (c >= '0' && c <= '9'); });
}

// Reads a word that must be one of `words`; the index of the one it is.
bool ReadChoice(const TableReader& reader, std::string_view key,
                const std::vector<std::string_view>& words, size_t* index) {
  std::string word;
  if (!reader.ReadString(key, kMaxArgumentBytes, &word)) return false;
  const auto found = std::find(words.begin(), words.end(), word);
  if (found == words.end()) {
    std::string choices;
    for (std::string_view choice : words) {
      choices.append(choices.empty() ? "\"" : ", \"").append(choice).append("\"");
    }
    reader.Error(key, absl::StrCat("\"", word, "\" is none of ", choices));
    return false;
  }
  *index = static_cast<size_t>(found - words.begin());
  return true;
}

void ReadAccess(const TableReader& reader, DaemonConfig& config) {
  for (auto [key, ids] : {std::pair{"api_allowed_uids", &config.api_peers.uids},
                          std::pair{"api_allowed_gids", &config.api_peers.gids},
                          std::pair{"agent_allowed_uids", &config.agent_peers.uids},
                          std::pair{"agent_allowed_gids", &config.agent_peers.gids}}) {
    reader.ReadIntegers(key, kUserIdRange, kMaxAllowedIds, ids);
  }
}

void ReadTimeouts(const TableReader& reader, DaemonConfig& config) {
  reader.ReadMilliseconds("handover_timeout_ms", kHandoverTimeoutMsRange, &config.handover_timeout);
  reader.ReadMilliseconds("resolve_timeout_ms", kResolveTimeoutMsRange, &config.resolve_timeout);
  reader.ReadMilliseconds("deadline_ms", kMigrationDeadlineMsRange, &config.deadline);
  EffectTimeouts& timeouts = config.timeouts;
  reader.ReadMilliseconds("agent_timeout_ms", kPatienceMsRange, &timeouts.agent);
  reader.ReadMilliseconds("first_run_timeout_ms", kPatienceMsRange, &timeouts.first_run);
  reader.ReadMilliseconds("release_timeout_ms", kPatienceMsRange, &timeouts.release);
  reader.ReadMilliseconds("exit_timeout_ms", kPatienceMsRange, &timeouts.exit);
}

void ReadDaemon(const toml::table& table, ConfigErrors& errors, DaemonConfig& config) {
  TableReader reader(
      table, "daemon",
      {"state_directory", "api_socket", "agent_socket", "api_allowed_uids", "api_allowed_gids",
       "agent_allowed_uids", "agent_allowed_gids", "kernel", "link_ioctl", "concurrent_migrations",
       "handover_timeout_ms", "resolve_timeout_ms", "deadline_ms", "agent_timeout_ms",
       "first_run_timeout_ms", "release_timeout_ms", "exit_timeout_ms", "log_level", "trace"},
      errors);
  reader.ReadPath("state_directory", kMaxPathLength, &config.state_directory);
  reader.ReadPath("api_socket", kMaxSocketPathLength, &config.api_socket);
  reader.ReadPath("agent_socket", kMaxSocketPathLength, &config.agent_socket);
  if (config.api_socket == config.agent_socket) {
    reader.Error("agent_socket", "is the same path as api_socket");
  }
  ReadAccess(reader, config);
  reader.ReadBool("trace", &config.trace);

  size_t choice = 0;
  if (ReadChoice(reader, "kernel", {"kvm", "sim"}, &choice)) {
    config.kernel = choice == 0 ? KernelBackend::kKvm : KernelBackend::kSim;
  }
  if (ReadChoice(reader, "log_level", {"debug", "info", "warning", "error"}, &choice)) {
    config.log_level = static_cast<LogLevel>(choice);
  }
  int64_t number = 0;
  if (reader.ReadInteger("link_ioctl", kLinkIoctlRange, &number)) {
    config.link_ioctl = static_cast<uint32_t>(number);
  }
  if (reader.ReadInteger("concurrent_migrations", kConcurrentMigrationsRange, &number)) {
    config.concurrent_migrations = static_cast<size_t>(number);
  }
  ReadTimeouts(reader, config);
}

// A loopback address and a port from 1 on: whoever is not on this host has no business here, and
// the HTTP server knows no users.
bool IsLoopbackAddress(std::string_view address) {
  std::string_view port;
  for (const std::string_view host : {"127.0.0.1:", "[::1]:"}) {
    if (address.starts_with(host)) port = address.substr(host.size());
  }
  uint16_t number = 0;
  const char* end = port.data() + port.size();
  const auto parsed = std::from_chars(port.data(), end, number);
  return !port.empty() && parsed.ec == std::errc() && parsed.ptr == end && number != 0;
}

void ReadMetrics(const toml::table& table, ConfigErrors& errors, DaemonConfig& config) {
  const TableReader reader(table, "metrics", {"listen"}, errors);
  std::string listen;
  if (!reader.ReadString("listen", kMaxArgumentBytes, &listen)) return;
  if (!IsLoopbackAddress(listen)) {
    return reader.Error("listen",
                        absl::StrCat("\"", listen, "\" is not 127.0.0.1:PORT or ", "[::1]:PORT"));
  }
  config.metrics_listen = listen;
}

void CheckCommand(const TableReader& reader, const VmmProfile& profile) {
  if (!reader.Has("command")) {
    reader.Error("command", "is missing");
  } else if (profile.command.empty()) {
    reader.Error("command", "is empty");
  } else if (profile.command.front().empty() || profile.command.front().front() != '/') {
    reader.Error("command",
                 absl::StrCat("\"", profile.command.front(), "\" is not an absolute path"));
  }
}

void CheckVariables(const TableReader& reader, std::string_view section, ConfigErrors& errors) {
  const toml::node* node = reader.Find("environment");
  const toml::table* table = node != nullptr ? node->as_table() : nullptr;
  if (table == nullptr) return;
  for (const auto& [key, value] : *table) {
    const std::string full = std::string(section).append(".environment.").append(key.str());
    if (!IsVariableName(key.str())) {
      errors.Add(key.source().begin, full, "is no name of an environment variable");
    } else if (key.str().starts_with("REHOME_")) {
      errors.Add(key.source().begin, full, "names that begin with REHOME_ are the daemon's to set");
    }
  }
}

VmmProfile ReadProfile(const std::string& name, const toml::table& table, ConfigErrors& errors) {
  VmmProfile profile{.name = name};
  const std::string section = absl::StrCat("profile.", name);
  const TableReader reader(table, section,
                           {"command", "environment", "reads_state_formats", "enabled"}, errors);
  if (reader.ReadStrings("command", kMaxCommandArguments, kMaxArgumentBytes, &profile.command) ||
      !reader.Has("command")) {
    CheckCommand(reader, profile);
  }
  reader.ReadStringTable("environment", kMaxEnvironmentEntries, kMaxArgumentBytes,
                         &profile.environment);
  CheckVariables(reader, section, errors);
  reader.ReadIntegers("reads_state_formats", kStateFormatRange, kMaxStateFormats,
                      &profile.reads_state_formats);
  reader.ReadBool("enabled", &profile.enabled);
  return profile;
}

void ReadProfiles(const toml::table& table, ConfigErrors& errors, DaemonConfig& config) {
  if (table.size() > kMaxProfiles) {
    errors.Add(table.source().begin, "profile",
               absl::StrCat(table.size(), " profiles, at most ", kMaxProfiles));
    return;
  }
  for (const auto& [key, node] : table) {
    const std::string name(key.str());
    const std::string full = absl::StrCat("profile.", name);
    if (!IsProfileName(name)) {
      errors.Add(key.source().begin, full,
                 absl::StrCat("a profile's name is 1 to ", kMaxProfileNameLength,
                              " letters, digits, '.', '_' or '-', a letter or digit first"));
    } else if (const toml::table* profile = node.as_table(); profile == nullptr) {
      errors.Add(node.source().begin, full, "must be a table");
    } else {
      config.profiles.emplace(name, ReadProfile(name, *profile, errors));
    }
  }
}

// The tables of the file. A section that is no table would make every key in it vanish.
void ReadRoot(const toml::table& root, ConfigErrors& errors, DaemonConfig& config) {
  const TableReader reader(root, "", {"daemon", "metrics", "profile"}, errors);
  for (const char* section : {"daemon", "metrics", "profile"}) {
    const toml::node* node = reader.Find(section);
    if (node == nullptr) continue;
    const toml::table* table = node->as_table();
    if (table == nullptr) {
      reader.Error(section, "must be a table");
    } else if (std::string_view(section) == "daemon") {
      ReadDaemon(*table, errors, config);
    } else if (std::string_view(section) == "metrics") {
      ReadMetrics(*table, errors, config);
    } else {
      ReadProfiles(*table, errors, config);
    }
  }
}

absl::Status Unreadable(const std::string& path, int error) {
  if (error == ENOENT) {
    return MakeStatus(absl::StatusCode::kNotFound, reason::kConfigNotFound,
                      absl::StrCat(path, ": no such file"));
  }
  return MakeStatus(absl::StatusCode::kUnavailable, reason::kConfigUnreadable,
                    absl::StrCat(path, ": ", strerror(error)));
}

void ReadText(std::string_view text, std::string_view file, ConfigErrors& errors,
              DaemonConfig& config) try {
  const toml::parse_result parsed = toml::parse(text, file);
  if (parsed) {
    ReadRoot(parsed.table(), errors, config);
  } else {
    errors.Add(parsed.error().source().begin, "", parsed.error().description());
  }
} catch (const TomlAssertionFailed&) {
  errors.Add({.line = 1, .column = 1}, "",
             "is not TOML, and the parser cannot say where: look for a key without a name");
}

}  // namespace

absl::StatusOr<DaemonConfig> ParseConfig(std::string_view text, std::string_view file) {
  ConfigErrors errors(file);
  DaemonConfig config;
  config.api_peers.uids = {geteuid()};
  config.agent_peers.uids = {geteuid()};
  if (text.size() > kMaxConfigBytes) {
    errors.Add({.line = 1, .column = 1}, "",
               absl::StrCat("is ", text.size(), " bytes long, at most ", kMaxConfigBytes));
    return errors.ToStatus();
  }
  ReadText(text, file, errors, config);
  if (absl::Status status = errors.ToStatus(); !status.ok()) return status;
  return config;
}

absl::StatusOr<DaemonConfig> LoadConfig(const std::string& path) {
  const UniqueFd file(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK));
  if (!file.valid()) return Unreadable(path, errno);
  // One byte more than allowed, so that a file that is too long is seen to be.
  std::string text(kMaxConfigBytes + 1, '\0');
  size_t used = 0;
  while (used < text.size()) {
    const ssize_t count = read(file.borrow().raw(), text.data() + used, text.size() - used);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return Unreadable(path, errno);
    if (count == 0) break;
    used += static_cast<size_t>(count);
  }
  text.resize(used);
  return ParseConfig(text, path);
}

}  // namespace rehome
