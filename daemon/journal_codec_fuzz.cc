// SPDX-License-Identifier: Apache-2.0
//
// A record of the journal, which whoever can write the file can have written. Promises: what
// decodes and fits the bounds of a record comes back from encoding and decoding as it was, and an
// encoded record always fits.
#include <google/protobuf/stubs/logging.h>

#include <algorithm>
#include <string_view>

#include "daemon/journal_codec.h"
#include "kvmglue/status_reason.h"
#include "tools/fuzz/fuzz_target.h"

namespace rehome::fuzz {
namespace {

// Whether nothing in it is so long that encoding cuts it. Of texts for people, which may be longer,
// it asks as little as of names.
bool FitsBounds(const Migration& m) {
  std::vector<std::string_view> texts = {m.id,
                                         m.request.request_id,
                                         m.request.vm_id,
                                         m.request.target_profile,
                                         m.source_vmm,
                                         m.request.requested_by,
                                         m.target_vmm,
                                         m.fence.observer.role,
                                         m.fence.stop_observer.role,
                                         m.fence.kernel_observer.role,
                                         m.boot_id,
                                         m.fence.kernel_release,
                                         m.failure.reason,
                                         m.failure.message,
                                         m.rescue.cause.reason,
                                         m.rescue.cause.message,
                                         m.journal_failure.reason,
                                         m.journal_failure.message};
  for (const Failure& failure : m.rescue.failed_attempts) {
    texts.insert(texts.end(), {failure.reason, failure.message});
  }
  for (const PreflightCheck& check : m.preflight) {
    texts.insert(texts.end(), {check.name, check.reason, check.detail});
  }
  for (const InodeSearch& search : m.fence.search.memory) {
    if (search.holders.size() > kMaxHoldersListed) return false;
    for (const InodeHolder& holder : search.holders) {
      texts.insert(texts.end(), {holder.command, holder.how});
    }
  }
  return m.preflight.size() <= kMaxRecordedListItems &&
         m.rescue.failed_attempts.size() <= kMaxRescueAttempts &&
         m.memory_inodes.size() <= kMaxRecordedListItems &&
         m.fence.search.memory.size() <= kMaxRecordedInodes &&
         std::all_of(texts.begin(), texts.end(),
                     [](std::string_view text) { return text.size() <= kMaxRecordedNameBytes; });
}

Migration Decoded(const std::string& bytes) {
  const auto migration = DecodeRecord(bytes);
  REHOME_PROMISE(migration.ok());
  return *migration;
}

// Somewhere in the middle, with something in every member that has a length.
Migration Sample(Step step) {
  Migration m;
  m.id = "m-0123456789abcdef";
  m.request = {"req-1",
               "web-1",
               "next",
               FencePolicy::kAfterResume,
               std::chrono::milliseconds(250),
               std::chrono::milliseconds(9000)};
  m.request.requested_by = "uid=0 pid=7";
  m.state = MigrationState::kCompleting;
  m.step = step;
  m.revision = 9;
  m.preflight = {{"a", PreflightCheck::Result::kPassed, "", "fine"},
                 {"b", PreflightCheck::Result::kFailed, "B_FAILED", "not fine"}};
  m.source = {10, 11, 12};
  m.target = {20, 21, 22};
  m.source_vmm = "vmm 1";
  m.target_vmm = "vmm 2";
  m.phases = {1, 2, 3, 4, 5, 6, 7, ~0ull};
  m.fence.observer = {"rehomed", {30, 31, 32}};
  m.fence.stop_observer = m.fence.kernel_observer = {"source", m.source};
  m.fence.source = m.source;
  m.fence.search.memory = {{.inode = {5, 6}, .holders = {{99, "leak", "fd"}}, .foreign = 1}};
  m.fence.kernel_release = "6.1";
  m.failure = {"SOME_REASON", "words"};
  m.boot_id = "01234567-89ab-cdef-0123-456789abcdef";
  return m;
}

}  // namespace

bool Feed(std::span<const std::byte> input) {
  // It has something to say about nearly every input.
  static const auto silenced = google::protobuf::SetLogHandler(nullptr);
  (void)silenced;
  const auto migration = DecodeRecord(Input::Text(input));
  if (!migration.ok()) {
    REHOME_PROMISE(ReasonOf(migration.status()) == "JOURNAL_CORRUPT");
    return false;
  }
  const std::string bytes = EncodeRecord(*migration);
  REHOME_PROMISE(bytes.size() <= kMaxRecordBytes);
  const Migration again = Decoded(bytes);
  // Encoding cuts what is too long, and it cuts it once.
  REHOME_PROMISE(Decoded(EncodeRecord(again)) == again);
  REHOME_PROMISE(EncodeRecord(again) == bytes);
  REHOME_PROMISE(again == *migration || !FitsBounds(*migration));
  return true;
}

std::vector<Seed> Seeds() {
  std::vector<Seed> seeds = {{"empty-record", BytesOfText(EncodeRecord(Migration{}))}};
  for (size_t number = 1; number <= kStepCount; ++number) {
    const Step step = static_cast<Step>(number);
    seeds.push_back(
        {std::string("step-") + StepName(step), BytesOfText(EncodeRecord(Sample(step)))});
  }
  return seeds;
}

}  // namespace rehome::fuzz
