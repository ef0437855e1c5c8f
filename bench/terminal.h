// SPDX-License-Identifier: Apache-2.0
//
// Text for people: colour where a terminal shows it, bars, and columns that line up. Made for 80
// columns.
#ifndef REHOME_BENCH_TERMINAL_H_
#define REHOME_BENCH_TERMINAL_H_

#include <string>
#include <string_view>
#include <vector>

namespace rehome::bench {

inline constexpr size_t kTerminalColumns = 80;

// How to write: pure functions of two answers about the other end.
class Style {
 public:
  struct Abilities {
    bool colour = false;
    bool utf8 = false;
  };
  explicit Style(Abilities abilities) : abilities_(abilities) {}

  // Of this process's standard output: colour on a terminal that has it and unless NO_COLOR is set
  // (no-color.org), UTF-8 as the locale says. Reads the environment.
  static Style ForStdout();

  std::string Bold(std::string_view text) const { return Paint("1", text); }
  std::string Dim(std::string_view text) const { return Paint("2", text); }
  std::string Good(std::string_view text) const { return Paint("32", text); }
  std::string Bad(std::string_view text) const { return Paint("1;31", text); }

  // A mark in front of what was checked, one column wide.
  std::string Passed() const { return Good(abilities_.utf8 ? "✓" : "+"); }
  std::string Failed() const { return Bad(abilities_.utf8 ? "✗" : "!"); }
  std::string_view Arrow() const { return abilities_.utf8 ? "→" : "->"; }

  // `value` in proportion to `full`, at most `cells` columns; anything above 0 shows at least a
  // trace.
  std::string Bar(double value, double full, size_t cells) const;

 private:
  std::string Paint(std::string_view code, std::string_view text) const;

  Abilities abilities_;
};

// Columns on a screen: escape sequences count nothing, a UTF-8 sequence counts one.
size_t DisplayWidth(std::string_view text);

// Padded to `width` columns; longer text stays whole.
std::string PadRight(std::string_view text, size_t width);
std::string PadLeft(std::string_view text, size_t width);

// Words broken into lines of at most `width` columns, and where the text has a line end; a word
// longer than that stands alone.
std::vector<std::string> Wrap(std::string_view text, size_t width);

// "0.8 us", "412 us", "12.3 ms", "1.50 s": three digits that mean something.
std::string FormatMicros(double micros);
// "64 MiB", "8 GiB", "3.5 KiB", "17 bytes".
std::string FormatBytes(double bytes);
// "12,345".
std::string FormatCount(unsigned long long count);

}  // namespace rehome::bench

#endif  // REHOME_BENCH_TERMINAL_H_
