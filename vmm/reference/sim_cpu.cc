// SPDX-License-Identifier: Apache-2.0
#include "vmm/reference/sim_cpu.h"

#include <algorithm>
#include <atomic>
#include <ctime>
#include <string>

#include "absl/strings/str_cat.h"
#include "vmm/reference/guest/step.h"

namespace rehome {
namespace {

// Where a vCPU that has started is; any other rip than the entry.
constexpr uint64_t kRunning = REHOME_GUEST_CODE + 0x400;
constexpr uint8_t kDataReady = 0x01;  // line status
constexpr char kPowerOffKey = 0x04;   // Ctrl-D
constexpr uint16_t kLineStatusPort = REHOME_GUEST_SERIAL_PORT + 5;

// Below it a nap takes longer than what it is for; above, a step would not return soon
// (simulated_cpu.h).
constexpr uint64_t kMinNapNs = 100'000;
constexpr uint64_t kMaxNapNs = 500'000;

// What the answer to the last port read is for.
enum Awaiting : uint64_t { kNothing = 0, kLineStatus = 1, kKey = 2 };

// Output that vCPU 0 has not sent yet; in its stack page.
struct Output {
  uint32_t head, tail;  // free-running
  char text[256];

  void Put(const std::string& more) {
    for (const char c : more) {
      if (head - tail < sizeof(text)) text[head++ % sizeof(text)] = c;
    }
  }
  bool empty() const { return head == tail; }
  bool half_full() const { return head - tail >= sizeof(text) / 2; }
};

// The registers that hold a running vCPU's state.
struct Registers {
  explicit Registers(kvm_regs& regs)
      : chain(regs.r12),
        steps(regs.r13),
        last_tsc(regs.r14),
        next_step_tsc(regs.r15),
        next_heartbeat_tsc(regs.rbx),
        awaiting(regs.rbp),
        answer(regs.rax) {}
  __u64 &chain, &steps, &last_tsc, &next_step_tsc, &next_heartbeat_tsc, &awaiting, &answer;
};

template <typename T>
T* Reach(SimVcpuContext& vcpu, uint64_t gpa, SimAccess access = SimAccess::kWrite) {
  return reinterpret_cast<T*>(vcpu.Translate(gpa, sizeof(T), access));
}

// Mailbox words that vCPU 0 and the host look at while their vCPU writes them.
uint64_t Load(const uint64_t& word) {
  return std::atomic_ref(const_cast<uint64_t&>(word)).load(std::memory_order_relaxed);
}
void Publish(uint64_t& word, uint64_t value) {
  std::atomic_ref(word).store(value, std::memory_order_release);
}

uint64_t MailboxGpa(uint32_t vcpu) {
  return REHOME_GUEST_MAILBOXES + vcpu * REHOME_GUEST_MAILBOX_STRIDE;
}

void CountError(rehome_guest_mailbox& mailbox, uint64_t steps, uint64_t kind, uint64_t gpa) {
  uint64_t before = 0;
  for (const uint64_t count : mailbox.errors) before += count;
  if (before == 0) {
    mailbox.first_error_kind = kind;
    mailbox.first_error_step = steps;
    mailbox.first_error_gpa = gpa;
  }
  Publish(mailbox.errors[kind], mailbox.errors[kind] + 1);
}

// Memory for rehome_guest_step(). Loads ask for write access, so that a step that cannot store
// fails before its first store.
struct StepMemory {
  SimVcpuContext& vcpu;
  bool faulted = false;

