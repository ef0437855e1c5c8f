// SPDX-License-Identifier: Apache-2.0
#include "daemon/metrics.h"

#include <exception>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "daemon/pinned_memory.h"
#include "daemon/reasons.h"
#include "kvmglue/status_reason.h"
#include "prometheus/collectable.h"
#include "prometheus/exposer.h"

namespace rehome {
namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;
using prometheus::MetricType;
using Labels = std::vector<ClientMetric::Label>;

constexpr double kNanosPerSecond = 1e9;

MetricFamily Family(std::string name, std::string help, MetricType type) {
  return {.name = std::move(name), .help = std::move(help), .type = type, .metric = {}};
}

void Add(double value, Labels labels, MetricFamily* family) {
  ClientMetric metric;
  metric.label = std::move(labels);
  // Which one is read follows from the family's type.
  metric.gauge.value = value;
  metric.counter.value = value;
  family->metric.push_back(std::move(metric));
}

MetricFamily One(std::string name, std::string help, MetricType type, double value) {
  MetricFamily family = Family(std::move(name), std::move(help), type);
  Add(value, {}, &family);
  return family;
}

MetricFamily PinnedFamily(const MigrationLedger& ledger) {
  MetricFamily family =
      Family("rehome_pinned_bytes",
             "Guest memory behind descriptors of this daemon, by the state of its migration; "
             "finished is a leak unless it is 0.",
             MetricType::Gauge);
  const absl::StatusOr<PinnedBytes> pinned = CountPinnedMemory(ledger.GuestMemory());
  if (!pinned.ok()) return family;  // no figure is better than a wrong 0
  Add(static_cast<double>(pinned->active), {{"why", "active"}}, &family);
  Add(static_cast<double>(pinned->finished), {{"why", "finished"}}, &family);
  Add(static_cast<double>(pinned->indeterminate), {{"why", "indeterminate"}}, &family);
  return family;
}

MetricFamily OpenFamily(const MigrationLedger::Totals& totals) {
  MetricFamily family = Family("rehome_migrations", "Migrations under way or unresolved, by state.",
                               MetricType::Gauge);
  for (const auto& [state, count] : totals.open) {
    Add(static_cast<double>(count), {{"state", MigrationStateName(state)}}, &family);
  }
  return family;
}

MetricFamily EndedFamily(const MigrationLedger::Totals& totals) {
  MetricFamily family =
      Family("rehome_migrations_total", "Migrations that ended, by outcome and reason.",
             MetricType::Counter);
  for (const auto& [outcome, count] : totals.ended) {
    Add(static_cast<double>(count),
        {{"outcome", MigrationStateName(outcome.first)}, {"reason", outcome.second}}, &family);
  }
  return family;
}

MetricFamily BlackoutFamily(const MigrationLedger::Totals& totals) {
  MetricFamily family =
      Family("rehome_blackout_seconds", "How long guests stood still that were moved, by strategy.",
             MetricType::Histogram);
  for (const auto& [strategy, histogram] : totals.blackouts) {
    ClientMetric metric;
    metric.label = {{"strategy", StrategyName(strategy)}};
    metric.histogram.sample_count = histogram.count;
    metric.histogram.sample_sum = static_cast<double>(histogram.sum_ns) / kNanosPerSecond;
    uint64_t cumulative = 0;
    for (size_t i = 0; i < histogram.buckets.size(); ++i) {
      cumulative += histogram.buckets[i];
      const double bound = i < kBlackoutBounds.size()
                               ? static_cast<double>(kBlackoutBounds[i]) / kNanosPerSecond
                               : std::numeric_limits<double>::infinity();
      metric.histogram.bucket.push_back({.cumulative_count = cumulative, .upper_bound = bound});
    }
    family.metric.push_back(std::move(metric));
  }
  return family;
}

void AddAgents(const AgentServer::Stats& stats, std::vector<MetricFamily>* families) {
  families->push_back(One("rehome_agent_connections", "Open connections of VMMs.",
                          MetricType::Gauge, static_cast<double>(stats.connections)));
  families->push_back(One("rehome_agent_connections_unsettled",
                          "Of these, without HELLO, or of targets that nobody has claimed.",
                          MetricType::Gauge, static_cast<double>(stats.unsettled)));
  families->push_back(One("rehome_agent_accepted_total", "Connections that were accepted.",
                          MetricType::Counter, static_cast<double>(stats.accepted)));
  MetricFamily refused =
      Family("rehome_agent_closed_total", "Connections that the daemon closed, by reason.",
             MetricType::Counter);
  Add(static_cast<double>(stats.denied), {{"why", "denied"}}, &refused);
  Add(static_cast<double>(stats.crowded_out), {{"why", "crowded_out"}}, &refused);
  Add(static_cast<double>(stats.timed_out), {{"why", "timed_out"}}, &refused);
  Add(static_cast<double>(stats.violations), {{"why", "violation"}}, &refused);
  families->push_back(std::move(refused));
}

// Gauges, because they are of this daemon's start and stay what they are.
MetricFamily RepairFamily(const JournalRepair& repair) {
  MetricFamily family =
      Family("rehome_journal_repair",
             "What was wrong with the journal when this daemon opened it; all 0 if nothing was.",
             MetricType::Gauge);
  Add(static_cast<double>(repair.torn_bytes), {{"what", "torn_bytes"}}, &family);
  Add(static_cast<double>(repair.torn_commits), {{"what", "torn_commits"}}, &family);
  Add(repair.set_aside.empty() ? 0 : 1, {{"what", "databases_set_aside"}}, &family);
  Add(static_cast<double>(repair.records_lost.value_or(0)), {{"what", "records_lost"}}, &family);
  Add(static_cast<double>(repair.damaged_ids.size()), {{"what", "damaged_records"}}, &family);
  return family;
}

class Collector final : public prometheus::Collectable {
 public:
  explicit Collector(MetricsSources sources) : sources_(std::move(sources)) {}
  std::vector<MetricFamily> Collect() const override { return CollectMetrics(sources_); }

