// SPDX-License-Identifier: Apache-2.0
#include "bench/linux_guest/host/echo_driver.h"

#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include "bench/linux_guest/host/echo_stream.h"

namespace rehome::linux_guest {
namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t kReceiveBytes = 64 * 1024;

}  // namespace

EchoDriver::EchoDriver(UniqueFd socket, const EchoOptions& options)
    : socket_(std::move(socket)), options_(options) {}

std::unique_ptr<EchoDriver> EchoDriver::Start(UniqueFd socket, const EchoOptions& options) {
  std::unique_ptr<EchoDriver> driver(new EchoDriver(std::move(socket), options));
  driver->sender_ = std::thread([echo = driver.get()] { echo->SendAll(); });
  driver->receiver_ = std::thread([echo = driver.get()] { echo->ReceiveAll(); });
  return driver;
}

EchoDriver::~EchoDriver() {
  stop_ = true;
  changed_.notify_all();
  shutdown(socket_.borrow().raw(), SHUT_RDWR);
  Join();
}

void EchoDriver::Join() {
  if (sender_.joinable()) sender_.join();
  if (receiver_.joinable()) receiver_.join();
}

void EchoDriver::Blame(const std::string& fault, int error) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (error == ECONNRESET || error == EPIPE) result_.reset = true;
  if (!result_.fault.empty()) return;
  result_.fault = error == 0 ? fault : fault + ": " + strerror(error);
}

bool EchoDriver::SendFrame(std::span<const std::byte> frame) {
  while (!frame.empty()) {
    const ssize_t count = send(socket_.borrow().raw(), frame.data(), frame.size(), MSG_NOSIGNAL);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) {
      Blame("send", errno);
      return false;
    }
    frame = frame.subspan(static_cast<size_t>(count));
  }
  return true;
}

void EchoDriver::SendAll() {
  EchoFrames frames(options_.seed);
  const Clock::time_point start = Clock::now();
  uint64_t sent = 0;
  while (!stop_) {
    const std::span<const std::byte> frame = frames.Next();
    if (!SendFrame(frame)) return;
    sent += frame.size();
    std::unique_lock<std::mutex> lock(mutex_);
    result_.frames_sent = frames.made();
    result_.bytes_sent = sent;
    const auto due =
        start + std::chrono::microseconds(sent * 1'000'000 / options_.bytes_per_second);
    changed_.wait_until(lock, due, [&] { return stop_.load() || Clock::now() >= due; });
  }
  shutdown(socket_.borrow().raw(), SHUT_WR);
}

void EchoDriver::ReceiveAll() {
  EchoComparer comparer(options_.seed);
  std::array<std::byte, kReceiveBytes> buffer;
  bool ended = false;
  for (;;) {
    const ssize_t count = recv(socket_.borrow().raw(), buffer.data(), buffer.size(), 0);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) Blame("receive", errno);
    ended = count == 0;
    if (count <= 0) break;
    const bool right = comparer.Accept(std::span(buffer).first(static_cast<size_t>(count)));
    compared_ = comparer.compared();
    { const std::lock_guard<std::mutex> lock(mutex_); }
    changed_.notify_all();
    if (!right) {
      Blame(comparer.fault(), 0);
      break;
    }
  }
  const std::lock_guard<std::mutex> lock(mutex_);
  result_.bytes_compared = comparer.compared();
  result_.ended = ended;
  received_all_ = true;
  changed_.notify_all();
}

bool EchoDriver::AwaitBeyond(uint64_t bytes, std::chrono::milliseconds timeout) {
  std::unique_lock<std::mutex> lock(mutex_);
  changed_.wait_for(lock, timeout, [&] { return compared_ > bytes || received_all_; });
  return compared_ > bytes && !received_all_;
}

EchoResult EchoDriver::Stop(std::chrono::milliseconds timeout) {
  {
    std::unique_lock<std::mutex> lock(mutex_);
    stop_ = true;
    changed_.notify_all();
    if (!changed_.wait_for(lock, timeout, [this] { return received_all_; })) {
      if (result_.fault.empty()) result_.fault = "the stream did not come to its end";
    }
  }
  shutdown(socket_.borrow().raw(), SHUT_RDWR);
  Join();
  return result_;
}

}  // namespace rehome::linux_guest
