// SPDX-License-Identifier: Apache-2.0
#include "vmm/agent/wire.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <functional>
#include <memory>
#include <vector>

#include "gtest/gtest.h"

namespace rehome {
namespace {

int CountFds() {
  int count = 0;
  DIR* directory = opendir("/proc/self/fd");
  while (readdir(directory) != nullptr) count++;
  closedir(directory);
  return count;
}

class Wire : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_EQ(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends_), 0);
    fds_before_ = CountFds();
  }
  void TearDown() override {
    EXPECT_EQ(CountFds(), fds_before_) << "leaked";
    close(ends_[0]);
    close(ends_[1]);
  }

  void SendRaw(const void* bytes, size_t size, const std::vector<int>& fds = {}) {
    iovec part = {const_cast<void*>(bytes), size};
    std::vector<char> control(CMSG_SPACE(fds.size() * sizeof(int)), 0);
    msghdr msg = {};
    msg.msg_iov = &part;
    msg.msg_iovlen = 1;
    if (!fds.empty()) {
      msg.msg_control = control.data();
      msg.msg_controllen = control.size();
      cmsghdr* rights = CMSG_FIRSTHDR(&msg);
      rights->cmsg_level = SOL_SOCKET;
      rights->cmsg_type = SCM_RIGHTS;
      rights->cmsg_len = CMSG_LEN(fds.size() * sizeof(int));
      memcpy(CMSG_DATA(rights), fds.data(), fds.size() * sizeof(int));
    }
    ASSERT_EQ(sendmsg(ends_[0], &msg, 0), static_cast<ssize_t>(size));
  }

  // A sane START.
  void BuildStart() {
    rehome_migration_ref ref = {};
    strcpy(ref.migration_id, "m-1");
    rehome_packet_init(out_.get(), REHOME_MSG_START, 0, 7);
    rehome_packet_append(out_.get(), &ref, sizeof(ref));
  }

  int Receive(rehome_end end = REHOME_END_AGENT) {
    return rehome_wire_receive(ends_[1], end, in_.get());
  }

  int ends_[2];
  int fds_before_ = 0;
  std::unique_ptr<rehome_packet> out_ = std::make_unique<rehome_packet>();
  std::unique_ptr<rehome_packet> in_ = std::make_unique<rehome_packet>();
};

TEST_F(Wire, CarriesAMessageWithItsFdsCloseOnExec) {
  rehome_arm arm = {};
  strcpy(arm.migration_id, "m-1");
  arm.layout_digest = 0x1122334455667788;
  rehome_packet_init(out_.get(), REHOME_MSG_ARM_SOURCE, 0, 42);
  rehome_packet_append(out_.get(), &arm, sizeof(arm));
  rehome_packet_append_fd(out_.get(), ends_[0]);
  rehome_packet_append_fd(out_.get(), ends_[1]);
  ASSERT_EQ(rehome_wire_send(ends_[0], out_.get()), 0);
  ASSERT_EQ(Receive(), 0);
  EXPECT_EQ(in_->header.type, REHOME_MSG_ARM_SOURCE);
  EXPECT_EQ(in_->header.seq, 42u);
  EXPECT_EQ(in_->header.fd_count, 2u);
  EXPECT_EQ(memcmp(in_->payload, &arm, sizeof(arm)), 0);
  EXPECT_NE(fcntl(in_->fds[0], F_GETFD) & FD_CLOEXEC, 0);
  int taken = rehome_packet_take_fd(in_.get(), 1);
  rehome_packet_close_fds(in_.get());
  EXPECT_NE(fcntl(taken, F_GETFD), -1);
  close(taken);
}

TEST_F(Wire, SaysWhenThereIsNothingAndWhenThePeerIsGone) {
  EXPECT_EQ(Receive(), -EAGAIN);
  shutdown(ends_[0], SHUT_WR);
  EXPECT_EQ(Receive(), -EPIPE);
  close(ends_[1]);
  ends_[1] = dup(ends_[0]);
  BuildStart();
  EXPECT_EQ(rehome_wire_send(ends_[0], out_.get()), -EPIPE);
}

