// SPDX-License-Identifier: Apache-2.0
#include "daemon/shared_search.h"

#include <algorithm>
#include <thread>
#include <utility>

namespace rehome {

absl::StatusOr<HolderSearch> SharedSearch::Find(const HolderQuery& query) {
  Waiter self{.query = query};
  std::unique_lock<std::mutex> lock(mutex_);
  waiting_.push_back(&self);
  ended_.wait(lock, [&] { return self.done || !searching_; });
  if (self.done) return std::move(self.result);

  // Whoever finds nobody searching does it for all who wait by then.
  searching_ = true;
  lock.unlock();
  std::this_thread::sleep_until(rest_until_);
  lock.lock();
  const std::vector<Waiter*> served = std::exchange(waiting_, {});
  lock.unlock();
  std::vector<HolderQuery> queries;
  queries.reserve(served.size());
  for (const Waiter* waiter : served) queries.push_back(waiter->query);
  const auto begun = std::chrono::steady_clock::now();
  absl::StatusOr<std::vector<HolderSearch>> found = search_(queries);
  const auto ended = std::chrono::steady_clock::now();
  lock.lock();
  rest_until_ =
      ended + std::min<std::chrono::steady_clock::duration>(ended - begun, kMaxSearchRest);
  for (size_t i = 0; i < served.size(); ++i) {
    if (found.ok()) {
      served[i]->result = std::move((*found)[i]);
    } else {
      served[i]->result = found.status();
    }
    served[i]->done = true;
  }
  searching_ = false;
  ended_.notify_all();
  return std::move(self.result);
}

}  // namespace rehome
