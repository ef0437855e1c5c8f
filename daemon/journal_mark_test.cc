// SPDX-License-Identifier: Apache-2.0
//
// That records may be missing is said at each start until one has come to its end, wherever the
// daemon that repaired the journal died.
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>
#include <functional>
#include <set>
#include <string>

#include "daemon/journal_repair.h"
#include "daemon/testing/journal_fixture.h"
#include "gmock/gmock.h"

namespace rehome {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;
using testing_support::Record;

// Calls that can change what is in the directory. The log's index is written through a mapping,
// and says nothing to the next process.
bool CanChangeAFile(uint64_t number) {
  static const std::set<uint64_t> kCalls = {
      SYS_open,   SYS_openat,   SYS_creat,     SYS_write,   SYS_pwrite64, SYS_writev,
      SYS_rename, SYS_renameat, SYS_renameat2, SYS_unlink,  SYS_unlinkat, SYS_ftruncate,
      SYS_mkdir,  SYS_mkdirat,  SYS_fallocate, SYS_truncate};
  return kCalls.contains(number);
}

// Runs `child` in a process of its own, and kills it before its call number `count` of those.
constexpr int kNoPtrace = 77;

// False: it came to its end first.
bool DieBefore(int count, const std::function<void()>& child) {
  const pid_t pid = fork();
  if (pid == 0) {
    if (ptrace(PTRACE_TRACEME, 0, nullptr, nullptr) != 0) _exit(kNoPtrace);
    raise(SIGSTOP);
    child();
    _exit(0);
  }
  int how = 0;
  EXPECT_EQ(waitpid(pid, &how, 0), pid);
  EXPECT_FALSE(WIFEXITED(how)) << "ptrace is forbidden here";
  ptrace(PTRACE_SETOPTIONS, pid, nullptr, PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL);
  for (int seen = 0; WIFSTOPPED(how);) {
    __ptrace_syscall_info call{};
    ptrace(PTRACE_GET_SYSCALL_INFO, pid, sizeof(call), &call);
    if (call.op == PTRACE_SYSCALL_INFO_ENTRY && CanChangeAFile(call.entry.nr) && ++seen == count) {
      kill(pid, SIGKILL);
      EXPECT_EQ(waitpid(pid, &how, 0), pid);
      return true;
    }
    ptrace(PTRACE_SYSCALL, pid, nullptr, nullptr);
    EXPECT_EQ(waitpid(pid, &how, 0), pid);
  }
  EXPECT_TRUE(WIFEXITED(how) && WEXITSTATUS(how) == 0);
  return false;
}

class JournalMarkTest : public testing_support::JournalFixture {
 protected:
  fs::path kept() const { return directory_.string() + "-kept"; }
  void TearDown() override {
    fs::remove_all(kept());
    JournalFixture::TearDown();
  }

  void TearLog() {
    AppendAndDie(20);
    const uint64_t frames = (fs::file_size(wal()) - 32) / (24 + 4096);
    std::fstream log(wal(), std::ios::in | std::ios::out | std::ios::binary);
    log.seekp(static_cast<std::streamoff>(32 + (frames / 2) * (24 + 4096) + 100));
    log << "damage";
  }
  void DamageDatabase() {
    Open();
    std::ofstream(db(), std::ios::trunc) << std::string(4096, 'x');
  }
  void DamageRecord() {
    ASSERT_TRUE(Open()->Append(Record(1, 1)).ok());
    Sql("UPDATE migrations SET record = x'ff'");
  }

  // A start that does not come to its end.
  void Start() {
    auto journal = OpenSqliteJournal(directory_);
    if (!journal.ok()) _exit(1);
    if (!(*journal)->Load([](const Migration&) {}).ok()) _exit(2);
  }

  // Kills a start at each of its steps, and looks what the next one says.
  void CheckEachStep() {
    fs::copy(directory_, kept());
    int step = 1;
    for (bool died = true; died; ++step) {
      SCOPED_TRACE(step);
      fs::remove_all(directory_);
      fs::copy(kept(), directory_);
      died = DieBefore(step, [this] { Start(); });
      auto journal = Open();
      ASSERT_NE(journal, nullptr);
      LoadAll(*journal);
      ASSERT_TRUE(repair_.may_miss_records());
    }
    EXPECT_GT(step, 5) << "it has some steps";
  }
};

TEST_F(JournalMarkTest, ATornLogIsNotForgottenWhereverAStartDies) {
  TearLog();
  CheckEachStep();
}

TEST_F(JournalMarkTest, ADamagedDatabaseIsNotForgottenWhereverAStartDies) {
  DamageDatabase();
  CheckEachStep();
}

TEST_F(JournalMarkTest, ADamagedRecordIsNotForgottenWhereverAStartDies) {
  DamageRecord();
  CheckEachStep();
}

TEST_F(JournalMarkTest, AStartThatHasComeToItsEndIsTheLastThatSaysSo) {
  DamageDatabase();
  LoadAll(*Open());
  ASSERT_TRUE(repair_.may_miss_records());
  EXPECT_FALSE(repair_.of_earlier_start) << "it is this one's own finding";
  for (int start = 0; start < 2; ++start) {
    LoadAll(*Open());
    EXPECT_TRUE(repair_.of_earlier_start && repair_.may_miss_records());
    EXPECT_THAT(repair_.Summary(), HasSubstr("since an earlier start"));
  }
  auto journal = Open();
  ASSERT_TRUE(journal->EndRepair().ok());
  EXPECT_TRUE(journal->repair().may_miss_records()) << "as long as this daemon lives";
  EXPECT_TRUE(journal->EndRepair().ok());
  journal.reset();
  LoadAll(*Open());
  EXPECT_TRUE(repair_.none());
}

TEST_F(JournalMarkTest, WhatMissesNoRecordLeavesNoMark) {
  AppendAndDie(3);
  fs::resize_file(wal(), fs::file_size(wal()) - 100);  // of an append that had not returned
  LoadAll(*Open());
  EXPECT_GT(repair_.torn_bytes, 0u);
  EXPECT_FALSE(repair_.may_miss_records());
  LoadAll(*Open());
  EXPECT_TRUE(repair_.none());
}

TEST_F(JournalMarkTest, NothingIsRepairedThatCannotBeMarked) {
  DamageDatabase();
  const std::string mark = db() + ".may-miss-records";
  fs::create_directory(mark);  // in the way
  EXPECT_EQ(OpenError(), "STATE_DIRECTORY_UNUSABLE");
  EXPECT_EQ(fs::file_size(db()), 4096u) << "it is where it was";
  fs::remove(mark);
  Open();
  EXPECT_FALSE(repair_.set_aside.empty());
}

// ---- the log goes with its database, and stays without it ----

TEST_F(JournalMarkTest, ALogThatHasLostItsDatabaseIsKept) {
  ASSERT_TRUE(Open()->Append(Record(1, 1)).ok());
  fs::copy(db(), db() + ".salvaged");
  fs::remove(db());
  std::ofstream(wal()) << "the only records";
  EXPECT_EQ(LoadAll(*Open()).size(), 1u);
  EXPECT_TRUE(repair_.of_earlier_start);
  std::ifstream log(db() + ".damaged-1-wal");
  EXPECT_EQ(std::string(std::istreambuf_iterator<char>(log), {}), "the only records");
  // And is not given to another database.
  std::ofstream(db(), std::ios::trunc) << std::string(4096, 'x');
  Open();
  EXPECT_THAT(repair_.set_aside, HasSubstr("damaged-2"));
}

}  // namespace
}  // namespace rehome
