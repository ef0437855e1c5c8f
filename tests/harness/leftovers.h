// SPDX-License-Identifier: Apache-2.0
//
// What is left of migrations that are over.
#ifndef REHOME_TESTS_HARNESS_LEFTOVERS_H_
#define REHOME_TESTS_HARNESS_LEFTOVERS_H_

#include <sys/types.h>

#include <chrono>
#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "kvmglue/fd.h"
#include "tests/harness/host_under_test.h"

namespace rehome::harness {

// A host in which nothing moves: to compare a later moment with. Its descriptors are counted with
// as many VMs and clients as then.
struct Footprint {
  std::map<std::string, size_t> daemon_descriptors;  // as OpenDescriptors()
  size_t daemon_children = 0;      // for each of them it keeps a pidfd, to reap it
  std::vector<std::string> files;  // below the host's directory; logs of VMMs left out
};
absl::StatusOr<Footprint> FootprintOf(HostUnderTest& host);

// What is there and was not in `before`, as sentences: VMMs that are not among `vmms`, holders of
// guest memory (`inodes`) that are not, descriptors of the daemon, files. What goes by itself is
// given until `timeout`.
std::vector<std::string> FindLeftovers(HostUnderTest& host, const Footprint& before,
                                       const std::vector<pid_t>& vmms,
                                       const std::vector<InodeId>& inodes,
                                       std::chrono::milliseconds timeout);

// What is there of a host that has been shut down: processes, sockets, anybody who holds guest
// memory.
std::vector<std::string> FindRemains(HostUnderTest& host, const std::vector<InodeId>& inodes);

}  // namespace rehome::harness

#endif  // REHOME_TESTS_HARNESS_LEFTOVERS_H_
