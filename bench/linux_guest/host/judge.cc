// SPDX-License-Identifier: Apache-2.0
#include "bench/linux_guest/host/judge.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "bench/linux_guest/host/time_probe.h"

namespace rehome::linux_guest {
namespace {

// Collects what breaks one promise; the first thing is told.
class Finding {
 public:
  Finding(std::string name, std::string promise)
      : verdict_{.name = std::move(name), .promise = std::move(promise)} {}

  void Demand(bool holds, const std::string& otherwise) {
    if (!holds && broken_.empty()) broken_ = otherwise;
  }
  void Demand(const std::string& fault) { Demand(fault.empty(), fault); }
  // A counter of the guest that is there and has this value.
  void Equal(const GuestAccount& account, const std::string& key, uint64_t wanted) {
    const std::optional<uint64_t> value = account.Number(key);
    Demand(value == wanted,
           value ? absl::StrCat(key, " is ", *value, ", not ", wanted) : Missing(key));
  }
  // A counter that only grows, and has grown.
  void Grown(const Evidence& evidence, const std::string& key) {
    const std::optional<uint64_t> before = evidence.first.Number(key);
    const std::optional<uint64_t> after = evidence.last.Number(key);
    Demand(before && after, Missing(key));
    Demand(before < after, absl::StrCat(key, " has not grown"));
  }
  // Nothing was complained of: the guest's counter is 0, else its first words.
  void None(const GuestAccount& account, const std::string& key, const std::string& words) {
    const std::optional<uint64_t> value = account.Number(key);
    Demand(value.has_value(), Missing(key));
    Demand(value == 0u, absl::StrCat(value.value_or(0), " ", key, ": ", account.Text(words)));
  }

  Verdict Tell(const std::string& figures) && {
    verdict_.kept = broken_.empty();
    verdict_.detail = verdict_.kept ? figures : broken_;
    return std::move(verdict_);
  }

 private:
  static std::string Missing(const std::string& key) {
    return absl::StrCat("the guest does not tell ", key);
  }

