// SPDX-License-Identifier: Apache-2.0
//
// The whole user space of a Linux guest in a test. Says "cpus N" and then, every kBeatMs, a line
//   beat N ms MONOTONIC back TIMES-THE-CLOCK-WENT-BACK disk RECORDS errors ERRORS
// and answers each line that is typed with "heard LINE". If there is a disk, each beat writes a
// record to it past the page cache, makes it durable, reads it back and compares.
#include <fcntl.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

enum { kBeatMs = 200, kRecordBytes = 4096, kRecords = 64 };

static uint64_t last_ns, went_back, records, errors;

static uint64_t monotonic_ns(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

// One write(2) a line, so that nothing comes in between.
static void say(const char* line) {
  if (write(STDOUT_FILENO, line, strlen(line)) < 0) ++errors;
}

static void write_record(int disk) {
  static _Alignas(4096) uint64_t record[kRecordBytes / 8], again[kRecordBytes / 8];
  const off_t at = (off_t)(records % kRecords) * kRecordBytes;
  for (size_t i = 0; i < kRecordBytes / 8; ++i) record[i] = records * 0x9e3779b97f4a7c15u + i;
  memset(again, 0, sizeof(again));
  if (pwrite(disk, record, kRecordBytes, at) != kRecordBytes || fdatasync(disk) != 0 ||
      pread(disk, again, kRecordBytes, at) != kRecordBytes ||
      memcmp(record, again, kRecordBytes) != 0) {
    ++errors;
  }
  ++records;
}

static void beat(uint64_t number, int disk) {
  char line[160];
  const uint64_t now = monotonic_ns();
  if (now < last_ns) ++went_back;
  last_ns = now;
  if (disk >= 0) write_record(disk);
  snprintf(line, sizeof(line), "beat %lu ms %lu back %lu disk %lu errors %lu\n",
           (unsigned long)number, (unsigned long)(now / 1000000), (unsigned long)went_back,
           (unsigned long)records, (unsigned long)errors);
  say(line);
}

static void answer(void) {
  char typed[128], line[160];
  const ssize_t count = read(STDIN_FILENO, typed, sizeof(typed) - 1);
  if (count <= 0) return;
  typed[count] = '\0';
  typed[strcspn(typed, "\n")] = '\0';
  snprintf(line, sizeof(line), "heard %s\n", typed);
  say(line);
}

// What is typed comes back once, in the answer, and never within another line.
static void stop_echo(void) {
  struct termios terminal;
  if (tcgetattr(STDIN_FILENO, &terminal) != 0) return;
  terminal.c_lflag &= ~(tcflag_t)ECHO;
  tcsetattr(STDIN_FILENO, TCSANOW, &terminal);
}

int main(void) {
  char line[64];
  mkdir("/dev", 0755);
  mount("devtmpfs", "/dev", "devtmpfs", 0, NULL);
  stop_echo();
  const int disk = open("/dev/vda", O_RDWR | O_DIRECT);
  snprintf(line, sizeof(line), "cpus %ld\n", sysconf(_SC_NPROCESSORS_ONLN));
  say(line);
  uint64_t next = monotonic_ns();
  for (uint64_t number = 1;; ++number) {
    beat(number, disk);
    next += kBeatMs * 1000000ull;
    for (uint64_t now = monotonic_ns(); now < next; now = monotonic_ns()) {
      struct pollfd input = {STDIN_FILENO, POLLIN, 0};
      if (poll(&input, 1, (int)((next - now) / 1000000) + 1) > 0) answer();
    }
  }
}
