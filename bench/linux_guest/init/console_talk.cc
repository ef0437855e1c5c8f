// SPDX-License-Identifier: Apache-2.0
#include "bench/linux_guest/init/console_talk.h"

#include <sys/klog.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include <mutex>
#include <string_view>
#include <thread>

#include "bench/linux_guest/console_line.h"
#include "bench/linux_guest/init/clock_watch.h"
#include "bench/linux_guest/workload_abi.h"

namespace rehome::linux_guest {
namespace {

constexpr int kConsoleOff = 6;  // syslog(2): SYSLOG_ACTION_CONSOLE_OFF
constexpr size_t kMaxTyped = 256;
constexpr char kPing[] = "ping ";

void TickEachSecond(Counters& counters) {
  timespec next = {};
  clock_gettime(CLOCK_MONOTONIC, &next);
  for (uint64_t number = 1;; ++number) {
    Say(TickLine({.number = number, .mono_ns = NowNs(CLOCK_MONOTONIC)}));
    counters.console_ticks = number;
    ++next.tv_sec;
    clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &next, nullptr);
  }
}

void Answer(const std::string& line, Counters& counters) {
  if (!line.starts_with(kPing)) return;
  ++counters.console_pings;
  Say("pong " + line.substr(sizeof(kPing) - 1));
}

void Listen(Counters& counters) {
  std::string line;
  for (char next = 0;;) {
    if (read(STDIN_FILENO, &next, 1) != 1) return counters.faults.Add(WithErrno("console"));
    if (next == '\n' || next == '\r') {
      Answer(line, counters);
      line.clear();
    } else if (line.size() < kMaxTyped) {
      line.push_back(next);
    }
  }
}

}  // namespace

void Say(const std::string& text) {
  static std::mutex mutex;
  const std::lock_guard<std::mutex> lock(mutex);
  const std::string line = kConsolePrefix + text + "\n";
  std::string_view left = line;
  while (!left.empty()) {
    const ssize_t count = write(STDOUT_FILENO, left.data(), left.size());
    if (count <= 0) return;  // nobody to tell
    left.remove_prefix(static_cast<size_t>(count));
  }
}

std::string QuietConsole() {
  if (klogctl(kConsoleOff, nullptr, 0) != 0) return WithErrno("the kernel's console level");
  termios settings = {};
  if (tcgetattr(STDIN_FILENO, &settings) != 0) return WithErrno("console");
  settings.c_lflag &= ~static_cast<tcflag_t>(ECHO | ECHOE | ECHOK | ECHONL | ISIG);
  if (tcsetattr(STDIN_FILENO, TCSANOW, &settings) != 0) return WithErrno("console");
  return "";
}

void TalkOnConsole(Counters& counters) {
  std::thread([&counters] { TickEachSecond(counters); }).detach();
  std::thread([&counters] { Listen(counters); }).detach();
}

}  // namespace rehome::linux_guest
