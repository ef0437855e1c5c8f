// SPDX-License-Identifier: Apache-2.0
#include "bench/hop_account.h"

#include <functional>

#include "bench/sample_hop.h"
#include "gtest/gtest.h"

namespace rehome::bench {
namespace {

Claim ClaimOn(const HopFacts& facts, const std::string& topic) {
  for (const Claim& claim : ClaimsOf(facts)) {
    if (claim.topic == topic) return claim;
  }
  return {};
}

TEST(ClaimsTest, EverythingHoldsForAGoodHop) {
  for (const Claim& claim : ClaimsOf(GoodHop())) EXPECT_TRUE(claim.holds) << claim.topic;
  EXPECT_TRUE(AllHold(ClaimsOf(GoodHop())));
  EXPECT_FALSE(AllHold({}));
}

// Each way in which a hop can be bad, and the claim that must not be made then.
struct Spoiled {
  const char* what;
  const char* topic;
  std::function<void(HopFacts&)> spoil;
};

const Spoiled kSpoiled[] = {
    {"not succeeded", "moved", [](HopFacts& f) { f.migration.set_state(v1::Migration::FAILED); }},
    {"guest on the source", "moved",
     [](HopFacts& f) { f.migration.set_guest_owner(v1::Migration::SOURCE); }},
    {"same process", "moved",
     [](HopFacts& f) { f.after.vm.mutable_process()->set_pid(f.before.vm.process().pid()); }},
    {"another process than recorded", "moved",
     [](HopFacts& f) { f.migration.mutable_target()->set_pid(1); }},
    {"another program", "moved", [](HopFacts& f) { f.after.executable = "rehome-vmm-1"; }},
    {"no strategy", "moved", [](HopFacts& f) { f.migration.clear_strategy(); }},
    {"a check failed", "verified",
     [](HopFacts& f) {
       f.migration.mutable_preflight_checks(0)->set_result(v1::PreflightCheck::FAILED);
     }},
    {"a result that we do not know", "verified",
     [](HopFacts& f) {
       f.migration.mutable_preflight_checks(0)->set_result(v1::PreflightCheck::RESULT_UNSPECIFIED);
     }},
    {"no checks", "verified", [](HopFacts& f) { f.migration.clear_preflight_checks(); }},
    {"no digest", "verified", [](HopFacts& f) { f.migration.clear_layout_digest(); }},
    {"no blackout", "paused", [](HopFacts& f) { f.migration.clear_blackout(); }},
    {"phases do not add up", "paused",
     [](HopFacts& f) { f.migration.mutable_blackout()->mutable_phases()->set_fence_ns(180'001); }},
    {"no gap measured", "guest saw", [](HopFacts& f) { f.guest_gap_us = 0; }},
    {"proof incomplete", "old VMM",
     [](HopFacts& f) { f.migration.mutable_fence_proof()->set_complete(false); }},
    {"exit not proven", "old VMM",
     [](HopFacts& f) { f.migration.mutable_fence_proof()->set_process_exited(false); }},
    {"policy not kept", "old VMM",
     [](HopFacts& f) { f.migration.mutable_fence_proof()->set_stopped_before_resume(false); }},
    {"kernel fence not there", "old VMM",
     [](HopFacts& f) { f.migration.set_fence_policy(v1::Migration::KERNEL); }},
    {"proof about another process", "old VMM",
     [](HopFacts& f) { f.migration.mutable_fence_proof()->mutable_source()->set_pid(1); }},
    {"a foreign holder", "old VMM",
     [](HopFacts& f) { f.migration.mutable_fence_proof()->add_foreign_holders()->set_pid(1); }},
    {"an inode not looked for", "old VMM",
     [](HopFacts& f) { f.migration.mutable_fence_proof()->set_inodes_checked(0); }},
    {"we see the old process", "old VMM", [](HopFacts& f) { f.old_process_gone = false; }},
    {"we see another holder", "old VMM",
     [](HopFacts& f) { f.holders.push_back({.pid = 1, .executable = "init", .how = "fd 3"}); }},
    {"we see no holder at all", "old VMM", [](HopFacts& f) { f.holders.clear(); }},
    {"another inode", "memory", [](HopFacts& f) { f.after.memory[0].inode.inode++; }},
    {"another size", "memory", [](HopFacts& f) { f.after.memory[0].size_bytes--; }},
    {"one file more", "memory", [](HopFacts& f) { f.after.memory.push_back({}); }},
    {"no file", "memory",
     [](HopFacts& f) {
       f.before.memory.clear();
       f.after.memory.clear();
     }},
    {"another frame", "memory", [](HopFacts& f) { f.frames.different = 1; }},
    {"no frame seen", "memory", [](HopFacts& f) { f.frames.same = 0; }},
    {"not intact", "guest", [](HopFacts& f) { f.guest.intact = false; }},
    {"counted errors", "guest", [](HopFacts& f) { f.guest.errors = 1; }},
    {"never ran", "guest", [](HopFacts& f) { f.guest.steps = 0; }},
    {"a heartbeat missing", "console", [](HopFacts& f) { f.console_fault = "a hole"; }},
    {"no heartbeat since", "console", [](HopFacts& f) { f.last_heartbeat = f.first_heartbeat; }},
};

TEST(ClaimsTest, WhatIsNotSoIsNotClaimed) {
  for (const Spoiled& spoiled : kSpoiled) {
    HopFacts facts = GoodHop();
    spoiled.spoil(facts);
    EXPECT_FALSE(ClaimOn(facts, spoiled.topic).holds) << spoiled.what;
    EXPECT_FALSE(AllHold(ClaimsOf(facts))) << spoiled.what;
  }
}

TEST(ClaimsTest, SentencesDoNotSayWhatIsNotSo) {
  HopFacts facts = GoodHop();
  EXPECT_NE(ClaimOn(facts, "memory").text.find("as before"), std::string::npos);
  facts.after.memory[0].inode.inode++;
  facts.frames.different = 7;
  const std::string memory = ClaimOn(facts, "memory").text;
  EXPECT_NE(memory.find("NOT the one of before"), std::string::npos) << memory;
  EXPECT_NE(memory.find("7 NOT"), std::string::npos) << memory;
  facts.guest.intact = false;
  EXPECT_NE(ClaimOn(facts, "guest").text.find("NOT INTACT"), std::string::npos);
}

TEST(ClaimsTest, HiddenFrameNumbersAreSaidToBeHidden) {
  HopFacts facts = GoodHop();
  facts.frames_known = false;
  facts.frames = {};
  EXPECT_TRUE(ClaimOn(facts, "memory").holds);
  EXPECT_NE(ClaimOn(facts, "memory").text.find("not looked at"), std::string::npos);
}

TEST(CopiedBytesTest, CountsOtherFramesAndOtherInodes) {
  HopFacts facts = GoodHop();
  EXPECT_EQ(CopiedBytes(facts), 0u);
  facts.frames.different = 3;
  EXPECT_EQ(CopiedBytes(facts), 3 * 4096u);
  facts.frames.different = 0;
  facts.after.memory[0].inode.inode++;
  EXPECT_EQ(CopiedBytes(facts), 64u << 20);
}

}  // namespace
}  // namespace rehome::bench
