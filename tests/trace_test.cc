// SPDX-License-Identifier: Apache-2.0
//
// A migration can be looked at afterwards: as a trace file, and as a page that a browser draws.
// What the browser drew is left in the test's outputs. REHOME_TEST_KERNEL is "kvm" or "sim".
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <fstream>
#include <map>
#include <memory>
#include <set>
#include <sstream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "client/api_error.h"
#include "gtest/gtest.h"
#include "kvmglue/why_no_kvm.h"
#include "nlohmann/json.hpp"
#include "tests/harness/host_under_test.h"
#include "tests/harness/process.h"

namespace rehome {
namespace {

using harness::HostUnderTest;
using harness::Process;
using nlohmann::json;

constexpr char kKernel[] = REHOME_TEST_KERNEL;
constexpr char kChromium[] = "/usr/bin/chromium";
// A browser starts in seconds, on a loaded machine in tens of them.
constexpr std::chrono::milliseconds kProgramTimeout{180'000};

std::string ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

size_t CountOf(const std::string& text, const std::string& part) {
  size_t count = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++count;
  return count;
}

class TraceTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (std::string_view(kKernel) == "sim") return;
    if (const std::string why = WhyNoKvm(); !why.empty()) GTEST_SKIP() << why;
  }

  void Start(std::vector<std::string> daemon_lines = {}) {
    auto host = HostUnderTest::Start({.kernel = kKernel, .daemon_lines = std::move(daemon_lines)});
    ASSERT_TRUE(host.ok()) << host.status();
    host_ = *std::move(host);
    auto vmm = host_->StartVmm({.vm_id = "web-1", .version = 1, .vcpus = 2});
    ASSERT_TRUE(vmm.ok()) << vmm.status();
    vmm_ = *std::move(vmm);
  }
  void Migrate(v1::Migration::FencePolicy policy) {
    const auto migration = host_->Migrate("web-1", harness::ProfileOfVersion(2), policy);
    ASSERT_TRUE(migration.ok()) << migration.status();
    ASSERT_EQ(migration->state(), v1::Migration::SUCCEEDED) << migration->error().message();
    migration_ = *migration;
  }
  absl::StatusOr<v1::MigrationTrace> GetTrace() {
    v1::GetMigrationTraceRequest request;
    request.set_name(migration_.name() + "/trace");
    return host_->client().GetMigrationTrace(request);
  }
  // Runs a program to its end; what it wrote.
  std::string Run(const std::vector<std::string>& argv) {
    const std::string log = work_.File("log-" + std::to_string(++runs_));
    auto process =
        Process::Start({.argv = argv, .environment = {}, .log_path = log, .inherited = {}});
    EXPECT_TRUE(process.ok()) << process.status();
    if (!process.ok()) return "";
    const auto status = process->WaitExit(kProgramTimeout);
    EXPECT_TRUE(status.ok() && *status == 0) << argv[0] << ":\n" << ReadFile(log);
    return ReadFile(log);
  }
  // The trace as `rehome migration trace` writes it.
  std::string Export(const std::string& file) {
    const std::string path = Output(file);
    Run({harness::BinaryPath("client/cli/rehome"), "--socket", host_->api_socket(), "migration",
         "trace", migration_.name(), "-o", path});
    return path;
  }
  std::string Output(const std::string& file) const {
    const char* kept = std::getenv("TEST_UNDECLARED_OUTPUTS_DIR");
    return kept != nullptr ? std::string(kept) + "/" + file : work_.File(file);
  }
  std::vector<std::string> Chromium(std::vector<std::string> more) const {
    std::vector<std::string> argv = {kChromium,
                                     "--headless",
                                     "--no-sandbox",  // it does not run as root otherwise
                                     "--disable-gpu",
                                     "--disable-dev-shm-usage",
                                     "--hide-scrollbars",
                                     "--no-first-run",
                                     "--user-data-dir=" + work_.File("browser")};
    argv.insert(argv.end(), more.begin(), more.end());
    return argv;
  }
  // Bytes of a picture of that page.
  size_t Screenshot(const std::string& page, const std::string& png) {
    unlink(png.c_str());
    Run(Chromium({"--window-size=1540,1000", "--screenshot=" + png, "file://" + page}));
    struct stat status = {};
    return stat(png.c_str(), &status) == 0 ? static_cast<size_t>(status.st_size) : 0;
  }

