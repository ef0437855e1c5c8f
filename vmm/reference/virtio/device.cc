// SPDX-License-Identifier: Apache-2.0
#include "vmm/reference/virtio/device.h"

#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kvmglue/status_reason.h"
#include "vmm/reference/os_status.h"
#include "vmm/reference/virtio/abi.h"

namespace rehome::virtio {
namespace {

// Chains of one queue served before the next queue has its turn, so that a flood in one direction
// of a network does not stop the other.
constexpr int kBurst = 64;

absl::StatusOr<UniqueFd> NewEventfd() {
  UniqueFd fd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!fd.valid()) return OsError("eventfd", "for a virtio device", errno);
  return fd;
}

// A full counter is as good as one more: whoever reads it is about to look anyway.
void Add(BorrowedFd eventfd) {
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t written = write(eventfd.raw(), &one, sizeof(one));
}

void Drain(BorrowedFd eventfd) {
  uint64_t count = 0;
  [[maybe_unused]] const ssize_t bytes = read(eventfd.raw(), &count, sizeof(count));
}

// The VMM's signals are for its main thread and its vCPUs.
std::thread StartWithoutSignals(std::function<void()> run) {
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  std::thread thread(std::move(run));
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  return thread;
}

}  // namespace

absl::StatusOr<std::unique_ptr<VirtioDevice>> VirtioDevice::Create(std::unique_ptr<Backend> backend,
                                                                   GuestMemory& memory,
                                                                   FaultHandler on_fault) {
  absl::StatusOr<UniqueFd> fds[] = {NewEventfd(), NewEventfd(), NewEventfd()};
  for (const auto& fd : fds) {
    if (!fd.ok()) return fd.status();
  }
  auto device = std::unique_ptr<VirtioDevice>(
      new VirtioDevice(std::move(backend), memory, std::move(on_fault), *std::move(fds[0]),
                       *std::move(fds[1]), *std::move(fds[2])));
  device->thread_ = StartWithoutSignals([raw = device.get()] { raw->Loop(); });
  return device;
}

VirtioDevice::VirtioDevice(std::unique_ptr<Backend> backend, GuestMemory& memory,
                           FaultHandler on_fault, UniqueFd kick, UniqueFd interrupt, UniqueFd wake)
    : backend_(std::move(backend)),
      memory_(memory),
      on_fault_(std::move(on_fault)),
      kick_(std::move(kick)),
      interrupt_(std::move(interrupt)),
      wake_(std::move(wake)),
      registers_(backend_->profile(), memory_) {
  chain_.readable.reserve(kMaxQueueSize);
  chain_.writable.reserve(kMaxQueueSize);
}

VirtioDevice::~VirtioDevice() {
  {
    const std::lock_guard lock(mutex_);
    quitting_ = true;
    running_ = false;
  }
  Wake();
  if (thread_.joinable()) thread_.join();
}

void VirtioDevice::Read(uint64_t offset, std::span<uint8_t> out) const {
  const std::lock_guard lock(mutex_);
  registers_.Read(offset, out);
}

void VirtioDevice::Write(uint64_t offset, std::span<const uint8_t> in) {
  std::unique_lock lock(mutex_);
  const bool quiets = Registers::Quiets(offset, in);
  if (quiets) {
    ++holds_;
    idle_.wait(lock, [this] { return !busy_; });
    --holds_;
  }
  const bool was_broken = registers_.fault() != nullptr;
  const WriteEffect effect = registers_.Write(offset, in);
  if (!was_broken && registers_.fault() != nullptr && on_fault_) on_fault_(registers_.fault());
  // The other queue may have waited for us.
  if (quiets || effect == WriteEffect::kLookAtQueues) Wake();
}

void VirtioDevice::Start() {
  const std::lock_guard lock(mutex_);
  if (running_) return;
  running_ = true;
  if (registers_.interrupt_pending()) Signal();
  Wake();
}

absl::Status VirtioDevice::Stop(std::chrono::milliseconds limit) {
  std::unique_lock lock(mutex_);
  if (!running_) return absl::OkStatus();
  running_ = false;
  stopping_ = true;
  const bool idle = idle_.wait_for(lock, limit, [this] { return !busy_; });
  stopping_ = false;
  if (idle) return absl::OkStatus();
  running_ = true;
  Wake();
  return MakeStatus(absl::StatusCode::kDeadlineExceeded, "DEVICE_BUSY",
                    absl::StrCat("a request was not finished after ", limit.count(), " ms"));
}

