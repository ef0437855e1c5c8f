// SPDX-License-Identifier: Apache-2.0
//
// The daemon's figures for Prometheus; docs/metrics.md says what each means. Made when they are
// asked for: between two scrapes nothing runs.
#ifndef REHOME_DAEMON_METRICS_H_
#define REHOME_DAEMON_METRICS_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "daemon/agent_server.h"
#include "daemon/journal.h"
#include "daemon/migration_ledger.h"
#include "prometheus/metric_family.h"

namespace rehome {

// What the figures are made of. All must outlive the endpoint; called on its threads.
struct MetricsSources {
  const MigrationLedger* ledger = nullptr;
  std::function<AgentServer::Stats()> agents;
  JournalRepair repair;  // when this daemon opened its journal
};

// Every metric, as of now. Label values come from enums and from the bounded set of reasons, never
// from VMMs or clients.
std::vector<prometheus::MetricFamily> CollectMetrics(const MetricsSources& sources);

// A scrape is one request; two at a time are a scraper and a person.
inline constexpr size_t kMetricsThreads = 2;

// Serves GET /metrics over HTTP until it is destroyed. Thread-safe.
class MetricsEndpoint {
 public:
  virtual ~MetricsEndpoint() = default;
  // Listens on `address`, "IP:PORT" as the configuration checked it. UNAVAILABLE /
  // METRICS_LISTEN_FAILED.
  static absl::StatusOr<std::unique_ptr<MetricsEndpoint>> Start(const std::string& address,
                                                                MetricsSources sources);
  // The port it listens on, which the kernel chose if `address` had port 0.
  virtual int port() const = 0;
};

}  // namespace rehome

#endif  // REHOME_DAEMON_METRICS_H_
