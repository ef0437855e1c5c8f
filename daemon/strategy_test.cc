// SPDX-License-Identifier: Apache-2.0
#include "daemon/strategy.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "kvmglue/status_reason.h"
#include "vmm/agent/protocol.h"

namespace rehome {
namespace {

constexpr MemoryKinds kGuestMemfdWithMmap{.all_guest_memfd = true, .all_mappable = true};
constexpr MemoryKinds kGuestMemfdOnly{.all_guest_memfd = true, .all_mappable = false};
constexpr MemoryKinds kMemfd{.all_guest_memfd = false, .all_mappable = true};
constexpr MemoryKinds kNeither{};

HostCapabilities Host(std::vector<std::string> available) {
  HostCapabilities host;
  for (const char* name :
       {"vm_type_default", "vm_type_sw_protected", "vm_type_sev", "vm_type_sev_es", "vm_type_tdx",
        "guest_memfd_link", "move_enc_context_sw_protected", "move_enc_context_sev",
        "move_enc_context_sev_es", "move_enc_context_tdx"}) {
    const bool has = std::find(available.begin(), available.end(), name) != available.end();
    host.capabilities.push_back({.name = name, .available = has, .detail = "as the test says"});
  }
  return host;
}

HostCapabilities EverythingHost() {
  return Host({"vm_type_default", "vm_type_sw_protected", "vm_type_sev", "vm_type_sev_es",
               "vm_type_tdx", "guest_memfd_link", "move_enc_context_sw_protected",
               "move_enc_context_sev", "move_enc_context_sev_es", "move_enc_context_tdx"});
}

std::string Choose(VmType type, const HostCapabilities& host, const MemoryKinds& memory) {
  absl::StatusOr<Strategy> strategy = ChooseStrategy(type, host, memory);
  return strategy.ok() ? StrategyName(*strategy) : ReasonOf(strategy.status());
}

TEST(StrategyTest, EveryRowOfTheTable) {
  const HostCapabilities host = EverythingHost();
  EXPECT_EQ(Choose(VmType::kSwProtected, host, kGuestMemfdOnly), "LINK_MOVE");
  EXPECT_EQ(Choose(VmType::kTdx, host, kGuestMemfdOnly), "LINK_MOVE");
  EXPECT_EQ(Choose(VmType::kSev, host, kMemfd), "MAP_MOVE");
  EXPECT_EQ(Choose(VmType::kSevEs, host, kMemfd), "MAP_MOVE");
  EXPECT_EQ(Choose(VmType::kDefault, host, kGuestMemfdWithMmap), "LINK");
  EXPECT_EQ(Choose(VmType::kDefault, host, kMemfd), "MAP");
  EXPECT_EQ(Choose(VmType::kSnp, host, kGuestMemfdOnly), "SNP_REFUSED");
}

TEST(StrategyTest, StockKernelMapsDefaultVmsAndRefusesConfidentialOnes) {
  const HostCapabilities host = Host({"vm_type_default"});
  EXPECT_EQ(Choose(VmType::kDefault, host, kGuestMemfdWithMmap), "MAP");
  EXPECT_EQ(Choose(VmType::kDefault, host, kMemfd), "MAP");
  EXPECT_EQ(Choose(VmType::kSwProtected, host, kGuestMemfdOnly), "LINK_UNSUPPORTED");
  EXPECT_EQ(Choose(VmType::kSev, host, kMemfd), "MOVE_UNSUPPORTED");
  EXPECT_EQ(Choose(VmType::kSevEs, host, kMemfd), "MOVE_UNSUPPORTED");
}

TEST(StrategyTest, LinkWithoutMoveDoesNotMoveAConfidentialVm) {
  const HostCapabilities host = Host({"vm_type_sw_protected", "guest_memfd_link"});
  EXPECT_EQ(Choose(VmType::kSwProtected, host, kGuestMemfdOnly), "MOVE_UNSUPPORTED");
}

TEST(StrategyTest, MemoryThatCannotBeSharedIsRefusedForEveryType) {
  const HostCapabilities host = EverythingHost();
  for (VmType type : {VmType::kDefault, VmType::kSwProtected, VmType::kSev, VmType::kSevEs}) {
    EXPECT_EQ(Choose(type, host, kNeither), "MEMORY_NOT_SHAREABLE");
  }
  EXPECT_EQ(Choose(VmType::kSwProtected, host, kMemfd), "MEMORY_NOT_SHAREABLE");
  EXPECT_EQ(Choose(VmType::kSev, host, kGuestMemfdOnly), "MEMORY_NOT_SHAREABLE");
}

TEST(StrategyTest, RefusalQuotesWhatTheProbeSaw) {
  absl::StatusOr<Strategy> strategy =
      ChooseStrategy(VmType::kSwProtected, Host({}), kGuestMemfdOnly);
  ASSERT_FALSE(strategy.ok());
  EXPECT_NE(std::string(strategy.status().message()).find("as the test says"), std::string::npos);
}

TEST(StrategyTest, FeaturesFollowTheStrategy) {
  EXPECT_EQ(RequiredFeatures(Strategy::kLinkMove), REHOME_FEATURE_LINK | REHOME_FEATURE_MOVE);
  EXPECT_EQ(RequiredFeatures(Strategy::kMapMove), REHOME_FEATURE_MAP | REHOME_FEATURE_MOVE);
  EXPECT_EQ(RequiredFeatures(Strategy::kLink), REHOME_FEATURE_LINK);
  EXPECT_EQ(RequiredFeatures(Strategy::kMap), REHOME_FEATURE_MAP);
}

TEST(StrategyTest, WithoutMoveTheSourceIsFencedBeforeTheTargetRunsUnlessAskedOtherwise) {
  for (Strategy strategy : {Strategy::kLink, Strategy::kMap}) {
    EXPECT_EQ(*ResolveFencePolicy(strategy, FencePolicy::kUnspecified), FencePolicy::kBeforeResume);
    EXPECT_EQ(*ResolveFencePolicy(strategy, FencePolicy::kAfterResume), FencePolicy::kAfterResume);
    EXPECT_EQ(ReasonOf(ResolveFencePolicy(strategy, FencePolicy::kKernel).status()),
              "FENCE_POLICY_IMPOSSIBLE");
  }
}

TEST(StrategyTest, WithMoveTheKernelFences) {
  for (Strategy strategy : {Strategy::kLinkMove, Strategy::kMapMove}) {
    EXPECT_EQ(*ResolveFencePolicy(strategy, FencePolicy::kUnspecified), FencePolicy::kKernel);
    EXPECT_EQ(*ResolveFencePolicy(strategy, FencePolicy::kKernel), FencePolicy::kKernel);
  }
}

}  // namespace
}  // namespace rehome
