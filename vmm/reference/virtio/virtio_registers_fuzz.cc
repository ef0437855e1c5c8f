// SPDX-License-Identifier: Apache-2.0
//
// A hostile guest's accesses to the registers, mixed with states that a hostile source hands over.
// Promises: whatever the guest does, the state can be saved and restored, and is the same then; a
// device serves a queue only with features that it offers and rings that are wholly in RAM; a
// state that is refused changes nothing; bits of the status go away by a reset or a state only.
#include <algorithm>
#include <array>
#include <memory>
#include <type_traits>

#include "tools/fuzz/fuzz_target.h"
#include "vmm/reference/virtio/abi.h"
#include "vmm/reference/virtio/registers.h"

namespace rehome::fuzz {
namespace {

using namespace ::rehome::virtio;  // NOLINT(google-build-using-namespace)

constexpr uint64_t kGpa = 0x10000;
constexpr size_t kRamBytes = 0x10000;
constexpr uint64_t kOffered = kFeatureVersion1 | 1u << 9;

// One step; kRestore takes a state behind it.
enum Kind : uint8_t {
  kWrite,
  kRead,
  kRestore,
  kBreak,
  kInterrupt,
  kServe,
  kKinds,
};
struct Step {
  uint8_t kind;
  uint8_t bytes;  // of an access
  uint16_t offset;
  uint32_t reserved;
  uint64_t value;
};
static_assert(std::has_unique_object_representations_v<Step>);

DeviceProfile Profile(uint8_t terms) {
  DeviceProfile profile = {.device_id = terms % 2 == 0 ? kBlockDeviceId : kNetDeviceId,
                           .features = kOffered,
                           .queue_count = terms % 2 == 0 ? 1u : 2u};
  profile.config[0] = 8;
  return profile;
}

// One device and the memory that it knows.
class Bench {
 public:
  explicit Bench(uint8_t terms)
      : profile_(Profile(terms)), memory_({{.gpa = kGpa, .memory = std::span(bytes_)}}) {}

  // Whether the step was as it should be.
  bool Do(const Step& step, Input& in) {
    switch (step.kind % kKinds) {
      case kWrite:
        Write(step);
        return true;
      case kRead:
        Read(step);
        return true;
      case kRestore:
        return Restore(in);
      case kBreak:
        REHOME_PROMISE(registers_.Break("fuzz") ==
                       ((registers_.Save().status & kStatusDriverOk) != 0));
        return true;
      case kInterrupt:
        registers_.SetInterrupt(kInterruptUsedBuffer);
        return true;
      default:
        Serve(static_cast<uint32_t>(step.value));
        return true;
    }
  }

  void Check() {
    const VirtioState state = registers_.Save();
    REHOME_PROMISE(state.Validate().ok());
    REHOME_PROMISE(state.config == profile_.config && state.device_id == profile_.device_id);
    Registers again(profile_, memory_);
    REHOME_PROMISE(again.Restore(state).ok());
    REHOME_PROMISE(again.Save() == state);
    for (uint32_t i = 0; i < registers_.queue_count(); ++i) {
      REHOME_PROMISE(again.Serving(i) == registers_.Serving(i));
      if (!registers_.Serving(i)) continue;
      live_ = true;
      REHOME_PROMISE(CheckQueue(memory_, registers_.queue(i)) == nullptr);
      REHOME_PROMISE((state.driver_features & ~kOffered) == 0);
      REHOME_PROMISE((state.driver_features & kFeatureVersion1) != 0);
    }
  }
  bool live() const { return live_; }