  Verdict verdict_;
  std::string broken_;
};

uint64_t At(const GuestAccount& account, const std::string& key) {
  return account.Number(key).value_or(0);
}

Verdict JudgeHops(const Evidence& evidence) {
  Finding finding("migrations", "every migration succeeded, and the guest went on after it");
  finding.Demand(evidence.hop_fault);
  finding.Demand(evidence.hops_done == evidence.hops_wanted,
                 absl::StrCat(evidence.hops_done, " of ", evidence.hops_wanted));
  return std::move(finding).Tell(absl::StrCat(evidence.hops_done, " of ", evidence.hops_wanted));
}

Verdict JudgeBoot(const Evidence& evidence) {
  Finding finding("one_boot", "it is the guest that began, and it found nothing wrong with itself");
  finding.Demand(evidence.console.run != 0, "the guest never said that it is ready");
  finding.Equal(evidence.first, "run", evidence.console.run);
  finding.Equal(evidence.last, "run", evidence.console.run);
  finding.Grown(evidence, "uptime_ns");
  finding.None(evidence.last, "faults", "faults_first");
  return std::move(finding).Tell(
      absl::StrFormat("up for %.1f s", static_cast<double>(At(evidence.last, "uptime_ns")) / 1e9));
}

Verdict JudgeStream(const Evidence& evidence) {
  Finding finding("stream", "no byte of the TCP stream was lost, doubled or changed");
  const EchoResult& echo = evidence.echo;
  finding.None(evidence.last, "echo_faults", "echo_faults_first");
  finding.Demand(echo.fault);
  finding.Demand(echo.bytes_sent > 0, "nothing was sent");
  finding.Demand(echo.bytes_compared == echo.bytes_sent,
                 absl::StrCat(echo.bytes_sent, " bytes sent, ", echo.bytes_compared, " came back"));
  finding.Demand(echo.ended, "the guest did not end the stream");
  finding.Equal(evidence.last, "echo_streams", 1);
  finding.Equal(evidence.last, "echo_ended", 1);
  finding.Equal(evidence.last, "echo_frames", echo.frames_sent);
  finding.Equal(evidence.last, "echo_bytes", echo.bytes_sent);
  return std::move(finding).Tell(
      absl::StrCat(echo.bytes_compared, " bytes in ", echo.frames_sent, " frames, both ways"));
}

Verdict JudgeResets(const Evidence& evidence) {
  Finding finding("connections", "no TCP connection was reset");
  finding.Demand(!evidence.echo.reset, "the stream was reset");
  finding.Demand(evidence.control_fault);
  finding.Equal(evidence.last, "tcp_resets_seen", At(evidence.first, "tcp_resets_seen"));
  finding.Equal(evidence.last, "tcp_resets_sent", At(evidence.first, "tcp_resets_sent"));
  finding.Demand(evidence.last.Number("tcp_retransmits").has_value(),
                 "the guest does not tell tcp_retransmits");
  return std::move(finding).Tell(
      absl::StrCat("2 connections from start to end; segments that the guest sent again: ",
                   At(evidence.last, "tcp_retransmits") - At(evidence.first, "tcp_retransmits")));
}

Verdict JudgeDisk(const Evidence& evidence) {
  Finding finding("disk", "each record that was durable is on the disk, once, and no other");
  const GuestAccount& last = evidence.last;
  const uint64_t durable = At(last, "disk_durable");
  finding.None(last, "disk_faults", "disk_first_fault");
  finding.Demand(evidence.disk.faults == 0, evidence.disk.first_fault);
  finding.Grown(evidence, "disk_durable");
  finding.Equal(last, "disk_slots", evidence.disk.file_slots);
  finding.Demand(evidence.disk.checked == std::min(durable, evidence.disk.file_slots),
                 absl::StrCat(evidence.disk.checked, " records of ", durable, " are there"));
  // Twice each: itself and an older one.
  finding.Equal(last, "disk_read_again", 2 * durable);
  finding.Equal(last, "disk_kernel_reads", 2 * durable);
  finding.Equal(last, "disk_kernel_flushes", durable);
  // The kernel counts a flush as an empty write as well.
  finding.Equal(last, "disk_kernel_writes", 2 * durable);
  return std::move(finding).Tell(absl::StrCat(durable, " records written, ", evidence.disk.checked,
                                              " of them still on the disk"));
}

Verdict JudgeClocks(const Evidence& evidence) {
  Finding finding("monotonic", "no clock of the guest went back, on whichever vCPU it was read");
  finding.Grown(evidence, "clock_looks");
  for (const char* clock : {"mono", "boot", "real"}) {
    const std::string key = absl::StrCat("clock_", clock, "_backwards");
    finding.None(evidence.last, key, absl::StrCat("clock_", clock, "_worst_ns"));
  }
  return std::move(finding).Tell(
      absl::StrFormat("%d looks by %s; largest gap of a thread since the last move %.1f ms",
                      At(evidence.last, "clock_looks"), evidence.last.Text("clocksource"),
                      static_cast<double>(At(evidence.last, "clock_gap_ns")) / 1e6));
}

Verdict JudgeWall(const Evidence& evidence) {
  Finding finding("wall_clock",
                  "the wall clock is right within 1 ms, by each move within 0.1 ms, and the "
                  "measurement's error");
  finding.Demand(evidence.times_before_hops >= 2 &&
                     evidence.times.size() >= evidence.times_before_hops + evidence.hops_wanted,
                 "the clock was not read often enough");
  const WallClock clock = JudgeWallClock(evidence.times, evidence.times_before_hops,
                                         {.shift = kAllowedShiftNs, .step = kAllowedStepNs});
  const std::string figures = absl::StrFormat(
      "worst shift %.3f ms, error of the measurement there %.3f ms; of two looks those that show "
      "most, %d moves apart, %.3f ms, error there %.3f ms; drift before the first move %.1f ppm",
      static_cast<double>(clock.worst_shift) / 1e6, static_cast<double>(clock.own_error) / 1e6,
      clock.step_moves, static_cast<double>(clock.worst_step) / 1e6,
      static_cast<double>(clock.step_error) / 1e6, clock.drift_ppm);
  finding.Demand(clock.kept, figures);
  return std::move(finding).Tell(figures);
}

Verdict JudgeChains(const Evidence& evidence) {
  Finding finding("registers", "every vCPU computed what it should, in all registers in use");
  const uint64_t run = evidence.console.run;
  const uint64_t vcpus = At(evidence.last, "vcpus");
  finding.Demand(vcpus > 0, "the guest does not tell its vCPUs");
  finding.Equal(evidence.first, "vcpus", vcpus);
  uint64_t steps = 0;
  for (uint32_t vcpu = 0; vcpu < vcpus; ++vcpu) {
    const std::optional<ChainState> before = evidence.first.Chain(vcpu);
    const std::optional<ChainState> after = evidence.last.Chain(vcpu);
    finding.Demand(before && after, absl::StrCat("the guest does not tell chain ", vcpu));
    if (!before || !after) break;
    finding.Demand(before->steps < after->steps, absl::StrCat("vCPU ", vcpu, " stood still"));
    finding.Demand(
        *after == ChainAfter(run, vcpu, after->steps),
        absl::StrCat("the chain of vCPU ", vcpu, " is wrong after ", after->steps, " steps"));
    steps += after->steps;
  }
  return std::move(finding).Tell(absl::StrCat(steps, " steps on ", vcpus, " vCPUs recomputed"));
}

Verdict JudgeKernelLog(const Evidence& evidence) {
  Finding finding("kernel_log",
                  "no soft lockup, stall, I/O error, warning or lost clock source in the guest");
  finding.None(evidence.last, "kmsg_alarms", "kmsg_alarms_first");
  finding.None(evidence.last, "kmsg_lost", "kmsg_lost_first");
  finding.Equal(evidence.last, "kmsg_planted", 1);
  return std::move(finding).Tell(
      absl::StrCat(At(evidence.last, "kmsg_lines"), " lines, the planted one found"));
}

Verdict JudgeConsole(const Evidence& evidence) {
  Finding finding("console", "the console stayed attached both ways; no line was lost or damaged");
  const ConsoleResult& console = evidence.console;
  finding.Demand(console.hung_up);
  finding.Demand(console.first_fault);
  finding.Demand(console.ticks > 0, "no line came");
  finding.Demand(console.missing + console.again + console.damaged == 0, "lines are wrong");
  finding.Demand(console.first_tick == 1, "the first line is missing");
  finding.Demand(console.last_tick >= At(evidence.last, "console_ticks"),
                 absl::StrCat("line ", At(evidence.last, "console_ticks"), " never came"));
  finding.Demand(evidence.pings > evidence.hops_done, "nothing was typed");
  finding.Demand(console.pongs == evidence.pings,
                 absl::StrCat(console.pongs, " of ", evidence.pings, " answers came"));
  return std::move(finding).Tell(
      absl::StrCat(console.ticks, " lines, ", console.pongs, " answers to what was typed"));
}

Verdict JudgeAccounts(const Evidence& evidence) {
  Finding finding("accounts", "the guest counted what the host counted");
  finding.Demand(evidence.time_requests > 0, "the guest was asked for nothing");
  finding.Equal(evidence.last, "time_requests", evidence.time_requests);
  finding.Equal(evidence.last, "account_requests", evidence.account_requests);
  finding.Equal(evidence.last, "console_pings", evidence.pings);
  return std::move(finding).Tell(absl::StrCat(evidence.time_requests, " questions for the time, ",
                                              evidence.account_requests, " for the account"));
}

}  // namespace

std::vector<Verdict> Judge(const Evidence& evidence) {
  return {JudgeHops(evidence),    JudgeBoot(evidence),    JudgeStream(evidence),
          JudgeResets(evidence),  JudgeDisk(evidence),    JudgeClocks(evidence),
          JudgeWall(evidence),    JudgeChains(evidence),  JudgeKernelLog(evidence),
          JudgeConsole(evidence), JudgeAccounts(evidence)};
}

bool AllKept(const std::vector<Verdict>& verdicts) {
  return !verdicts.empty() && std::all_of(verdicts.begin(), verdicts.end(),
                                          [](const Verdict& verdict) { return verdict.kept; });
}

}  // namespace rehome::linux_guest
