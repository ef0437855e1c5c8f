// SPDX-License-Identifier: Apache-2.0
#include "bench/linux_guest/init/control_server.h"

#include <time.h>

#include <fstream>
#include <iterator>
#include <sstream>

#include "bench/linux_guest/guest_account.h"
#include "bench/linux_guest/workload_abi.h"

namespace rehome::linux_guest {
namespace {

void ReportComplaints(GuestAccount& account, const std::string& name, const Complaints& of) {
  account.Set(name, of.count());
  if (of.count() != 0) account.SetText(name + "_first", of.first());
}

void ReportTcp(GuestAccount& account) {
  std::ifstream file("/proc/net/snmp");
  const std::string text{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  const TcpStats tcp = ParseTcpStats(text);
  account.Set("tcp_resets_seen", tcp.resets_seen);
  account.Set("tcp_resets_sent", tcp.resets_sent);
  account.Set("tcp_retransmits", tcp.retransmits);
}

std::string ClockSource() {
  std::ifstream file("/sys/devices/system/clocksource/clocksource0/current_clocksource");
  std::string name;
  file >> name;
  return name;
}

GuestAccount AccountOf(Workload& workload) {
  const Counters& counters = workload.counters;
  GuestAccount account;
  account.Set("run", workload.run);
  account.Set("uptime_ns", NowNs(CLOCK_MONOTONIC));
  account.SetText("clocksource", ClockSource());
  account.Set("echo_streams", counters.echo_streams);
  account.Set("echo_ended", counters.echo_ended);
  account.Set("echo_frames", counters.echo_frames);
  account.Set("echo_bytes", counters.echo_bytes);
  ReportComplaints(account, "echo_faults", counters.echo_faults);
  account.Set("time_requests", counters.time_requests);
  account.Set("account_requests", counters.account_requests);
  account.Set("console_ticks", counters.console_ticks);
  account.Set("console_pings", counters.console_pings);
  account.Set("kmsg_lines", counters.kmsg_lines);
  account.Set("kmsg_planted", counters.kmsg_planted);
  ReportComplaints(account, "kmsg_lost", counters.kmsg_lost);
  ReportComplaints(account, "kmsg_alarms", counters.kmsg_alarms);
  ReportComplaints(account, "faults", counters.faults);
  ReportTcp(account);
  workload.clocks.Report(account);
  workload.disk.Report(account);
  workload.work.Report(account);
  return account;
}

std::string Answer(const std::string& request, Workload& workload) {
  if (request == "time") {
    ++workload.counters.time_requests;
    GuestAccount times;
    times.Set("mono", NowNs(CLOCK_MONOTONIC));
    times.Set("real", NowNs(CLOCK_REALTIME));
    return times.ToLine();
  }
  if (request == "account") {
    ++workload.counters.account_requests;
    return AccountOf(workload).ToLine();
  }
  if (request == "mark") {
    workload.clocks.Mark();
    return "ok";
  }
  if (request == "stop") {
    workload.disk.Stop();
    workload.work.Stop();
    return "ok";
  }
  return "unknown";
}

}  // namespace

// Two lines per protocol: "Tcp:" and the names, "Tcp:" and the values.
TcpStats ParseTcpStats(const std::string& text) {
  TcpStats stats;
  std::istringstream lines(text);
  std::string names, line;
  while (std::getline(lines, line)) {
    if (!line.starts_with("Tcp:")) continue;
    if (names.empty()) {
      names = line;
      continue;
    }
    std::istringstream keys(names), values(line);
    std::string key, value;
    while (keys >> key && values >> value) {
      if (key == "EstabResets") stats.resets_seen = std::stoull(value);
      if (key == "OutRsts") stats.resets_sent = std::stoull(value);
      if (key == "RetransSegs") stats.retransmits = std::stoull(value);
    }
    break;
  }
  return stats;
}

void ServeControl(Connection& connection, Workload& workload) {
  std::string request;
  for (;;) {
    const Connection::Result got = connection.ReadLine(request, kMaxControlLine);
    if (got == Connection::Result::kEnd) return;
    if (got != Connection::Result::kWhole ||
        connection.WriteLine(Answer(request, workload)) != Connection::Result::kWhole) {
      return workload.counters.faults.Add(WithErrno("control connection"));
    }
  }
}

}  // namespace rehome::linux_guest
