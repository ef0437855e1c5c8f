// SPDX-License-Identifier: Apache-2.0
//
// Effects that do nothing and say what the test wants: by default everything goes well. A test can
// change the answer of any effect, and hold migrations in one until it has looked.
#ifndef REHOME_DAEMON_TESTING_FAKE_EFFECTS_H_
#define REHOME_DAEMON_TESTING_FAKE_EFFECTS_H_

#include <condition_variable>
#include <cstddef>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "daemon/effects.h"

namespace rehome {

// What `effect` answers if all goes well; the fence's answer adds a complete proof to the record.
Outcome HappyOutcome(Effect effect, const Migration& record);
// `event` with a cause, and no new facts.
Outcome FailureOutcome(Event event, std::string_view reason, const Migration& record);

// Thread-safe. Outlives the effects that it made.
class FakeEffects : public EffectsFactory {
 public:
  using Answer = std::function<Outcome(const Migration&, Interrupt&)>;
  struct Performed {
    std::string migration_id;
    Effect effect;
  };

  std::unique_ptr<MigrationEffects> Create(const std::string& migration_id) override;

  // Replaces the answer of `effect`.
  void On(Effect effect, Answer answer);
  // Called with the terminal record by the effects' End().
  void OnEnd(std::function<void(const Migration&)> on_end);
  // From now on a migration that comes to `effect` waits there until Release(), or until its
  // interrupt is raised if `interruptible` (as real effects do before the blackout).
  void HoldAt(Effect effect, bool interruptible = true);
  void Release(Effect effect);
  // Blocks until `count` migrations are held at `effect`.
  void AwaitHeld(Effect effect, size_t count = 1);

  std::vector<Performed> performed() const;
  // Of one migration.
  std::vector<Effect> PerformedBy(const std::string& migration_id) const;
  size_t created() const;
  // Effects objects that exist now.
  size_t alive() const;

 private:
  class One;
  struct Gate {
    bool closed = false;
    bool interruptible = true;
    size_t held = 0;
  };
  Outcome Perform(Effect effect, const Migration& record, Interrupt& interrupt);
  void PassGate(Effect effect, Interrupt& interrupt);

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::map<Effect, Answer> answers_;
  std::function<void(const Migration&)> on_end_;
  std::map<Effect, Gate> gates_;
  std::vector<Performed> performed_;
  size_t created_ = 0;
  size_t alive_ = 0;
};

}  // namespace rehome

#endif  // REHOME_DAEMON_TESTING_FAKE_EFFECTS_H_
