// SPDX-License-Identifier: Apache-2.0
//
// What a Linux guest needs around it on the host: the other end of its network, and a disk.
#ifndef REHOME_BENCH_LINUX_HOST_H_
#define REHOME_BENCH_LINUX_HOST_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace rehome::bench {

// A tap interface that stays until the object goes, with an address of the host's. Not thread-safe.
class TapInterface {
 public:
  // `address` is IPv4 with a /24 network. Needs busybox (its tunctl and ifconfig) and
  // CAP_NET_ADMIN. What they printed is in the error.
  static absl::StatusOr<std::unique_ptr<TapInterface>> Make(const std::string& name,
                                                            const std::string& address);
  ~TapInterface();
  TapInterface(const TapInterface&) = delete;
  TapInterface& operator=(const TapInterface&) = delete;

  const std::string& name() const { return name_; }

 private:
  explicit TapInterface(std::string name) : name_(std::move(name)) {}
  const std::string name_;
};

// A file of zeros. Errors of open(2) and ftruncate(2).
absl::Status MakeDisk(const std::string& path, uint64_t size_bytes);

}  // namespace rehome::bench

#endif  // REHOME_BENCH_LINUX_HOST_H_
