// SPDX-License-Identifier: Apache-2.0
//
// What the demo found out about one hop, and what it may therefore say. Facts are gathered by
// demo_guest.cc, from the daemon's record and from the processes themselves; the sentences are made
// here and say no more than the facts hold.
#ifndef REHOME_BENCH_HOP_ACCOUNT_H_
#define REHOME_BENCH_HOP_ACCOUNT_H_

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <vector>

#include "rehome/v1/migration.pb.h"
#include "rehome/v1/virtual_machine.pb.h"
#include "tests/harness/guest_probe.h"
#include "tests/harness/page_frames.h"
#include "tests/harness/proc.h"
#include "vmm/reference/guest_check.h"

namespace rehome::bench {

// One VMM process with the guest in it, as the daemon lists it and as /proc shows it.
struct VmmFacts {
  v1::VirtualMachine vm;
  std::string executable;
  std::vector<harness::GuestMemoryFile> memory;
};

struct HopFacts {
  int number = 0;
  VmmFacts before;
  VmmFacts after;
  v1::Migration migration;
  std::string expected_executable;  // of the target

  bool old_process_gone = false;         // by our own pidfd of it, taken before the hop
  std::vector<harness::Holder> holders;  // of the memory's inodes, afterwards
  // Physical pages, of all memory files. `frames_known`: the kernel shows us frame numbers.
  bool frames_known = false;
  harness::FrameComparison frames;

  double guest_gap_us = 0;
  GuestReport guest;
  uint64_t first_heartbeat = 0, last_heartbeat = 0;  // that came over the console from before the
                                                     // request until after the end
  std::string console_fault;                         // "" if none is missing
};

// A sentence that is true if `holds`.
struct Claim {
  bool holds = false;
  std::string topic;  // one word
  std::string text;   // what was found, whether it holds or not; lines end with '\n'
};

std::vector<Claim> ClaimsOf(const HopFacts& facts);
bool AllHold(const std::vector<Claim>& claims);

// Bytes of guest memory that are known to be a copy: memory in another inode than before, and pages
// in another physical frame.
uint64_t CopiedBytes(const HopFacts& facts);

}  // namespace rehome::bench

#endif  // REHOME_BENCH_HOP_ACCOUNT_H_
