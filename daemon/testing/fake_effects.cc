// SPDX-License-Identifier: Apache-2.0
#include "daemon/testing/fake_effects.h"

#include <chrono>
#include <utility>

#include "daemon/reasons.h"

namespace rehome {
namespace {

// How often a held migration looks at its interrupt: a condition variable cannot wait for an
// eventfd.
constexpr std::chrono::milliseconds kInterruptPoll{1};

Event HappyEvent(Effect effect) {
  switch (effect) {
    case Effect::kNone:
    case Effect::kRunPreflight:
      return Event::kPreflightPassed;
    case Effect::kLaunchTarget:
      return Event::kTargetConnected;
    case Effect::kPrepareTarget:
      return Event::kTargetPrepared;
    case Effect::kArm:
      return Event::kArmed;
    case Effect::kHandOver:
      return Event::kVerdictRunning;
    case Effect::kAwaitFirstRun:
      return Event::kFirstRunSeen;
    case Effect::kFenceSource:
      return Event::kFenceProven;
    case Effect::kAbort:
      return Event::kSourceResumed;
    case Effect::kDiscardTarget:
      return Event::kTargetDiscarded;
    case Effect::kRecover:
      return Event::kSourceResumed;
    case Effect::kBuildRescue:
      return Event::kTargetPrepared;
    case Effect::kHandOverToRescue:
      return Event::kVerdictRunning;
  }
  return Event::kUnreachable;
}

// How a real effect answers an interrupt; the others do not listen to it.
bool AnswersInterrupt(Effect effect, Event* event) {
  switch (effect) {
    case Effect::kRunPreflight:
    case Effect::kLaunchTarget:
    case Effect::kPrepareTarget:
    case Effect::kArm:
      *event = Event::kInterrupted;
      return true;
    case Effect::kHandOver:
      *event = Event::kVerdictAborted;
      return true;
    case Effect::kNone:
    case Effect::kAwaitFirstRun:
    case Effect::kFenceSource:
    case Effect::kAbort:
    case Effect::kDiscardTarget:
    case Effect::kRecover:
    case Effect::kBuildRescue:
    case Effect::kHandOverToRescue:
      return false;
  }
  return false;
}

}  // namespace

Outcome HappyOutcome(Effect effect, const Migration& record) {
  Outcome outcome{HappyEvent(effect), {}, record};
  if (effect == Effect::kRunPreflight) {
    outcome.update.preflight = {{"source_registered", PreflightCheck::Result::kPassed, "", ""}};
  }
  if (effect == Effect::kFenceSource) {
    outcome.update.memory_inodes = {{.device = 1, .inode = 2}};
    outcome.update.fence.process_exited = true;
    outcome.update.fence.search.memory = {
        {.inode = {.device = 1, .inode = 2},
         .holders =
             {{.pid = 3, .command = "vmm", .how = "fd", .holder_class = HolderClass::kTarget}},
         .foreign = 0}};
  }
  return outcome;
}

Outcome FailureOutcome(Event event, std::string_view reason, const Migration& record) {
  return {event, {std::string(reason), "as the test wants it"}, record};
}

class FakeEffects::One : public MigrationEffects {
 public:
  explicit One(FakeEffects* owner) : owner_(owner) {
    std::lock_guard<std::mutex> lock(owner_->mutex_);
    ++owner_->created_;
    ++owner_->alive_;
  }
  ~One() override {
    std::lock_guard<std::mutex> lock(owner_->mutex_);
    --owner_->alive_;
  }
  Outcome Perform(Effect effect, const Migration& record, Interrupt& interrupt) override {
    return owner_->Perform(effect, record, interrupt);
  }
  void End(const Migration& last) override {
    std::lock_guard<std::mutex> lock(owner_->mutex_);
    if (owner_->on_end_) owner_->on_end_(last);
  }

 private:
  FakeEffects* const owner_;
};

void FakeEffects::OnEnd(std::function<void(const Migration&)> on_end) {
  std::lock_guard<std::mutex> lock(mutex_);
  on_end_ = std::move(on_end);
}

std::unique_ptr<MigrationEffects> FakeEffects::Create(const std::string&) {
  return std::make_unique<One>(this);
}

Outcome FakeEffects::Perform(Effect effect, const Migration& record, Interrupt& interrupt) {
  Answer answer;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    performed_.push_back({record.id, effect});
    const auto found = answers_.find(effect);
    if (found != answers_.end()) answer = found->second;
  }
  PassGate(effect, interrupt);
  if (answer != nullptr) return answer(record, interrupt);
  Event event;
  if (interrupt.raised() && AnswersInterrupt(effect, &event)) {
    return FailureOutcome(event, reason::kInterrupted, record);
  }
  return HappyOutcome(effect, record);
}

void FakeEffects::PassGate(Effect effect, Interrupt& interrupt) {
  std::unique_lock<std::mutex> lock(mutex_);
  Gate& gate = gates_[effect];
  if (!gate.closed) return;
  ++gate.held;
  changed_.notify_all();
  while (gate.closed && !(gate.interruptible && interrupt.raised())) {
    changed_.wait_for(lock, kInterruptPoll);
  }
  --gate.held;
}

void FakeEffects::On(Effect effect, Answer answer) {
  std::lock_guard<std::mutex> lock(mutex_);
  answers_[effect] = std::move(answer);
}

void FakeEffects::HoldAt(Effect effect, bool interruptible) {
  std::lock_guard<std::mutex> lock(mutex_);
  gates_[effect].closed = true;
  gates_[effect].interruptible = interruptible;
}

void FakeEffects::Release(Effect effect) {
  std::lock_guard<std::mutex> lock(mutex_);
  gates_[effect].closed = false;
  changed_.notify_all();
}

void FakeEffects::AwaitHeld(Effect effect, size_t count) {
  std::unique_lock<std::mutex> lock(mutex_);
  changed_.wait(lock, [&] { return gates_[effect].held >= count; });
}

std::vector<FakeEffects::Performed> FakeEffects::performed() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return performed_;
}

std::vector<Effect> FakeEffects::PerformedBy(const std::string& migration_id) const {
  std::lock_guard<std::mutex> lock(mutex_);
  std::vector<Effect> effects;
  for (const Performed& one : performed_) {
    if (one.migration_id == migration_id) effects.push_back(one.effect);
  }
  return effects;
}

size_t FakeEffects::created() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return created_;
}

size_t FakeEffects::alive() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return alive_;
}

}  // namespace rehome