bool VirtioDevice::stopping() const {
  const std::lock_guard lock(mutex_);
  return stopping_;
}

absl::Status VirtioDevice::Save(VirtioState& state) const {
  const std::lock_guard lock(mutex_);
  if (running_) {
    return MakeStatus(absl::StatusCode::kFailedPrecondition, "DEVICE_RUNNING", "stop it first");
  }
  state = registers_.Save();
  return absl::OkStatus();
}

absl::Status VirtioDevice::Restore(const VirtioState& state) {
  const std::lock_guard lock(mutex_);
  if (running_) {
    return MakeStatus(absl::StatusCode::kFailedPrecondition, "DEVICE_RUNNING", "stop it first");
  }
  return registers_.Restore(state);
}

uint64_t VirtioDevice::served() const {
  const std::lock_guard lock(mutex_);
  return served_;
}

Fault VirtioDevice::fault() const {
  const std::lock_guard lock(mutex_);
  return registers_.fault();
}

// ---- the thread

void VirtioDevice::Loop() {
  for (;;) {
    const short events = ServeAll();
    {
      const std::lock_guard lock(mutex_);
      if (quitting_) return;
    }
    pollfd polled[] = {
        {.fd = wake_.borrow().raw(), .events = POLLIN, .revents = 0},
        {.fd = kick_.borrow().raw(), .events = POLLIN, .revents = 0},
        // Without events even a hang-up would be reported, for ever.
        {.fd = events != 0 ? backend_->fd().raw() : -1, .events = events, .revents = 0},
    };
    poll(polled, std::size(polled), -1);
    Drain(wake_.borrow());
    Drain(kick_.borrow());
  }
}

// Until no queue has anything that can be done now. Returns what to poll the backend for.
short VirtioDevice::ServeAll() {
  for (;;) {
    short events = 0;
    bool served = false;
    for (uint32_t queue = 0; queue < registers_.queue_count(); ++queue) {
      Step step = Step::kServed;
      for (int i = 0; i < kBurst && step == Step::kServed; ++i) {
        step = ServeOne(queue);
        served |= step == Step::kServed;
      }
      if (step == Step::kWaitReadable) events |= POLLIN;
      if (step == Step::kWaitWritable) events |= POLLOUT;
    }
    if (!served) return events;
  }
}

VirtioDevice::Step VirtioDevice::ServeOne(uint32_t queue) {
  std::unique_lock lock(mutex_);
  if (!PeekLocked(queue)) return Step::kNothing;
  busy_ = true;
  const uint64_t features = registers_.driver_features();
  lock.unlock();
  const Served served = backend_->Serve(queue, chain_, features, memory_);
  lock.lock();
  const Step step = FinishLocked(queue, served);
  busy_ = false;
  lock.unlock();
  idle_.notify_all();
  return step;
}

// Whether chain_ has a chain that is to be served now.
bool VirtioDevice::PeekLocked(uint32_t queue) {
  if (!running_ || holds_ > 0 || !registers_.Serving(queue)) return false;
  const Peeked peeked = PeekChain(memory_, registers_.queue(queue), chain_);
  if (peeked.fault != nullptr) BreakLocked(peeked.fault);
  return peeked.found;
}

VirtioDevice::Step VirtioDevice::FinishLocked(uint32_t queue, const Served& served) {
  switch (served.result) {
    case ServeResult::kIdle:
      return Step::kNothing;
    case ServeResult::kWaitReadable:
      return Step::kWaitReadable;
    case ServeResult::kWaitWritable:
      return Step::kWaitWritable;
    case ServeResult::kBroken:
      BreakLocked(served.fault);
      return Step::kNothing;
    case ServeResult::kDone:
      break;
  }
  const Completed completed =
      CompleteChain(memory_, registers_.queue(queue), chain_.head, served.written);
  if (completed.fault != nullptr) {
    BreakLocked(completed.fault);
    return Step::kNothing;
  }
  ++served_;
  if (completed.interrupt) {
    registers_.SetInterrupt(kInterruptUsedBuffer);
    Signal();
  }
  return Step::kServed;
}

void VirtioDevice::BreakLocked(Fault fault) {
  if (registers_.Break(fault)) Signal();
  if (on_fault_) on_fault_(fault);
}

void VirtioDevice::Signal() { Add(interrupt_.borrow()); }

void VirtioDevice::Wake() { Add(wake_.borrow()); }

}  // namespace rehome::virtio
