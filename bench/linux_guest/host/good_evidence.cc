// SPDX-License-Identifier: Apache-2.0
#include "bench/linux_guest/host/good_evidence.h"

#include "bench/linux_guest/chain.h"

namespace rehome::linux_guest {
namespace {

constexpr uint64_t kVcpus = 2;
constexpr uint64_t kSecond = 1'000'000'000;

// The guest's account after `turns` units of work.
GuestAccount AccountAfter(uint64_t turns) {
  GuestAccount account;
  account.Set("run", kGoodRun);
  account.Set("uptime_ns", turns * kSecond);
  account.SetText("clocksource", "kvm-clock");
  account.Set("vcpus", kVcpus);
  for (uint32_t vcpu = 0; vcpu < kVcpus; ++vcpu) {
    account.SetChain(vcpu, ChainAfter(kGoodRun, vcpu, turns * 1000 + vcpu));
  }
  account.Set("clock_looks", turns * 100);
  account.Set("clock_gap_ns", 5'000'000);
  for (const char* key : {"faults", "echo_faults", "disk_faults", "kmsg_lost", "kmsg_alarms",
                          "tcp_resets_seen", "tcp_resets_sent", "tcp_retransmits",
                          "clock_mono_backwards", "clock_boot_backwards", "clock_real_backwards"}) {
    account.Set(key, 0);
  }
  account.Set("kmsg_lines", 300);
  account.Set("kmsg_planted", 1);
  account.Set("disk_slots", 64);
  account.Set("disk_durable", turns * 10);
  account.Set("disk_read_again", turns * 20);
  account.Set("disk_kernel_reads", turns * 20);
  account.Set("disk_kernel_writes", turns * 20);
  account.Set("disk_kernel_flushes", turns * 10);
  return account;
}

}  // namespace

Evidence GoodEvidence() {
  Evidence evidence = {.hops_wanted = 2, .hops_done = 2};
  evidence.first = AccountAfter(1);
  evidence.last = AccountAfter(9);
  evidence.echo = {.frames_sent = 7, .bytes_sent = 7000, .bytes_compared = 7000, .ended = true};
  evidence.last.Set("echo_streams", 1);
  evidence.last.Set("echo_ended", 1);
  evidence.last.Set("echo_frames", 7);
  evidence.last.Set("echo_bytes", 7000);
  evidence.disk = {.file_slots = 64, .checked = 64};
  evidence.console = {.run = kGoodRun, .first_tick = 1, .last_tick = 9, .ticks = 9, .pongs = 4};
  evidence.last.Set("console_ticks", 9);
  evidence.pings = 4;
  evidence.last.Set("console_pings", 4);
  evidence.times_before_hops = 2;
  for (uint64_t i = 0; i < 4; ++i) {
    evidence.times.push_back(
        {.host_mono = (10 + i) * kSecond, .offset = -40'000'000, .error = 5'000});
  }
  evidence.time_requests = 48;
  evidence.last.Set("time_requests", 48);
  evidence.account_requests = 12;
  evidence.last.Set("account_requests", 12);
  return evidence;
}

}  // namespace rehome::linux_guest
