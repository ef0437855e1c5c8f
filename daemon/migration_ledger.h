// SPDX-License-Identifier: Apache-2.0
//
// What the metrics know of migrations. It sees every record that goes to the journal, and keeps of
// each no more than it counts.
#ifndef REHOME_DAEMON_MIGRATION_LEDGER_H_
#define REHOME_DAEMON_MIGRATION_LEDGER_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "daemon/journal.h"
#include "daemon/migration.h"
#include "daemon/pinned_memory.h"

namespace rehome {

// Inodes of finished migrations that are looked for among our descriptors, the latest first to be
// kept: those of thousands of guests, at some 100 bytes each.
inline constexpr size_t kMaxFinishedInodes = 65'536;
// Different (outcome, reason) that are counted apart; further ones count as reason OTHER. The
// daemon has about a hundred reasons, and Prometheus keeps a time series for each for ever.
inline constexpr size_t kMaxOutcomes = 256;

// Upper bounds of the blackout histogram in ns, without the last, which has none. Around what was
// measured (docs/benchmarks.md), and up to the default hand-over and resolve time-outs.
inline constexpr std::array<uint64_t, 12> kBlackoutBounds = {
    250'000,    500'000,    1'000'000,   2'000'000,   4'000'000,     8'000'000,
    16'000'000, 32'000'000, 125'000'000, 500'000'000, 1'000'000'000, 2'000'000'000};

// Not cumulative: each blackout is in one bucket, the first whose bound it does not exceed.
struct BlackoutHistogram {
  std::array<uint64_t, kBlackoutBounds.size() + 1> buckets{};
  uint64_t count = 0;
  uint64_t sum_ns = 0;
};

// Thread-safe.
class MigrationLedger {
 public:
  struct Totals {
    // Migrations that are under way or INDETERMINATE, by state; all such states.
    std::map<MigrationState, size_t> open;
    // Ends since this daemon started, by state and reason ("" of a success). INDETERMINATE counts
    // each time that it is reached.
    std::map<std::pair<MigrationState, std::string>, uint64_t> ended;
    std::map<Strategy, BlackoutHistogram> blackouts;  // of guests that run on the target
    uint64_t rescue_attempts = 0;
    uint64_t recovered = 0;  // taken over from a daemon that ended
  };

  // A record that the journal had when the daemon started: nothing has happened in this process.
  void Known(const Migration& record);
  // A record that was appended.
  void Add(const Migration& record);

  Totals totals() const;
  // Whose each known inode of guest memory is. One that several migrations moved belongs to the one
  // that is under way, else to the one that is INDETERMINATE, else it is finished.
  std::map<InodeId, MemoryUse> GuestMemory() const;

 private:
  struct Open {
    MigrationState state;
    std::vector<InodeId> memory;
    uint32_t rescue_attempts = 0;
    uint32_t restarts = 0;
  };

  // These REQUIRE mutex_.
  void Follow(const Migration& record);
  void CountEnd(const Migration& record);
  void KeepFinished(const std::vector<InodeId>& memory);

  mutable std::mutex mutex_;
  // Guarded by mutex_.
  std::map<std::string, Open> open_;      // by id
  std::map<InodeId, uint64_t> finished_;  // number of its latest entry in finished_order_
  std::deque<std::pair<uint64_t, InodeId>> finished_order_;
  uint64_t last_number_ = 0;
  Totals totals_;
};

// `journal`, with every record shown to `ledger` on its way. Both must outlive it. An admission
// that cannot be journalled is not shown: it does not take place.
std::unique_ptr<Journal> NewLedgerJournal(Journal* journal, MigrationLedger* ledger);

}  // namespace rehome

#endif  // REHOME_DAEMON_MIGRATION_LEDGER_H_
