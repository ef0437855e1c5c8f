// SPDX-License-Identifier: Apache-2.0
#include "kvmglue/vm_type.h"

#include <gtest/gtest.h>

#include <set>

namespace rehome {
namespace {

constexpr uint32_t kTypes = 6;  // arch/x86/include/uapi/asm/kvm.h, KVM_X86_*_VM

TEST(VmType, EveryNumberHasItsOwnNameAndBothLeadBack) {
  std::set<std::string_view> names;
  for (uint32_t number = 0; number < kTypes; ++number) {
    const std::optional<VmType> type = VmTypeFromNumber(number);
    ASSERT_TRUE(type.has_value()) << number;
    EXPECT_EQ(static_cast<uint32_t>(*type), number);
    EXPECT_EQ(VmTypeFromName(VmTypeName(*type)), type);
    names.insert(VmTypeName(*type));
  }
  EXPECT_EQ(names.size(), kTypes);
}

TEST(VmType, NamesAreTheOnesOfTheApi) {
  EXPECT_EQ(VmTypeName(VmType::kDefault), "default");
  EXPECT_EQ(VmTypeName(VmType::kSwProtected), "sw-protected");
  EXPECT_EQ(VmTypeName(VmType::kSev), "sev");
  EXPECT_EQ(VmTypeName(VmType::kSevEs), "sev-es");
  EXPECT_EQ(VmTypeName(VmType::kSnp), "snp");
  EXPECT_EQ(VmTypeName(VmType::kTdx), "tdx");
}

TEST(VmType, UnknownNumbersAndNamesAreNotTypes) {
  EXPECT_FALSE(VmTypeFromNumber(kTypes).has_value());
  EXPECT_FALSE(VmTypeFromNumber(~0u).has_value());
  for (const char* name : {"", "Default", "sev_es", "sev-snp", "unknown"}) {
    EXPECT_FALSE(VmTypeFromName(name).has_value()) << name;
  }
}

TEST(VmType, ANumberCastWithoutTheCheckIsStillPrintable) {
  EXPECT_EQ(VmTypeName(static_cast<VmType>(77)), "unknown");
}

}  // namespace
}  // namespace rehome