  harness::TempDir work_;
  std::unique_ptr<HostUnderTest> host_;
  harness::StartedVmm vmm_;  // killed with this object
  v1::Migration migration_;
  int runs_ = 0;
};

// The source is killed under this policy before the guest goes on; those of its calls that took
// long enough are there all the same.
TEST_F(TraceTest, HasBothSidesAndOutlivesTheDaemon) {
  ASSERT_NO_FATAL_FAILURE(Start());
  ASSERT_NO_FATAL_FAILURE(Migrate(v1::Migration::BEFORE_RESUME));
  const auto trace = GetTrace();
  ASSERT_TRUE(trace.ok()) << trace.status();
  EXPECT_EQ(trace->phases_size(), 7);
  EXPECT_GE(trace->steps_size(), 5);
  for (const auto* side : {&trace->source(), &trace->target()}) {
    EXPECT_EQ(side->dropped_calls(), 0);
    std::set<int32_t> vcpus;
    for (const auto& call : side->calls()) {
      EXPECT_NE(call.operation(), "OTHER");
      EXPECT_GE(call.end_monotonic_ns() - call.begin_monotonic_ns(), trace->threshold_ns());
      if (call.has_vcpu()) vcpus.insert(call.vcpu());
    }
    // Which calls are long is the machine's affair. On the source a KVM_RUN may have ended just
    // before the pause, and the rest be short; of two vCPUs of the target one may have only short.
    const bool is_source = side == &trace->source();
    EXPECT_GE(vcpus.size(), is_source ? 0u : 1u);
    EXPECT_LE(vcpus.empty() ? 0 : *vcpus.rbegin(), 1);
  }
  EXPECT_EQ(trace->source().process().pid(), migration_.source().pid());
  EXPECT_EQ(trace->target().process().pid(), migration_.target().pid());

  host_->KillDaemon();
  ASSERT_TRUE(host_->StartDaemon().ok());
  const auto again = GetTrace();
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(again->SerializeAsString(), trace->SerializeAsString());
}

TEST_F(TraceTest, IsNotMadeWhereItIsNotWanted) {
  ASSERT_NO_FATAL_FAILURE(Start({"trace = false"}));
  ASSERT_NO_FATAL_FAILURE(Migrate(v1::Migration::BEFORE_RESUME));
  EXPECT_EQ(ApiReasonOf(GetTrace().status()), "TRACE_NOT_FOUND");
}

// What trace viewers ask of the file: known kinds of events, in order, on each thread apart or one
// within another; and that all is there.
TEST_F(TraceTest, FileIsOrderedBalancedAndComplete) {
  ASSERT_NO_FATAL_FAILURE(Start());
  ASSERT_NO_FATAL_FAILURE(Migrate(v1::Migration::AFTER_RESUME));
  const json file = json::parse(ReadFile(Export("hop.json")), nullptr, false);
  ASSERT_TRUE(file.is_object());
  std::map<int, std::string> processes;
  std::map<std::pair<int, int>, std::vector<double>> open;  // the ends of what is open
  std::map<std::string, int> categories;
  std::set<int> with_ioctls;
  double before = 0;
  for (const json& event : file.at("traceEvents")) {
    const std::string kind = event.at("ph");
    if (kind == "M") {
      if (event.at("name") == "process_name") processes[event.at("pid")] = event["args"]["name"];
      continue;
    }
    ASSERT_TRUE(kind == "X" || kind == "i") << kind;
    const double begin = event.at("ts");
    EXPECT_GE(begin, before);
    before = begin;
    ++categories[event.at("cat")];
    if (event["cat"] == "ioctl") with_ioctls.insert(event.at("pid").get<int>());
    ASSERT_TRUE(processes.count(event.at("pid")) != 0);
    if (kind == "i") continue;
    const double end = begin + event.at("dur").get<double>();
    std::vector<double>& stack = open[{event.at("pid"), event.at("tid")}];
    while (!stack.empty() && stack.back() <= begin + 0.0005) stack.pop_back();
    EXPECT_TRUE(stack.empty() || end <= stack.back() + 0.0005) << event;
    stack.push_back(end);
  }
  EXPECT_EQ(processes.size(), 3u);
  // On a quiet machine none of the source's takes the 10 us that are worth a note. The target's
  // first KVM_RUN does.
  EXPECT_TRUE(with_ioctls.contains(migration_.target().pid()));
  with_ioctls.erase(migration_.target().pid());
  with_ioctls.erase(migration_.source().pid());
  EXPECT_TRUE(with_ioctls.empty()) << "of somebody else";
  EXPECT_EQ(categories["blackout"], 1);
  EXPECT_EQ(categories["phase"], 7);
  EXPECT_GE(categories["step"], 5);
  EXPECT_GE(categories["fence"], 1);
}

TEST_F(TraceTest, PageIsDrawnByABrowser) {
  if (access(kChromium, X_OK) != 0) GTEST_SKIP() << "no " << kChromium << " (Debian: chromium)";
  ASSERT_NO_FATAL_FAILURE(Start());
  ASSERT_NO_FATAL_FAILURE(Migrate(v1::Migration::AFTER_RESUME));
  const std::string page = Export("hop.html");
  const std::string dom = Run(Chromium({"--dump-dom", "file://" + page}));
  EXPECT_EQ(CountOf(dom, "<g class=\"lane\" data-group=\"target\" data-lane=\"vCPU "), 2u);
  EXPECT_EQ(CountOf(dom, "data-group=\"rehomed\""), 1u);
  EXPECT_EQ(CountOf(dom, "data-name=\"paused"), 1u);
  EXPECT_GE(CountOf(dom, "class=\"bar k-phase\""), 4u);
  // The simulated kernel's ioctls may all be too quick for a bar, but for the target's KVM_RUN.
  EXPECT_GE(CountOf(dom, "class=\"bar k-read\"") + CountOf(dom, "class=\"bar k-write\"") +
                CountOf(dom, "class=\"bar k-run\""),
            std::string_view(kKernel) == "sim" ? 1u : 2u);
  // Nothing is fetched and nothing runs.
  for (const char* foreign : {"<script", "http-equiv", " src=", " href=", "@import", "url("}) {
    EXPECT_EQ(CountOf(dom, foreign), 0u) << foreign;
  }

  const std::string blank = work_.File("blank.html");
  std::ofstream(blank) << "<!doctype html><title>nothing</title>";
  const size_t nothing = Screenshot(blank, work_.File("blank.png"));
  const size_t drawn = Screenshot(page, Output("hop.png"));
  ASSERT_GT(nothing, 0u);
  EXPECT_GT(drawn, 5 * nothing);
  EXPECT_EQ(ReadFile(Output("hop.png")).substr(0, 4), "\x89PNG");

  const std::string svg = ReadFile(Export("hop.svg"));
  EXPECT_EQ(svg.find("<svg xmlns="), 0u);
}

}  // namespace
}  // namespace rehome
