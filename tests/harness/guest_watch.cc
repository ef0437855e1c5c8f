// SPDX-License-Identifier: Apache-2.0
#include "tests/harness/guest_watch.h"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "kvmglue/fd.h"
#include "vmm/reference/guest_check.h"

namespace rehome::harness {
namespace {

using Clock = std::chrono::steady_clock;

// The resolution of what is measured; a look costs some 20 us.
constexpr int kLookMs = 1;
// Field 43 of /proc/PID/stat, counted from the state (field 3) on: guest_time, proc(5).
constexpr size_t kGuestTimeField = 43 - 3;

std::optional<uint64_t> GuestTicks(pid_t pid) {
  // Not an ifstream: a program that another thread starts meanwhile would inherit its descriptor.
  const UniqueFd file(open(absl::StrCat("/proc/", pid, "/stat").c_str(), O_RDONLY | O_CLOEXEC));
  char text[4096];  // field 2 is at most 64 bytes, the 50 others are numbers
  const ssize_t size = file ? read(file.borrow().raw(), text, sizeof(text)) : -1;
  if (size <= 0) return std::nullopt;
  const std::string stat(text, static_cast<size_t>(size));
  const size_t name_end = stat.rfind(')');
  if (name_end == std::string::npos) return std::nullopt;
  const std::vector<std::string> fields =
      absl::StrSplit(stat.substr(name_end + 1), ' ', absl::SkipEmpty());
  uint64_t ticks = 0;
  if (fields.size() <= kGuestTimeField || !absl::SimpleAtoi(fields[kGuestTimeField], &ticks)) {
    return std::nullopt;
  }
  return ticks;
}

std::optional<uint64_t> StepsIn(const GuestProbe& probe) {
  uint64_t steps = 0;
  for (uint32_t vcpu = 0; vcpu < probe.boot_info().vcpu_count; ++vcpu) {
    const absl::StatusOr<rehome_guest_mailbox> mailbox = ReadMailbox(probe, vcpu);
    if (!mailbox.ok()) return std::nullopt;
    steps += mailbox->steps;
  }
  return steps;
}

}  // namespace

absl::StatusOr<std::unique_ptr<GuestWatch>> GuestWatch::Start(pid_t pid) {
  absl::StatusOr<GuestProbe> probe = GuestProbe::Attach(pid);
  if (!probe.ok()) return probe.status();
  std::unique_ptr<GuestWatch> watch(new GuestWatch);
  watch->probes_.push_back(*std::move(probe));
  watch->runners_.push_back({.pid = pid});
  watch->last_progress_ = Clock::now();
  watch->thread_ = std::thread([raw = watch.get()] { raw->Serve(); });
  return watch;
}

GuestWatch::~GuestWatch() {
  stop_ = true;
  if (thread_.joinable()) thread_.join();
}

void GuestWatch::AddProcess(pid_t pid) {
  const std::lock_guard lock(mutex_);
  const bool known = std::any_of(runners_.begin(), runners_.end(),
                                 [pid](const Runner& runner) { return runner.pid == pid; });
  if (!known) runners_.push_back({.pid = pid});
}

void GuestWatch::Serve() {
  while (!stop_) {
    {
      const std::lock_guard lock(mutex_);
      Look();
    }
    poll(nullptr, 0, kLookMs);
  }
}

void GuestWatch::Look() {
  LookAtSteps();
  LookAtRunners();
}

void GuestWatch::LookAtSteps() {
  std::optional<uint64_t> now;
  while (!probes_.empty() && !(now = StepsIn(probes_.back()))) probes_.pop_back();
  // Whoever is still there, or there by now: it may have mapped the memory a while ago or not yet.
  for (auto runner = runners_.rbegin(); !now && runner != runners_.rend(); ++runner) {
    absl::StatusOr<GuestProbe> probe = GuestProbe::Attach(runner->pid);
    if (!probe.ok()) continue;
    now = StepsIn(*probe);
    probes_.push_back(*std::move(probe));
  }
  const Clock::time_point time = Clock::now();
  longest_ = std::max<std::chrono::nanoseconds>(longest_, time - last_progress_);
  if (!now || *now == steps_) return;
  if (*now < steps_) violations_.push_back("the guest went back to what it was");
  steps_ = *now;
  last_progress_ = time;
}

// Those that came last first: then what a process that was left is seen to have run afterwards, it
// has run after another ran.
void GuestWatch::LookAtRunners() {
  std::vector<pid_t> ran;
  for (auto runner = runners_.rbegin(); runner != runners_.rend(); ++runner) {
    const std::optional<uint64_t> ticks = GuestTicks(runner->pid);
    if (!ticks) continue;
    const bool went_on = !runner->first_look && *ticks > runner->guest_ticks;
    runner->first_look = false;
    runner->guest_ticks = *ticks;
    if (!went_on) continue;
    if (runner->left) {
      violations_.push_back(
          absl::StrCat("process ", runner->pid, " ran the guest after another had run it"));
    }
    ran.push_back(runner->pid);
  }
  if (ran.empty()) return;
  // Of those that ran, the first in `ran` came last.
  bool before = true;
  for (Runner& runner : runners_) {
    before = before && runner.pid != ran.front();
    runner.left = runner.left || before;
  }
}

uint64_t GuestWatch::steps() const {
  const std::lock_guard lock(mutex_);
  return steps_;
}

bool GuestWatch::AwaitProgress(std::chrono::milliseconds timeout) {
  uint64_t before = 0;
  {
    const std::lock_guard lock(mutex_);
    LookAtSteps();
    before = steps_;
  }
  const Clock::time_point deadline = Clock::now() + timeout;
  while (steps() == before) {
    if (Clock::now() >= deadline) return false;
    poll(nullptr, 0, kLookMs);
  }
  return true;
}

std::chrono::milliseconds GuestWatch::longest_standstill() const {
  const std::lock_guard lock(mutex_);
  return std::chrono::duration_cast<std::chrono::milliseconds>(longest_);
}

void GuestWatch::ResetStandstill() {
  const std::lock_guard lock(mutex_);
  longest_ = std::chrono::nanoseconds(0);
  last_progress_ = Clock::now();
}

std::vector<std::string> GuestWatch::violations() const {
  const std::lock_guard lock(mutex_);
  return violations_;
}

}  // namespace rehome::harness
