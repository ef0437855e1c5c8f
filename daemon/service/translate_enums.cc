// SPDX-License-Identifier: Apache-2.0
#include "daemon/service/translate_enums.h"

namespace rehome {
namespace {

constexpr int64_t kNanosPerSecond = 1'000'000'000;

}  // namespace

v1::VmType ToProto(VmType type) {
  switch (type) {
    case VmType::kDefault:
      return v1::DEFAULT;
    case VmType::kSwProtected:
      return v1::SW_PROTECTED;
    case VmType::kSev:
      return v1::SEV;
    case VmType::kSevEs:
      return v1::SEV_ES;
    case VmType::kSnp:
      return v1::SNP;
    case VmType::kTdx:
      return v1::TDX;
  }
  return v1::VM_TYPE_UNSPECIFIED;
}

v1::Migration::State ToProto(MigrationState state) {
  switch (state) {
    case MigrationState::kPending:
      return v1::Migration::PENDING;
    case MigrationState::kPreparing:
      return v1::Migration::PREPARING;
    case MigrationState::kHandingOver:
      return v1::Migration::HANDING_OVER;
    case MigrationState::kCompleting:
      return v1::Migration::COMPLETING;
    case MigrationState::kRollingBack:
      return v1::Migration::ROLLING_BACK;
    case MigrationState::kSucceeded:
      return v1::Migration::SUCCEEDED;
    case MigrationState::kFailed:
      return v1::Migration::FAILED;
    case MigrationState::kCancelled:
      return v1::Migration::CANCELLED;
    case MigrationState::kIndeterminate:
      return v1::Migration::INDETERMINATE;
  }
  return v1::Migration::STATE_UNSPECIFIED;
}

v1::Migration::GuestOwner ToProto(GuestOwner owner) {
  switch (owner) {
    case GuestOwner::kSource:
      return v1::Migration::SOURCE;
    case GuestOwner::kTarget:
      return v1::Migration::TARGET;
    case GuestOwner::kUndecided:
      return v1::Migration::UNDECIDED;
    case GuestOwner::kNobody:
      return v1::Migration::NOBODY;
  }
  return v1::Migration::GUEST_OWNER_UNSPECIFIED;
}

v1::Migration::Strategy ToProto(Strategy strategy) {
  switch (strategy) {
    case Strategy::kLinkMove:
      return v1::Migration::LINK_MOVE;
    case Strategy::kMapMove:
      return v1::Migration::MAP_MOVE;
    case Strategy::kLink:
      return v1::Migration::LINK;
    case Strategy::kMap:
      return v1::Migration::MAP;
  }
  return v1::Migration::STRATEGY_UNSPECIFIED;
}

v1::Migration::FencePolicy ToProto(FencePolicy policy) {
  switch (policy) {
    case FencePolicy::kUnspecified:
      return v1::Migration::FENCE_POLICY_UNSPECIFIED;
    case FencePolicy::kKernel:
      return v1::Migration::KERNEL;
    case FencePolicy::kBeforeResume:
      return v1::Migration::BEFORE_RESUME;
    case FencePolicy::kAfterResume:
      return v1::Migration::AFTER_RESUME;
  }
  return v1::Migration::FENCE_POLICY_UNSPECIFIED;
}

std::optional<FencePolicy> FromProto(v1::Migration::FencePolicy policy) {
  for (const FencePolicy known : {FencePolicy::kUnspecified, FencePolicy::kKernel,
                                  FencePolicy::kBeforeResume, FencePolicy::kAfterResume}) {
    if (ToProto(known) == policy) return known;
  }
  return std::nullopt;
}

google::protobuf::Timestamp ToTimestamp(int64_t unix_ns) {
  google::protobuf::Timestamp timestamp;
  timestamp.set_seconds(unix_ns / kNanosPerSecond);
  timestamp.set_nanos(static_cast<int32_t>(unix_ns % kNanosPerSecond));
  return timestamp;
}

google::protobuf::Duration ToDuration(std::chrono::milliseconds duration) {
  google::protobuf::Duration proto;
  proto.set_seconds(duration.count() / 1000);
  proto.set_nanos(static_cast<int32_t>(duration.count() % 1000) * 1'000'000);
  return proto;
}

}  // namespace rehome