  static uint64_t Load(void* opaque, uint64_t gpa) {
    auto* memory = static_cast<StepMemory*>(opaque);
    const auto* word = Reach<uint64_t>(memory->vcpu, gpa);
    memory->faulted |= word == nullptr;
    return word == nullptr ? 0 : *word;
  }
  static void Store(void* opaque, uint64_t gpa, uint64_t value) {
    auto* memory = static_cast<StepMemory*>(opaque);
    if (memory->faulted) return;
    if (auto* word = Reach<uint64_t>(memory->vcpu, gpa)) {
      *word = value;
    } else {
      memory->faulted = true;
    }
  }
};

// One turn of the guest's loop.
class Turn {
 public:
  // `output` is vCPU 0's, which speaks.
  Turn(SimVcpuContext& vcpu, const rehome_guest_boot_info& boot, rehome_guest_mailbox& mailbox,
       Output& output)
      : vcpu_(vcpu),
        boot_(boot),
        mailbox_(mailbox),
        output_(output),
        regs_(vcpu.regs),
        now_(vcpu.tsc()) {}

  SimExit Take() {
    MeasureGap();
    if (now_ >= regs_.next_step_tsc) {
      regs_.next_step_tsc = now_ + boot_.step_tsc;
      if (!TakeStep()) return SimExit::MemoryFault();
    }
    ++mailbox_.loops;
    const bool speaks = vcpu_.id() == 0 && boot_.heartbeat_tsc != 0;
    const SimExit exit = speaks ? Speak() : SimExit::Continue();
    if (exit.kind == SimExit::Kind::kContinue) Nap();
    return exit;
  }

 private:
  // A guest that steps rarely leaves the CPU to others between its steps. A kick ends the nap.
  void Nap() const {
    if (regs_.next_step_tsc <= now_ || boot_.tsc_khz == 0) return;
    const uint64_t ns = (regs_.next_step_tsc - now_) * 1'000'000 / boot_.tsc_khz;
    if (ns < kMinNapNs) return;
    const timespec nap = {.tv_sec = 0, .tv_nsec = static_cast<long>(std::min(ns, kMaxNapNs))};
    nanosleep(&nap, nullptr);
  }

  void MeasureGap() {
    const uint64_t gap = now_ - regs_.last_tsc;
    if (static_cast<int64_t>(gap) < 0) {
      CountError(mailbox_, regs_.steps, REHOME_GUEST_ERROR_TSC, 0);
    } else if (gap > mailbox_.gap_max) {
      mailbox_.gap_max = gap;
      mailbox_.gap_before = regs_.last_tsc;
      mailbox_.gap_after = now_;
    }
    const uint64_t request = mailbox_.gap_reset_request;
    if (request != mailbox_.gap_reset_done) {
      mailbox_.gap_max = mailbox_.gap_before = mailbox_.gap_after = 0;
      mailbox_.gap_reset_done = request;
    }
    regs_.last_tsc = now_;
    mailbox_.tsc = now_;
  }

  bool TakeStep() {
    const rehome_guest_area area = rehome_guest_area_of(boot_.ram_bytes, boot_.vcpu_count,
                                                        vcpu_.id(), boot_.working_set_pages);
    StepMemory memory{vcpu_};
    const rehome_guest_step_result result = rehome_guest_step(
        &area, regs_.chain, regs_.steps, StepMemory::Load, StepMemory::Store, &memory);
    if (memory.faulted) return false;
    if (mailbox_.chain != regs_.chain || mailbox_.steps != regs_.steps) {
      CountError(mailbox_, regs_.steps, REHOME_GUEST_ERROR_REGISTER, 0);
    }
    if (result.page_error != 0) {
      CountError(mailbox_, regs_.steps, REHOME_GUEST_ERROR_PAGE, result.word_gpa);
    }
    if (result.future_error != 0) {
      CountError(mailbox_, regs_.steps, REHOME_GUEST_ERROR_FUTURE, result.word_gpa);
    }
    regs_.chain = result.chain;
    Publish(mailbox_.chain, regs_.chain);
    Publish(mailbox_.steps, ++regs_.steps);
    return true;
  }

