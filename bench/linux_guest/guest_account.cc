// SPDX-License-Identifier: Apache-2.0
#include "bench/linux_guest/guest_account.h"

#include <charconv>

namespace rehome::linux_guest {
namespace {

// All of `text`, decimal.
std::optional<uint64_t> ParseNumber(std::string_view text) {
  uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

// What is before the separator, which is taken off with it.
std::string_view Cut(std::string_view& text, char separator) {
  const size_t length = text.find(separator);
  const std::string_view head = text.substr(0, length);
  text = length == text.npos ? std::string_view() : text.substr(length + 1);
  return head;
}

std::string ChainKey(uint32_t vcpu) { return "chain" + std::to_string(vcpu); }

}  // namespace

std::optional<GuestAccount> GuestAccount::Parse(std::string_view line) {
  GuestAccount account;
  while (!line.empty()) {
    const std::string_view word = Cut(line, ' ');
    const size_t equals = word.find('=');
    if (equals == word.npos || equals == 0) return std::nullopt;
    const bool added =
        account.values_.emplace(word.substr(0, equals), word.substr(equals + 1)).second;
    if (!added) return std::nullopt;
  }
  return account;
}

std::string GuestAccount::ToLine() const {
  std::string line;
  for (const auto& [key, value] : values_) {
    if (!line.empty()) line += ' ';
    line += key + "=" + value;
  }
  return line;
}

void GuestAccount::Set(const std::string& key, uint64_t value) {
  values_[key] = std::to_string(value);
}

void GuestAccount::SetText(const std::string& key, std::string_view text) {
  std::string& value = values_[key];
  value = text;
  for (char& c : value) {
    if (c <= ' ' || c > '~') c = '_';
  }
}

void GuestAccount::SetChain(uint32_t vcpu, const ChainState& state) {
  std::string text = std::to_string(state.steps);
  for (const uint64_t lane : state.lanes) text += ":" + std::to_string(lane);
  values_[ChainKey(vcpu)] = text;
}

std::optional<uint64_t> GuestAccount::Number(const std::string& key) const {
  const auto found = values_.find(key);
  if (found == values_.end()) return std::nullopt;
  return ParseNumber(found->second);
}

std::string GuestAccount::Text(const std::string& key) const {
  const auto found = values_.find(key);
  return found == values_.end() ? "" : found->second;
}

std::optional<ChainState> GuestAccount::Chain(uint32_t vcpu) const {
  const std::string text = Text(ChainKey(vcpu));
  std::string_view left = text;
  ChainState state;
  const std::optional<uint64_t> steps = ParseNumber(Cut(left, ':'));
  if (!steps) return std::nullopt;
  state.steps = *steps;
  for (uint64_t& lane : state.lanes) {
    const std::optional<uint64_t> value = ParseNumber(Cut(left, ':'));
    if (!value) return std::nullopt;
    lane = *value;
  }
  if (!left.empty()) return std::nullopt;
  return state;
}

}  // namespace rehome::linux_guest