TEST_F(Wire, NeverBlocksOnAPeerThatDoesNotRead) {
  BuildStart();
  int result = 0;
  for (int i = 0; i < 100000 && result == 0; i++) result = rehome_wire_send(ends_[0], out_.get());
  EXPECT_EQ(result, -EAGAIN);
}

TEST_F(Wire, RefusesEveryDamageToTheHeader) {
  const std::vector<std::function<void(rehome_header*)>> damages = {
      [](rehome_header* h) { h->magic ^= 1; },
      [](rehome_header* h) { h->version = 2; },
      [](rehome_header* h) { h->version = 0; },
      [](rehome_header* h) { h->type = 0; },
      [](rehome_header* h) { h->type = 999; },
      [](rehome_header* h) { h->type = REHOME_MSG_HELLO; },  // the daemon does not send it
      [](rehome_header* h) { h->flags = 2; },
      [](rehome_header* h) { h->flags = 0x80000001; },
      [](rehome_header* h) { h->flags = REHOME_FLAG_REPLY; },  // an agent sends that
      [](rehome_header* h) { h->status = 1; },                 // of a request
      [](rehome_header* h) { h->payload_size--; },
      [](rehome_header* h) { h->payload_size++; },
      [](rehome_header* h) { h->payload_size = UINT32_MAX; },
      [](rehome_header* h) { h->fd_count = 1; },
      [](rehome_header* h) { h->fd_count = UINT32_MAX; },
  };
  for (size_t i = 0; i < damages.size(); i++) {
    BuildStart();
    std::vector<uint8_t> bytes(sizeof(rehome_header) + out_->header.payload_size);
    damages[i](&out_->header);
    memcpy(bytes.data(), &out_->header, sizeof(rehome_header));
    memcpy(bytes.data() + sizeof(rehome_header), out_->payload,
           bytes.size() - sizeof(rehome_header));
    SendRaw(bytes.data(), bytes.size());
    EXPECT_EQ(Receive(), -EPROTO) << i;
  }
}

TEST_F(Wire, RefusesGarbageOfEveryLength) {
  std::vector<uint8_t> garbage(REHOME_MAX_MESSAGE + 100, 0xa5);
  for (size_t size : {size_t{1}, size_t{31}, size_t{32}, size_t{33}, size_t{1000},
                      size_t{REHOME_MAX_MESSAGE}, garbage.size()}) {
    SendRaw(garbage.data(), size);
    EXPECT_EQ(Receive(), -EPROTO) << size;
  }
}

TEST_F(Wire, RefusesAMessageThatIsTooLongHoweverSaneItBegins) {
  BuildStart();
  std::vector<uint8_t> bytes(REHOME_MAX_MESSAGE + 1);
  out_->header.payload_size = REHOME_MAX_MESSAGE + 1 - sizeof(rehome_header);
  memcpy(bytes.data(), &out_->header, sizeof(rehome_header));
  SendRaw(bytes.data(), bytes.size());
  EXPECT_EQ(Receive(), -EPROTO);
}

TEST_F(Wire, RefusesWrongNumbersOfFdsAndClosesWhatCame) {
  BuildStart();
  for (size_t count : {1, 2, 64, 65, 200}) {
    std::vector<uint8_t> bytes(sizeof(rehome_header) + out_->header.payload_size);
    // Even when the header owns up to them: START has none, and 64 is the most.
    out_->header.fd_count = static_cast<uint32_t>(count);
    memcpy(bytes.data(), &out_->header, sizeof(rehome_header));
    memcpy(bytes.data() + sizeof(rehome_header), out_->payload,
           bytes.size() - sizeof(rehome_header));
    SendRaw(bytes.data(), bytes.size(), std::vector<int>(count, ends_[0]));
    EXPECT_EQ(Receive(), -EPROTO) << count;
    EXPECT_EQ(CountFds(), fds_before_) << count;
  }
}

