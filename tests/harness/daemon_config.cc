// SPDX-License-Identifier: Apache-2.0
#include "tests/harness/daemon_config.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"

namespace rehome::harness {
namespace {

void AppendProfile(const ProfileConfig& profile, std::string& text) {
  const auto quote = [](std::string* out, const std::string& word) { *out += TomlString(word); };
  absl::StrAppend(&text, "\n[profile.", TomlString(profile.name), "]\ncommand = [",
                  absl::StrJoin(profile.command, ", ", quote), "]\n");
  const auto entry = [](std::string* out, const std::pair<const std::string, std::string>& pair) {
    absl::StrAppend(out, TomlString(pair.first), " = ", TomlString(pair.second));
  };
  absl::StrAppend(&text, "environment = { ", absl::StrJoin(profile.environment, ", ", entry),
                  " }\n");
  for (const std::string& line : profile.more) absl::StrAppend(&text, line, "\n");
}

}  // namespace

std::string TomlString(std::string_view text) {
  std::string quoted = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      quoted += '\\';
      quoted += c;
    } else if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) {
      absl::StrAppendFormat(&quoted, "\\u%04x", static_cast<unsigned>(c));
    } else {
      quoted += c;
    }
  }
  return quoted + '"';
}

std::string ToToml(const DaemonConfigText& config) {
  std::string text = absl::StrCat("[daemon]\nkernel = ", TomlString(config.kernel),
                                  "\nstate_directory = ", TomlString(config.state_directory),
                                  "\napi_socket = ", TomlString(config.api_socket),
                                  "\nagent_socket = ", TomlString(config.agent_socket), "\n");
  for (const std::string& line : config.more) absl::StrAppend(&text, line, "\n");
  for (const ProfileConfig& profile : config.profiles) AppendProfile(profile, text);
  return text;
}

}  // namespace rehome::harness
