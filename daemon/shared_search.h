// SPDX-License-Identifier: Apache-2.0
//
// One search of /proc for all who want one. A search reads every process of the host and costs the
// same however many inodes it looks for, so migrations that run at the same time share it.
#ifndef REHOME_DAEMON_SHARED_SEARCH_H_
#define REHOME_DAEMON_SHARED_SEARCH_H_

#include <chrono>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "daemon/inode_holders.h"

namespace rehome {

// A search rests as long as it took, before the next begins: searches one after the other would
// take a whole core from the guests, and those who come in the pause share the next one. No longer
// than this, though: on a host where one takes longer, a migration waits for two of them already.
inline constexpr std::chrono::milliseconds kMaxSearchRest{20};

// Thread-safe.
class SharedSearch {
 public:
  // `search` answers for each query, in order; called by one thread at a time.
  using Search =
      std::function<absl::StatusOr<std::vector<HolderSearch>>(const std::vector<HolderQuery>&)>;
  explicit SharedSearch(Search search) : search_(std::move(search)) {}

  // Blocks for a search that begins after this call, which is what makes it a proof of what the
  // caller knows already: one that is under way does not count. So it takes two searches and the
  // rest between them at most.
  absl::StatusOr<HolderSearch> Find(const HolderQuery& query);

 private:
  struct Waiter {
    HolderQuery query;
    absl::StatusOr<HolderSearch> result = HolderSearch();
    bool done = false;
  };

  const Search search_;
  std::mutex mutex_;
  std::condition_variable ended_;  // a search has
  // Guarded by mutex_.
  std::vector<Waiter*> waiting_;  // for the next search
  bool searching_ = false;
  // Whoever set searching_ has it to himself.
  std::chrono::steady_clock::time_point rest_until_;
};

}  // namespace rehome

#endif  // REHOME_DAEMON_SHARED_SEARCH_H_
