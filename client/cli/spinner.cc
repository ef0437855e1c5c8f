// SPDX-License-Identifier: Apache-2.0
#include "client/cli/spinner.h"

#include <array>
#include <chrono>
#include <utility>

namespace rehome {
namespace {

// Ten pictures a second look alive and cost nothing.
constexpr std::chrono::milliseconds kFrame(100);
constexpr std::array kUnicode = {"⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏"};
constexpr std::array kAscii = {"|", "/", "-", "\\"};

}  // namespace

Spinner::Spinner(bool unicode, std::mutex* mutex, std::function<void()> redraw)
    : unicode_(unicode), mutex_(mutex), redraw_(std::move(redraw)), thread_(&Spinner::Turn, this) {}

Spinner::~Spinner() { thread_.join(); }

std::string Spinner::picture() const {
  return unicode_ ? kUnicode[frame_ % kUnicode.size()] : kAscii[frame_ % kAscii.size()];
}

void Spinner::Stop() {
  stopped_ = true;
  wake_.notify_all();
}

void Spinner::Turn() {
  std::unique_lock<std::mutex> lock(*mutex_);
  while (!wake_.wait_for(lock, kFrame, [this] { return stopped_; })) {
    ++frame_;
    redraw_();
  }
}

}  // namespace rehome
