// SPDX-License-Identifier: Apache-2.0
//
// Typed reading of one TOML table. A reader collects errors with their place and goes on, so that a
// file with three mistakes is repaired in one go. Used by config.cc only.
#ifndef REHOME_DAEMON_CONFIG_READER_H_
#define REHOME_DAEMON_CONFIG_READER_H_

// The distribution's shared library of toml++ reports errors by exceptions; the header-only form
// can be compiled without them.
#undef TOML_SHARED_LIB
#undef TOML_HEADER_ONLY
#undef TOML_EXCEPTIONS
#define TOML_HEADER_ONLY 1
#define TOML_EXCEPTIONS 0
#include <toml++/toml.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "daemon/config.h"

namespace rehome {

// The errors of one file, in the order in which they were found.
class ConfigErrors {
 public:
  explicit ConfigErrors(std::string_view file) : file_(file) {}

  // "file:line:column: key: message"; beyond kMaxConfigErrors only counted.
  void Add(const toml::source_position& where, std::string_view key, std::string_view message);
  // OK if there were none, else INVALID_ARGUMENT / CONFIG_INVALID with all lines.
  absl::Status ToStatus() const;

 private:
  std::string file_;
  std::vector<std::string> lines_;
  size_t dropped_ = 0;
};

// Reads the keys of `table`, which is called `section` in messages. Each Read leaves its output as
// it is if the key is absent or wrong, and returns whether the output was set. A wrong value is an
// error.
class TableReader {
 public:
  // The table must outlive the reader. Every key that is not in `known` is an error.
  TableReader(const toml::table& table, std::string section,
              std::initializer_list<std::string_view> known, ConfigErrors& errors);

  bool Has(std::string_view key) const { return table_.contains(key); }
  const toml::node* Find(std::string_view key) const { return table_.get(key); }
  void Error(std::string_view key, std::string_view message) const;

  // At most `max_bytes`, not empty, no NUL.
  bool ReadString(std::string_view key, size_t max_bytes, std::string* out) const;
  // As a string; must be absolute.
  bool ReadPath(std::string_view key, size_t max_bytes, std::string* out) const;
  bool ReadBool(std::string_view key, bool* out) const;
  bool ReadInteger(std::string_view key, ConfigRange range, int64_t* out) const;
  bool ReadMilliseconds(std::string_view key, ConfigRange range,
                        std::chrono::milliseconds* out) const;
  // An array without repetitions, at most `max_count` long; may be empty.
  bool ReadIntegers(std::string_view key, ConfigRange range, size_t max_count,
                    std::vector<uint32_t>* out) const;
  // At most `max_count` strings of at most `max_bytes`, no NUL; may be empty.
  bool ReadStrings(std::string_view key, size_t max_count, size_t max_bytes,
                   std::vector<std::string>* out) const;
  // A table of strings; keys are not checked, values as in ReadStrings.
  bool ReadStringTable(std::string_view key, size_t max_count, size_t max_bytes,
                       std::map<std::string, std::string>* out) const;

 private:
  const toml::array* FindArray(std::string_view key, size_t max_count) const;
  bool CheckText(const toml::node& node, std::string_view key, size_t max_bytes,
                 std::string* out) const;
  bool CheckInteger(const toml::node& node, std::string_view key, ConfigRange range,
                    int64_t* out) const;
  void WrongType(const toml::node& node, std::string_view key, std::string_view wanted) const;
  std::string FullName(std::string_view key) const;
  void ErrorAt(const toml::node& node, std::string_view key, std::string_view message) const;

  const toml::table& table_;
  std::string section_;
  ConfigErrors& errors_;
};

}  // namespace rehome

#endif  // REHOME_DAEMON_CONFIG_READER_H_
