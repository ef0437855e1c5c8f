// SPDX-License-Identifier: Apache-2.0
//
// rehomed. This file is the wiring: everything is built bottom-up, each part given what it needs,
// and taken down in the opposite order. The order of the sections in Serve() is that of a start.
// What a migration does is in driver.cc and machine.cc.
#include <signal.h>
#include <sys/resource.h>

#include <cstdio>
#include <string>
#include <string_view>

#include "CLI/CLI.hpp"
#include "daemon/agent_server.h"
#include "daemon/clock.h"
#include "daemon/config.h"
#include "daemon/escrow_store.h"
#include "daemon/escrow_tidy.h"
#include "daemon/fence.h"
#include "daemon/host_probe.h"
#include "daemon/journal.h"
#include "daemon/metrics.h"
#include "daemon/migration_effects.h"
#include "daemon/migration_ledger.h"
#include "daemon/pinned_memory.h"
#include "daemon/process_launcher.h"
#include "daemon/registry.h"
#include "daemon/service/api_server.h"
#include "daemon/service/host_service.h"
#include "daemon/service/migration_service.h"
#include "daemon/service/vm_service.h"
#include "daemon/service_manager.h"
#include "daemon/vm_directory.h"
#include "kvmglue/status_reason.h"
#include "proto/version.h"
#include "spdlog/sinks/stdout_sinks.h"
#include "spdlog/spdlog.h"

