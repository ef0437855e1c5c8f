// SPDX-License-Identifier: Apache-2.0
//
// Reads the guest kernel's log for what must not be in it.
#ifndef REHOME_BENCH_LINUX_GUEST_INIT_KMSG_WATCH_H_
#define REHOME_BENCH_LINUX_GUEST_INIT_KMSG_WATCH_H_

#include <string>
#include <string_view>

#include "bench/linux_guest/init/counters.h"

namespace rehome::linux_guest {

// Whether the kernel says with this line that something is wrong: a lockup, a stall, an I/O error,
// a bug, a warning, a clock source that it gave up.
bool IsAlarm(std::string_view line);

// Plants a line that looks like an alarm, so that an account without it shows a watcher that is
// blind, and watches from the first line of the log on. "" or what went wrong.
std::string WatchKmsg(Counters& counters);

}  // namespace rehome::linux_guest

#endif  // REHOME_BENCH_LINUX_GUEST_INIT_KMSG_WATCH_H_
