// SPDX-License-Identifier: Apache-2.0
#ifndef REHOME_BENCH_LINUX_GUEST_INIT_ECHO_SERVER_H_
#define REHOME_BENCH_LINUX_GUEST_INIT_ECHO_SERVER_H_

#include "bench/linux_guest/init/counters.h"
#include "bench/linux_guest/init/stream_io.h"

namespace rehome::linux_guest {

// Sends back each frame (workload_abi.h) of the connection until its end, and checks that none is
// damaged, missing or doubled on the way in. A frame that is wrong ends the connection.
void ServeEcho(Connection& connection, Counters& counters);

}  // namespace rehome::linux_guest

#endif  // REHOME_BENCH_LINUX_GUEST_INIT_ECHO_SERVER_H_
