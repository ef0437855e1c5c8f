// SPDX-License-Identifier: Apache-2.0
//
// How long MOVE takes, and that it does not take longer for more memory: a guest of 64 MiB and one
// of 4 GiB, all of it private, populated and mapped, are handed on in turn. Prints one line of
// JSON; ends with 1 if the ratio of the fastest moves is above --limit.
#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "kernel/private_vm.h"

namespace rehome::testing {
namespace {

using Clock = std::chrono::steady_clock;

constexpr uint32_t kSlot = 1;
constexpr uint32_t kVcpus = 2;

struct Options {
  uint64_t small_mib = 64;
  uint64_t large_mib = 4096;
  int rounds = 5;
  double limit = 1.2;
};

void Check(int error, const char* what) {
  if (error == 0) return;
  std::fprintf(stderr, "move_bench: %s: %s\n", what, std::strerror(error));
  std::exit(2);
}

// One guest, and how long each of its moves took.
class Line {
 public:
  explicit Line(uint64_t mib) : bytes_(mib * kMiB), shared_(bytes_) {
    vm_ = std::make_unique<PrivateVm>(kVcpus);
    memory_ = vm_->CreateGuestMemfd(bytes_);
    Check(memory_.valid() ? 0 : errno, "KVM_CREATE_GUEST_MEMFD");
    Check(vm_->Bind(kSlot, kPrivateGpa, shared_, memory_.borrow()), "bind");
    Check(vm_->SetPrivate(kPrivateGpa, bytes_, true), "KVM_SET_MEMORY_ATTRIBUTES");
  }

  void Move() {
    // As a guest that has used all of its memory leaves it.
    Check(vm_->vcpu().PreFault(kPrivateGpa, bytes_), "KVM_PRE_FAULT_MEMORY");
    auto target = std::make_unique<PrivateVm>(kVcpus);
    UniqueFd link = target->Link(memory_.borrow());
    Check(link.valid() ? 0 : errno, "KVM_LINK_GUEST_MEMFD");
    Check(target->Bind(kSlot, kPrivateGpa, shared_, link.borrow()), "bind of the link");

    const Clock::time_point start = Clock::now();
    const int error = target->MoveFrom(vm_->fd());
    const Clock::time_point end = Clock::now();
    Check(error, "MOVE");
    microseconds_.push_back(std::chrono::duration<double, std::micro>(end - start).count());
    vm_ = std::move(target);
    memory_ = std::move(link);
  }

  double Fastest() const { return *std::min_element(microseconds_.begin(), microseconds_.end()); }
  std::string Json() const {
    std::string text = "{\"mib\":" + std::to_string(bytes_ / kMiB) + ",\"move_us\":[";
    for (size_t i = 0; i < microseconds_.size(); ++i) {
      if (i != 0) text += ',';
      text += std::to_string(microseconds_[i]);
    }
    return text + "]}";
  }

 private:
  const uint64_t bytes_;
  SharedMemory shared_;
  std::unique_ptr<PrivateVm> vm_;
  UniqueFd memory_;
  std::vector<double> microseconds_;
};

Options Parse(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    const size_t equals = argument.find('=');
    const std::string name = argument.substr(0, equals);
    const char* value = equals == std::string::npos ? "" : argv[i] + equals + 1;
    if (name == "--small_mib") {
      options.small_mib = std::strtoull(value, nullptr, 10);
    } else if (name == "--large_mib") {
      options.large_mib = std::strtoull(value, nullptr, 10);
    } else if (name == "--rounds") {
      options.rounds = std::atoi(value);
    } else if (name == "--limit") {
      options.limit = std::atof(value);
    } else {
      std::fprintf(stderr,
                   "usage: move_bench [--small_mib=N] [--large_mib=N] [--rounds=N] [--limit=X]\n");
      std::exit(2);
    }
  }
  return options;
}

int Run(const Options& options) {
  Line small(options.small_mib), large(options.large_mib);
  for (int round = 0; round < options.rounds; ++round) {
    small.Move();
    large.Move();
  }
  const double ratio = large.Fastest() / small.Fastest();
  std::printf("{\"small\":%s,\"large\":%s,\"ratio\":%.3f,\"limit\":%.2f}\n", small.Json().c_str(),
              large.Json().c_str(), ratio, options.limit);
  return ratio <= options.limit ? 0 : 1;
}

}  // namespace
}  // namespace rehome::testing

int main(int argc, char** argv) { return rehome::testing::Run(rehome::testing::Parse(argc, argv)); }
