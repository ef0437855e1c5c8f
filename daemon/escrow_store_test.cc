// SPDX-License-Identifier: Apache-2.0
#include "daemon/escrow_store.h"

#include <unistd.h>

#include <atomic>
#include <fstream>
#include <map>
#include <thread>

#include "absl/strings/str_cat.h"
#include "daemon/reasons.h"
#include "daemon/testing/child_harness.h"
#include "daemon/testing/notify_socket.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kvmglue/status_reason.h"

namespace rehome {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;
using testing::Key;
using testing::SizeIs;
using testing::UnorderedElementsAre;
using testing_support::CountOpenFds;
using testing_support::MakeMemfd;
using testing_support::NotifySocket;

// A datagram socket holds net.unix.max_dgram_qlen messages, 10 by default, so a manager has to
// read while a store is written. This one reads until it is destroyed.
class ReadingManager {
 public:
  explicit ReadingManager(NotifySocket* socket)
      : thread_([this, socket] {
          while (!stopping_) {
            socket->Drain();
            std::this_thread::yield();
          }
          socket->Drain();
        }) {}
  ~ReadingManager() {
    stopping_ = true;
    thread_.join();
  }

 private:
  std::atomic<bool> stopping_ = false;
  std::thread thread_;
};

class EscrowStoreTest : public testing::Test {
 protected:
  // The next process of the daemon.
  void Start() {
    manager_ = socket_.Start();
    store_ = NewEscrowStore(manager_.get());
  }
  absl::Status Put(const std::string& id, const std::vector<std::string>& names) {
    std::vector<EscrowItem> items;
    std::vector<UniqueFd> files;  // the manager keeps one descriptor of each open file
    for (const std::string& name : names) {
      files.push_back(MakeMemfd());
      put_[absl::StrCat(id, ".", name)] = Identify(files.back().borrow())->id;
      items.push_back({name, files.back().borrow()});
    }
    ReadingManager reading(&socket_);
    return store_->Put(id, items);
  }

