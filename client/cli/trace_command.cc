// SPDX-License-Identifier: Apache-2.0
//
// rehome migration trace
#include <cerrno>
#include <cstring>
#include <fstream>
#include <memory>
#include <string>
#include <utility>

#include "client/api_error.h"
#include "client/cli/command.h"
#include "client/cli/commands.h"
#include "client/client_reasons.h"
#include "client/trace/chrome_trace.h"
#include "client/trace/timeline_html.h"
#include "client/trace/timeline_svg.h"

namespace rehome {
namespace {

struct TraceOptions {
  std::string id;
  std::string output;  // "": standard output
  std::string format;  // "": by the suffix of `output`
};

// The suffix says it; what has none of these is for a trace viewer.
std::string FormatOf(const TraceOptions& options) {
  if (!options.format.empty()) return options.format;
  for (const char* known : {"html", "svg"}) {
    if (options.output.ends_with(std::string(".") + known)) return known;
  }
  return "json";
}

std::string Render(const std::string& format, const v1::Migration& migration,
                   const v1::MigrationTrace& trace) {
  if (format == "json") return ChromeTrace(migration, trace);
  const Timeline timeline = MakeTimeline(migration, trace);
  return format == "svg" ? TimelineSvg(timeline) : TimelineHtml(timeline);
}

absl::Status Write(const std::string& path, const std::string& text) {
  errno = 0;
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file << text;
  file.close();
  if (file) return absl::OkStatus();
  return ClientError(absl::StatusCode::kFailedPrecondition, client_reason::kFileNotWritten,
                     "cannot write " + path + ": " + std::strerror(errno));
}

void GetTrace(CommandContext* context, const TraceOptions& options) {
  const auto client = context->NewClient();
  v1::GetMigrationRequest of_migration;
  of_migration.set_name(FullMigrationName(options.id));
  const auto migration = client->GetMigration(of_migration);
  if (!migration.ok()) return context->Fail(migration.status());
  v1::GetMigrationTraceRequest of_trace;
  of_trace.set_name(of_migration.name() + "/trace");
  const auto trace = client->GetMigrationTrace(of_trace);
  if (!trace.ok()) return context->Fail(trace.status());
  const std::string text = Render(FormatOf(options), *migration, *trace);
  if (options.output.empty()) {
    context->console.out << text;
    return;
  }
  const absl::Status written = Write(options.output, text);
  if (!written.ok()) return context->Fail(written);
  context->console.err << "wrote " << options.output << ": "
                       << trace->source().calls_size() + trace->target().calls_size()
                       << " ioctls\n";
}

}  // namespace

void AddTraceCommand(CLI::App* migration, CommandContext* context) {
  CLI::App* const trace = migration->add_subcommand(
      "trace", "Write what happened in a migration as a trace or as a picture");
  const auto options = std::make_shared<TraceOptions>();
  trace->add_option("MIGRATION", options->id, "Its id")->required();
  trace->add_option("-o,--output", options->output, "Write to this file (default: standard output)")
      ->type_name("FILE");
  trace
      ->add_option("--format", options->format,
                   "json (for Perfetto and chrome://tracing), html or svg; by the file's suffix, "
                   "else json")
      ->check(CLI::IsMember({"json", "html", "svg"}))
      ->type_name("FORMAT");
  trace->callback([context, options] { GetTrace(context, *options); });
  trace->footer(
      HelpFooter("The picture loads nothing from anywhere.\n\nExamples:\n"
                 "  rehome migration trace m-0123456789abcdef -o hop.json   # open in Perfetto\n"
                 "  rehome migration trace m-0123456789abcdef -o hop.html"));
}

}  // namespace rehome
