// SPDX-License-Identifier: Apache-2.0
#include "bench/linux_guest/init/kmsg_watch.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cerrno>
#include <thread>

namespace rehome::linux_guest {
namespace {

// In small letters.
constexpr std::string_view kAlarms[] = {
    "soft lockup",
    "hard lockup",
    "detected stall",
    "i/o error",
    "bug:",
    "warning:",
    "oops:",
    "call trace:",
    "kernel panic",
    "blocked for more than",
    "netdev watchdog",
    "unable to handle",
    "general protection fault",
};
// Both on one line: "clocksource: timekeeping watchdog ...: Marking clocksource 'x' as unstable".
constexpr std::string_view kClock = "clocksource";
constexpr std::string_view kUnstable = "unstable";

constexpr std::string_view kPlanted = "rehome planted this: watchdog: BUG: soft lockup";
// A record without a line end can be continued, and nobody may read it before the next one begins.
constexpr char kLineEnd = '\n';

// The longest record that the kernel hands out (CONSOLE_EXT_LOG_MAX).
constexpr size_t kMaxRecord = 8192;

void Watch(int fd, Counters& counters) {
  std::array<char, kMaxRecord> buffer;
  for (;;) {
    const ssize_t count = read(fd, buffer.data(), buffer.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0 && errno == EPIPE) {
      counters.kmsg_lost.Add("overwritten");
      continue;
    }
    if (count <= 0) return counters.faults.Add(WithErrno("/dev/kmsg"));
    ++counters.kmsg_lines;
    std::string_view text(buffer.data(), static_cast<size_t>(count));
    // "priority,sequence,time,flags;text", then lines of attributes.
    text.remove_prefix(std::min(text.find(';'), text.size() - 1) + 1);
    text = text.substr(0, text.find('\n'));
    if (!IsAlarm(text)) continue;
    if (text.find(kPlanted) != text.npos) {
      ++counters.kmsg_planted;
    } else {
      counters.kmsg_alarms.Add(std::string(text));
    }
  }
}

}  // namespace

bool IsAlarm(std::string_view line) {
  std::string small(line);
  std::transform(small.begin(), small.end(), small.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  if (small.find(kClock) != small.npos && small.find(kUnstable) != small.npos) return true;
  return std::any_of(std::begin(kAlarms), std::end(kAlarms),
                     [&](std::string_view alarm) { return small.find(alarm) != small.npos; });
}

std::string WatchKmsg(Counters& counters) {
  const int fd = open("/dev/kmsg", O_RDWR | O_CLOEXEC);
  if (fd < 0) return WithErrno("/dev/kmsg");
  const std::string line = std::string(kPlanted) + kLineEnd;
  if (write(fd, line.data(), line.size()) != static_cast<ssize_t>(line.size())) {
    return WithErrno("/dev/kmsg");
  }
  std::thread([fd, &counters] { Watch(fd, counters); }).detach();
  return "";
}

}  // namespace rehome::linux_guest
