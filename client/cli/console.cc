// SPDX-License-Identifier: Apache-2.0
#include "client/cli/console.h"

#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <iostream>

namespace rehome {
namespace {

constexpr char kEscape = '\x1b';

std::string_view Environment(const char* name) {
  const char* const value = std::getenv(name);
  return value == nullptr ? std::string_view() : std::string_view(value);
}

// The first that is set counts, as in setlocale(3). Asking the environment saves loading locales.
bool LocaleIsUtf8() {
  for (const char* name : {"LC_ALL", "LC_CTYPE", "LANG"}) {
    std::string value(Environment(name));
    if (value.empty()) continue;
    std::transform(value.begin(), value.end(), value.begin(),
                   [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
    return value.find("utf-8") != std::string::npos || value.find("utf8") != std::string::npos;
  }
  return false;
}

bool Continues(char c) { return (static_cast<unsigned char>(c) & 0xc0) == 0x80; }

// The end of the escape sequence that starts at `at` ("\x1b[31m").
size_t EscapeEnd(std::string_view text, size_t at) {
  while (at < text.size() && text[at] != 'm') ++at;
  return std::min(at + 1, text.size());
}

}  // namespace

std::string Console::Paint(const char* code, std::string_view text) const {
  if (!color) return std::string(text);
  return std::string("\x1b[") + code + "m" + std::string(text) + "\x1b[0m";
}

Console ProcessConsole() {
  Console console{.out = std::cout, .err = std::cerr};
  console.out_is_terminal = isatty(STDOUT_FILENO) == 1;
  const std::string_view term = Environment("TERM");
  const bool capable = !term.empty() && term != "dumb";
  console.err_is_terminal = isatty(STDERR_FILENO) == 1 && capable;
  console.color = console.out_is_terminal && console.err_is_terminal && capable &&
                  Environment("NO_COLOR").empty();
  console.unicode = LocaleIsUtf8();
  return console;
}

size_t DisplayWidth(std::string_view text) {
  size_t width = 0;
  for (size_t at = 0; at < text.size();) {
    if (text[at] == kEscape) {
      at = EscapeEnd(text, at);
      continue;
    }
    if (!Continues(text[at])) ++width;
    ++at;
  }
  return width;
}

std::string PadTo(std::string_view text, size_t width) {
  const size_t used = DisplayWidth(text);
  return std::string(text) + std::string(width > used ? width - used : 0, ' ');
}

std::string Printable(std::string_view text) {
  std::string clean;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte == 0x7f) {
      clean += ' ';
    } else {
      clean += c;
    }
  }
  return clean;
}

}  // namespace rehome
