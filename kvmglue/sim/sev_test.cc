// SPDX-License-Identifier: Apache-2.0
//
// The launch commands, and tools/testing/selftests/kvm/x86/sev_migrate_tests.c by meaning.
#include "kvmglue/sim/sev.h"

#include <gtest/gtest.h>

#include <cerrno>

#include "kvmglue/sim/test_kit.h"

namespace rehome::sim {
namespace {

constexpr uint32_t kVcpus = 4;  // NR_MIGRATE_TEST_VCPUS

class SevTest : public ::testing::Test {
 protected:
  int Command(BorrowedFd vm, uint32_t id, void* data = nullptr) {
    kvm_sev_cmd command = {};
    command.id = id;
    command.data = reinterpret_cast<uint64_t>(data);
    const long result = kernel_.Call(vm, KVM_MEMORY_ENCRYPT_OP, &command);
    firmware_error_ = command.error;
    return static_cast<int>(result);
  }
  int Init(BorrowedFd vm) {
    kvm_sev_init init = {};
    return Command(vm, KVM_SEV_INIT2, &init);
  }
  int Start(BorrowedFd vm) {
    kvm_sev_launch_start start = {};
    return Command(vm, KVM_SEV_LAUNCH_START, &start);
  }
  int Measure(BorrowedFd vm) {
    uint8_t blob[256];
    kvm_sev_launch_measure measure = {.uaddr = reinterpret_cast<uint64_t>(blob),
                                      .len = sizeof(blob)};
    return Command(vm, KVM_SEV_LAUNCH_MEASURE, &measure);
  }
  uint32_t State(BorrowedFd vm) {
    kvm_sev_guest_status status = {};
    EXPECT_EQ(Command(vm, KVM_SEV_GUEST_STATUS, &status), 0);
    return status.state;
  }

  Guest MakeVm(VmType type, uint32_t vcpus, bool init) {
    Guest guest;
    guest.vm = kernel_.CreateVm(type);
    if (init) {
      EXPECT_EQ(Init(guest.vm.borrow()), 0);
    }
    for (uint32_t i = 0; i < vcpus; ++i) {
      guest.vcpus.push_back(kernel_.CreateVcpu(guest.vm.borrow(), i));
    }
    return guest;
  }
  // sev_vm_create(): launched as far as the selftest does it.
  Guest MakeSource(VmType type) {
    Guest guest = MakeVm(type, kVcpus, /*init=*/true);
    EXPECT_EQ(Start(guest.vm.borrow()), 0);
    if (type == VmType::kSevEs) {
      EXPECT_EQ(Command(guest.vm.borrow(), KVM_SEV_LAUNCH_UPDATE_VMSA), 0);
    }
    return guest;
  }
  Guest MakeDestination(VmType type, uint32_t vcpus = kVcpus) {
    return MakeVm(type, vcpus, /*init=*/false);
  }
  int Move(const Guest& destination, const Guest& source) {
    return kernel_.Move(destination.vm.borrow(), source.vm.borrow());
  }
  int Mirror(const Guest& mirror, const Guest& source) {
    kvm_enable_cap cap = {};
    cap.cap = KVM_CAP_VM_COPY_ENC_CONTEXT_FROM;
    cap.args[0] = static_cast<uint32_t>(source.vm.borrow().raw());
    return static_cast<int>(kernel_.Call(mirror.vm.borrow(), KVM_ENABLE_CAP, &cap));
  }

