// SPDX-License-Identifier: Apache-2.0
//
// MigrationTrace <-> rehome.journal.v1.Trace, the bytes in the table `traces` of the journal.
#ifndef REHOME_DAEMON_TRACE_CODEC_H_
#define REHOME_DAEMON_TRACE_CODEC_H_

#include <cstddef>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "daemon/migration_trace.h"

namespace rehome {

// Follows from kMaxTraceSteps and kMaxTraceCalls, when every number is as long as it can be;
// docs/journal.md has what one takes as a rule.
inline constexpr size_t kMaxTraceBytes = 48 * 1024;

std::string EncodeTrace(const MigrationTrace& trace);

// DATA_LOSS / JOURNAL_CORRUPT if `bytes` is no trace, or one with more in it than there can be.
absl::StatusOr<MigrationTrace> DecodeTrace(std::string_view bytes);

}  // namespace rehome

#endif  // REHOME_DAEMON_TRACE_CODEC_H_
