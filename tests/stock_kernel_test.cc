// SPDX-License-Identifier: Apache-2.0
//
// A kernel without KVM_LINK_GUEST_MEMFD, which is every kernel today, started by //kernel: a guest
// with private memory runs there and cannot be moved, and preflight says why before anything is
// touched.
#include <gtest/gtest.h>

#include <string>

#include "tests/scenario.h"

namespace rehome {
namespace {

using harness::ProfileOfVersion;
using v1::Migration;

class StockKernelTest : public Scenario {};

TEST_F(StockKernelTest, RefusesAPrivateGuestInPreflightWithTheReason) {
  StartHost({.kernel = "kvm"});
  StartUnseenGuest(
      {.vm_type = "sw-protected", .memory_mib = 16, .arguments = {"--heartbeat-ms=50"}});
  const Migration record = Migrate(RequestFor(ProfileOfVersion(2)));
  ExpectFailed(record, guest(), "LINK_UNSUPPORTED");
  EXPECT_FALSE(record.guest_paused());
  EXPECT_FALSE(record.has_target()) << "nothing is started for what is refused";
}

}  // namespace
}  // namespace rehome
