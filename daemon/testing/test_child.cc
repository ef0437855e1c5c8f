// SPDX-License-Identifier: Apache-2.0
//
// A child process for tests of launcher and fence: does what its first argument says, writes a byte
// to fd 3 when that is done, and lives until fd 3 ends (so that it never outlives its test).
//
//   report      prints its descriptors, environment, directory, session, umask and signals; exits
//   wait        nothing
//   threads N   starts N threads, half of them busy
//   exit-leader starts a thread and ends the first one
//   map         maps fd 4 and closes it
//   private-fd  closes fd 4 in all threads but one, which has a table of its own
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <latch>
#include <string>
#include <thread>
#include <vector>

extern char** environ;

namespace {

constexpr int kChannel = 3;
constexpr int kMemory = 4;
constexpr size_t kPage = 4096;

void SayReady() {
  if (write(kChannel, "r", 1) != 1) _exit(2);
}

// Whether fd 3 blocks depends on who made it.
void WaitForEnd() {
  char byte = 0;
  pollfd entry = {.fd = kChannel, .events = POLLIN, .revents = 0};
  do {
    poll(&entry, 1, -1);
  } while (read(kChannel, &byte, 1) > 0);
}

void Report() {
  // First, before this opens anything itself.
  for (int fd = 0; fd < 1024; ++fd) {
    if (fcntl(fd, F_GETFD) < 0) continue;
    const std::string link = "/proc/self/fd/" + std::to_string(fd);
    std::cout << "fd " << fd << " " << std::filesystem::read_symlink(link).string() << "\n";
  }
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    for (const char* field : {"Umask:", "SigBlk:", "SigIgn:", "SigCgt:"}) {
      if (line.rfind(field, 0) == 0) std::cout << line << "\n";
    }
  }
  for (char** variable = environ; *variable != nullptr; ++variable) {
    std::cout << "env " << *variable << "\n";
  }
  std::cout << "directory " << std::filesystem::current_path().string() << "\n";
  std::cout << "leads its session " << (getsid(0) == getpid()) << "\n";
  std::cout.flush();
  std::cerr << "printed to stderr\n";
  SayReady();
}

void StartThreads(int count) {
  std::latch started(count);
  for (int i = 0; i < count; ++i) {
    std::thread([&started, i] {
      started.count_down();
      if (i % 2 == 0) {
        for (;;) sched_yield();
      }
      for (;;) pause();
    }).detach();
  }
  started.wait();
}

[[noreturn]] void ExitLeader() {
  std::thread([] {
    SayReady();
    WaitForEnd();
    _exit(0);
  }).detach();
  pthread_exit(nullptr);
}

void MapMemory() {
  if (mmap(nullptr, kPage, PROT_READ | PROT_WRITE, MAP_SHARED, kMemory, 0) == MAP_FAILED) _exit(3);
  close(kMemory);
}

void HoldInPrivateTable() {
  std::latch unshared(1);
  std::thread([&unshared] {
    if (unshare(CLONE_FILES) != 0) _exit(4);
    unshared.count_down();
    for (;;) pause();
  }).detach();
  unshared.wait();
  close(kMemory);
}

}  // namespace

int main(int argc, char** argv) {
  const std::string mode = argc > 1 ? argv[1] : "";
  if (mode == "report") {
    Report();
    return 0;
  }
  if (mode == "threads") StartThreads(std::atoi(argv[2]));
  if (mode == "exit-leader") ExitLeader();
  if (mode == "map") MapMemory();
  if (mode == "private-fd") HoldInPrivateTable();
  SayReady();
  WaitForEnd();
  _exit(0);
}