namespace rehome {
namespace {

// Signals that end the daemon are taken by main() alone; every thread inherits the mask.
sigset_t BlockEndingSignals() {
  sigset_t ending;
  sigemptyset(&ending);
  sigaddset(&ending, SIGTERM);
  sigaddset(&ending, SIGINT);
  pthread_sigmask(SIG_BLOCK, &ending, nullptr);
  signal(SIGPIPE, SIG_IGN);
  return ending;
}

// Two descriptors per registered VM, and what migrations escrow: as many as the host allows.
void RaiseDescriptorLimit() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
}

void StartLogging(LogLevel level) {
  spdlog::set_default_logger(spdlog::stderr_logger_mt("rehomed"));
  spdlog::set_pattern("%Y-%m-%dT%H:%M:%S.%eZ %L %v", spdlog::pattern_time_type::utc);
  switch (level) {
    case LogLevel::kDebug:
      return spdlog::set_level(spdlog::level::debug);
    case LogLevel::kInfo:
      return spdlog::set_level(spdlog::level::info);
    case LogLevel::kWarning:
      return spdlog::set_level(spdlog::level::warn);
    case LogLevel::kError:
      return spdlog::set_level(spdlog::level::err);
  }
}

EffectTimeouts TimeoutsFrom(const DaemonConfig& config) {
  EffectTimeouts timeouts = config.timeouts;
  timeouts.claim = config.handover_timeout;
  timeouts.resolve = config.resolve_timeout;
  return timeouts;
}

HostFacts FactsFrom(const DaemonConfig& config, const HostCapabilities& capabilities,
                    const std::string& boot_id) {
  HostFacts facts;
  facts.capabilities = capabilities;
  facts.boot_id = boot_id;
  facts.start_time_unix_ns = UnixNanos();
  for (const auto& [name, profile] : config.profiles) facts.profiles.push_back(profile);
  facts.concurrent_migrations = config.concurrent_migrations;
  facts.default_handover_timeout = config.handover_timeout;
  facts.default_deadline = config.deadline;
  return facts;
}

void Tell(const ServiceManager& manager, std::string_view state) {
  const absl::Status told = manager.Notify(state);
  if (!told.ok()) spdlog::warn("{}: {}", state, std::string(told.message()));
}

// The start is over: it has told of what was wrong with the journal, and kept what may need it.
void EndRepair(Journal& journal) {
  const absl::Status ended = journal.EndRepair();
  if (!ended.ok()) spdlog::warn("journal: {}", std::string(ended.message()));
}

void TellOfEscrow(const EscrowStore& store, std::optional<size_t> dropped) {
  if (!dropped.has_value()) {
    spdlog::error("the service manager's {} descriptors are all kept, because records are missing",
                  store.stored_fds());
  } else if (*dropped != 0) {
    spdlog::info("{} descriptors of no unfinished migration closed", *dropped);
  }
}

// How often a recovery is looked at between two looks for a signal.
constexpr timespec kRecoveryLook = {.tv_sec = 0, .tv_nsec = 5'000'000};

// 0 once all is recovered, or the signal that came first.
int AwaitRecovered(const Registry& registry, const sigset_t& ending) {
  while (!registry.IsRecovered()) {
    const int signal_number = sigtimedwait(&ending, nullptr, &kRecoveryLook);
    if (signal_number > 0) return signal_number;
  }
  return 0;
}

// Null if none are wanted, or if they cannot be served: guests wait for this daemon, metrics do
// not.
std::unique_ptr<MetricsEndpoint> ServeMetrics(const DaemonConfig& config, MetricsSources sources) {
  if (config.metrics_listen.empty()) return nullptr;
  absl::StatusOr<std::unique_ptr<MetricsEndpoint>> started =
      MetricsEndpoint::Start(config.metrics_listen, std::move(sources));
  if (started.ok()) return *std::move(started);
  spdlog::error("no metrics: {}: {}", ReasonOf(started.status()),
                std::string(started.status().message()));
  return nullptr;
}

// Null if none are wanted. A trace that cannot be kept is worth a line, no more.
std::function<void(const std::string&, const MigrationTrace&)> KeeperOfTraces(
    const DaemonConfig& config, Journal* journal) {
  if (!config.trace) return {};
  return [journal](const std::string& id, const MigrationTrace& trace) {
    const absl::Status kept = journal->PutTrace(id, trace);
    if (!kept.ok()) spdlog::warn("no trace of {}: {}", id, std::string(kept.message()));
  };
}

absl::Status Serve(const DaemonConfig& config, const sigset_t& ending, ServiceManager* manager) {
  // ---- what was ----
  absl::StatusOr<std::string> boot_id = ReadBootId();
  if (!boot_id.ok()) return boot_id.status();
  // First, because it holds the lock of the state directory: a second daemon ends here.
  absl::StatusOr<std::unique_ptr<Journal>> journal = OpenSqliteJournal(config.state_directory);
  if (!journal.ok()) return journal.status();
  MigrationLedger ledger;
  const std::unique_ptr<Journal> watched_journal = NewLedgerJournal(journal->get(), &ledger);
  const std::unique_ptr<EscrowStore> escrow_store = NewEscrowStore(manager);

  // ---- what acts ----
  const Backend backend = OpenBackend(config.kernel, LinkAbi{config.link_ioctl});
  absl::StatusOr<std::unique_ptr<Launcher>> launcher =
      NewProcessLauncher({.profiles = config.profiles,
                          .state_directory = config.state_directory,
                          .agent_socket = config.agent_socket});
  if (!launcher.ok()) return launcher.status();
  const std::unique_ptr<Fence> fence = NewProcFence();
  VmDirectory vms;
  absl::StatusOr<std::unique_ptr<AgentServer>> agents =
      AgentServer::Create({.socket_path = config.agent_socket,
                           .peers = config.agent_peers,
                           .log = [](std::string_view line) { spdlog::warn("agent: {}", line); }},
                          &vms, backend.fd_kinds.get());
  if (!agents.ok()) return agents.status();
  const std::unique_ptr<EffectsFactory> effects = NewMigrationEffectsFactory(
      {.host = &backend.capabilities,
       .vms = &vms,
       .launcher = launcher->get(),
       .fence = fence.get(),
       .adopt_target =
           [&agents](LaunchedVmm& target, std::chrono::milliseconds timeout, Interrupt* interrupt) {
             return (*agents)->AdoptTarget(target, timeout, interrupt);
           },
       .timeouts = TimeoutsFrom(config),
       .store = escrow_store.get(),
       .fd_kinds = backend.fd_kinds.get(),
       .await_link =
           [&agents](const ProcessIdentity& process, std::chrono::milliseconds timeout,
                     Interrupt* interrupt) {
             return (*agents)->AwaitLink(process, timeout, interrupt);
           },
       .may_miss_records = [&journal] { return (*journal)->repair().may_miss_records(); },
       .keep_trace = KeeperOfTraces(config, watched_journal.get())});

  // ---- what decides: reads the journal, and takes the VM ids of unfinished migrations ----
  absl::StatusOr<std::unique_ptr<Registry>> registry = Registry::Create(
      {.concurrent = config.concurrent_migrations,
       .boot_id = *boot_id,
       .default_deadline = config.deadline,
       .check_profile =
           [&launcher](const std::string& name) { return (*launcher)->Profile(name).status(); }},
      watched_journal.get(), &vms, effects.get());
  if (!registry.ok()) return registry.status();
  const JournalRepair repair = (*journal)->repair();
  if (!repair.none()) spdlog::error("journal: {}", repair.Summary());
  TellOfEscrow(*escrow_store, TidyEscrow(*escrow_store, (*registry)->Unfinished(), repair));

  // ---- who may speak: clients, told NOT_SERVING, then agents ----
  PeerTable peers;
  WatchGate watches;
  MigrationService migration_service(registry->get(), &peers, &watches);
  VmService vm_service(&vms, &watches);
  HostService host_service(FactsFrom(config, backend.capabilities, *boot_id),
                           [&ledger] { return CountPinnedMemory(ledger.GuestMemory()); });
  absl::StatusOr<std::unique_ptr<ApiServer>> api =
      ApiServer::Start({.socket_path = config.api_socket, .allowed = config.api_peers},
                       {&migration_service, &vm_service, &host_service}, &peers, &watches);
  if (!api.ok()) return api.status();
  if (absl::Status status = (*agents)->StartAccepting(); !status.ok()) return status;
  const std::unique_ptr<MetricsEndpoint> metrics = ServeMetrics(
      config,
      {.ledger = &ledger, .agents = [&agents] { return (*agents)->stats(); }, .repair = repair});

  // ---- what was left unfinished ----
  if (absl::Status status = (*registry)->StartRecovery(); !status.ok()) return status;
  int signal_number = AwaitRecovered(**registry, ending);
  if (signal_number == 0) {
    (*api)->SetServing(true);
    // One that is not settled has to be doubted by the next daemon too.
    if ((*registry)->Unfinished().empty()) EndRepair(**journal);
    Tell(*manager, "READY=1");
    spdlog::info("rehomed {} serves {} on {}, agents on {}", kVersion, backend.capabilities.backend,
                 config.api_socket, config.agent_socket);
    sigwait(&ending, &signal_number);
  }
  spdlog::info("ending on signal {}; guests run on in their VMMs", signal_number);
  Tell(*manager, "STOPPING=1");
  (*api)->SetServing(false);
  (*registry)->Stop();
  (*api)->Stop();
  return absl::OkStatus();
}

int Main(int argc, char** argv) {
  // Before anything opens a descriptor or reads the environment.
  const std::unique_ptr<ServiceManager> manager = ServiceManager::FromEnvironment();
  CLI::App app("rehomed: moves running VMs into new VMM processes on this host");
  std::string config_path = "/etc/rehome/rehomed.toml";
  bool check_only = false;
  app.add_option("--config", config_path, "configuration file (docs/configuration.md)")
      ->capture_default_str();
  app.add_flag("--check-config", check_only, "check the configuration file and exit");
  app.set_version_flag("--version", std::string("rehomed ") + kVersion);
  CLI11_PARSE(app, argc, argv);

  const sigset_t ending = BlockEndingSignals();
  absl::StatusOr<DaemonConfig> config = LoadConfig(config_path);
  absl::Status status = config.status();
  if (status.ok() && check_only) {
    printf("%s: ok, %zu profile(s)\n", config_path.c_str(), config->profiles.size());
    return 0;
  }
  if (status.ok()) {
    RaiseDescriptorLimit();
    StartLogging(config->log_level);
    status = Serve(*config, ending, manager.get());
  }
  if (status.ok()) return 0;
  fprintf(stderr, "rehomed: %s: %s\n", ReasonOf(status).c_str(),
          std::string(status.message()).c_str());
  return 1;
}

}  // namespace
}  // namespace rehome

int main(int argc, char** argv) { return rehome::Main(argc, argv); }
