// SPDX-License-Identifier: Apache-2.0
#ifndef REHOME_BENCH_LINUX_GUEST_INIT_CONTROL_SERVER_H_
#define REHOME_BENCH_LINUX_GUEST_INIT_CONTROL_SERVER_H_

#include <cstdint>
#include <string>

#include "bench/linux_guest/init/clock_watch.h"
#include "bench/linux_guest/init/counters.h"
#include "bench/linux_guest/init/disk_writer.h"
#include "bench/linux_guest/init/stream_io.h"
#include "bench/linux_guest/init/vcpu_work.h"

namespace rehome::linux_guest {

// Everything that runs in the guest. Lives for ever.
struct Workload {
  explicit Workload(uint64_t run_number)
      : run(run_number), disk("vda", run_number), work(run_number, clocks, counters.faults) {}

  const uint64_t run;  // random at each boot
  Counters counters;
  ClockWatch clocks;
  DiskWriter disk;
  VcpuWork work;
};

// TCP's counters of resets, from a text like /proc/net/snmp.
struct TcpStats {
  uint64_t resets_seen = 0;  // EstabResets: connections that went from established to closed
  uint64_t resets_sent = 0;  // OutRsts
  uint64_t retransmits = 0;  // RetransSegs: not wrong by itself
};
TcpStats ParseTcpStats(const std::string& text);

// Answers the requests of workload_abi.h until the connection ends.
void ServeControl(Connection& connection, Workload& workload);

}  // namespace rehome::linux_guest

#endif  // REHOME_BENCH_LINUX_GUEST_INIT_CONTROL_SERVER_H_