 private:
  const MetricsSources sources_;
};

class HttpEndpoint final : public MetricsEndpoint {
 public:
  // Throws std::exception if it cannot listen.
  HttpEndpoint(const std::string& address, MetricsSources sources)
      : collector_(std::make_shared<Collector>(std::move(sources))),
        exposer_(address, kMetricsThreads) {
    exposer_.RegisterCollectable(collector_);
  }
  int port() const override { return exposer_.GetListeningPorts().front(); }

 private:
  const std::shared_ptr<Collector> collector_;  // the exposer has a weak pointer
  prometheus::Exposer exposer_;
};

}  // namespace

std::vector<MetricFamily> CollectMetrics(const MetricsSources& sources) {
  const MigrationLedger::Totals totals = sources.ledger->totals();
  std::vector<MetricFamily> families = {
      PinnedFamily(*sources.ledger),
      OpenFamily(totals),
      EndedFamily(totals),
      BlackoutFamily(totals),
      One("rehome_rescue_attempts_total",
          "Targets that were started in place of one that died before it ran the guest.",
          MetricType::Counter, static_cast<double>(totals.rescue_attempts)),
      One("rehome_recovered_migrations_total",
          "Migrations that were taken over from a daemon that ended.", MetricType::Counter,
          static_cast<double>(totals.recovered))};
  AddAgents(sources.agents(), &families);
  families.push_back(RepairFamily(sources.repair));
  return families;
}

absl::StatusOr<std::unique_ptr<MetricsEndpoint>> MetricsEndpoint::Start(const std::string& address,
                                                                        MetricsSources sources) {
  // The library reports by exception.
  try {
    return std::make_unique<HttpEndpoint>(address, std::move(sources));
  } catch (const std::exception& error) {
    return MakeStatus(absl::StatusCode::kUnavailable, reason::kMetricsListenFailed,
                      absl::StrCat(address, ": ", error.what()));
  }
}

}  // namespace rehome
