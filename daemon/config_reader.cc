// SPDX-License-Identifier: Apache-2.0
#include "daemon/config_reader.h"

#include <algorithm>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "daemon/reasons.h"
#include "kvmglue/status_reason.h"

namespace rehome {
namespace {

std::string TypeName(const toml::node& node) {
  std::ostringstream out;
  out << node.type();
  return out.str();
}

std::string RangeText(ConfigRange range) { return absl::StrCat(range.min, " to ", range.max); }

std::string KnownKeys(std::initializer_list<std::string_view> known) {
  std::string text = "unknown key; known here: ";
  for (std::string_view key : known) {
    if (key != *known.begin()) text.append(", ");
    text.append(key);
  }
  return text;
}

}  // namespace

void ConfigErrors::Add(const toml::source_position& where, std::string_view key,
                       std::string_view message) {
  if (lines_.size() == kMaxConfigErrors) {
    ++dropped_;
    return;
  }
  std::string line = absl::StrCat(file_, ":", where.line, ":", where.column, ": ");
  if (!key.empty()) line.append(key).append(": ");
  lines_.push_back(line.append(message));
}

absl::Status ConfigErrors::ToStatus() const {
  if (lines_.empty()) return absl::OkStatus();
  std::string text = absl::StrJoin(lines_, "\n");
  if (dropped_ > 0) absl::StrAppend(&text, "\n", file_, ": and ", dropped_, " more");
  return MakeStatus(absl::StatusCode::kInvalidArgument, reason::kConfigInvalid, text);
}

TableReader::TableReader(const toml::table& table, std::string section,
                         std::initializer_list<std::string_view> known, ConfigErrors& errors)
    : table_(table), section_(std::move(section)), errors_(errors) {
  for (const auto& [key, node] : table_) {
    if (std::find(known.begin(), known.end(), key.str()) != known.end()) continue;
    // The place of the key, not of its value: that is where the typo is.
    errors_.Add(key.source().begin, FullName(key.str()), KnownKeys(known));
  }
}

std::string TableReader::FullName(std::string_view key) const {
  return section_.empty() ? std::string(key) : std::string(section_).append(".").append(key);
}

void TableReader::Error(std::string_view key, std::string_view message) const {
  const toml::node* node = Find(key);
  ErrorAt(node != nullptr ? *node : table_, key, message);
}

void TableReader::ErrorAt(const toml::node& node, std::string_view key,
                          std::string_view message) const {
  errors_.Add(node.source().begin, FullName(key), message);
}

void TableReader::WrongType(const toml::node& node, std::string_view key,
                            std::string_view wanted) const {
  ErrorAt(node, key, absl::StrCat("is of type ", TypeName(node), ", must be ").append(wanted));
}

bool TableReader::CheckText(const toml::node& node, std::string_view key, size_t max_bytes,
                            std::string* out) const {
  const toml::value<std::string>* value = node.as_string();
  if (value == nullptr) {
    WrongType(node, key, "a string");
    return false;
  }
  const std::string& text = value->get();
  if (text.size() > max_bytes) {
    ErrorAt(node, key, absl::StrCat("is ", text.size(), " bytes long, at most ", max_bytes));
    return false;
  }
  if (text.find('\0') != std::string::npos) {
    ErrorAt(node, key, "contains a NUL character");
    return false;
  }
  *out = text;
  return true;
}

bool TableReader::CheckInteger(const toml::node& node, std::string_view key, ConfigRange range,
                               int64_t* out) const {
  const toml::value<int64_t>* value = node.as_integer();
  if (value == nullptr) {
    WrongType(node, key, "an integer");
    return false;
  }
  if (value->get() < range.min || value->get() > range.max) {
    ErrorAt(node, key, absl::StrCat(value->get(), " is out of range, must be ", RangeText(range)));
    return false;
  }
  *out = value->get();
  return true;
}

const toml::array* TableReader::FindArray(std::string_view key, size_t max_count) const {
  const toml::node* node = Find(key);
  if (node == nullptr) return nullptr;
  const toml::array* array = node->as_array();
  if (array == nullptr) {
    WrongType(*node, key, "an array");
  } else if (array->size() > max_count) {
    ErrorAt(*node, key, absl::StrCat("has ", array->size(), " entries, at most ", max_count));
    return nullptr;
  }
  return array;
}

bool TableReader::ReadString(std::string_view key, size_t max_bytes, std::string* out) const {
  const toml::node* node = Find(key);
  std::string text;
  if (node == nullptr || !CheckText(*node, key, max_bytes, &text)) return false;
  if (text.empty()) {
    ErrorAt(*node, key, "is empty");
    return false;
  }
  *out = std::move(text);
  return true;
}

bool TableReader::ReadPath(std::string_view key, size_t max_bytes, std::string* out) const {
  std::string path;
  if (!ReadString(key, max_bytes, &path)) return false;
  if (path.front() != '/') {
    Error(key, absl::StrCat("\"", path, "\" is not an absolute path"));
    return false;
  }
  *out = std::move(path);
  return true;
}

bool TableReader::ReadBool(std::string_view key, bool* out) const {
  const toml::node* node = Find(key);
  if (node == nullptr) return false;
  const toml::value<bool>* value = node->as_boolean();
  if (value == nullptr) {
    WrongType(*node, key, "true or false");
    return false;
  }
  *out = value->get();
  return true;
}

bool TableReader::ReadInteger(std::string_view key, ConfigRange range, int64_t* out) const {
  const toml::node* node = Find(key);
  return node != nullptr && CheckInteger(*node, key, range, out);
}

bool TableReader::ReadMilliseconds(std::string_view key, ConfigRange range,
                                   std::chrono::milliseconds* out) const {
  int64_t number = 0;
  if (!ReadInteger(key, range, &number)) return false;
  *out = std::chrono::milliseconds(number);
  return true;
}

bool TableReader::ReadIntegers(std::string_view key, ConfigRange range, size_t max_count,
                               std::vector<uint32_t>* out) const {
  const toml::array* array = FindArray(key, max_count);
  if (array == nullptr) return false;
  std::vector<uint32_t> numbers;
  for (const toml::node& element : *array) {
    int64_t number = 0;
    if (!CheckInteger(element, key, range, &number)) return false;
    if (std::find(numbers.begin(), numbers.end(), number) != numbers.end()) {
      ErrorAt(element, key, absl::StrCat(number, " is listed twice"));
      return false;
    }
    numbers.push_back(static_cast<uint32_t>(number));
  }
  *out = std::move(numbers);
  return true;
}

bool TableReader::ReadStrings(std::string_view key, size_t max_count, size_t max_bytes,
                              std::vector<std::string>* out) const {
  const toml::array* array = FindArray(key, max_count);
  if (array == nullptr) return false;
  std::vector<std::string> strings(array->size());
  for (size_t i = 0; i < array->size(); ++i) {
    if (!CheckText(*array->get(i), key, max_bytes, &strings[i])) return false;
  }
  *out = std::move(strings);
  return true;
}

bool TableReader::ReadStringTable(std::string_view key, size_t max_count, size_t max_bytes,
                                  std::map<std::string, std::string>* out) const {
  const toml::node* node = Find(key);
  if (node == nullptr) return false;
  const toml::table* table = node->as_table();
  if (table == nullptr) {
    WrongType(*node, key, "a table of strings");
    return false;
  }
  if (table->size() > max_count) {
    ErrorAt(*node, key, absl::StrCat("has ", table->size(), " entries, at most ", max_count));
    return false;
  }
  std::map<std::string, std::string> strings;
  for (const auto& [name, value] : *table) {
    const std::string full = std::string(key).append(".").append(name.str());
    if (!CheckText(value, full, max_bytes, &strings[std::string(name.str())])) return false;
  }
  *out = std::move(strings);
  return true;
}

}  // namespace rehome
