// SPDX-License-Identifier: Apache-2.0
//
// What a service manager's variables say of the descriptors that came with exec. Promises: all that
// are taken came, each with the name that stands for it, and are close-on-exec; those that are not
// taken, though the variables are ours, are closed; nothing of the variables is left; the socket's
// address is one that connect(2) can be given; and each item of a migration that the escrow store
// gives out is a descriptor of that name.
#include <fcntl.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <map>
#include <thread>

#include "daemon/escrow_store.h"
#include "daemon/service_manager.h"
#include "tools/fuzz/fuzz_target.h"

namespace rehome::fuzz {
namespace {

constexpr size_t kMaxPassed = 20;
// Where exec puts the first (SD_LISTEN_FDS_START), and above all that are passed.
constexpr int kFirst = 3, kAside = 100;

// An input: this, then the texts of LISTEN_FDS, NOTIFY_SOCKET and, the rest, LISTEN_FDNAMES.
struct Head {
  uint8_t passed = 0;
  uint8_t pid = 0;  // 0: ours, 1: another's, else none
  uint8_t has_names = 0;
  uint8_t count_bytes = 0;  // of LISTEN_FDS; 0: the number that is passed
  uint8_t address_bytes = 0;
};

struct Variables {
  size_t passed = 0;
  bool for_us = false;
  bool has_names = false;
  std::string count, address, names;
};

std::string UpToNul(std::string_view text) { return std::string(text.substr(0, text.find('\0'))); }

Variables TakeVariables(Input in) {
  const Head head = in.Take<Head>();
  Variables variables{.passed = head.passed % (kMaxPassed + 1), .for_us = head.pid == 0};
  variables.count = UpToNul(in.TakeText(head.count_bytes));
  if (head.count_bytes == 0) variables.count = std::to_string(variables.passed);
  variables.address = UpToNul(in.TakeText(head.address_bytes));
  variables.names = UpToNul(Input::Text(in.rest()));
  variables.has_names = head.has_names != 0;
  setenv("LISTEN_PID", std::to_string(variables.for_us ? getpid() : 1).c_str(), 1);
  if (head.pid > 1) unsetenv("LISTEN_PID");
  setenv("LISTEN_FDS", variables.count.c_str(), 1);
  setenv("NOTIFY_SOCKET", variables.address.c_str(), 1);
  if (variables.has_names) setenv("LISTEN_FDNAMES", variables.names.c_str(), 1);
  return variables;
}

// The inode of each file that can be passed; the same files each time, open in this process.
const std::vector<UniqueFd>& Files() {
  static const auto* const files = [] {
    auto* made = new std::vector<UniqueFd>;
    for (size_t i = 0; i < kMaxPassed; ++i) {
      made->emplace_back(memfd_create("passed", MFD_CLOEXEC));
      REHOME_PROMISE(made->back().valid());
    }
    return made;
  }();
  return *files;
}

InodeId InodeOf(BorrowedFd fd) { return Identify(fd).value().id; }

// Leaves this thread's table as exec does: the first files from kFirst on, and nothing above.
void PassFiles(size_t count) {
  for (size_t i = 0; i < count; ++i) {
    const int from = Files()[i].borrow().raw();
    REHOME_PROMISE(fcntl(from, F_DUPFD_CLOEXEC, kAside + static_cast<int>(i)) ==
                   kAside + static_cast<int>(i));
  }
  REHOME_PROMISE(close_range(kFirst, kAside - 1, 0) == 0);
  for (int i = 0; i < static_cast<int>(count); ++i) {
    REHOME_PROMISE(dup2(kAside + i, kFirst + i) == kFirst + i);
  }
  REHOME_PROMISE(close_range(kAside, ~0u, 0) == 0);
}

size_t CountOpen(size_t passed) {
  size_t open = 0;
  for (int i = 0; i < static_cast<int>(passed); ++i) {
    open += fcntl(kFirst + i, F_GETFD) >= 0 ? 1 : 0;
  }
  return open;
}

// By the name's place among those between the colons.
std::string Joined(const std::vector<NamedFd>& taken) {
  std::string names;
  for (const NamedFd& fd : taken) names += (names.empty() && &fd == &taken[0] ? "" : ":") + fd.name;
  return names;
}

void CheckTaken(const Variables& variables, const std::vector<NamedFd>& taken,
                const std::vector<InodeId>& inodes) {
  REHOME_PROMISE(taken.size() <= variables.passed);
  REHOME_PROMISE(variables.for_us || taken.empty());
  for (size_t i = 0; i < taken.size(); ++i) {
    const BorrowedFd fd = taken[i].fd.borrow();
    REHOME_PROMISE(InodeOf(fd) == inodes[i]);
    REHOME_PROMISE((fcntl(fd.raw(), F_GETFD) & FD_CLOEXEC) != 0);
    REHOME_PROMISE(variables.has_names || taken[i].name == "unknown");
  }
  // A backslash stands for what follows; the manager joins names without one.
  const bool is_plain = variables.names.find('\\') == std::string::npos;
  if (variables.has_names && is_plain && !taken.empty()) {
    REHOME_PROMISE(Joined(taken) == variables.names);
  }
}

// What is there if the count is true: all or, where names and count differ, nothing.
void CheckLeft(const Variables& variables, size_t taken) {
  if (!variables.for_us || variables.count != std::to_string(variables.passed)) return;
  REHOME_PROMISE(taken == 0 || taken == variables.passed);
  REHOME_PROMISE(CountOpen(variables.passed) == taken);
}

void CheckStore(ServiceManager* manager, const std::map<std::string, std::vector<InodeId>>& named,
                size_t taken) {
  const auto store = NewEscrowStore(manager);
  size_t given = 0;
  for (const std::string& id : store->restored()) {
    const std::vector<NamedFd> items = store->Take(id);
    REHOME_PROMISE(!items.empty());
    for (const NamedFd& item : items) {
      const auto found = named.find(id + "." + item.name);
      REHOME_PROMISE(found != named.end());
      const auto& inodes = found->second;
      REHOME_PROMISE(std::find(inodes.begin(), inodes.end(), InodeOf(item.fd.borrow())) !=
                     inodes.end());
    }
    given += items.size();
  }
  REHOME_PROMISE(given <= taken);
  store->DropUnclaimed({});
}

bool InStartedProcess(std::span<const std::byte> input, const std::vector<InodeId>& inodes) {
  const Variables variables = TakeVariables(Input(input));
  PassFiles(variables.passed);
  auto manager = ServiceManager::FromEnvironment();
  for (const char* variable : {"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "NOTIFY_SOCKET"}) {
    REHOME_PROMISE(getenv(variable) == nullptr);
  }
  const std::string& address = manager->address();
  REHOME_PROMISE(address.empty() || address[0] == '/' || address[0] == '\0');
  REHOME_PROMISE(address.size() < sizeof(sockaddr_un::sun_path) && address.size() != 1);
  std::vector<NamedFd> taken = manager->TakeDescriptors();
  REHOME_PROMISE(manager->TakeDescriptors().empty());
  CheckTaken(variables, taken, inodes);
  CheckLeft(variables, taken.size());
  const size_t count = taken.size();
  std::map<std::string, std::vector<InodeId>> named;
  for (const NamedFd& fd : taken) named[fd.name].push_back(InodeOf(fd.fd.borrow()));
  // Without an address, so that nothing is sent to whoever listens there.
  ServiceManager silent("", std::move(taken));
  CheckStore(&silent, named, count);
  REHOME_PROMISE(!variables.for_us || CountOpen(count) == 0);
  return count == variables.passed && count != 0;
}

Seed MakeSeed(std::string name, Head head, std::string_view texts) {
  Seed seed{.name = std::move(name), .bytes = {}};
  Append(seed.bytes, head);
  AppendText(seed.bytes, texts);
  return seed;
}

}  // namespace

// In a thread with a table of descriptors of its own, so that numbers from 3 on are free.
bool Feed(std::span<const std::byte> input) {
  std::vector<InodeId> inodes;
  for (const UniqueFd& file : Files()) inodes.push_back(InodeOf(file.borrow()));
  bool sound = false;
  std::thread([&] {
    REHOME_PROMISE(unshare(CLONE_FILES) == 0);
    sound = InStartedProcess(input, inodes);
  }).join();
  return sound;
}

std::vector<Seed> Seeds() {
  constexpr char kNames[] = "m-1.block:m-1.config:m-2.memory-0:stray:m-1.block";
  return {
      MakeSeed("stored", {.passed = 5, .has_names = 1, .address_bytes = 11},
               std::string("/run/notify") + kNames),
      MakeSeed("abstract", {.passed = 5, .has_names = 1, .count_bytes = 1, .address_bytes = 7},
               std::string("5@notify") + kNames),
      MakeSeed("no-names", {.passed = 2}, ""),
      MakeSeed("one-name", {.passed = 1, .has_names = 1}, "m-0123456789abcdef.rescue-memory-47"),
  };
}

}  // namespace rehome::fuzz
