// SPDX-License-Identifier: Apache-2.0
//
// Quantities as people read and write them.
#ifndef REHOME_CLIENT_CLI_FORMAT_H_
#define REHOME_CLIENT_CLI_FORMAT_H_

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "google/protobuf/duration.pb.h"
#include "google/protobuf/timestamp.pb.h"

namespace rehome {

// "0 us", "7.1 us", "312.4 us", "1.204 ms", "2.35 s"; `micro` is the sign before the "s".
std::string FormatNanos(int64_t nanos, std::string_view micro);

// "512 MiB", "1.5 GiB", "4096 bytes".
std::string FormatBytes(int64_t bytes);

// "2026-11-23 09:08:07 UTC"; "" for a time that is not set.
std::string FormatTime(const google::protobuf::Timestamp& time);

// Nanoseconds between two times.
int64_t NanosBetween(const google::protobuf::Timestamp& begin,
                     const google::protobuf::Timestamp& end);

// "1 check", "2 checks".
std::string Count(int64_t number, std::string_view singular);

// "250ms", "5s", "1.5m", "2h": a positive decimal number and a unit, rounded up to whole
// milliseconds. nullopt for everything else, a missing unit and more than a year included.
std::optional<std::chrono::milliseconds> ParseDuration(std::string_view text);

google::protobuf::Duration ToProtoDuration(std::chrono::milliseconds duration);

}  // namespace rehome

#endif  // REHOME_CLIENT_CLI_FORMAT_H_