  TestKernel kernel_;
  uint32_t firmware_error_ = 0;
};

// ---- launch

TEST_F(SevTest, LaunchGoesThroughItsStates) {
  const Guest guest = MakeVm(VmType::kSevEs, 1, /*init=*/true);
  const BorrowedFd vm = guest.vm.borrow();
  EXPECT_EQ(State(vm), 0u);
  ASSERT_EQ(Start(vm), 0);
  EXPECT_EQ(State(vm), 1u);
  HostPages pages(4096);
  kvm_sev_launch_update_data update = {.uaddr = pages.address(), .len = 4096};
  EXPECT_EQ(Command(vm, KVM_SEV_LAUNCH_UPDATE_DATA, &update), 0);
  EXPECT_EQ(Command(vm, KVM_SEV_LAUNCH_UPDATE_VMSA), 0);
  EXPECT_EQ(Measure(vm), 0);
  EXPECT_EQ(State(vm), 2u);
  EXPECT_EQ(Command(vm, KVM_SEV_LAUNCH_FINISH), 0);
  EXPECT_EQ(State(vm), 3u);
}

TEST_F(SevTest, WrongStateIsAFirmwareError) {
  const Guest guest = MakeVm(VmType::kSev, 1, /*init=*/true);
  const BorrowedFd vm = guest.vm.borrow();
  EXPECT_EQ(Command(vm, KVM_SEV_LAUNCH_FINISH), -EIO);
  EXPECT_EQ(firmware_error_, 2u);
  EXPECT_EQ(Measure(vm), -EIO);
  ASSERT_EQ(Start(vm), 0);
  EXPECT_EQ(Start(vm), -EIO);
}

TEST_F(SevTest, MeasurementDependsOnTheData) {
  uint8_t blobs[2][48];
  for (int i = 0; i < 2; ++i) {
    const Guest guest = MakeSource(VmType::kSev);
    HostPages pages(4096);
    pages.word(0) = static_cast<uint64_t>(i);
    kvm_sev_launch_update_data update = {.uaddr = pages.address(), .len = 4096};
    ASSERT_EQ(Command(guest.vm.borrow(), KVM_SEV_LAUNCH_UPDATE_DATA, &update), 0);
    kvm_sev_launch_measure measure = {.uaddr = reinterpret_cast<uint64_t>(blobs[i]), .len = 48};
    ASSERT_EQ(Command(guest.vm.borrow(), KVM_SEV_LAUNCH_MEASURE, &measure), 0);
  }
  EXPECT_NE(std::memcmp(blobs[0], blobs[1], sizeof(blobs[0])), 0);
}

TEST_F(SevTest, AskingForTheMeasurementsLengthFailsWithTheLength) {
  const Guest guest = MakeSource(VmType::kSev);
  kvm_sev_launch_measure measure = {};
  EXPECT_EQ(Command(guest.vm.borrow(), KVM_SEV_LAUNCH_MEASURE, &measure), -EIO);
  EXPECT_EQ(firmware_error_, 4u);
  EXPECT_EQ(measure.len, 48u);
}

TEST_F(SevTest, InitNeedsItsVmTypeAndNoVcpus) {
  const UniqueFd plain = kernel_.CreateVm(VmType::kDefault);
  EXPECT_EQ(Init(plain.borrow()), -EINVAL);
  EXPECT_EQ(Command(plain.borrow(), KVM_SEV_ES_INIT), 0);
  EXPECT_EQ(Command(plain.borrow(), KVM_SEV_INIT), -EINVAL) << "twice";
  const UniqueFd typed = kernel_.CreateVm(VmType::kSev);
  EXPECT_EQ(Command(typed.borrow(), KVM_SEV_INIT), -EINVAL);
  EXPECT_EQ(Init(typed.borrow()), 0);
  EXPECT_EQ(Init(typed.borrow()), -EINVAL) << "twice";
  const Guest late = MakeVm(VmType::kSev, 1, /*init=*/false);
  EXPECT_EQ(Init(late.vm.borrow()), -EINVAL);
}

TEST_F(SevTest, CommandsNeedASevGuest) {
  const UniqueFd plain = kernel_.CreateVm(VmType::kDefault);
  EXPECT_EQ(Start(plain.borrow()), -ENOTTY);
  EXPECT_EQ(Command(plain.borrow(), KVM_SEV_LAUNCH_FINISH), -ENOTTY);
  const Guest sev = MakeSource(VmType::kSev);
  EXPECT_EQ(Command(sev.vm.borrow(), KVM_SEV_LAUNCH_UPDATE_VMSA), -ENOTTY) << "not ES";
  EXPECT_EQ(Command(sev.vm.borrow(), KVM_SEV_NR_MAX), -EINVAL);
  EXPECT_EQ(kernel_.Call(plain.borrow(), KVM_MEMORY_ENCRYPT_OP, 0ul), 0) << "the question";
}

TEST_F(SevTest, HostWithoutSevGivesEnotty) {
  TestKernel stock({.vm_types = {VmType::kDefault}});
  const UniqueFd vm = stock.CreateVm(VmType::kDefault);
  EXPECT_EQ(stock.Call(vm.borrow(), KVM_MEMORY_ENCRYPT_OP, 0ul), -ENOTTY);
}

TEST_F(SevTest, RegionsAreRegisteredAndUnregistered) {
  const Guest sev = MakeSource(VmType::kSev);
  HostPages pages(8192);
  kvm_enc_region region = {.addr = pages.address(), .size = 8192};
  const BorrowedFd vm = sev.vm.borrow();
  EXPECT_EQ(kernel_.Call(vm, KVM_MEMORY_ENCRYPT_REG_REGION, &region), 0);
  EXPECT_EQ(kernel_.Call(vm, KVM_MEMORY_ENCRYPT_UNREG_REGION, &region), 0);
  EXPECT_EQ(kernel_.Call(vm, KVM_MEMORY_ENCRYPT_UNREG_REGION, &region), -EINVAL);
  pages.Unmap();
  EXPECT_EQ(kernel_.Call(vm, KVM_MEMORY_ENCRYPT_REG_REGION, &region), -ENOMEM);
  const UniqueFd plain = kernel_.CreateVm(VmType::kDefault);
  EXPECT_EQ(kernel_.Call(plain.borrow(), KVM_MEMORY_ENCRYPT_REG_REGION, &region), -ENOTTY);
}

TEST_F(SevTest, VcpusRunOnlyWithAContextAndAVmsa) {
  const Guest bare = MakeDestination(VmType::kSev);
  EXPECT_EQ(kernel_.Run(bare.vcpus[0].borrow(), Program::kHalt).result, -EINVAL);
  const Guest sev = MakeSource(VmType::kSev);
  EXPECT_EQ(kernel_.Run(sev.vcpus[0].borrow(), Program::kHalt).result, 0);
  const Guest no_vmsa = MakeVm(VmType::kSevEs, 1, /*init=*/true);
  EXPECT_EQ(kernel_.Run(no_vmsa.vcpus[0].borrow(), Program::kHalt).result, -EINVAL);
}

// ---- test_sev_migrate_from

TEST_F(SevTest, GuestMovesThroughThreeVmsAndNotBack) {
  for (const VmType type : {VmType::kSev, VmType::kSevEs}) {
    const Guest source = MakeSource(type);
    Guest chain[3] = {MakeDestination(type), MakeDestination(type), MakeDestination(type)};
    EXPECT_EQ(Move(chain[0], source), 0);
    EXPECT_EQ(Move(chain[1], chain[0]), 0);
    EXPECT_EQ(Move(chain[2], chain[1]), 0);
    EXPECT_EQ(Move(source, chain[2]), -EIO) << "VM that was migrated from should be dead";
    EXPECT_EQ(State(chain[2].vm.borrow()), 1u) << "the launch state moves";
  }
}

TEST_F(SevTest, MoveFromADeadSourceIsEinval) {
  const Guest source = MakeSource(VmType::kSev);
  ASSERT_EQ(Move(MakeDestination(VmType::kSev), source), 0);
  EXPECT_EQ(Move(MakeDestination(VmType::kSev), source), -EINVAL);
}

TEST_F(SevTest, PlainSevDoesNotNeedEqualVcpuCounts) {
  const Guest source = MakeSource(VmType::kSev);
  EXPECT_EQ(Move(MakeDestination(VmType::kSev, 0), source), 0);
}

TEST_F(SevTest, SevEsCarriesTheRegistersInTheVmsa) {
  Guest source = MakeVm(VmType::kSevEs, 1, /*init=*/true);
  ASSERT_EQ(Start(source.vm.borrow()), 0);
  const BorrowedFd vcpu = source.vcpus[0].borrow();
  kvm_regs regs = {};
  regs.rip = static_cast<uint64_t>(Program::kReset);
  regs.rax = 100;
  ASSERT_EQ(kernel_.Call(vcpu, KVM_SET_REGS, &regs), 0);
  ASSERT_EQ(Command(source.vm.borrow(), KVM_SEV_LAUNCH_UPDATE_VMSA), 0);
  EXPECT_EQ(kernel_.Call(vcpu, KVM_GET_REGS, &regs), -EINVAL);
  EXPECT_EQ(kernel_.ResumeToOut(vcpu), 101u);
  const Guest destination = MakeDestination(VmType::kSevEs, 1);
  ASSERT_EQ(Move(destination, source), 0);
  EXPECT_EQ(kernel_.ResumeToOut(destination.vcpus[0].borrow()), 102u);
  EXPECT_EQ(kernel_.Call(destination.vcpus[0].borrow(), KVM_SET_REGS, &regs), -EINVAL);
}

// ---- test_sev_migrate_parameters

TEST_F(SevTest, SourceThatIsNoSevGuestIsEinval) {
  EXPECT_EQ(Move(MakeDestination(VmType::kDefault), MakeDestination(VmType::kDefault)), -EINVAL);
  EXPECT_EQ(Move(MakeDestination(VmType::kSev), MakeDestination(VmType::kSev)), -EINVAL);
}

TEST_F(SevTest, SevAndSevEsDoNotMixEitherWay) {
  const Guest sev = MakeSource(VmType::kSev);
  const Guest es = MakeSource(VmType::kSevEs);
  EXPECT_EQ(Move(MakeDestination(VmType::kSev), es), -EINVAL);
  EXPECT_EQ(Move(MakeDestination(VmType::kSevEs), sev), -EINVAL);
}

TEST_F(SevTest, DestinationWithAContextIsEinval) {
  const Guest source = MakeSource(VmType::kSev);
  EXPECT_EQ(Move(MakeVm(VmType::kSev, kVcpus, /*init=*/true), source), -EINVAL);
  EXPECT_EQ(State(source.vm.borrow()), 1u) << "nothing changed";
}

TEST_F(SevTest, SevEsDestinationWithoutVcpusIsEinval) {
  const Guest source = MakeSource(VmType::kSevEs);
  EXPECT_EQ(Move(MakeDestination(VmType::kSevEs, 0), source), -EINVAL);
  EXPECT_EQ(Move(MakeDestination(VmType::kSevEs, kVcpus - 1), source), -EINVAL);
  EXPECT_EQ(Move(MakeDestination(VmType::kSevEs), source), 0);
}

TEST_F(SevTest, SevEsSourceWithoutVmsaIsEinval) {
  const Guest source = MakeVm(VmType::kSevEs, kVcpus, /*init=*/true);
  ASSERT_EQ(Start(source.vm.borrow()), 0);
  EXPECT_EQ(Move(MakeDestination(VmType::kSevEs), source), -EINVAL);
}

TEST_F(SevTest, GuestMadeByTheOlderInitMovesBetweenDefaultVms) {
  Guest source = MakeDestination(VmType::kDefault, 0);
  ASSERT_EQ(Command(source.vm.borrow(), KVM_SEV_INIT), 0);
  EXPECT_EQ(Move(MakeDestination(VmType::kDefault), source), 0);
  EXPECT_EQ(kernel_.Call(source.vm.borrow(), KVM_CHECK_EXTENSION, 0ul), -EIO);
}

// ---- test_sev_mirror, verify_mirror_allowed_cmds, test_sev_mirror_parameters

TEST_F(SevTest, MirrorMayRunOnlyItsCommands) {
  for (const VmType type : {VmType::kSev, VmType::kSevEs}) {
    const Guest source = MakeSource(type);
    const Guest mirror = MakeDestination(type, 0);
    ASSERT_EQ(Mirror(mirror, source), 0);
    const BorrowedFd vm = mirror.vm.borrow();
    for (uint32_t id = 0; id < KVM_SEV_NR_MAX; ++id) {
      if (id == KVM_SEV_LAUNCH_UPDATE_VMSA || id == KVM_SEV_GUEST_STATUS) continue;
      EXPECT_EQ(Command(vm, id), -EINVAL) << id;
    }
    EXPECT_EQ(State(vm), 1u);
    EXPECT_EQ(Command(vm, KVM_SEV_LAUNCH_UPDATE_VMSA), type == VmType::kSevEs ? 0 : -ENOTTY);
  }
}

TEST_F(SevTest, MirrorParametersAreChecked) {
  const Guest sev = MakeSource(VmType::kSev);
  const Guest es = MakeSource(VmType::kSevEs);
  EXPECT_EQ(Mirror(sev, sev), -EINVAL) << "itself";
  EXPECT_EQ(Mirror(MakeDestination(VmType::kSev, 0), MakeDestination(VmType::kSev, 0)), -EINVAL);
  EXPECT_EQ(Mirror(MakeDestination(VmType::kSev, 1), sev), -EINVAL) << "with vCPUs";
  EXPECT_EQ(Mirror(sev, es), -EINVAL);
  EXPECT_EQ(Mirror(es, sev), -EINVAL);
  const Guest mirror = MakeDestination(VmType::kSev, 0);
  ASSERT_EQ(Mirror(mirror, sev), 0);
  EXPECT_EQ(Mirror(MakeDestination(VmType::kSev, 0), mirror), -EINVAL) << "of a mirror";
}

// ---- test_sev_move_copy

TEST_F(SevTest, MirrorsAndOwnersMoveInAnyOrderAndAreClosedInAnyOrder) {
  for (const bool mirror_first : {false, true}) {
    Guest owner = MakeSource(VmType::kSev);
    Guest mirror = MakeDestination(VmType::kSev, 0);
    ASSERT_EQ(Mirror(mirror, owner), 0);
    for (int i = 0; i < 3; ++i) {
      Guest next_owner = MakeDestination(VmType::kSev, 0);
      Guest next_mirror = MakeDestination(VmType::kSev, 0);
      if (mirror_first) {
        EXPECT_EQ(Move(next_mirror, mirror), 0);
      }
      EXPECT_EQ(Move(next_owner, owner), 0);
      if (!mirror_first) {
        EXPECT_EQ(Move(next_mirror, mirror), 0);
      }
      owner = std::move(next_owner);
      mirror = std::move(next_mirror);
    }
    if (mirror_first) mirror = Guest{};
    owner = Guest{};
    if (!mirror_first) {
      EXPECT_EQ(Start(mirror.vm.borrow()), -EINVAL) << "still a mirror";
    }
  }
}

}  // namespace
}  // namespace rehome::sim