 private:
  void Write(const Step& step) {
    const uint32_t before = registers_.Save().status;
    const auto value = std::as_bytes(std::span(&step.value, 1)).first(step.bytes % 9);
    const std::span access(reinterpret_cast<const uint8_t*>(value.data()), value.size());
    const bool quiets = Registers::Quiets(step.offset, access);
    registers_.Write(step.offset, access);
    const uint32_t after = registers_.Save().status;
    REHOME_PROMISE(quiets || (before & ~after) == 0);
  }
  void Read(const Step& step) {
    const VirtioState before = registers_.Save();
    uint8_t out[16];
    std::fill(std::begin(out), std::end(out), 0xee);
    registers_.Read(step.value, std::span(out, step.bytes % 9));
    registers_.Read(step.offset, std::span(out, step.bytes % 9));
    REHOME_PROMISE(out[step.bytes % 9] == 0xee);
    REHOME_PROMISE(registers_.Save() == before);
  }
  bool Restore(Input& in) {
    const VirtioState before = registers_.Save();
    const auto state = in.Take<VirtioState>();
    const bool taken = registers_.Restore(state).ok();
    REHOME_PROMISE(registers_.Save() == (taken ? state : before));
    return taken;
  }
  // A chain has been served.
  void Serve(uint32_t queue) {
    if (queue >= registers_.queue_count() || !registers_.Serving(queue)) return;
    ++registers_.queue(queue).index;
  }

  const DeviceProfile profile_;
  std::array<std::byte, kRamBytes> bytes_{};
  MappedGuestMemory memory_;
  Registers registers_{profile_, memory_};
  bool live_ = false;
};

// ---- seeds

struct SeedBuilder {
  void Access(uint16_t offset, uint32_t value) {
    Append(bytes, Step{kWrite, sizeof(uint32_t), offset, 0, value});
    Append(bytes, Step{kRead, sizeof(uint32_t), offset, 0, offset});
  }
  void BringUp(uint32_t queues) {
    for (const uint32_t status : {0, 1, 3}) Access(0x70, status);
    for (uint32_t word = 0; word < 2; ++word) {
      Access(0x24, word);
      Access(0x20, static_cast<uint32_t>(kOffered >> (32 * word)));
    }
    Access(0x70, 11);
    for (uint32_t queue = 0; queue < queues; ++queue) {
      Access(0x30, queue);
      Access(0x38, 8);
      const uint32_t gpa = kGpa + queue * 0x1000;
      Access(0x80, gpa);
      Access(0x90, gpa + 0x100);
      Access(0xa0, gpa + 0x200);
      Access(0x44, 1);
    }
    Access(0x70, 15);
  }
  void Steps() {
    Append(bytes, Step{kServe, 0, 0, 0, 0});
    Append(bytes, Step{kInterrupt, 0, 0, 0, 0});
    Append(bytes, Step{kRead, 8, 0x100, 0, 0x100});
    Access(0x50, 0);
    Access(0x64, 1);
  }
  Bytes bytes;
};

VirtioState LiveState() {
  VirtioState state = {.device_id = kBlockDeviceId,
                       .status = 15,
                       .driver_features = kOffered,
                       .interrupt_status = 1,
                       .queue_count = 1};
  state.queues[0] = {.descriptors = kGpa,
                     .available = kGpa + 0x100,
                     .used = kGpa + 0x200,
                     .size = 8,
                     .index = 0xfffe,
                     .ready = 1};
  state.config[0] = 8;
  return state;
}

}  // namespace

// One byte: which device. Then steps.
bool Feed(std::span<const std::byte> input) {
  Input in(input);
  const auto bench = std::make_unique<Bench>(in.Take<uint8_t>());
  bool sound = true;
  while (!in.empty()) {
    sound &= bench->Do(in.Take<Step>(), in);
    bench->Check();
  }
  return sound && bench->live();
}

std::vector<Seed> Seeds() {
  SeedBuilder block;
  Append(block.bytes, uint8_t{0});
  block.BringUp(1);
  block.Steps();
  SeedBuilder net;
  Append(net.bytes, uint8_t{1});
  net.BringUp(2);
  net.Steps();
  Append(net.bytes, Step{kBreak, 0, 0, 0, 0});
  net.BringUp(2);
  SeedBuilder restored;
  Append(restored.bytes, uint8_t{0});
  Append(restored.bytes, Step{kRestore, 0, 0, 0, 0});
  Append(restored.bytes, LiveState());
  restored.Steps();
  return {{"block-comes-up", block.bytes},
          {"net-comes-up-twice", net.bytes},
          {"restored", restored.bytes}};
}

}  // namespace rehome::fuzz
