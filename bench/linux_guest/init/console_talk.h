// SPDX-License-Identifier: Apache-2.0
//
// The guest's end of the serial console, standard input and output of /init (workload_abi.h).
#ifndef REHOME_BENCH_LINUX_GUEST_INIT_CONSOLE_TALK_H_
#define REHOME_BENCH_LINUX_GUEST_INIT_CONSOLE_TALK_H_

#include <string>

#include "bench/linux_guest/init/counters.h"

namespace rehome::linux_guest {

// One line with the prefix, whole, whichever thread says it.
void Say(const std::string& text);

// Keeps the kernel's own lines off the console, which would come in the middle of ours: they are in
// its log. Turns the terminal's echo off. "" or what went wrong.
std::string QuietConsole();

// Starts the threads that tick each second and answer pings.
void TalkOnConsole(Counters& counters);

}  // namespace rehome::linux_guest

#endif  // REHOME_BENCH_LINUX_GUEST_INIT_CONSOLE_TALK_H_
