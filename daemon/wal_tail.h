// SPDX-License-Identifier: Apache-2.0
//
// What SQLite leaves out of a write-ahead log when it opens a database: everything behind the last
// whole transaction. It does so in silence; this says how much that was.
#ifndef REHOME_DAEMON_WAL_TAIL_H_
#define REHOME_DAEMON_WAL_TAIL_H_

#include <cstdint>
#include <string>

namespace rehome {

struct WalTail {
  uint64_t bytes = 0;    // of this log's own that are not used
  uint64_t frames = 0;   // of these, whole frames (a page each)
  uint64_t commits = 0;  // transactions that had ended in them: appends that had returned
  bool none() const { return bytes == 0; }
};

// Reads the log at `path`; changes nothing. None for a file that is not there, is empty, or cannot
// be read. Frames of an earlier use of the file, which a log has behind its own, are no tail; if
// the header is damaged, they cannot be told from its own and are counted. SQLite's format:
// https://www.sqlite.org/fileformat2.html, section 4.
WalTail InspectWal(const std::string& path);

}  // namespace rehome

#endif  // REHOME_DAEMON_WAL_TAIL_H_
