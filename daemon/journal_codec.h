// SPDX-License-Identifier: Apache-2.0
//
// Migration <-> rehome.journal.v1.Record, the bytes on disk. The only place of the daemon that
// knows the private proto.
#ifndef REHOME_DAEMON_JOURNAL_CODEC_H_
#define REHOME_DAEMON_JOURNAL_CODEC_H_

#include <cstddef>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "daemon/migration.h"

namespace rehome {

// Texts for people come from VMMs and other processes: cut to this many bytes, because a record is
// rewritten at each transition.
inline constexpr size_t kMaxRecordedTextBytes = 512;
// Names, reasons and identifiers; the longest of ours is 64.
inline constexpr size_t kMaxRecordedNameBytes = 128;
// Entries of a list. Preflight has about 20 checks.
inline constexpr size_t kMaxRecordedListItems = 32;
// Memory files of a VM (docs/agent-protocol.md, REHOME_MAX_MEMORIES), each with at most
// kMaxHoldersListed holders.
inline constexpr size_t kMaxRecordedInodes = 16;
// Follows from those above, with room; one that is larger is a bug of ours, or damage.
inline constexpr size_t kMaxRecordBytes = 128 * 1024;

// Texts that are too long or not UTF-8 are cut and mended, lists cut: a record always fits.
std::string EncodeRecord(const Migration& migration);

// DATA_LOSS / JOURNAL_CORRUPT if `bytes` is not a record, or has a value unknown to this version.
absl::StatusOr<Migration> DecodeRecord(std::string_view bytes);

}  // namespace rehome

#endif  // REHOME_DAEMON_JOURNAL_CODEC_H_
