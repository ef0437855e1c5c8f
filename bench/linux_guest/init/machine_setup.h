// SPDX-License-Identifier: Apache-2.0
//
// What a distribution's init does before anything else: file systems, and the network by netlink.
// All return "" or what went wrong.
#ifndef REHOME_BENCH_LINUX_GUEST_INIT_MACHINE_SETUP_H_
#define REHOME_BENCH_LINUX_GUEST_INIT_MACHINE_SETUP_H_

#include <string>

namespace rehome::linux_guest {

// /proc, /sys and /dev.
std::string MountFileSystems();

// The value of NAME=VALUE on the kernel's command line; "" if it is not there. Needs /proc.
std::string BootOption(const std::string& name);

// Sets an interface up, and gives it an IPv4 address "A.B.C.D/BITS" unless that is "".
std::string BringUpInterface(const std::string& name, const std::string& address);

}  // namespace rehome::linux_guest

#endif  // REHOME_BENCH_LINUX_GUEST_INIT_MACHINE_SETUP_H_
