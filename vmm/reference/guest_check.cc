// SPDX-License-Identifier: Apache-2.0
#include "vmm/reference/guest_check.h"

#include <array>
#include <cstring>
#include <optional>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kvmglue/status_reason.h"

namespace rehome {
namespace {

absl::Status NotFound(std::string_view message) {
  return MakeStatus(absl::StatusCode::kFailedPrecondition, "GUEST_NOT_FOUND", message);
}

template <typename T>
absl::StatusOr<T> ReadStruct(const GuestMemoryReader& memory, uint64_t offset) {
  T value;
  const absl::Status status = memory.Read(offset, std::as_writable_bytes(std::span<T>(&value, 1)));
  if (!status.ok()) return status;
  return value;
}

// A difference, or nothing if all is as it must be.
using Difference = std::optional<std::string>;

Difference CompareErrors(uint32_t vcpu, const rehome_guest_mailbox& mailbox) {
  if (mailbox.errors[REHOME_GUEST_ERROR_FAULT] != 0) {
    return absl::StrFormat("vCPU %u took exception %u, error code %#x, at rip %#x", vcpu,
                           mailbox.fault_vector, mailbox.fault_code, mailbox.first_error_gpa);
  }
  for (size_t kind = 0; kind < REHOME_GUEST_ERROR_KINDS; ++kind) {
    if (mailbox.errors[kind] == 0) continue;
    return absl::StrFormat(
        "vCPU %u counted %u errors of kind %s; its first: %s at step %u, gpa %#x", vcpu,
        mailbox.errors[kind], GuestErrorName(kind), GuestErrorName(mailbox.first_error_kind),
        mailbox.first_error_step, mailbox.first_error_gpa);
  }
  return std::nullopt;
}

// How many of the unfinished step's writes have reached memory, as far as this page shows:
// {value, step, ledger, chain} in this order.
struct Unfinished {
  bool value = false, step = false, ledger = false, chain = false;
  bool in_order() const { return value >= step && step >= ledger && ledger >= chain; }
};

class PageComparer {
 public:
  PageComparer(const GuestMemoryReader& memory, uint32_t vcpu, const GuestModel& model)
      : memory_(memory), vcpu_(vcpu), model_(model), next_(model.Peek()) {}

  absl::StatusOr<Difference> Compare(uint64_t page) {
    const uint64_t word_offset = rehome_guest_word_offset(&model_.area(), page);
    const uint64_t page_offset = word_offset & ~(REHOME_GUEST_PAGE - 1);
    absl::Status status = memory_.Read(page_offset, std::as_writable_bytes(std::span(page_)));
    if (!status.ok()) return status;
    const auto ledger =
        ReadStruct<uint64_t>(memory_, rehome_guest_ledger_offset(&model_.area(), page));
    if (!ledger.ok()) return ledger.status();

    const size_t at = (word_offset - page_offset) / sizeof(uint64_t);
    const GuestModel::Word found{page_[at], page_[at + 1]};
    page_[at] = page_[at + 1] = 0;
    for (size_t i = 0; i < page_.size(); ++i) {
      if (page_[i] == 0) continue;
      return Difference(absl::StrFormat("vCPU %u: stray write at gpa %#x", vcpu_,
                                        rehome_guest_gpa(page_offset + i * sizeof(uint64_t))));
    }
    return CompareWord(page, found, *ledger, word_offset);
  }

  Unfinished unfinished() const { return unfinished_; }
  const GuestModel::Step& next() const { return next_; }

 private:
  Difference CompareWord(uint64_t page, const GuestModel::Word& found, uint64_t ledger,
                         uint64_t word_offset) {
    const GuestModel::Word& word = model_.word(page);
    const uint64_t expected_ledger = rehome_guest_ledger_of(word.value, word.step, page);
    if (found == word && ledger == expected_ledger) return std::nullopt;
    if (page == next_.page) {
      const uint64_t next_ledger = rehome_guest_ledger_of(next_.word.value, next_.word.step, page);
      unfinished_.value = found.value == next_.word.value;
      unfinished_.step = found.step == next_.word.step;
      unfinished_.ledger = ledger == next_ledger;
      const bool each_old_or_new = (unfinished_.value || found.value == word.value) &&
                                   (unfinished_.step || found.step == word.step) &&
                                   (unfinished_.ledger || ledger == expected_ledger);
      if (each_old_or_new && unfinished_.in_order()) return std::nullopt;
    }
    return absl::StrFormat(
        "vCPU %u after %u steps: work page %u (gpa %#x) holds value %#x of step %u with ledger "
        "%#x; "
        "must be value %#x of step %u with ledger %#x",
        vcpu_, model_.steps(), page, rehome_guest_gpa(word_offset), found.value, found.step, ledger,
        word.value, word.step, expected_ledger);
  }

