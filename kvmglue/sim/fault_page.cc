// SPDX-License-Identifier: Apache-2.0
#include "kvmglue/sim/fault_page.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "kvmglue/fd.h"
#include "kvmglue/status_reason.h"

namespace rehome {
namespace {

constexpr int kKindShift = 32;

// Not 0, which is a free place.
uint64_t KeyOf(const FaultOperation& operation) {
  return (static_cast<uint64_t>(operation.kind) + 1) << kKindShift | operation.request;
}

FaultOperation OperationOf(uint64_t key) {
  return {static_cast<FaultOperation::Kind>((key >> kKindShift) - 1), key & 0xffffffffu};
}

}  // namespace

absl::StatusOr<FaultPage*> FaultPage::Open(const std::string& path) {
  const UniqueFd file(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  void* address = MAP_FAILED;
  if (file && ftruncate(file.borrow().raw(), sizeof(FaultPage)) == 0) {
    address = mmap(nullptr, sizeof(FaultPage), PROT_READ | PROT_WRITE, MAP_SHARED,
                   file.borrow().raw(), 0);
  }
  // All members are words, for which the file's zeroes are a valid state.
  if (address != MAP_FAILED) return static_cast<FaultPage*>(address);
  return MakeStatus(absl::StatusCode::kUnavailable, "FAULT_PAGE_FAILED",
                    absl::StrCat(path, ": ", strerror(errno)));
}

void FaultPage::Arm(const FaultOperation& operation, uint64_t call, int error, bool once) {
  for (Kind& kind : kinds_) {
    kind.calls.store(0);
    kind.key.store(0);
  }
  injected_.store(0);
  key_ = KeyOf(operation);
  call_ = call;
  error_ = error;
  once_ = once ? 1 : 0;
  armed_.store(1);
}

std::map<FaultOperation, uint64_t> FaultPage::Calls() const {
  std::map<FaultOperation, uint64_t> calls;
  for (const Kind& kind : kinds_) {
    const uint64_t key = kind.key.load();
    if (key != 0) calls[OperationOf(key)] = kind.calls.load();
  }
  return calls;
}

int FaultPage::Count(const FaultOperation& operation) {
  if (armed_.load() == 0) return 0;
  const uint64_t key = KeyOf(operation);
  for (Kind& kind : kinds_) {
    uint64_t found = 0;
    if (!kind.key.compare_exchange_strong(found, key) && found != key) continue;
    const uint64_t call = kind.calls.fetch_add(1) + 1;
    if (error_ == 0 || key != key_) return 0;
    if (once_ != 0 ? call != call_ : call < call_) return 0;
    injected_.fetch_add(1);
    return static_cast<int>(error_);
  }
  return 0;
}

}  // namespace rehome
