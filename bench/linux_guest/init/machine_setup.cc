// SPDX-License-Identifier: Apache-2.0
#include "bench/linux_guest/init/machine_setup.h"

#include <arpa/inet.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fstream>

#include "bench/linux_guest/init/counters.h"

namespace rehome::linux_guest {
namespace {

// A request of at most a header, one attribute of an address, and another.
struct Request {
  nlmsghdr header = {};
  union {
    ifinfomsg link;
    ifaddrmsg address;
  } body = {};
  char attributes[2 * RTA_SPACE(sizeof(in_addr))] = {};
};

void AddAttribute(Request& request, unsigned short type, const in_addr& value) {
  auto* attribute =
      reinterpret_cast<rtattr*>(reinterpret_cast<char*>(&request) + request.header.nlmsg_len);
  attribute->rta_type = type;
  attribute->rta_len = RTA_LENGTH(sizeof(value));
  memcpy(RTA_DATA(attribute), &value, sizeof(value));
  request.header.nlmsg_len += RTA_SPACE(sizeof(value));
}

// Sends the request and waits for the kernel's answer.
std::string Ask(const Request& request, const std::string& what) {
  const int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
  if (fd < 0) return WithErrno("netlink");
  struct {
    nlmsghdr header;
    nlmsgerr error;
    char original[sizeof(Request)];
  } answer = {};
  std::string wrong;
  if (send(fd, &request, request.header.nlmsg_len, 0) < 0 ||
      recv(fd, &answer, sizeof(answer), 0) < 0) {
    wrong = WithErrno(what);
  } else if (answer.header.nlmsg_type != NLMSG_ERROR || answer.error.error != 0) {
    errno = -answer.error.error;
    wrong = WithErrno(what);
  }
  close(fd);
  return wrong;
}

std::string SetAddress(unsigned index, const std::string& text) {
  const size_t slash = text.find('/');
  in_addr address = {};
  if (slash == text.npos || inet_pton(AF_INET, text.substr(0, slash).c_str(), &address) != 1) {
    return "no address with a prefix length: " + text;
  }
  Request request;
  request.header.nlmsg_len = NLMSG_LENGTH(sizeof(ifaddrmsg));
  request.header.nlmsg_type = RTM_NEWADDR;
  request.header.nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
  request.body.address.ifa_family = AF_INET;
  request.body.address.ifa_prefixlen =
      static_cast<unsigned char>(strtoul(text.c_str() + slash + 1, nullptr, 10));
  request.body.address.ifa_index = index;
  AddAttribute(request, IFA_LOCAL, address);
  AddAttribute(request, IFA_ADDRESS, address);
  return Ask(request, "address " + text);
}

}  // namespace

std::string MountFileSystems() {
  struct Mount {
    const char* type;
    const char* place;
  };
  for (const Mount& entry :
       {Mount{"proc", "/proc"}, Mount{"sysfs", "/sys"}, Mount{"devtmpfs", "/dev"}}) {
    mkdir(entry.place, 0755);
    if (mount(entry.type, entry.place, entry.type, 0, nullptr) != 0) {
      return WithErrno(std::string("mount ") + entry.place);
    }
  }
  return "";
}

std::string BootOption(const std::string& name) {
  std::ifstream file("/proc/cmdline");
  std::string word;
  while (file >> word) {
    if (word.starts_with(name + "=")) return word.substr(name.size() + 1);
  }
  return "";
}

std::string BringUpInterface(const std::string& name, const std::string& address) {
  const unsigned index = if_nametoindex(name.c_str());
  if (index == 0) return "no interface " + name;
  Request request;
  request.header.nlmsg_len = NLMSG_LENGTH(sizeof(ifinfomsg));
  request.header.nlmsg_type = RTM_NEWLINK;
  request.header.nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK;
  request.body.link.ifi_index = static_cast<int>(index);
  request.body.link.ifi_flags = IFF_UP;
  request.body.link.ifi_change = IFF_UP;
  std::string wrong = Ask(request, "interface " + name);
  if (wrong.empty() && !address.empty()) wrong = SetAddress(index, address);
  return wrong;
}

}  // namespace rehome::linux_guest
