// SPDX-License-Identifier: Apache-2.0
#include "client/cli/format.h"

#include <array>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <ctime>

namespace rehome {
namespace {

constexpr int64_t kMicro = 1000;
constexpr int64_t kMilli = 1000 * kMicro;
constexpr int64_t kSecond = 1000 * kMilli;

std::string Fixed(double value, int decimals, std::string_view unit) {
  std::array<char, 64> text;
  std::snprintf(text.data(), text.size(), "%.*f ", decimals, value);
  return std::string(text.data()).append(unit);
}

struct Unit {
  std::string_view name;
  double milliseconds;
};
constexpr Unit kUnits[] = {{"ms", 1}, {"s", 1e3}, {"m", 60e3}, {"h", 3600e3}};
constexpr double kYearInMilliseconds = 366 * 24 * 3600e3;

}  // namespace

std::string FormatNanos(int64_t nanos, std::string_view micro) {
  const std::string micros = std::string(micro) + "s";
  if (nanos == 0) return "0 " + micros;
  const auto value = static_cast<double>(nanos);
  if (nanos < kMilli) return Fixed(value / kMicro, 1, micros);
  if (nanos < kSecond) return Fixed(value / kMilli, 3, "ms");
  return Fixed(value / kSecond, 2, "s");
}

std::string FormatBytes(int64_t bytes) {
  constexpr std::array<std::string_view, 4> kNames = {"KiB", "MiB", "GiB", "TiB"};
  auto value = static_cast<double>(bytes);
  if (bytes < 1 << 20) return std::to_string(bytes) + " bytes";
  size_t unit = 0;
  value /= 1024;
  while (value >= 1024 && unit + 1 < kNames.size()) {
    value /= 1024;
    ++unit;
  }
  return Fixed(value, value == std::floor(value) ? 0 : 1, kNames[unit]);
}

std::string FormatTime(const google::protobuf::Timestamp& time) {
  if (time.seconds() == 0 && time.nanos() == 0) return "";
  const std::time_t seconds = time.seconds();
  std::tm parts{};
  if (gmtime_r(&seconds, &parts) == nullptr) return "";
  std::array<char, 64> text;
  const size_t size = std::strftime(text.data(), text.size(), "%Y-%m-%d %H:%M:%S UTC", &parts);
  return std::string(text.data(), size);
}

int64_t NanosBetween(const google::protobuf::Timestamp& begin,
                     const google::protobuf::Timestamp& end) {
  return (end.seconds() - begin.seconds()) * kSecond + (end.nanos() - begin.nanos());
}

std::string Count(int64_t number, std::string_view singular) {
  return std::to_string(number) + " " + std::string(singular) + (number == 1 ? "" : "s");
}

std::optional<std::chrono::milliseconds> ParseDuration(std::string_view text) {
  double number = 0;
  const char* const end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, number, std::chars_format::fixed);
  if (error != std::errc() || !(number > 0)) return std::nullopt;
  const std::string_view name(rest, static_cast<size_t>(end - rest));
  for (const Unit& unit : kUnits) {
    if (unit.name != name) continue;
    const double milliseconds = std::ceil(number * unit.milliseconds);
    if (milliseconds > kYearInMilliseconds) return std::nullopt;
    return std::chrono::milliseconds(static_cast<int64_t>(milliseconds));
  }
  return std::nullopt;
}

google::protobuf::Duration ToProtoDuration(std::chrono::milliseconds duration) {
  google::protobuf::Duration proto;
  proto.set_seconds(duration.count() / 1000);
  proto.set_nanos(static_cast<int32_t>(duration.count() % 1000 * kMilli));
  return proto;
}

}  // namespace rehome