  size_t queue_length_ = 0;
  NotifySocket socket_;
  std::map<std::string, InodeId> put_;
  std::unique_ptr<ServiceManager> manager_;
  std::unique_ptr<EscrowStore> store_;
};

TEST_F(EscrowStoreTest, WhatWasPutComesBackToTheNextDaemonUnderTheSameNames) {
  Start();
  EXPECT_TRUE(store_->supported());
  ASSERT_TRUE(Put("m-1", {"block", "source-vm", "memory-0", "memory-15", "named-60"}).ok());
  ASSERT_TRUE(Put("m-2", {"block"}).ok());
  EXPECT_THAT(socket_.stored(),
              ElementsAre(Key("m-1.block"), Key("m-1.memory-0"), Key("m-1.memory-15"),
                          Key("m-1.named-60"), Key("m-1.source-vm"), Key("m-2.block")));
  EXPECT_EQ(store_->stored_fds(), 6u);
  EXPECT_THAT(store_->restored(), IsEmpty()) << "nothing came back to this one";

  Start();
  EXPECT_THAT(store_->restored(), ElementsAre("m-1", "m-2"));
  EXPECT_EQ(store_->stored_fds(), 6u);
  const std::vector<NamedFd> fds = store_->Take("m-1");
  ASSERT_THAT(fds, SizeIs(5));
  for (const NamedFd& fd : fds) {
    EXPECT_EQ(Identify(fd.fd.borrow())->id, put_.at("m-1." + fd.name)) << fd.name;
  }
  EXPECT_THAT(store_->Take("m-1"), IsEmpty()) << "it is given out once";
  EXPECT_THAT(store_->restored(), ElementsAre("m-2"));
}

TEST_F(EscrowStoreTest, WhatIsRemovedIsClosedByTheManagerAlsoWhenAnEarlierDaemonPutIt) {
  Start();
  ASSERT_TRUE(Put("m-1", {"block", "memory-0"}).ok());
  ASSERT_TRUE(Put("m-2", {"block"}).ok());
  ASSERT_TRUE(store_->Remove("m-2").ok());
  socket_.Drain();
  EXPECT_THAT(socket_.stored(), ElementsAre(Key("m-1.block"), Key("m-1.memory-0")));

  Start();
  const std::vector<NamedFd> taken = store_->Take("m-1");
  ASSERT_TRUE(store_->Remove("m-1").ok());
  socket_.Drain();
  EXPECT_THAT(socket_.stored(), IsEmpty()) << "taking it does not take it off the store";
  EXPECT_EQ(store_->stored_fds(), 0u);
  EXPECT_TRUE(store_->Remove("m-1").ok()) << "again, harmless";
}

TEST_F(EscrowStoreTest, AnItemThatIsPutAgainIsReplaced) {
  Start();
  ASSERT_TRUE(Put("m-1", {"block", "target-vm"}).ok());
  const InodeId first = put_.at("m-1.target-vm");
  ASSERT_TRUE(Put("m-1", {"target-vm"}).ok());
  ASSERT_THAT(socket_.stored(), ElementsAre(Key("m-1.block"), Key("m-1.target-vm")));
  EXPECT_EQ(Identify(socket_.stored().at("m-1.target-vm").borrow())->id, put_.at("m-1.target-vm"));
  EXPECT_NE(put_.at("m-1.target-vm"), first);
  EXPECT_EQ(store_->stored_fds(), 2u);
}

TEST_F(EscrowStoreTest, WhatBelongsToNoUnfinishedMigrationIsDroppedOnBothSides) {
  Start();
  ASSERT_TRUE(Put("m-1", {"block"}).ok());
  ASSERT_TRUE(Put("m-2", {"block", "memory-0"}).ok());
  socket_.mutable_stored()["stored"] = MakeMemfd();  // systemd's name for what has none
  socket_.mutable_stored()["m-1.block.block"] = MakeMemfd();
  socket_.mutable_stored()["m-1.memory-16"] = MakeMemfd();
  socket_.mutable_stored()["m-1.memory-007"] = MakeMemfd();
  socket_.mutable_stored()["../m-1.block"] = MakeMemfd();
  store_.reset();
  manager_.reset();
  const size_t fds_before = CountOpenFds();

  Start();
  {
    ReadingManager reading(&socket_);
    EXPECT_EQ(store_->DropUnclaimed({"m-1", "m-9"}), 2u + 5u);
  }
  EXPECT_THAT(socket_.stored(), ElementsAre(Key("m-1.block")));
  EXPECT_THAT(store_->restored(), ElementsAre("m-1"));
  EXPECT_EQ(CountOpenFds(), fds_before - 7 + 1) << "the manager's are gone, and m-1.block is here";
}

TEST_F(EscrowStoreTest, WhatThisDaemonPutIsNeverUnclaimed) {
  Start();
  ASSERT_TRUE(Put("m-1", {"block"}).ok());
  EXPECT_EQ(store_->DropUnclaimed({}), 0u);
  socket_.Drain();
  EXPECT_THAT(socket_.stored(), ElementsAre(Key("m-1.block")));
}

TEST_F(EscrowStoreTest, ANameThatIsNoItemIsRefusedAndNothingIsStored) {
  Start();
  for (const char* name : {"", "blocks", "block\nFDSTOREREMOVE=1", "memory-", "memory-16",
                           "memory--1", "memory-01", "named-63", "a.b"}) {
    EXPECT_EQ(ReasonOf(Put("m-1", {"block", name})), reason::kBadEscrowItem) << name;
  }
  EXPECT_EQ(ReasonOf(Put("m-1", {"block", "block"})), reason::kBadEscrowItem);
  for (const char* id : {"", "m.1", "m\n1", "M-1"}) {
    EXPECT_EQ(ReasonOf(Put(id, {"block"})), reason::kBadEscrowItem) << id;
  }
  EXPECT_THAT(socket_.stored(), IsEmpty());
}

TEST_F(EscrowStoreTest, AFullStoreRefusesInsteadOfLettingTheManagerDropSilently) {
  // As many stored as there is room for, without sending them all.
  for (size_t i = 0; i < kMaxStoredFds; ++i) {
    // One escrow holds 63 of these names at most; strays count as well.
    socket_.mutable_stored()[absl::StrCat("stray-", i)] = UniqueFd();
  }
  std::vector<NamedFd> fds;
  for (const auto& [name, fd] : socket_.stored()) fds.push_back({.name = name, .fd = UniqueFd()});
  socket_.mutable_stored().clear();
  manager_ = std::make_unique<ServiceManager>(socket_.Start()->address(), std::move(fds));
  store_ = NewEscrowStore(manager_.get());
  EXPECT_EQ(store_->stored_fds(), kMaxStoredFds);
  EXPECT_EQ(ReasonOf(Put("m-1", {"block"})), reason::kEscrowStoreFull);
  EXPECT_THAT(socket_.stored(), IsEmpty());
  {
    ReadingManager reading(&socket_);
    store_->DropUnclaimed({});
  }
  EXPECT_TRUE(Put("m-1", {"block"}).ok());
}

TEST_F(EscrowStoreTest, AManagerThatDoesNotReadIsReportedAndWhatGotThroughStaysKnown) {
  Start();
  std::vector<EscrowItem> items;
  std::vector<UniqueFd> files;
  for (size_t i = 0; i < 60; ++i) {
    files.push_back(MakeMemfd());
    items.push_back({absl::StrCat(kEscrowNamedPrefix, i), files.back().borrow()});
  }
  // More than its queue holds on a host that was not tuned; a tuned one takes all.
  std::ifstream("/proc/sys/net/unix/max_dgram_qlen") >> queue_length_;
  if (queue_length_ >= items.size()) GTEST_SKIP() << "the queue takes them all";
  EXPECT_EQ(ReasonOf(store_->Put("m-1", items)), reason::kServiceManagerFailed);
  const size_t known = store_->stored_fds();
  EXPECT_GT(known, 0u);
  ReadingManager reading(&socket_);
  EXPECT_TRUE(store_->Remove("m-1").ok()) << "once it reads again";
  EXPECT_EQ(store_->stored_fds(), 0u);
}

TEST_F(EscrowStoreTest, WhatCouldNotBeRemovedIsRemovedBeforeAnythingElseIsStored) {
  Start();
  ASSERT_TRUE(Put("m-1", {"block", "memory-0"}).ok());
  ASSERT_TRUE(Put("m-2", {"block"}).ok());
  socket_.StopListening();
  EXPECT_EQ(ReasonOf(store_->Remove("m-1")), reason::kServiceManagerFailed);
  EXPECT_EQ(store_->stored_fds(), 3u) << "it is there, and counted";
  const UniqueFd file = MakeMemfd();
  EXPECT_EQ(ReasonOf(store_->Put("m-1", {{"block", file.borrow()}})), reason::kServiceManagerFailed)
      << "it would be removed with the rest";
  socket_.Listen();
  ASSERT_TRUE(Put("m-3", {"block"}).ok());
  EXPECT_THAT(socket_.stored(), ElementsAre(Key("m-2.block"), Key("m-3.block")));
  EXPECT_EQ(store_->stored_fds(), 2u);
}

TEST_F(EscrowStoreTest, WhatIsPutAfterALateRemovalStays) {
  Start();
  ASSERT_TRUE(Put("m-1", {"block", "memory-0"}).ok());
  socket_.StopListening();
  EXPECT_FALSE(store_->Remove("m-1").ok());
  socket_.Listen();
  ASSERT_TRUE(Put("m-1", {"rescue-block"}).ok());
  ASSERT_TRUE(Put("m-2", {"block"}).ok());
  EXPECT_THAT(socket_.stored(), ElementsAre(Key("m-1.rescue-block"), Key("m-2.block")));
}

TEST_F(EscrowStoreTest, WhatIsUnclaimedAndCouldNotBeDroppedIsDroppedLater) {
  Start();
  ASSERT_TRUE(Put("m-1", {"block"}).ok());
  Start();
  const size_t fds_before = CountOpenFds();
  socket_.StopListening();
  EXPECT_EQ(store_->DropUnclaimed({}), 1u);
  EXPECT_EQ(CountOpenFds(), fds_before - 2) << "ours is closed, as the socket is";
  EXPECT_THAT(store_->restored(), IsEmpty());
  socket_.Listen();
  ASSERT_TRUE(store_->Remove("m-2").ok());
  socket_.Drain();
  EXPECT_THAT(socket_.stored(), IsEmpty());
}

TEST(EscrowStoreWithoutManager, KeepsNothingAndSaysSo) {
  ServiceManager none("", {});
  const auto store = NewEscrowStore(&none);
  const UniqueFd file = MakeMemfd();
  EXPECT_FALSE(store->supported());
  EXPECT_TRUE(store->Put("m-1", {{kEscrowBlock, file.borrow()}}).ok());
  EXPECT_THAT(store->Take("m-1"), IsEmpty());
  EXPECT_EQ(store->stored_fds(), 0u);
  EXPECT_EQ(store->DropUnclaimed({}), 0u);
  EXPECT_TRUE(store->Remove("m-1").ok());
}

}  // namespace
}  // namespace rehome
