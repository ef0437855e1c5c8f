// SPDX-License-Identifier: Apache-2.0
//
// The only program of the Linux guest, its process 1; docs/linux-workload.md. Boot options:
//   rehome.ip=A.B.C.D/BITS   address of eth0
#include <sched.h>
#include <sys/random.h>
#include <unistd.h>

#include <cstdio>
#include <string>

#include "bench/linux_guest/init/console_talk.h"
#include "bench/linux_guest/init/control_server.h"
#include "bench/linux_guest/init/echo_server.h"
#include "bench/linux_guest/init/kmsg_watch.h"
#include "bench/linux_guest/init/machine_setup.h"
#include "bench/linux_guest/workload_abi.h"

namespace rehome::linux_guest {
namespace {

uint64_t RandomNumber() {
  uint64_t number = 0;
  // Different at each boot is enough; a guest has little entropy when it begins.
  if (getrandom(&number, sizeof(number), GRND_INSECURE) != sizeof(number)) return 0;
  return number;
}

uint32_t CountVcpus() {
  cpu_set_t set;
  CPU_ZERO(&set);
  sched_getaffinity(0, sizeof(set), &set);
  return static_cast<uint32_t>(CPU_COUNT(&set));
}

std::string StartAll(Workload& workload) {
  Counters& counters = workload.counters;
  std::string wrong = MountFileSystems();
  if (wrong.empty()) wrong = QuietConsole();
  if (wrong.empty()) wrong = WatchKmsg(counters);
  if (wrong.empty()) wrong = BringUpInterface("lo", "");
  if (wrong.empty()) wrong = BringUpInterface("eth0", BootOption("rehome.ip"));
  if (wrong.empty()) {
    wrong = ServePort(kEchoPort, counters.faults,
                      [&counters](Connection& connection) { ServeEcho(connection, counters); });
  }
  if (wrong.empty()) {
    wrong = ServePort(kControlPort, counters.faults,
                      [&workload](Connection& connection) { ServeControl(connection, workload); });
  }
  if (wrong.empty()) wrong = workload.disk.Start();
  if (!wrong.empty()) return wrong;
  const uint32_t vcpus = CountVcpus();
  workload.clocks.Start(vcpus);
  workload.work.Start(vcpus);
  return "";
}

void Main() {
  auto* workload = new Workload(RandomNumber());
  if (const std::string wrong = StartAll(*workload); !wrong.empty()) {
    Say("failed " + wrong);
  } else {
    char ready[32];
    snprintf(ready, sizeof(ready), "ready %016llx", static_cast<unsigned long long>(workload->run));
    Say(ready);
    TalkOnConsole(workload->counters);
  }
  // The kernel panics when process 1 ends.
  for (;;) pause();
}

}  // namespace
}  // namespace rehome::linux_guest

int main() { rehome::linux_guest::Main(); }
