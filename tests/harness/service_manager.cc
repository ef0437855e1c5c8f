// SPDX-License-Identifier: Apache-2.0
#include "tests/harness/service_manager.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kvmglue/fd_passing.h"

namespace rehome::harness {
namespace {

// Of a datagram: the longest name (FDNAMEMAX is 255) and a few more variables.
constexpr size_t kMaxMessage = 4096;

std::string ValueOf(const std::string& message, const std::string& variable) {
  const std::string lines = "\n" + message + "\n";
  const std::string key = "\n" + variable + "=";
  const size_t found = lines.find(key);
  if (found == std::string::npos) return "";
  const size_t begin = found + key.size();
  return lines.substr(begin, lines.find('\n', begin) - begin);
}

}  // namespace

absl::StatusOr<std::unique_ptr<ServiceManager>> ServiceManager::Open() {
  std::unique_ptr<ServiceManager> manager(new ServiceManager);
  manager->directory_ = std::make_unique<TempDir>();
  manager->socket_ = UniqueFd(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  manager->stop_ = UniqueFd(eventfd(0, EFD_CLOEXEC));
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  manager->directory_->File("notify").copy(address.sun_path, sizeof(address.sun_path) - 1);
  if (bind(manager->socket_.borrow().raw(), reinterpret_cast<const sockaddr*>(&address),
           sizeof(address)) != 0) {
    return absl::ErrnoToStatus(errno, "notify socket");
  }
  manager->thread_ = std::thread([raw = manager.get()] { raw->Serve(); });
  return manager;
}

ServiceManager::~ServiceManager() {
  eventfd_write(stop_.borrow().raw(), 1);
  if (thread_.joinable()) thread_.join();
}

void ServiceManager::Serve() {
  pollfd entries[] = {{.fd = socket_.borrow().raw(), .events = POLLIN, .revents = 0},
                      {.fd = stop_.borrow().raw(), .events = POLLIN, .revents = 0}};
  while (poll(entries, 2, -1) >= 0 || errno == EINTR) {
    if (entries[1].revents != 0) return;
    const std::lock_guard lock(mutex_);
    while (TakeOne()) {
    }
  }
}

bool ServiceManager::TakeOne() {
  absl::StatusOr<ReceivedMessage> received = ReceiveMessage(socket_.borrow(), kMaxMessage);
  if (!received.ok()) return false;
  Apply(std::string(reinterpret_cast<const char*>(received->bytes.data()), received->bytes.size()),
        std::move(received->fds));
  return true;
}

// As systemd 252 does, service_notify_message(): each descriptor of an FDSTORE=1 is kept under the
// message's FDNAME, FDSTOREREMOVE=1 closes all of that name. Without FDPOLL=0 it would also drop
// what becomes readable with an error; a service that relies on that is not this one.
void ServiceManager::Apply(const std::string& message, std::vector<UniqueFd> fds) {
  const std::string name = ValueOf(message, "FDNAME");
  if (ValueOf(message, "FDSTOREREMOVE") == "1") stored_.erase(name);
  if (ValueOf(message, "FDSTORE") != "1" || ValueOf(message, "FDPOLL") != "0") return;
  for (UniqueFd& fd : fds) {
    // service_add_fd_store(): one descriptor of each open file, and not a word about the others.
    const bool known = std::any_of(stored_.begin(), stored_.end(), [&fd](const auto& entry) {
      return IsSameOpenFile(entry.second.borrow(), fd.borrow());
    });
    if (!known) stored_.emplace(name, std::move(fd));
  }
}

absl::StatusOr<Process> ServiceManager::Start(Process::Options options) {
  const std::lock_guard lock(mutex_);
  while (TakeOne()) {
  }
  options.environment["NOTIFY_SOCKET"] = directory_->File("notify");
  if (stored_.empty()) return Process::Start(options);
  std::vector<std::string> names;
  for (const auto& [name, fd] : stored_) {
    names.push_back(name);
    options.inherited.push_back(fd.borrow());
  }
  options.environment["LISTEN_FDS"] = absl::StrCat(names.size());
  options.environment["LISTEN_FDNAMES"] = absl::StrJoin(names, ":");
  // LISTEN_PID is known to the new process alone.
  std::vector<std::string> argv = {"/bin/sh", "-c", "export LISTEN_PID=$$; exec \"$0\" \"$@\""};
  argv.insert(argv.end(), options.argv.begin(), options.argv.end());
  options.argv = std::move(argv);
  return Process::Start(options);
}

std::vector<std::string> ServiceManager::stored() const {
  const std::lock_guard lock(mutex_);
  std::vector<std::string> names;
  for (const auto& [name, fd] : stored_) names.push_back(name);
  return names;
}

}  // namespace rehome::harness