TEST_F(Wire, RefusesReservedFieldsAndUnterminatedStrings) {
  rehome_describe describe = {};
  strcpy(describe.migration_id, "m-1");
  const std::vector<std::function<void(rehome_describe*)>> damages = {
      [](rehome_describe* d) { d->reserved = 1; },
      [](rehome_describe* d) { d->hold = 2; },
      [](rehome_describe* d) { memset(d->migration_id, 'x', sizeof(d->migration_id)); },
      [](rehome_describe* d) { d->migration_id[0] = '\0'; },
  };
  for (size_t i = 0; i < damages.size(); i++) {
    rehome_describe damaged = describe;
    damages[i](&damaged);
    rehome_packet_init(out_.get(), REHOME_MSG_DESCRIBE, 0, 1);
    rehome_packet_append(out_.get(), &damaged, sizeof(damaged));
    ASSERT_EQ(rehome_wire_send(ends_[0], out_.get()), 0);
    EXPECT_EQ(Receive(), -EPROTO) << i;
  }
}

TEST_F(Wire, RefusesTheSameInWhatAnAgentSends) {
  rehome_event event = {};
  event.kind = REHOME_EVENT_RESUMED;
  const std::vector<std::function<void(rehome_event*)>> damages = {
      [](rehome_event* e) { e->kind = 0; },
      [](rehome_event* e) { e->kind = REHOME_EVENT_VM_DEAD + 1; },
      [](rehome_event* e) { e->reserved = 1; },
      [](rehome_event* e) { memset(e->text, 'x', sizeof(e->text)); },
      [](rehome_event* e) { memset(e->migration_id, 'x', sizeof(e->migration_id)); },
  };
  for (size_t i = 0; i <= damages.size(); i++) {
    rehome_event damaged = event;
    if (i < damages.size()) damages[i](&damaged);
    rehome_packet_init(out_.get(), REHOME_MSG_EVENT, 0, 1);
    rehome_packet_append(out_.get(), &damaged, sizeof(damaged));
    ASSERT_EQ(rehome_wire_send(ends_[0], out_.get()), 0);
    EXPECT_EQ(Receive(REHOME_END_DAEMON), i < damages.size() ? -EPROTO : 0) << i;
  }
}

TEST_F(Wire, RefusesARefusalWithoutItsText) {
  rehome_refusal_text text = {};
  for (int with_text = 0; with_text < 2; with_text++) {
    rehome_packet_init(out_.get(), REHOME_MSG_HELLO, REHOME_FLAG_REPLY, 1);
    out_->header.status = REHOME_REFUSED_DENIED;
    if (with_text == 1) rehome_packet_append(out_.get(), &text, sizeof(text));
    ASSERT_EQ(rehome_wire_send(ends_[0], out_.get()), 0);
    EXPECT_EQ(Receive(), with_text == 1 ? 0 : -EPROTO);
  }
}

TEST(VmId, FollowsItsGrammar) {
  for (const char* good : {"a", "0", "vm-1", "a-b-c", "a--b",
                           "a23456789012345678901234567890123456789012345678901234567890123"}) {
    char id[REHOME_ID_SIZE];
    rehome_copy_text(id, sizeof(id), good);
    EXPECT_TRUE(rehome_is_vm_id(id)) << good;
  }
  for (const char* bad : {"", "-", "-a", "a-", "A", "vm_1", "vm.1", "vm 1", "vm/1", "\xc3\xa4"}) {
    char id[REHOME_ID_SIZE];
    rehome_copy_text(id, sizeof(id), bad);
    EXPECT_FALSE(rehome_is_vm_id(id)) << bad;
  }
  char endless[REHOME_ID_SIZE];
  memset(endless, 'a', sizeof(endless));
  EXPECT_FALSE(rehome_is_vm_id(endless));
}

}  // namespace
}  // namespace rehome
