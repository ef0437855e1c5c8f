// SPDX-License-Identifier: Apache-2.0
#include "kvmglue/sim/options.h"

#include <gtest/gtest.h>

#include <cerrno>

#include "kvmglue/sim/errno_name.h"
#include "kvmglue/status_reason.h"

namespace rehome {
namespace {

TEST(SimulatedKernelOptionsTest, EmptyTextIsTheDefault) {
  const auto options = ParseSimulatedKernelOptions("");
  ASSERT_TRUE(options.ok());
  EXPECT_EQ(options->vm_types.size(), 6u);
  EXPECT_EQ(options->link_ioctl_number, 0xd6u);
  EXPECT_TRUE(options->gate);
  EXPECT_FALSE(options->rfc_v2_move);
}

TEST(SimulatedKernelOptionsTest, EveryItemIsTaken) {
  const auto options = ParseSimulatedKernelOptions(
      "types=default+sev-es,move=sev-es,link=0xd5,gate=off,rfc_v2_move=on,rfc_v2_vendor_error="
      "EBUSY,"
      "smm=on");
  ASSERT_TRUE(options.ok()) << options.status();
  EXPECT_EQ(options->vm_types, (std::set<VmType>{VmType::kDefault, VmType::kSevEs}));
  EXPECT_EQ(options->move_types, (std::set<VmType>{VmType::kSevEs}));
  EXPECT_EQ(options->link_ioctl_number, 0xd5u);
  EXPECT_FALSE(options->gate);
  EXPECT_TRUE(options->rfc_v2_move);
  EXPECT_EQ(options->rfc_v2_vendor_error, EBUSY);
  EXPECT_TRUE(options->smm_with_private_memory);
}

TEST(SimulatedKernelOptionsTest, StockKernelCanBeSaid) {
  const auto options = ParseSimulatedKernelOptions("types=default,link=none,move=none");
  ASSERT_TRUE(options.ok());
  EXPECT_FALSE(options->link_ioctl_number.has_value());
  EXPECT_TRUE(options->move_types.empty());
}

TEST(SimulatedKernelOptionsTest, WrongItemsAreRefused) {
  for (const char* text :
       {"types=sgx", "types", "link=0x100", "link=", "gate=maybe", "colour=red",
        "rfc_v2_vendor_error=EIO", "rfc_v2_move=on,rfc_v2_vendor_error=5", "gate=on,"}) {
    const auto options = ParseSimulatedKernelOptions(text);
    ASSERT_FALSE(options.ok()) << text;
    EXPECT_EQ(ReasonOf(options.status()), "SIM_OPTIONS_INVALID") << text;
  }
}

TEST(ErrnoNameTest, NamesAreTheKernels) {
  EXPECT_EQ(ErrnoFromName("EPERM"), EPERM);
  EXPECT_EQ(ErrnoFromName("EINVAL"), EINVAL);
  EXPECT_EQ(ErrnoFromName("EHWPOISON"), EHWPOISON);
  EXPECT_FALSE(ErrnoFromName("").has_value());
  EXPECT_FALSE(ErrnoFromName("einval").has_value());
}

}  // namespace
}  // namespace rehome
