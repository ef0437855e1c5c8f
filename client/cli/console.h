// SPDX-License-Identifier: Apache-2.0
//
// Where the program writes, and what the other end can show. Results go to `out`, everything else
// (progress, notes, errors) to `err`.
#ifndef REHOME_CLIENT_CLI_CONSOLE_H_
#define REHOME_CLIENT_CLI_CONSOLE_H_

#include <cstddef>
#include <ostream>
#include <string>
#include <string_view>

namespace rehome {

struct Console {
  std::ostream& out;
  std::ostream& err;
  bool out_is_terminal = false;
  bool err_is_terminal = false;
  bool color = false;    // terminals that want it (NO_COLOR, TERM=dumb)
  bool unicode = false;  // the locale's encoding is UTF-8

  std::string_view ok_mark() const { return unicode ? "✓" : "ok"; }
  std::string_view failed_mark() const { return unicode ? "✗" : "FAILED"; }
  std::string_view micro() const { return unicode ? "µ" : "u"; }
  std::string_view bar() const { return unicode ? "█" : "#"; }

  // `text` in the colour, or as it is.
  std::string Green(std::string_view text) const { return Paint("32", text); }
  std::string Red(std::string_view text) const { return Paint("31", text); }
  std::string Yellow(std::string_view text) const { return Paint("33", text); }
  std::string Bold(std::string_view text) const { return Paint("1", text); }
  std::string Dim(std::string_view text) const { return Paint("2", text); }

 private:
  std::string Paint(const char* code, std::string_view text) const;
};

// The console of this process: std::cout, std::cerr, what isatty(3), the environment and the
// terminal say.
Console ProcessConsole();

// Columns that UTF-8 text takes: code points, escape sequences not counted.
size_t DisplayWidth(std::string_view text);

// `text` filled with spaces to `width` columns.
std::string PadTo(std::string_view text, size_t width);

// `text` from a daemon without control characters, so that a name or message cannot drive the
// terminal. Line breaks become spaces.
std::string Printable(std::string_view text);

}  // namespace rehome

#endif  // REHOME_CLIENT_CLI_CONSOLE_H_
