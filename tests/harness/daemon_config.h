// SPDX-License-Identifier: Apache-2.0
//
// Writes configuration files for rehomed (docs/configuration.md).
#ifndef REHOME_TESTS_HARNESS_DAEMON_CONFIG_H_
#define REHOME_TESTS_HARNESS_DAEMON_CONFIG_H_

#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace rehome::harness {

struct ProfileConfig {
  std::string name;
  std::vector<std::string> command;
  std::map<std::string, std::string> environment;
  std::vector<std::string> more;  // lines of TOML: "enabled = false"
};

struct DaemonConfigText {
  std::string kernel = "kvm";  // or "sim"
  std::string state_directory;
  std::string api_socket;
  std::string agent_socket;
  std::vector<std::string> more;  // lines of TOML for [daemon]: "handover_timeout_ms = 50"
  std::vector<ProfileConfig> profiles;
};

// The file's text.
std::string ToToml(const DaemonConfigText& config);

// A TOML basic string, quotes included.
std::string TomlString(std::string_view text);

}  // namespace rehome::harness

#endif  // REHOME_TESTS_HARNESS_DAEMON_CONFIG_H_
