// SPDX-License-Identifier: Apache-2.0
//
// Every message but descriptions, once as it should be and once for every way to spoil a field.
#include "daemon/wire_codec.h"

#include <functional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "daemon/testing/wire_checks.h"
#include "daemon/testing/wire_messages.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kvmglue/status_reason.h"

namespace rehome {
namespace {

using testing_support::Bytes;
using testing_support::BytesOf;
using testing_support::Datagram;
using testing_support::ExpectViolation;
using testing_support::FillWithoutEnd;
using testing_support::MakeEvent;
using testing_support::MakeHeader;
using testing_support::MakeHello;
using testing_support::MakeRefusal;
using testing_support::MakeRegister;
using testing_support::SetText;
using testing_support::Spoiled;
using testing_support::TakeStruct;

// ---- header ----

TEST(ParseIncoming, TakesEveryMessageInItsDirection) {
  for (rehome_message type : {REHOME_MSG_HELLO, REHOME_MSG_REGISTER, REHOME_MSG_EVENT}) {
    const Bytes datagram = Datagram(MakeHeader(type, false, 7, 3, 0), Bytes(3));
    absl::StatusOr<IncomingMessage> message = ParseIncoming(datagram, 0);
    ASSERT_TRUE(message.ok()) << message.status();
    EXPECT_EQ(message->type, type);
    EXPECT_FALSE(message->is_reply);
    EXPECT_EQ(message->seq, 7u);
    EXPECT_EQ(message->version, REHOME_PROTOCOL_VERSION);
    EXPECT_EQ(message->payload.size(), 3u);
  }
  for (rehome_message type :
       {REHOME_MSG_DESCRIBE, REHOME_MSG_PREPARE, REHOME_MSG_ARM_TARGET, REHOME_MSG_ARM_SOURCE,
        REHOME_MSG_START, REHOME_MSG_CANCEL, REHOME_MSG_RELEASE, REHOME_MSG_PROBE}) {
    rehome_header header = MakeHeader(type, true, 7, 0, 0);
    header.status = REHOME_REFUSED_BUSY;
    absl::StatusOr<IncomingMessage> message = ParseIncoming(BytesOf(header), 0);
    ASSERT_TRUE(message.ok()) << message.status();
    EXPECT_TRUE(message->is_reply);
    EXPECT_EQ(message->refusal, REHOME_REFUSED_BUSY);
  }
}

TEST(ParseIncoming, RefusesEverySpoiledHeader) {
  const std::vector<Spoiled<rehome_header>> spoiled = {
      {[](auto& h) { h.magic = 0; }, "magic"},
      {[](auto& h) { h.version = 0; }, "version 0"},
      {[](auto& h) { h.flags |= 2; }, "unknown flags"},
      {[](auto& h) { h.payload_size = 1; }, "payload_size is 1, but 0 bytes follow"},
      {[](auto& h) { h.payload_size = 0xffffffff; }, "payload_size"},
      {[](auto& h) { h.fd_count = 1; }, "fd_count is 1, but 0 descriptors came"},
      {[](auto& h) { h.fd_count = 0xffffffff; }, "fd_count"},
      {[](auto& h) { h.type = 0; }, "unknown type 0"},
      {[](auto& h) { h.type = 4; }, "unknown type 4"},
      {[](auto& h) { h.type = 25; }, "unknown type 25"},
      {[](auto& h) { h.type = REHOME_MSG_EVENT; }, "is not a reply"},
      {[](auto& h) { h.flags = 0; }, "is not an agent's to request"},
      {[](auto& h) { h.status = REHOME_REFUSED_INTERNAL + 1; }, "unknown status"},
      {[](auto& h) {
         h.type = REHOME_MSG_EVENT;
         h.flags = 0;
         h.status = REHOME_REFUSED_BUSY;
       },
       "request with a status"},
  };
  for (const auto& [spoil, complaint] : spoiled) {
    rehome_header header = MakeHeader(REHOME_MSG_START, true, 1, 0, 0);
    spoil(header);
    ExpectViolation(ParseIncoming(BytesOf(header), 0).status(), complaint);
  }
}

TEST(ParseIncoming, RefusesDatagramsThatAreTooShortOrTooLong) {
  ExpectViolation(ParseIncoming({}, 0).status(), "a datagram of 0 bytes");
  ExpectViolation(ParseIncoming(Bytes(sizeof(rehome_header) - 1), 0).status(), "31 bytes");
  ExpectViolation(ParseIncoming(Bytes(REHOME_MAX_MESSAGE + 1), 0).status(), "16385 bytes");
}

TEST(ParseIncoming, RefusesDescriptorsWhereNoneBelong) {
  for (rehome_message type : {REHOME_MSG_START, REHOME_MSG_PROBE, REHOME_MSG_ARM_SOURCE}) {
    ExpectViolation(ParseIncoming(BytesOf(MakeHeader(type, true, 1, 0, 1)), 1).status(),
                    "with descriptors");
  }
  rehome_header refusal = MakeHeader(REHOME_MSG_DESCRIBE, true, 1, 0, 1);
  EXPECT_TRUE(ParseIncoming(BytesOf(refusal), 1).ok());
  refusal.status = REHOME_REFUSED_BUSY;
  ExpectViolation(ParseIncoming(BytesOf(refusal), 1).status(), "with descriptors");
  ExpectViolation(ParseIncoming(BytesOf(MakeHeader(REHOME_MSG_HELLO, false, 1, 0, 1)), 1).status(),
                  "with descriptors");
}

// ---- HELLO, REGISTER, EVENT ----

TEST(ParseHello, TakesASoundOne) {
  absl::StatusOr<WireHello> hello = ParseHello(BytesOf(MakeHello(REHOME_ROLE_TARGET)));
  ASSERT_TRUE(hello.ok()) << hello.status();
  EXPECT_EQ(hello->version_min, 1u);
  EXPECT_EQ(hello->version_max, 1u);
  EXPECT_TRUE(hello->hello.is_target);
  EXPECT_EQ(hello->hello.features, REHOME_FEATURES_ALL);
  EXPECT_EQ(hello->hello.state_format_write, 2u);
  EXPECT_EQ(hello->hello.state_format_read_min, 1u);
  EXPECT_EQ(hello->hello.state_format_read_max, 2u);
  EXPECT_EQ(hello->hello.vmm_name, "test-vmm");
  EXPECT_EQ(hello->hello.vmm_version, "1.0");
}

TEST(ParseHello, RefusesEverySpoiledField) {
  const std::vector<Spoiled<rehome_hello>> spoiled = {
      {[](auto& h) { h.version_min = 0; }, "range of versions"},
      {[](auto& h) { h.version_min = 2; }, "range of versions"},
      {[](auto& h) { h.role = 0; }, "role 0"},
      {[](auto& h) { h.role = 3; }, "role 3"},
      {[](auto& h) { h.state_format_read_min = 3; }, "state formats"},
      {[](auto& h) { h.reserved = 1; }, "reserved"},
      {[](auto& h) { FillWithoutEnd(h.vmm_name); }, "vmm_name is not NUL-terminated"},
      {[](auto& h) { SetText(h.vmm_name, ""); }, "vmm_name is empty"},
      {[](auto& h) { SetText(h.vmm_name, "a\nb"); }, "vmm_name has characters"},
      {[](auto& h) { FillWithoutEnd(h.vmm_version); }, "vmm_version is not NUL-terminated"},
      {[](auto& h) { SetText(h.vmm_version, "\xff"); }, "vmm_version has characters"},
  };
  for (const auto& [spoil, complaint] : spoiled) {
    rehome_hello hello = MakeHello(REHOME_ROLE_OWNER);
    spoil(hello);
    ExpectViolation(ParseHello(BytesOf(hello)).status(), complaint);
  }
}

TEST(ParseRegister, TakesASoundOne) {
  absl::StatusOr<WireRegister> vm = ParseRegister(BytesOf(MakeRegister("vm-1", "m-1")));
  ASSERT_TRUE(vm.ok()) << vm.status();
  EXPECT_EQ(vm->vm_id, "vm-1");
  EXPECT_EQ(vm->migration_id, "m-1");
  EXPECT_EQ(vm->vm_type, VmType::kDefault);
  EXPECT_EQ(vm->vcpu_count, 2u);
  EXPECT_EQ(vm->memory_bytes, 2u * 16 * 4096);
}

TEST(ParseRegister, RefusesEverySpoiledField) {
  const std::vector<Spoiled<rehome_register>> spoiled = {
      {[](auto& r) { FillWithoutEnd(r.vm_id); }, "vm_id is not NUL-terminated"},
      {[](auto& r) { SetText(r.vm_id, ""); }, "vm_id is empty"},
      {[](auto& r) { SetText(r.vm_id, "a\x1b[2J"); }, "vm_id has characters"},
      {[](auto& r) { r.vm_type = 6; }, "unknown vm_type 6"},
      {[](auto& r) { r.vcpu_count = 0; }, "vcpu_count is 0"},
      {[](auto& r) { r.vcpu_count = REHOME_MAX_VCPUS + 1; }, "vcpu_count is 65"},
      {[](auto& r) { FillWithoutEnd(r.migration_id); }, "migration_id is not NUL-terminated"},
  };
  for (const auto& [spoil, complaint] : spoiled) {
    rehome_register vm = MakeRegister("vm-1");
    spoil(vm);
    ExpectViolation(ParseRegister(BytesOf(vm)).status(), complaint);
  }
}

TEST(ParseEvent, TakesEveryKind) {
  const std::vector<std::pair<rehome_event_kind, LinkEvent::Kind>> kinds = {
      {REHOME_EVENT_RESUMED, LinkEvent::Kind::kResumed},
      {REHOME_EVENT_HANDED_OVER, LinkEvent::Kind::kHandedOver},
      {REHOME_EVENT_FIRST_RUN, LinkEvent::Kind::kFirstRun},
      {REHOME_EVENT_FIRST_RUN_FAILED, LinkEvent::Kind::kFirstRunFailed},
      {REHOME_EVENT_TAKE_OVER_FAILED, LinkEvent::Kind::kTakeOverFailed},
      {REHOME_EVENT_VM_DEAD, LinkEvent::Kind::kVmDead},
  };
  for (const auto& [wire, kind] : kinds) {
    absl::StatusOr<LinkEvent> event = ParseEvent(BytesOf(MakeEvent(wire, "m-1", "why")));
    ASSERT_TRUE(event.ok()) << event.status();
    EXPECT_EQ(event->kind, kind);
    EXPECT_EQ(event->migration_id, "m-1");
    EXPECT_EQ(event->text, "why");
  }
  absl::StatusOr<LinkEvent> stopped =
      ParseEvent(BytesOf(MakeEvent(REHOME_EVENT_GUEST_STOPPED, "")));
  ASSERT_TRUE(stopped.ok());
  EXPECT_EQ(stopped->kind, LinkEvent::Kind::kGuestStopped);
}

TEST(ParseEvent, MakesTextFitForLogsAndTerminals) {
  absl::StatusOr<LinkEvent> event =
      ParseEvent(BytesOf(MakeEvent(REHOME_EVENT_RESUMED, "m-1", "a\nb\x1b[31m\xc3\x28")));
  ASSERT_TRUE(event.ok());
  EXPECT_EQ(event->text, "a?b?[31m?(");
}

TEST(ParseEvent, RefusesEverySpoiledField) {
  const std::vector<Spoiled<rehome_event>> spoiled = {
      {[](auto& e) { e.kind = 0; }, "unknown kind 0"},
      {[](auto& e) { e.kind = 8; }, "unknown kind 8"},
      {[](auto& e) { e.reserved = 1; }, "reserved"},
      {[](auto& e) { SetText(e.migration_id, ""); }, "migration_id is empty"},
      {[](auto& e) { FillWithoutEnd(e.migration_id); }, "migration_id is not NUL-terminated"},
      {[](auto& e) { FillWithoutEnd(e.text); }, "text is not NUL-terminated"},
  };
  for (const auto& [spoil, complaint] : spoiled) {
    rehome_event event = MakeEvent(REHOME_EVENT_RESUMED, "m-1");
    spoil(event);
    ExpectViolation(ParseEvent(BytesOf(event)).status(), complaint);
  }
}

// ---- replies ----

TEST(ParseRefusal, GivesEachRefusalItsReasonAndTheAgentsWords) {
  const std::vector<std::pair<rehome_refusal, std::string>> reasons = {
      {REHOME_REFUSED_MALFORMED, "AGENT_REFUSED_MALFORMED"},
      {REHOME_REFUSED_UNSUPPORTED, "AGENT_REFUSED_UNSUPPORTED"},
      {REHOME_REFUSED_BUSY, "AGENT_REFUSED_BUSY"},
      {REHOME_REFUSED_STATE_FORMAT, "AGENT_REFUSED_STATE_FORMAT"},
      {REHOME_REFUSED_RESOURCES, "AGENT_REFUSED_RESOURCES"},
      {REHOME_REFUSED_KERNEL, "AGENT_REFUSED_KERNEL"},
      {REHOME_REFUSED_WRONG_MIGRATION, "AGENT_REFUSED_WRONG_MIGRATION"},
      {REHOME_REFUSED_ID_TAKEN, "AGENT_REFUSED_ID_TAKEN"},
      {REHOME_REFUSED_DENIED, "AGENT_REFUSED_DENIED"},
      {REHOME_REFUSED_INTERNAL, "AGENT_REFUSED_INTERNAL"},
  };
  for (const auto& [refusal, reason] : reasons) {
    const absl::Status status = ParseRefusal(refusal, BytesOf(MakeRefusal("no\tmemory")));
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_EQ(ReasonOf(status), reason);
    EXPECT_EQ(status.message(), "no?memory");
  }
  rehome_refusal_text endless = {};
  FillWithoutEnd(endless.text);
  ExpectViolation(ParseRefusal(REHOME_REFUSED_BUSY, BytesOf(endless)), "not NUL-terminated");
}

TEST(ParseProbe, TakesFlagsThatAreFlags) {
  absl::StatusOr<VmmLink::Probe> probe = ParseProbe(BytesOf(rehome_probe{.vm_alive = 1}));
  ASSERT_TRUE(probe.ok());
  EXPECT_TRUE(probe->vm_alive);
  EXPECT_FALSE(probe->guest_running);
  ExpectViolation(ParseProbe(BytesOf(rehome_probe{.vm_alive = 2})).status(), "probe");
  ExpectViolation(ParseProbe(BytesOf(rehome_probe{.guest_running = 2})).status(), "probe");
  ExpectViolation(ParseProbe(BytesOf(rehome_probe{.reserved = 1})).status(), "probe");
}

TEST(FixedMessages, HaveExactlyTheirSize) {
  EXPECT_TRUE(ParseEmpty({}).ok());
  ExpectViolation(ParseEmpty(Bytes(1)), "1 bytes, must be none");
  const std::vector<std::pair<size_t, std::function<absl::Status(const Bytes&)>>> parsers = {
      {sizeof(rehome_hello), [](const Bytes& b) { return ParseHello(b).status(); }},
      {sizeof(rehome_register), [](const Bytes& b) { return ParseRegister(b).status(); }},
      {sizeof(rehome_event), [](const Bytes& b) { return ParseEvent(b).status(); }},
      {sizeof(rehome_probe), [](const Bytes& b) { return ParseProbe(b).status(); }},
      {sizeof(rehome_refusal_text),
       [](const Bytes& b) { return ParseRefusal(REHOME_REFUSED_BUSY, b); }},
  };
  for (const auto& [size, parse] : parsers) {
    for (size_t wrong : {size_t{0}, size - 1, size + 1}) {
      ExpectViolation(parse(Bytes(wrong)), absl::StrCat(wrong, " bytes, must be ", size));
    }
  }
}

// ---- to the agent ----

TEST(EncodeMessage, WritesTheHeaderOfTheProtocol) {
  const Bytes datagram =
      EncodeMessage({.version = 1, .type = REHOME_MSG_START, .seq = 9}, Bytes(5, std::byte{7}), 3);
  std::span<const std::byte> rest = datagram;
  const auto header = TakeStruct<rehome_header>(rest);
  EXPECT_EQ(header.magic, REHOME_PROTOCOL_MAGIC);
  EXPECT_EQ(header.version, 1);
  EXPECT_EQ(header.type, REHOME_MSG_START);
  EXPECT_EQ(header.flags, 0u);
  EXPECT_EQ(header.status, 0u);
  EXPECT_EQ(header.seq, 9u);
  EXPECT_EQ(header.payload_size, 5u);
  EXPECT_EQ(header.fd_count, 3u);
  EXPECT_EQ(rest.size(), 5u);
}

TEST(EncodeReplies, EchoTheRequest) {
  const Bytes hello = EncodeHelloReply(4, 1, REHOME_FEATURE_MAP);
  std::span<const std::byte> rest = hello;
  const auto header = TakeStruct<rehome_header>(rest);
  EXPECT_EQ(header.flags, REHOME_FLAG_REPLY);
  EXPECT_EQ(header.seq, 4u);
  const auto reply = TakeStruct<rehome_hello_reply>(rest);
  EXPECT_EQ(reply.version, 1u);
  EXPECT_EQ(reply.features, REHOME_FEATURE_MAP);
  EXPECT_EQ(reply.reserved, 0u);

  const Bytes refused = EncodeRefusal({.type = REHOME_MSG_REGISTER, .seq = 5},
                                      REHOME_REFUSED_ID_TAKEN, std::string(1000, 'w'));
  rest = refused;
  const auto refused_header = TakeStruct<rehome_header>(rest);
  EXPECT_EQ(refused_header.type, REHOME_MSG_REGISTER);
  EXPECT_EQ(refused_header.status, REHOME_REFUSED_ID_TAKEN);
  const auto text = TakeStruct<rehome_refusal_text>(rest);
  EXPECT_EQ(std::string(text.text), std::string(REHOME_TEXT_SIZE - 1, 'w'));
  EXPECT_TRUE(rest.empty());
}

TEST(EncodePayloads, CarryTheirFields) {
  std::span<const std::byte> rest;
  const Bytes describe = *EncodeDescribe("m-1", true);
  rest = describe;
  const auto describe_wire = TakeStruct<rehome_describe>(rest);
  EXPECT_STREQ(describe_wire.migration_id, "m-1");
  EXPECT_EQ(describe_wire.hold, 1u);
  const Bytes arm = *EncodeArm("m-2", 0x1234);
  rest = arm;
  const auto arm_wire = TakeStruct<rehome_arm>(rest);
  EXPECT_STREQ(arm_wire.migration_id, "m-2");
  EXPECT_EQ(arm_wire.layout_digest, 0x1234u);
  const Bytes arm_source = *EncodeArmSource("m-3", 0x5678, 9);
  rest = arm_source;
  const auto arm_source_wire = TakeStruct<rehome_arm_source>(rest);
  EXPECT_STREQ(arm_source_wire.arm.migration_id, "m-3");
  EXPECT_EQ(arm_source_wire.arm.layout_digest, 0x5678u);
  EXPECT_EQ(arm_source_wire.state_format, 9u);
  EXPECT_EQ(arm_source_wire.reserved, 0u);
  EXPECT_TRUE(rest.empty());
  const Bytes reference = *EncodeReference("");
  rest = reference;
  EXPECT_STREQ(TakeStruct<rehome_migration_ref>(rest).migration_id, "");
  EXPECT_TRUE(rest.empty());
}

TEST(EncodePayloads, RefuseAnIdThatDoesNotFit) {
  const std::string fits(REHOME_ID_SIZE - 1, 'm');
  EXPECT_TRUE(EncodeReference(fits).ok());
  EXPECT_EQ(ReasonOf(EncodeReference(fits + "m").status()), "BAD_MIGRATION_ID");
  EXPECT_EQ(ReasonOf(EncodeDescribe(std::string("a\0b", 3), false).status()), "BAD_MIGRATION_ID");
  EXPECT_EQ(ReasonOf(EncodeArm(fits + "m", 0).status()), "BAD_MIGRATION_ID");
  EXPECT_EQ(ReasonOf(EncodeArmSource(fits + "m", 0, 1).status()), "BAD_MIGRATION_ID");
}

}  // namespace
}  // namespace rehome
