// SPDX-License-Identifier: Apache-2.0
#include "client/trace/markup.h"

#include <cmath>
#include <cstdint>

namespace rehome {

std::string Escaped(std::string_view text) {
  std::string escaped;
  for (const char c : text) {
    switch (c) {
      case '&':
        escaped += "&amp;";
        break;
      case '<':
        escaped += "&lt;";
        break;
      case '>':
        escaped += "&gt;";
        break;
      case '"':
        escaped += "&quot;";
        break;
      default:
        escaped += (static_cast<unsigned char>(c) < ' ' || c == 0x7f) ? ' ' : c;
    }
  }
  return escaped;
}

std::string Number(double value) {
  const auto tenths = static_cast<int64_t>(std::llround(value * 10));
  const int64_t size = tenths < 0 ? -tenths : tenths;
  std::string text = (tenths < 0 ? "-" : "") + std::to_string(size / 10);
  if (size % 10 != 0) text += "." + std::to_string(size % 10);
  return text;
}

}  // namespace rehome