  SimExit Speak() {
    if (regs_.awaiting != kNothing) return TakeAnswer();
    if (!output_.empty()) {
      const char next = output_.text[output_.tail++ % sizeof(output_.text)];
      return SimExit::PortOut(REHOME_GUEST_SERIAL_PORT, 1, static_cast<uint8_t>(next));
    }
    if (now_ < regs_.next_heartbeat_tsc) return SimExit::Continue();
    regs_.next_heartbeat_tsc = now_ + boot_.heartbeat_tsc;
    return Ask(kLineStatus, kLineStatusPort);
  }

  SimExit Ask(Awaiting what, uint16_t port) {
    regs_.awaiting = what;
    return SimExit::PortIn(port, 1);
  }

  // Of vCPU 0's look at the keyboard, which comes before each heartbeat.
  SimExit TakeAnswer() {
    const auto answer = static_cast<uint8_t>(regs_.answer);
    const uint64_t awaited = regs_.awaiting;
    regs_.awaiting = kNothing;
    if (awaited == kLineStatus) {
      if ((answer & kDataReady) != 0 && !output_.half_full()) {
        return Ask(kKey, REHOME_GUEST_SERIAL_PORT);
      }
      QueueHeartbeat();
      return SimExit::Continue();
    }
    if (answer == kPowerOffKey) {
      return SimExit::PortOut(REHOME_GUEST_EXIT_PORT, 1, REHOME_GUEST_EXIT_POWER_OFF);
    }
    output_.Put(std::string(1, static_cast<char>(answer)));
    return Ask(kLineStatus, kLineStatusPort);
  }

  void QueueHeartbeat() {
    uint64_t steps = 0, errors = 0;
    for (uint32_t i = 0; i < boot_.vcpu_count; ++i) {
      const auto* mailbox = Reach<rehome_guest_mailbox>(vcpu_, MailboxGpa(i), SimAccess::kRead);
      if (mailbox == nullptr) continue;
      steps += Load(mailbox->steps);
      for (const uint64_t& count : mailbox->errors) errors += Load(count);
    }
    output_.Put(absl::StrCat("heartbeat ", ++mailbox_.heartbeats, " steps ", steps, " errors ",
                             errors, "\r\n"));
  }

  SimVcpuContext& vcpu_;
  const rehome_guest_boot_info& boot_;
  rehome_guest_mailbox& mailbox_;
  Output& output_;
  Registers regs_;
  const uint64_t now_;
};

SimExit Boot(SimVcpuContext& vcpu, const rehome_guest_boot_info& boot,
             rehome_guest_mailbox& mailbox) {
  if (boot.magic != REHOME_GUEST_MAGIC) return SimExit::Shutdown();  // nobody has loaded a guest
  kvm_regs& regs = vcpu.regs;
  Registers state(regs);
  state.chain = rehome_guest_first_chain(boot.seed, vcpu.id());
  state.steps = 0;
  state.last_tsc = state.next_step_tsc = state.next_heartbeat_tsc = vcpu.tsc();
  state.awaiting = kNothing;
  mailbox.vcpu = vcpu.id();
  mailbox.chain = state.chain;
  mailbox.magic = REHOME_GUEST_MAGIC;
  regs.rip = kRunning;
  return SimExit::Continue();
}

}  // namespace

SimExit SimGuestCpu::Step(SimVcpuContext& vcpu) {
  auto* boot = Reach<rehome_guest_boot_info>(vcpu, REHOME_GUEST_BOOT_INFO);
  auto* mailbox = Reach<rehome_guest_mailbox>(vcpu, MailboxGpa(vcpu.id()));
  auto* output = Reach<Output>(vcpu, REHOME_GUEST_STACKS);
  // All of it before anything is changed: a step that faults is asked for again.
  if (boot == nullptr || mailbox == nullptr || output == nullptr) return SimExit::MemoryFault();
  if (vcpu.regs.rip != kRunning) return Boot(vcpu, *boot, *mailbox);
  return Turn(vcpu, *boot, *mailbox, *output).Take();
}

}  // namespace rehome
