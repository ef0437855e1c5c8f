// SPDX-License-Identifier: Apache-2.0
#include "daemon/service/migration_filter.h"

#include <cctype>
#include <optional>
#include <string>
#include <vector>

#include "daemon/service/resource_names.h"
#include "daemon/service/service_reasons.h"
#include "daemon/service/status_details.h"

namespace rehome {
namespace {

struct Token {
  enum class Kind { kWord, kQuoted, kEquals, kEnd };
  Kind kind = Kind::kEnd;
  std::string text;
  size_t position = 0;  // of the first character, from 1
};

absl::Status BadFilter(size_t position, const std::string& what) {
  return FieldErrors(service_reason::kBadFilter,
                     {{"filter", "at character " + std::to_string(position) + ": " + what}});
}

bool IsWordCharacter(char c) {
  return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_' || c == '-' || c == '.' ||
         c == '/';
}

// Splits a filter into words, quoted strings and equals signs.
class Scanner {
 public:
  explicit Scanner(std::string_view text) : text_(text) {}

  absl::StatusOr<Token> Next() {
    while (at_ < text_.size() && std::isspace(static_cast<unsigned char>(text_[at_])) != 0) ++at_;
    Token token{.position = at_ + 1};
    if (at_ == text_.size()) return token;
    if (text_[at_] == '=') {
      ++at_;
      token.kind = Token::Kind::kEquals;
      return token;
    }
    if (text_[at_] == '"') return Quoted(std::move(token));
    while (at_ < text_.size() && IsWordCharacter(text_[at_])) token.text += text_[at_++];
    if (token.text.empty()) {
      // Not quoted back: it may be one byte of a longer UTF-8 sequence.
      return BadFilter(token.position,
                       "this character is not supported; use FIELD = VALUE joined by AND");
    }
    token.kind = Token::Kind::kWord;
    return token;
  }

 private:
  absl::StatusOr<Token> Quoted(Token token) {
    const size_t end = text_.find('"', at_ + 1);
    if (end == std::string_view::npos) return BadFilter(token.position, "the quote is not closed");
    token.kind = Token::Kind::kQuoted;
    token.text = std::string(text_.substr(at_ + 1, end - at_ - 1));
    at_ = end + 1;
    return token;
  }

  const std::string_view text_;
  size_t at_ = 0;
};

std::optional<MigrationState> StateNamed(std::string_view name) {
  for (size_t number = 1; number <= kMigrationStateCount; ++number) {
    const auto state = static_cast<MigrationState>(number);
    if (name == MigrationStateName(state)) return state;
  }
  return std::nullopt;
}

absl::Status Restrict(const Token& field, const Token& value, MigrationFilter* filter) {
  if (field.text == "vm") {
    if (!filter->vm_id.empty()) return BadFilter(field.position, "field vm stands there twice");
    const std::optional<std::string> id = VmIdIn(value.text);
    filter->vm_id = id.value_or(value.text);
    if (!IsId(filter->vm_id)) return BadFilter(value.position, "not the name or id of a VM");
    return absl::OkStatus();
  }
  if (field.text == "state") {
    if (filter->state.has_value())
      return BadFilter(field.position, "field state stands there twice");
    filter->state = StateNamed(value.text);
    if (!filter->state.has_value()) {
      return BadFilter(value.position, "unknown state '" + value.text + "'");
    }
    return absl::OkStatus();
  }
  return BadFilter(field.position, "unknown field '" + field.text + "'; fields are vm and state");
}

// One FIELD = VALUE, whose first token is read already.
absl::Status ParseRestriction(const Token& field, Scanner* scanner, MigrationFilter* filter) {
  if (field.kind != Token::Kind::kWord) return BadFilter(field.position, "a field is missing here");
  if (field.text == "NOT") return BadFilter(field.position, "NOT is not supported");
  const absl::StatusOr<Token> equals = scanner->Next();
  if (!equals.ok()) return equals.status();
  if (equals->kind != Token::Kind::kEquals) {
    return BadFilter(equals->position, "'=' is missing after field '" + field.text + "'");
  }
  const absl::StatusOr<Token> value = scanner->Next();
  if (!value.ok()) return value.status();
  if (value->kind != Token::Kind::kWord && value->kind != Token::Kind::kQuoted) {
    return BadFilter(value->position, "a value is missing for field '" + field.text + "'");
  }
  return Restrict(field, *value, filter);
}

}  // namespace

absl::StatusOr<MigrationFilter> ParseMigrationFilter(std::string_view text) {
  if (text.size() > kMaxFilterLength) {
    return BadFilter(kMaxFilterLength + 1, "the filter is longer than " +
                                               std::to_string(kMaxFilterLength) + " characters");
  }
  MigrationFilter filter;
  Scanner scanner(text);
  absl::StatusOr<Token> token = scanner.Next();
  if (token.ok() && token->kind == Token::Kind::kEnd) return filter;
  while (token.ok()) {
    if (absl::Status status = ParseRestriction(*token, &scanner, &filter); !status.ok()) {
      return status;
    }
    token = scanner.Next();
    if (!token.ok()) break;
    if (token->kind == Token::Kind::kEnd) return filter;
    if (token->kind != Token::Kind::kWord || token->text != "AND") {
      return BadFilter(token->position,
                       token->text == "OR" ? "OR is not supported" : "AND is missing here");
    }
    token = scanner.Next();
  }
  return token.status();
}

}  // namespace rehome
