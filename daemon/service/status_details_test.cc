// SPDX-License-Identifier: Apache-2.0
#include "daemon/service/status_details.h"

#include <gtest/gtest.h>

#include <string>

#include "daemon/service/page_token.h"
#include "kvmglue/status_reason.h"

namespace rehome {
namespace {

google::rpc::Status DetailsIn(const grpc::Status& status) {
  google::rpc::Status details;
  EXPECT_TRUE(details.ParseFromString(status.error_details()));
  return details;
}

std::string ReasonIn(const google::rpc::Status& details) {
  google::rpc::ErrorInfo info;
  return details.details_size() > 0 && details.details(0).UnpackTo(&info) ? info.reason() : "";
}

TEST(StatusDetailsTest, OkIsOk) { EXPECT_TRUE(ToGrpcStatus(absl::OkStatus()).ok()); }

TEST(StatusDetailsTest, CodeMessageAndReasonTravel) {
  const grpc::Status status =
      ToGrpcStatus(MakeStatus(absl::StatusCode::kNotFound, "VM_NOT_FOUND", "no such VM"));
  EXPECT_EQ(status.error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(status.error_message(), "no such VM");
  const google::rpc::Status details = DetailsIn(status);
  EXPECT_EQ(details.code(), 5);
  EXPECT_EQ(details.message(), "no such VM");
  EXPECT_EQ(details.details_size(), 1);
  EXPECT_EQ(ReasonIn(details), "VM_NOT_FOUND");
}

TEST(StatusDetailsTest, OnlyPassingErrorsSayWhenToTryAgain) {
  const auto has_retry = [](const char* reason) {
    const absl::Status error = MakeStatus(absl::StatusCode::kUnavailable, reason, "no");
    google::rpc::RetryInfo retry;
    const google::rpc::Status status = ToRpcStatus(error, {});
    for (const auto& detail : status.details()) {
      if (detail.UnpackTo(&retry)) return retry.retry_delay().seconds() > 0;
    }
    return false;
  };
  EXPECT_TRUE(has_retry("QUEUE_FULL"));
  EXPECT_TRUE(has_retry("SHUTTING_DOWN"));
  EXPECT_FALSE(has_retry("VM_NOT_FOUND"));
  EXPECT_FALSE(has_retry("PAST_COMMIT"));
}

TEST(StatusDetailsTest, LongMessagesAreCutBetweenCharacters) {
  std::string message = "x";
  while (message.size() < 3 * kMaxMessageBytes) message += "\xc3\xa4";  // a-umlaut
  const grpc::Status status =
      ToGrpcStatus(MakeStatus(absl::StatusCode::kInternal, "SOME_REASON", message));
  EXPECT_LE(status.error_message().size(), kMaxMessageBytes + 3);
  EXPECT_TRUE(status.error_message().ends_with("\xc3\xa4..."));
  EXPECT_EQ(ReasonIn(DetailsIn(status)), "SOME_REASON");
}

TEST(StatusDetailsTest, DetailsThatAreTooLongLeaveTheReason) {
  const absl::Status error = MakeStatus(absl::StatusCode::kInternal, "SOME_REASON", "no");
  const std::string huge(2 * kMaxDetailsBytes, 'x');
  const google::rpc::Status no_resource = DetailsIn(ToGrpcStatus(
      error, {.metadata = {{"vm", "web-1"}}, .resource_type = huge, .resource_name = "y"}));
  EXPECT_EQ(no_resource.details_size(), 1);
  google::rpc::ErrorInfo info;
  ASSERT_TRUE(no_resource.details(0).UnpackTo(&info));
  EXPECT_EQ(info.metadata().at("vm"), "web-1");
  const grpc::Status no_metadata = ToGrpcStatus(error, {.metadata = {{"vm", huge}}});
  EXPECT_LE(no_metadata.error_details().size(), kMaxDetailsBytes);
  EXPECT_EQ(ReasonIn(DetailsIn(no_metadata)), "SOME_REASON");
}

TEST(PageTokenTest, LeadsBackToItsListOnly) {
  const std::string token = MakePageToken("List", "vm = a", "m-0123456789abcdef");
  EXPECT_EQ(*ParsePageToken(token, "List", "vm = a"), "m-0123456789abcdef");
  EXPECT_EQ(*ParsePageToken("", "List", "vm = a"), "");
  EXPECT_FALSE(ParsePageToken(token, "List", "vm = b").ok());
  EXPECT_FALSE(ParsePageToken(token, "Other", "vm = a").ok());
  EXPECT_FALSE(ParsePageToken(token.substr(1), "List", "vm = a").ok());
  EXPECT_FALSE(ParsePageToken(std::string(100'000, 'A'), "List", "vm = a").ok());
}

TEST(PageTokenTest, PageSizesAreCoercedButNotNegative) {
  EXPECT_EQ(*ParsePageSize(0, 50, 500), 50u);
  EXPECT_EQ(*ParsePageSize(7, 50, 500), 7u);
  EXPECT_EQ(*ParsePageSize(INT32_MAX, 50, 500), 500u);
  EXPECT_EQ(ReasonOf(ParsePageSize(-1, 50, 500).status()), "BAD_PAGE_SIZE");
}

}  // namespace
}  // namespace rehome
