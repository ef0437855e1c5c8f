// SPDX-License-Identifier: Apache-2.0
#include "bench/terminal.h"

#include <langinfo.h>
#include <locale.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"

namespace rehome::bench {
namespace {

bool Utf8Locale() {
  const locale_t locale = newlocale(LC_CTYPE_MASK, "", nullptr);
  if (locale == nullptr) return false;
  const bool utf8 = std::string_view(nl_langinfo_l(CODESET, locale)) == "UTF-8";
  freelocale(locale);
  return utf8;
}

bool ColourTerminal() {
  const char* no_colour = getenv("NO_COLOR");
  if (no_colour != nullptr && *no_colour != '\0') return false;
  const char* term = getenv("TERM");
  return isatty(STDOUT_FILENO) && term != nullptr && std::string_view(term) != "dumb";
}

// At least three digits: 0.8, 12.3, 412.
std::string ThreeDigits(double value) {
  return absl::StrFormat("%.*f", value < 9.995 ? 2 : value < 99.95 ? 1 : 0, value);
}

}  // namespace

Style Style::ForStdout() { return Style({.colour = ColourTerminal(), .utf8 = Utf8Locale()}); }

std::string Style::Paint(std::string_view code, std::string_view text) const {
  if (!abilities_.colour) return std::string(text);
  return absl::StrFormat("\x1b[%sm%s\x1b[0m", std::string(code), std::string(text));
}

std::string Style::Bar(double value, double full, size_t cells) const {
  if (!(value > 0) || !(full > 0)) return "";
  const double share = std::min(value / full, 1.0) * static_cast<double>(cells);
  if (!abilities_.utf8) return std::string(std::max<size_t>(std::lround(share), 1), '#');
  static constexpr std::string_view kEighths[] = {"", "▏", "▎", "▍", "▌", "▋", "▊", "▉"};
  const long eighths = std::max(std::lround(share * 8), 1L);
  std::string bar;
  for (long i = 0; i < eighths / 8; ++i) bar += "█";
  bar += kEighths[eighths % 8];
  return bar;
}

size_t DisplayWidth(std::string_view text) {
  size_t width = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    if (byte == 0x1b) {
      i = std::min(text.find('m', i), text.size());
    } else if ((byte & 0xc0) != 0x80) {
      ++width;
    }
  }
  return width;
}

std::string PadRight(std::string_view text, size_t width) {
  const size_t shown = DisplayWidth(text);
  return std::string(text) + std::string(shown < width ? width - shown : 0, ' ');
}

std::string PadLeft(std::string_view text, size_t width) {
  const size_t shown = DisplayWidth(text);
  return std::string(shown < width ? width - shown : 0, ' ') + std::string(text);
}

std::vector<std::string> Wrap(std::string_view text, size_t width) {
  std::vector<std::string> lines;
  const std::string whole(text);
  for (absl::string_view paragraph : absl::StrSplit(whole, '\n')) {
    bool first = true;
    for (absl::string_view word : absl::StrSplit(paragraph, ' ', absl::SkipEmpty())) {
      const std::string_view piece(word.data(), word.size());
      if (!first && DisplayWidth(lines.back()) + 1 + DisplayWidth(piece) <= width) {
        absl::StrAppend(&lines.back(), " ", word);
      } else {
        lines.emplace_back(piece);
      }
      first = false;
    }
  }
  return lines;
}

std::string FormatMicros(double micros) {
  if (micros < 999.5) return absl::StrFormat("%.*f us", micros < 9.95 ? 1 : 0, micros);
  if (micros < 999.5e3) return ThreeDigits(micros / 1e3) + " ms";
  return ThreeDigits(micros / 1e6) + " s";
}

std::string FormatBytes(double bytes) {
  static constexpr const char* kUnits[] = {"bytes", "KiB", "MiB", "GiB", "TiB"};
  size_t unit = 0;
  while (bytes >= 1024 && unit + 1 < std::size(kUnits)) {
    bytes /= 1024;
    ++unit;
  }
  const bool whole = std::abs(bytes - std::round(bytes)) < 0.05;
  return absl::StrFormat("%.*f %s", whole ? 0 : 1, bytes, kUnits[unit]);
}

std::string FormatCount(unsigned long long count) {
  const std::string digits = absl::StrCat(count);
  std::string grouped;
  for (size_t i = 0; i < digits.size(); ++i) {
    if (i > 0 && (digits.size() - i) % 3 == 0) grouped += ',';
    grouped += digits[i];
  }
  return grouped;
}

}  // namespace rehome::bench
