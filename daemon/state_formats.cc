// SPDX-License-Identifier: Apache-2.0
#include "daemon/state_formats.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "daemon/reasons.h"
#include "kvmglue/status_reason.h"

namespace rehome {
namespace {

void AppendRange(std::string* text, StateFormats formats) {
  absl::StrAppend(text, formats.oldest);
  if (formats.newest != formats.oldest) absl::StrAppend(text, " to ", formats.newest);
}

}  // namespace

StateFormats WritesOf(const VmDescription& source) {
  const uint32_t oldest = source.state_format_oldest;
  return {oldest == 0 ? source.state_format : oldest, source.state_format};
}

StateFormats ReadsOf(const VmmHello& target) {
  return {target.state_format_read_min, target.state_format_read_max};
}

std::vector<StateFormats> EachAlone(std::span<const uint32_t> formats) {
  std::vector<StateFormats> ranges;
  for (const uint32_t format : formats) ranges.push_back({format, format});
  return ranges;
}

std::optional<uint32_t> ChooseStateFormat(StateFormats writes,
                                          std::span<const StateFormats> reads) {
  std::optional<uint32_t> chosen;
  for (const StateFormats& range : reads) {
    const uint32_t newest = std::min(writes.newest, range.newest);
    if (newest < writes.oldest || newest < range.oldest) continue;
    chosen = std::max(chosen.value_or(newest), newest);
  }
  return chosen;
}

absl::StatusOr<uint32_t> AgreeOnStateFormat(const std::string& source, StateFormats writes,
                                            const std::string& target,
                                            std::span<const StateFormats> reads) {
  if (const std::optional<uint32_t> chosen = ChooseStateFormat(writes, reads)) return *chosen;
  std::string written;
  AppendRange(&written, writes);
  return MakeStatus(absl::StatusCode::kFailedPrecondition, reason::kStateFormatUnsupported,
                    absl::StrCat("the source VMM ", source, " writes state format ", written,
                                 " for this guest, the target ", target, " reads ",
                                 reads.empty() ? "none" : absl::StrJoin(reads, ", ", AppendRange)));
}

}  // namespace rehome
