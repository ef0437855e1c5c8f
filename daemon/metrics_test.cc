// SPDX-License-Identifier: Apache-2.0
#include "daemon/metrics.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <set>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kvmglue/status_reason.h"
#include "prometheus/text_serializer.h"
#include "vmm/agent/handover_block.h"

namespace rehome {
namespace {

using ::testing::HasSubstr;

Migration Ended(MigrationState state, const std::string& reason) {
  Migration record;
  record.id = "m-1";
  record.state = state;
  record.failure.reason = reason;
  return record;
}

class MetricsTest : public ::testing::Test {
 protected:
  MetricsSources Sources() {
    return {.ledger = &ledger_,
            .agents = [] { return AgentServer::Stats{.connections = 3, .violations = 2}; },
            .repair = {.torn_commits = 5, .set_aside = "journal.db.damaged"}};
  }
  std::string Text() { return prometheus::TextSerializer().Serialize(CollectMetrics(Sources())); }

  MigrationLedger ledger_;
};

TEST_F(MetricsTest, ALeakedDescriptorOfAFinishedMigrationShows) {
  UniqueFd leaked(memfd_create("guest", MFD_CLOEXEC));
  ASSERT_EQ(ftruncate(leaked.borrow().raw(), 4096), 0);
  Migration done = Ended(MigrationState::kSucceeded, "");
  done.memory_inodes = {Identify(leaked.borrow())->id};
  ledger_.Add(done);
  EXPECT_THAT(Text(), HasSubstr("rehome_pinned_bytes{why=\"finished\"} 4096\n"));
  leaked.Reset();
  EXPECT_THAT(Text(), HasSubstr("rehome_pinned_bytes{why=\"finished\"} 0\n"));
}

TEST_F(MetricsTest, SaysHowMigrationsEndAndHowManyAreUnderWay) {
  ledger_.Add(Ended(MigrationState::kFailed, "TARGET_DIED"));
  Migration unresolved = Ended(MigrationState::kIndeterminate, "OWNER_UNKNOWN");
  unresolved.id = "m-2";
  ledger_.Add(unresolved);
  const std::string text = Text();
  EXPECT_THAT(text, HasSubstr("rehome_migrations{state=\"INDETERMINATE\"} 1\n"));
  EXPECT_THAT(text, HasSubstr("rehome_migrations{state=\"HANDING_OVER\"} 0\n"));
  EXPECT_THAT(text,
              HasSubstr("rehome_migrations_total{outcome=\"FAILED\",reason=\"TARGET_DIED\"} 1\n"));
}

TEST_F(MetricsTest, BucketsOfTheBlackoutAreCumulative) {
  for (const uint64_t blackout_ns : {900'000u, 3'000'000u}) {
    Migration done = Ended(MigrationState::kSucceeded, "");
    done.owner = GuestOwner::kTarget;
    done.strategy = Strategy::kMap;
    done.phases[REHOME_PHASE_PAUSE_REQUESTED] = 1;
    done.phases[REHOME_PHASE_RUNNING] = 1 + blackout_ns;
    ledger_.Add(done);
  }
  const std::string text = Text();
  const std::string bucket = "rehome_blackout_seconds_bucket{strategy=\"MAP\",le=";
  EXPECT_THAT(text, HasSubstr(bucket + "\"0.0005\"} 0\n"));
  EXPECT_THAT(text, HasSubstr(bucket + "\"0.001\"} 1\n"));
  EXPECT_THAT(text, HasSubstr(bucket + "\"0.004\"} 2\n"));
  EXPECT_THAT(text, HasSubstr(bucket + "\"+Inf\"} 2\n"));
  EXPECT_THAT(text, HasSubstr("rehome_blackout_seconds_sum{strategy=\"MAP\"} 0.0039"));
}

TEST_F(MetricsTest, SaysThatTheJournalHadToBeRepaired) {
  const std::string text = Text();
  EXPECT_THAT(text, HasSubstr("rehome_journal_repair{what=\"torn_commits\"} 5\n"));
  EXPECT_THAT(text, HasSubstr("rehome_journal_repair{what=\"databases_set_aside\"} 1\n"));
}

TEST_F(MetricsTest, EveryMetricHasANameOfItsOwnAndAWordOfHelp) {
  std::set<std::string> names;
  for (const prometheus::MetricFamily& family : CollectMetrics(Sources())) {
    EXPECT_TRUE(names.insert(family.name).second) << family.name;
    EXPECT_TRUE(family.name.starts_with("rehome_")) << family.name;
    EXPECT_NE(family.help, "") << family.name;
  }
}

// The answer to GET /metrics on the port, whole.
std::string Scrape(int port) {
  const UniqueFd client(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (connect(client.borrow().raw(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) {
    return "";
  }
  const std::string request = "GET /metrics HTTP/1.0\r\n\r\n";
  if (write(client.borrow().raw(), request.data(), request.size()) < 0) return "";
  std::string answer;
  char buffer[4096];
  for (ssize_t count = 0; (count = read(client.borrow().raw(), buffer, sizeof buffer)) > 0;) {
    answer.append(buffer, static_cast<size_t>(count));
  }
  return answer;
}

TEST_F(MetricsTest, AreServedOverHttpWhereTheConfigurationSays) {
  const auto endpoint = MetricsEndpoint::Start("127.0.0.1:0", Sources());
  ASSERT_TRUE(endpoint.ok()) << endpoint.status();
  const std::string answer = Scrape((*endpoint)->port());
  EXPECT_THAT(answer, HasSubstr("200 OK"));
  EXPECT_THAT(answer, HasSubstr("rehome_agent_connections 3\n"));
  EXPECT_THAT(answer, HasSubstr("rehome_agent_closed_total{why=\"violation\"} 2\n"));
}

TEST_F(MetricsTest, AnAddressInUseIsAnErrorAndNotACrash) {
  const auto first = MetricsEndpoint::Start("127.0.0.1:0", Sources());
  ASSERT_TRUE(first.ok()) << first.status();
  const auto second =
      MetricsEndpoint::Start(absl::StrCat("127.0.0.1:", (*first)->port()), Sources());
  EXPECT_EQ(ReasonOf(second.status()), "METRICS_LISTEN_FAILED");
}

}  // namespace
}  // namespace rehome
