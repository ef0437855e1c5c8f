// SPDX-License-Identifier: Apache-2.0
//
// Descriptions, once as they should be and once for every way to spoil a field; then messages with
// every single byte changed and every length cut: the parsers may refuse, never crash.
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "daemon/testing/wire_checks.h"
#include "daemon/testing/wire_messages.h"
#include "daemon/wire_codec.h"
#include "gtest/gtest.h"
#include "kvmglue/status_reason.h"

namespace rehome {
namespace {

using testing_support::Bytes;
using testing_support::BytesOf;
using testing_support::Datagram;
using testing_support::DescriptionParts;
using testing_support::ExpectViolation;
using testing_support::FillWithoutEnd;
using testing_support::MakeDescriptionParts;
using testing_support::MakeEvent;
using testing_support::MakeHeader;
using testing_support::MakeHello;
using testing_support::SetText;
using testing_support::Spoiled;
using testing_support::TakeStruct;

// ---- descriptions ----

TEST(ParseDescription, TakesASourceAndATarget) {
  DescriptionParts parts = MakeDescriptionParts();
  absl::StatusOr<WireDescription> source =
      ParseDescription(parts.Payload(), 6, DescriptionKind::kSource);
  ASSERT_TRUE(source.ok()) << source.status();
  EXPECT_EQ(source->vm_id, "vm-1");
  EXPECT_EQ(source->vcpu_count, 2u);
  EXPECT_EQ(source->state_capacity, 1u << 20);
  EXPECT_EQ(source->state_format, 2u);
  ASSERT_EQ(source->slots.size(), 2u);
  EXPECT_EQ(source->slots[1].gpa, 0x1000000u);
  ASSERT_EQ(source->fds.size(), 6u);
  EXPECT_EQ(source->fds[2].role, REHOME_FD_MEMORY);
  EXPECT_EQ(source->fds[2].index, 1u);
  EXPECT_EQ(source->fds[5].name, "tap0");

  parts.entries.resize(3);
  parts.head.fd_count = 3;
  EXPECT_TRUE(ParseDescription(parts.Payload(), 3, DescriptionKind::kPrepared).ok());
}

TEST(ParseDescription, RefusesEverySpoiledField) {
  const std::vector<Spoiled<DescriptionParts>> spoiled = {
      {[](auto& d) { FillWithoutEnd(d.head.vm_id); }, "vm_id is not NUL-terminated"},
      {[](auto& d) { SetText(d.head.vm_id, ""); }, "vm_id is empty"},
      {[](auto& d) { d.head.vm_type = 99; }, "unknown vm_type 99"},
      {[](auto& d) { d.head.vcpu_count = 0; }, "vcpu_count is 0"},
      {[](auto& d) { d.head.vcpu_count = 1000; }, "vcpu_count is 1000"},
      {[](auto& d) { d.head.slot_count = 0; }, "slot_count is 0"},
      {[](auto& d) { d.head.slot_count = REHOME_MAX_SLOTS + 1; }, "slot_count is 129"},
      {[](auto& d) { d.head.slot_count = 0xffffffff; }, "slot_count"},
      {[](auto& d) { d.head.slot_count = 1; }, "bytes of arrays"},
      {[](auto& d) { d.head.fd_count = 5; }, "fd_count is 5, but 6 descriptors came"},
      {[](auto& d) { d.slots.pop_back(); }, "bytes of arrays"},
      {[](auto& d) { d.entries.push_back({}); }, "bytes of arrays"},
      {[](auto& d) { d.head.state_format_oldest = 3; }, "range of state formats"},
      {[](auto& d) { d.head.state_capacity = REHOME_MAX_STATE + 1ull; }, "state_capacity"},
      {[](auto& d) { d.slots[0].reserved = 1; }, "memslot: reserved"},
      {[](auto& d) { d.slots[0].memory_index = 2; }, "there is no memory 2"},
      {[](auto& d) { d.slots[0].memory_index = 0xffffffff; }, "there is no memory"},
      {[](auto& d) { d.slots[1].memory_index = 0; }, "that no slot uses"},
      {[](auto& d) { d.entries[0].role = REHOME_FD_CONFIG; }, "0 VM descriptors"},
      {[](auto& d) { d.entries[4].role = REHOME_FD_VM; }, "2 VM descriptors"},
      {[](auto& d) { d.entries[4].role = REHOME_FD_CONFIG; }, "more than one CONFIG"},
      {[](auto& d) { d.entries[0].role = 0; }, "role 0 is not allowed"},
      {[](auto& d) { d.entries[0].role = 7; }, "role 7 is not allowed"},
      {[](auto& d) { d.entries[4].role = REHOME_FD_BLOCK; }, "role 5 is not allowed"},
      {[](auto& d) { d.entries[4].role = REHOME_FD_PEER_PIDFD; }, "role 6 is not allowed"},
      {[](auto& d) { d.entries[0].index = 1; }, "role 1 with index 1"},
      {[](auto& d) { d.entries[4].index = 1; }, "role 4 with index 1"},
      {[](auto& d) { d.entries[2].index = 0; }, "memory index 0 is out of range or there twice"},
      {[](auto& d) { d.entries[2].index = REHOME_MAX_MEMORIES; }, "memory index 16"},
      {[](auto& d) { d.entries[2].index = 2; }, "there is no memory 1"},
      {[](auto& d) { SetText(d.entries[4].name, ""); }, "name is empty"},
      {[](auto& d) { SetText(d.entries[4].name, "tap0"); }, "of one name"},
      {[](auto& d) { FillWithoutEnd(d.entries[4].name); }, "name is not NUL-terminated"},
      {[](auto& d) { FillWithoutEnd(d.entries[0].name); }, "name is not NUL-terminated"},
      {[](auto& d) {
         d.entries[1].role = d.entries[2].role = REHOME_FD_NAMED;
         d.entries[2].index = 0;
         SetText(d.entries[1].name, "a");
         SetText(d.entries[2].name, "b");
       },
       "no MEMORY descriptor"},
  };
  for (const auto& [spoil, complaint] : spoiled) {
    DescriptionParts parts = MakeDescriptionParts();
    spoil(parts);
    ExpectViolation(ParseDescription(parts.Payload(), 6, DescriptionKind::kSource).status(),
                    complaint);
  }
  ExpectViolation(ParseDescription(Bytes(3), 0, DescriptionKind::kSource).status(), "3 bytes");
}

TEST(ParseDescription, OnlyASourceOffersSeveralFormats) {
  DescriptionParts parts = MakeDescriptionParts();
  parts.head.state_format_oldest = 1;
  const auto source = ParseDescription(parts.Payload(), 6, DescriptionKind::kSource);
  ASSERT_TRUE(source.ok()) << source.status();
  EXPECT_EQ(source->state_format_oldest, 1u);
  for (const DescriptionKind kind : {DescriptionKind::kPrepared, DescriptionKind::kHandedIn}) {
    ExpectViolation(ParseDescription(parts.Payload(), 6, kind).status(), "state_format_oldest");
  }
}

TEST(ParseDescription, ATargetPassesNeitherConfigNorNamedDescriptors) {
  const DescriptionParts sound = MakeDescriptionParts();
  for (size_t extra : {size_t{3}, size_t{4}}) {
    DescriptionParts parts = sound;
    parts.entries.resize(3);
    parts.entries.push_back(sound.entries[extra]);
    parts.head.fd_count = 4;
    ExpectViolation(ParseDescription(parts.Payload(), 4, DescriptionKind::kPrepared).status(),
                    "is not allowed");
  }
}

TEST(ParseDescription, WhatIsHandedInHasExactlyOneBlock) {
  DescriptionParts parts = MakeDescriptionParts();
  ExpectViolation(ParseDescription(parts.Payload(), 6, DescriptionKind::kHandedIn).status(),
                  "0 BLOCK descriptors");
  parts.AddEntry(REHOME_FD_BLOCK);
  parts.head.fd_count = 7;
  absl::StatusOr<WireDescription> source =
      ParseDescription(parts.Payload(), 7, DescriptionKind::kHandedIn);
  ASSERT_TRUE(source.ok()) << source.status();
  EXPECT_EQ(source->fds[6].role, REHOME_FD_BLOCK);
  for (DescriptionKind kind : {DescriptionKind::kSource, DescriptionKind::kPrepared}) {
    ExpectViolation(ParseDescription(parts.Payload(), 7, kind).status(), "is not allowed");
  }
  parts.AddEntry(REHOME_FD_BLOCK);
  parts.head.fd_count = 8;
  ExpectViolation(ParseDescription(parts.Payload(), 8, DescriptionKind::kHandedIn).status(),
                  "2 BLOCK descriptors");
  parts.entries.back().role = REHOME_FD_PEER_PIDFD;
  ExpectViolation(ParseDescription(parts.Payload(), 8, DescriptionKind::kHandedIn).status(),
                  "role 6 is not allowed");
  // A target has no configuration and no named descriptors to give.
  parts = MakeDescriptionParts();
  parts.entries.resize(3);
  parts.AddEntry(REHOME_FD_BLOCK);
  parts.head.fd_count = 4;
  EXPECT_TRUE(ParseDescription(parts.Payload(), 4, DescriptionKind::kHandedIn).ok());
}

TEST(ParseDescription, WhatIsHandedInMayFillTheMessage) {
  DescriptionParts parts = MakeDescriptionParts();
  while (parts.entries.size() < REHOME_MAX_DESCRIBED_FDS) {
    parts.AddEntry(REHOME_FD_NAMED, 0, absl::StrCat("n", parts.entries.size()));
  }
  parts.AddEntry(REHOME_FD_BLOCK);
  parts.head.fd_count = REHOME_MAX_FDS;
  EXPECT_TRUE(ParseDescription(parts.Payload(), REHOME_MAX_FDS, DescriptionKind::kHandedIn).ok());
}

TEST(ParseDescription, LeavesRoomForTheBlock) {
  DescriptionParts parts = MakeDescriptionParts();
  while (parts.entries.size() < REHOME_MAX_FDS) {
    parts.AddEntry(REHOME_FD_NAMED, 0, absl::StrCat("n", parts.entries.size()));
  }
  parts.head.fd_count = REHOME_MAX_FDS;
  ExpectViolation(
      ParseDescription(parts.Payload(), REHOME_MAX_FDS, DescriptionKind::kSource).status(),
      "at most 63");
  parts.entries.pop_back();
  parts.head.fd_count = REHOME_MAX_DESCRIBED_FDS;
  EXPECT_TRUE(
      ParseDescription(parts.Payload(), REHOME_MAX_DESCRIBED_FDS, DescriptionKind::kSource).ok());
}

// ---- anything at all ----

// Feeds a datagram to whatever its header says it is.
void Digest(const Bytes& datagram, size_t fd_count) {
  absl::StatusOr<IncomingMessage> message = ParseIncoming(datagram, fd_count);
  if (!message.ok()) return;
  (void)ParseHello(message->payload);
  (void)ParseRegister(message->payload);
  (void)ParseEvent(message->payload);
  (void)ParseProbe(message->payload);
  (void)ParseRefusal(REHOME_REFUSED_BUSY, message->payload);
  for (DescriptionKind kind :
       {DescriptionKind::kSource, DescriptionKind::kPrepared, DescriptionKind::kHandedIn}) {
    (void)ParseDescription(message->payload, fd_count, kind);
  }
}

TEST(Parsers, SurviveEveryChangedByteAndEveryLength) {
  const Bytes payload = MakeDescriptionParts().Payload();
  const Bytes description =
      Datagram(MakeHeader(REHOME_MSG_DESCRIBE, true, 1, payload.size(), 6), payload);
  const Bytes hello = Datagram(MakeHeader(REHOME_MSG_HELLO, false, 1, sizeof(rehome_hello), 0),
                               BytesOf(MakeHello(REHOME_ROLE_OWNER)));
  const Bytes event = Datagram(MakeHeader(REHOME_MSG_EVENT, false, 1, sizeof(rehome_event), 0),
                               BytesOf(MakeEvent(REHOME_EVENT_RESUMED, "m-1")));
  for (const auto& [sound, fds] :
       {std::pair{description, size_t{6}}, {hello, size_t{0}}, {event, size_t{0}}}) {
    for (size_t i = 0; i < sound.size(); ++i) {
      for (unsigned value : {0x00u, 0x01u, 0x7fu, 0x80u, 0xffu}) {
        Bytes changed = sound;
        changed[i] = static_cast<std::byte>(value);
        Digest(changed, fds);
      }
      Bytes cut(sound.begin(), sound.begin() + static_cast<std::ptrdiff_t>(i));
      Digest(cut, fds);
      // The same with a header that admits to the length.
      if (cut.size() < sizeof(rehome_header)) continue;
      const uint32_t rest = static_cast<uint32_t>(cut.size() - sizeof(rehome_header));
      std::memcpy(cut.data() + offsetof(rehome_header, payload_size), &rest, sizeof(rest));
      Digest(cut, fds);
    }
  }
}

TEST(EncodePrepare, IsReadBackAsTheSameDescription) {
  absl::StatusOr<WireDescription> source =
      ParseDescription(MakeDescriptionParts().Payload(), 6, DescriptionKind::kSource);
  ASSERT_TRUE(source.ok());
  absl::StatusOr<Bytes> payload =
      EncodePrepare("m-1", Strategy::kLinkMove, FencePolicy::kKernel, *source);
  ASSERT_TRUE(payload.ok()) << payload.status();
  std::span<const std::byte> rest = *payload;
  const auto prepare = TakeStruct<rehome_prepare>(rest);
  EXPECT_STREQ(prepare.migration_id, "m-1");
  EXPECT_EQ(prepare.strategy, REHOME_STRATEGY_LINK_MOVE);
  EXPECT_EQ(prepare.fence_policy, REHOME_FENCE_KERNEL);
  const Bytes expected = MakeDescriptionParts().Payload();
  EXPECT_TRUE(std::equal(rest.begin(), rest.end(), expected.begin(), expected.end()));
}

TEST(EncodePrepare, RefusesWhatDoesNotFitIntoOneMessage) {
  WireDescription source{.vm_id = "vm-1"};
  source.fds.resize(REHOME_MAX_FDS);
  source.slots.resize(REHOME_MAX_SLOTS);
  absl::StatusOr<Bytes> largest =
      EncodePrepare("m-1", Strategy::kMap, FencePolicy::kKernel, source);
  ASSERT_TRUE(largest.ok());
  EXPECT_LE(largest->size() + sizeof(rehome_header), REHOME_MAX_MESSAGE);
  source.fds.resize(REHOME_MAX_FDS + 1);
  EXPECT_EQ(ReasonOf(EncodePrepare("m-1", Strategy::kMap, FencePolicy::kKernel, source).status()),
            "TOO_MANY_FDS");
}

}  // namespace
}  // namespace rehome
