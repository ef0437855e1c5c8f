// SPDX-License-Identifier: Apache-2.0
//
// What the picture of a migration consists of: lanes with bars, in nanoseconds, around the
// blackout. Knows the records, and nothing of pixels.
#ifndef REHOME_CLIENT_TRACE_TIMELINE_H_
#define REHOME_CLIENT_TRACE_TIMELINE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "rehome/v1/migration.pb.h"
#include "rehome/v1/migration_trace.pb.h"

namespace rehome {

// What a bar is about; each kind has a colour, which the legend explains.
enum class BarKind : uint8_t {
  kGuestRuns,  // the guest runs, by its owner's word
  kPaused,     // it does not: the blackout
  kPhase,      // of the blackout
  kStep,       // of the daemon
  kRun,        // KVM_RUN
  kRead,       // an ioctl that reads state: KVM_GET_*
  kWrite,      // one that writes it: KVM_SET_*
  kOther,      // any other
};

// Times are relative to the begin of the blackout: negative before it.
struct Bar {
  BarKind kind = BarKind::kOther;
  std::string label;
  int64_t begin_ns = 0;  // cut to what is shown
  int64_t end_ns = 0;
  int64_t took_ns = 0;  // all of it
};

struct Mark {  // a moment
  std::string label;
  int64_t at_ns = 0;
};

struct Lane {
  std::string name;       // "vCPU 0"
  std::string group;      // "source", "target", "rehomed", "guest": what data-group says
  std::vector<Bar> bars;  // in the order of their begin
  std::vector<Mark> marks;
};

struct Group {
  std::string name;   // as Lane::group
  std::string title;  // "source: rehome-vmm 1.0, pid 4711"
  std::vector<Lane> lanes;
};

struct Timeline {
  std::string title;               // "migrations/m-1 of web-1: SUCCEEDED"
  std::vector<std::string> facts;  // a line each
  int64_t blackout_ns = 0;         // 0: the guest was not handed over, or nobody knows
  int64_t begin_ns = 0;  // what is shown: the blackout in the middle, and some of both sides
  int64_t end_ns = 0;
  std::vector<Group> groups;
};

// Of a migration that was handed over the blackout is in the middle; of any other, what is known.
Timeline MakeTimeline(const v1::Migration& migration, const v1::MigrationTrace& trace);

// "GET_MSRS": without the "KVM_" that nearly all have.
std::string ShortOperation(const std::string& operation);
// The kind of an ioctl, by its name.
BarKind KindOf(const std::string& operation);

}  // namespace rehome

#endif  // REHOME_CLIENT_TRACE_TIMELINE_H_
