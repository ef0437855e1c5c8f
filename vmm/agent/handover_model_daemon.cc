// SPDX-License-Identifier: Apache-2.0
//
// The daemon's part of the model: docs/recovery.md, daemon/settlement.cc.
#include "vmm/agent/handover_model.h"

namespace rehome::model {

void Explorer::DaemonSteps() {
  uint8_t State::*life = &State::daemon_life;
  switch (static_cast<DaemonAt>(now_.daemon)) {
    case kWatches:
      DaemonWatches();
      return;
    case kStopsSource:
      Step(life, [this](State* s) {  // reads the verdict again
        bool wanted =
            s->verdict == REHOME_VERDICT_COMMITTED || model_.without == Without::kSecondLook;
        s->daemon = wanted ? kProvesSource : kWatches;
        if (wanted) Kill(&s->source_life);
      });
      return;
    case kProvesSource:
      if (now_.source_life != kDead) return;
      Step(life, [](State* s) {
        s->fence = REHOME_FENCE_STATE_PROVEN;
        s->daemon = kWatches;
      });
      return;
    case kStopsTarget:
      Step(life, [](State* s) {
        Kill(&s->target_life);
        s->daemon = kWatches;
      });
      return;
    case kReleases:
      Step(life, [](State* s) {
        Kill(&s->source_life);
        s->daemon = kDone;
      });
      return;
    case kDone:
      return;
  }
}

void Explorer::DaemonWatches() {
  uint8_t State::*life = &State::daemon_life;
  bool committed = now_.verdict == REHOME_VERDICT_COMMITTED;
  if (now_.verdict == REHOME_VERDICT_OPEN) {  // cancel, or a target that does not claim
    Step(life, AbortFrom);
  } else if (now_.verdict == REHOME_VERDICT_RUNNING) {
    Step(life, [](State* s) { s->daemon = kReleases; });
  } else if (now_.verdict == REHOME_VERDICT_ABORTED) {
    if (now_.target_life == kAlive || now_.target_life == kHung) {
      Step(life, [](State* s) { s->daemon = kStopsTarget; });
    }
  } else {
    if (FencesBefore() && committed && now_.source_life != kDead) {
      Step(life, [this](State* s) {
        if (Condemn(s, REHOME_SIDE_SOURCE)) s->daemon = kStopsSource;
      });
    }
    if (now_.target_life == kAlive || now_.target_life == kHung) StopHangingTarget();
    if (now_.source_life == kDead && now_.fence != REHOME_FENCE_STATE_PROVEN &&
        now_.fence != REHOME_FENCE_STATE_TARGET_CONDEMNED) {
      Step(life, [](State* s) { s->fence = REHOME_FENCE_STATE_PROVEN; });
    }
  }
  Rescue();
}

// A claimant past both deadlines. With MOVE it may be the only place where the guest is: it is
// stopped only by a daemon that can go on from its VM.
void Explorer::StopHangingTarget() {
  uint8_t State::*life = &State::daemon_life;
  if (model_.moves && !now_.escrow) return;
  State after = now_;
  if (Condemn(&after, REHOME_SIDE_TARGET)) {
    Step(life, [this](State* s) {
      Condemn(s, REHOME_SIDE_TARGET);
      s->daemon = kStopsTarget;
    });
    return;
  }
  // It cannot be condemned, because the source is, for it, or is proven stopped. Then the verdict
  // decides. Under BEFORE_RESUME the target may be about to kill the source, which must not have
  // taken the guest back by then: that kill is finished first (kStopsSource). And from CLAIMED a
  // target may still MOVE, so there the source must be dead.
  bool source_settled = !FencesBefore() || now_.fence == REHOME_FENCE_STATE_PROVEN;
  if (!source_settled && model_.without != Without::kFenceBeforeAbort) return;
  if (now_.verdict == REHOME_VERDICT_CLAIMED && now_.source_life != kDead) return;
  if (now_.source_life == kDead && !now_.escrow) return;
  Step(life, AbortFrom);
}

// Whether the source was out before the swap tells later whether it can have gone on from ABORTED.
void Explorer::AbortFrom(State* s) {
  const bool source_is_out = s->source_life == kDead || (s->source_life == kAlive && s->vm_dead);
  if (!rehome_verdict_has_edge(s->verdict, REHOME_VERDICT_ABORTED)) return;
  Swap(s, s->verdict, REHOME_VERDICT_ABORTED);
  s->daemon_aborted = source_is_out;
}

bool Explorer::CanRescue(const State& s) const {
  return s.escrow && s.daemon_life == kAlive && s.rescues < kMaxRescues;
}

// The guest is stranded: its state is saved, and neither side can go on from it.
void Explorer::Rescue() {
  if (!CanRescue(now_) || !now_.ready) return;
  if (now_.target_life != kDead) return;
  bool source_is_out = now_.source_life == kDead || (now_.source_life == kAlive && now_.vm_dead);
  if (!source_is_out || now_.verdict == REHOME_VERDICT_RUNNING) return;
  // From ABORTED the source may have run the guest before it died, unless it was this daemon that
  // aborted, or the source says itself that its VM is dead, or this block is not the source's.
  bool in_doubt = now_.verdict == REHOME_VERDICT_ABORTED && now_.source_life == kDead &&
                  !now_.daemon_aborted && now_.rescues == 0;
  if (in_doubt && model_.without != Without::kDoubtAboutAborted) return;
  Step(&State::daemon_life, [](State* s) {
    s->rescues++;
    s->verdict = REHOME_VERDICT_OPEN;
    s->fence = s->source_life == kDead ? REHOME_FENCE_STATE_PROVEN : REHOME_FENCE_STATE_OPEN;
    s->target = kWaiting;
    s->target_life = kAlive;
    s->target_was_condemned = 0;
    s->blind_refusal = 0;
    s->daemon_aborted = 0;
  });
}

}  // namespace rehome::model
