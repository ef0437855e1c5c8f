// SPDX-License-Identifier: Apache-2.0
//
// One line of key=value, separated by blanks: what the guest counts. Values have no blanks.
#ifndef REHOME_BENCH_LINUX_GUEST_GUEST_ACCOUNT_H_
#define REHOME_BENCH_LINUX_GUEST_GUEST_ACCOUNT_H_

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>

#include "bench/linux_guest/chain.h"

namespace rehome::linux_guest {

class GuestAccount {
 public:
  // Nothing if a word is no key=value, or a key comes twice.
  static std::optional<GuestAccount> Parse(std::string_view line);
  std::string ToLine() const;

  void Set(const std::string& key, uint64_t value);
  // Blanks and control characters become '_', since a value has none.
  void SetText(const std::string& key, std::string_view text);
  void SetChain(uint32_t vcpu, const ChainState& state);

  // Nothing if the key is missing or its value is not of that kind.
  std::optional<uint64_t> Number(const std::string& key) const;
  std::string Text(const std::string& key) const;  // "" if missing
  std::optional<ChainState> Chain(uint32_t vcpu) const;

 private:
  std::map<std::string, std::string> values_;
};

}  // namespace rehome::linux_guest

#endif  // REHOME_BENCH_LINUX_GUEST_GUEST_ACCOUNT_H_