  const GuestMemoryReader& memory_;
  const uint32_t vcpu_;
  const GuestModel& model_;
  const GuestModel::Step next_;
  Unfinished unfinished_;
  std::array<uint64_t, REHOME_GUEST_PAGE / sizeof(uint64_t)> page_;
};

absl::StatusOr<Difference> CompareVcpu(const GuestMemoryReader& memory, uint32_t vcpu,
                                       const rehome_guest_mailbox& mailbox, GuestModel& model) {
  if (mailbox.magic != REHOME_GUEST_MAGIC || mailbox.vcpu != vcpu) {
    return Difference(absl::StrFormat("vCPU %u has not started", vcpu));
  }
  if (Difference errors = CompareErrors(vcpu, mailbox)) return errors;
  if (mailbox.steps < model.steps()) {
    return Difference(absl::StrFormat("vCPU %u went back from step %u to step %u", vcpu,
                                      model.steps(), mailbox.steps));
  }
  model.AdvanceTo(mailbox.steps);
  PageComparer pages(memory, vcpu, model);
  for (uint64_t page = 0; page < model.area().page_count; ++page) {
    auto difference = pages.Compare(page);
    if (!difference.ok() || *difference) return difference;
  }
  Unfinished unfinished = pages.unfinished();
  unfinished.chain = mailbox.chain == pages.next().chain;
  const bool chain_ok = unfinished.chain ? unfinished.in_order() : mailbox.chain == model.chain();
  if (chain_ok) return Difference();
  return Difference(absl::StrFormat("vCPU %u after %u steps: chain is %#x, must be %#x", vcpu,
                                    mailbox.steps, mailbox.chain, model.chain()));
}

absl::StatusOr<Difference> CompareCode(const GuestMemoryReader& memory,
                                       const rehome_guest_boot_info& boot) {
  std::vector<uint8_t> code(boot.code_size);
  const absl::Status status =
      memory.Read(REHOME_GUEST_CODE, std::as_writable_bytes(std::span(code)));
  if (!status.ok()) return status;
  if (GuestCodeDigest(code) == boot.code_digest) return Difference();
  return Difference("the guest's code has changed");
}

}  // namespace

const char* GuestErrorName(uint64_t kind) {
  static constexpr const char* kNames[] = {"PAGE", "FUTURE", "REGISTER", "XMM",
                                           "TSC",  "CLOCK",  "TIMER",    "FAULT"};
  static_assert(std::size(kNames) == REHOME_GUEST_ERROR_KINDS);
  return kind < std::size(kNames) ? kNames[kind] : "UNKNOWN";
}

uint64_t GuestCodeDigest(std::span<const uint8_t> code) {
  uint64_t digest = 0xcbf29ce484222325ull;
  for (const uint8_t byte : code) digest = (digest ^ byte) * 0x100000001b3ull;
  return digest;
}

GuestModel::GuestModel(const rehome_guest_area& area, uint64_t seed, uint32_t vcpu)
    : area_(area), chain_(rehome_guest_first_chain(seed, vcpu)), words_(area.page_count) {}

GuestModel::Step GuestModel::Peek() const {
  Step next;
  next.page = rehome_guest_pick(&area_, chain_);
  next.chain = rehome_guest_next_chain(chain_, steps_ + 1, words_[next.page].value);
  next.word = {rehome_guest_new_value(next.chain, next.page), steps_ + 1};
  return next;
}

void GuestModel::AdvanceTo(uint64_t steps) {
  while (steps_ < steps) {
    const Step next = Peek();
    words_[next.page] = next.word;
    chain_ = next.chain;
    ++steps_;
  }
}

absl::StatusOr<rehome_guest_boot_info> ReadBootInfo(const GuestMemoryReader& memory) {
  auto boot = ReadStruct<rehome_guest_boot_info>(memory, REHOME_GUEST_BOOT_INFO);
  if (!boot.ok()) return boot;
  if (boot->magic != REHOME_GUEST_MAGIC) return NotFound("no boot information of the guest");
  if (boot->abi_version != REHOME_GUEST_ABI_VERSION) {
    return NotFound(absl::StrCat("the guest speaks version ", boot->abi_version, " of its ABI"));
  }
  const bool sane =
      boot->vcpu_count >= 1 && boot->vcpu_count <= REHOME_GUEST_MAX_VCPUS &&
      boot->ram_bytes <= REHOME_GUEST_MAX_RAM && boot->working_set_pages >= 1 &&
      boot->working_set_pages <= rehome_guest_max_working_set(boot->ram_bytes, boot->vcpu_count) &&
      boot->code_size <= REHOME_GUEST_CODE_MAX && boot->memory_count <= REHOME_GUEST_MAX_MEMORIES;
  if (!sane) return NotFound("the guest's boot information is out of bounds");
  return boot;
}

absl::StatusOr<rehome_guest_mailbox> ReadMailbox(const GuestMemoryReader& memory, uint32_t vcpu) {
  return ReadStruct<rehome_guest_mailbox>(
      memory, REHOME_GUEST_MAILBOXES + vcpu * REHOME_GUEST_MAILBOX_STRIDE);
}

absl::StatusOr<GuestReport> GuestChecker::Check(const GuestMemoryReader& memory) {
  const auto boot = ReadBootInfo(memory);
  if (!boot.ok()) return boot.status();
  if (models_.size() != boot->vcpu_count || seed_ != boot->seed) {
    models_.clear();
    seed_ = boot->seed;
    for (uint32_t i = 0; i < boot->vcpu_count; ++i) {
      models_.emplace_back(
          rehome_guest_area_of(boot->ram_bytes, boot->vcpu_count, i, boot->working_set_pages),
          boot->seed, i);
    }
  }
  GuestReport report;
  auto difference = CompareCode(memory, *boot);
  for (uint32_t i = 0; i < boot->vcpu_count; ++i) {
    const auto mailbox = ReadMailbox(memory, i);
    if (!mailbox.ok()) return mailbox.status();
    report.steps += mailbox->steps;
    report.ticks += mailbox->ticks;
    report.heartbeats += mailbox->heartbeats;
    for (const uint64_t count : mailbox->errors) report.errors += count;
    if (!difference.ok()) return difference.status();
    if (*difference) continue;
    difference = CompareVcpu(memory, i, *mailbox, models_[i]);
    report.pages_compared += models_[i].area().page_count;
  }
  if (!difference.ok()) return difference.status();
  report.intact = !difference->has_value();
  report.difference = difference->value_or("");
  return report;
}

}  // namespace rehome
