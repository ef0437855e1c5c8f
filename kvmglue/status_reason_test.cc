// SPDX-License-Identifier: Apache-2.0
#include "kvmglue/status_reason.h"

#include <gtest/gtest.h>

namespace rehome {
namespace {

TEST(StatusReason, TravelsWithCodeAndMessage) {
  const absl::Status status =
      MakeStatus(absl::StatusCode::kFailedPrecondition, "VM_DEAD", "the VM is dead");
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(status.message(), "the VM is dead");
  EXPECT_EQ(ReasonOf(status), "VM_DEAD");
}

TEST(StatusReason, SurvivesCopies) {
  absl::Status copy;
  {
    const absl::Status original = MakeStatus(absl::StatusCode::kInternal, "BROKEN", "x");
    copy = original;
  }
  EXPECT_EQ(ReasonOf(copy), "BROKEN");
}

TEST(StatusReason, OfOkIsEmptyAndOfForeignErrorUnspecified) {
  EXPECT_EQ(ReasonOf(absl::OkStatus()), "");
  EXPECT_EQ(ReasonOf(absl::InternalError("no reason attached")), "UNSPECIFIED");
}

TEST(StatusReason, AnnotateKeepsCodeReasonAndForeignPayloads) {
  absl::Status status = MakeStatus(absl::StatusCode::kNotFound, "PEER_GONE", "gone");
  status.SetPayload("other/url", absl::Cord("kept"));
  const absl::Status annotated = Annotate(status, "vCPU 3");
  EXPECT_EQ(annotated.code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(annotated.message(), "vCPU 3: gone");
  EXPECT_EQ(ReasonOf(annotated), "PEER_GONE");
  EXPECT_EQ(annotated.GetPayload("other/url"), absl::Cord("kept"));
}

TEST(StatusReason, AnnotateLeavesOkAlone) {
  EXPECT_TRUE(Annotate(absl::OkStatus(), "context").ok());
}

TEST(StatusReasonDeathTest, OkWithAReasonIsAProgrammersMistake) {
  EXPECT_DEATH(MakeStatus(absl::StatusCode::kOk, "NOTHING", ""), "kOk");
}

}  // namespace
}  // namespace rehome
