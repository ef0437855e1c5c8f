// SPDX-License-Identifier: Apache-2.0
//
// On real files, and with processes that are really killed.
#include <dirent.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <signal.h>
#include <sqlite3.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "daemon/journal.h"
#include "daemon/reasons.h"
#include "daemon/testing/journal_fixture.h"
#include "kvmglue/fd.h"
#include "kvmglue/status_reason.h"

namespace rehome {
namespace {

namespace fs = std::filesystem;
using testing_support::Contents;
using testing_support::Record;

using SqliteJournalTest = testing_support::JournalFixture;

TEST_F(SqliteJournalTest, ANewJournalIsEmpty) { EXPECT_TRUE(LoadAll(*Open()).empty()); }

TEST_F(SqliteJournalTest, WhatWasAppendedIsThereAfterReopening) {
  const Migration first = Record(1, 1), second = Record(2, 1);
  {
    auto journal = Open();
    ASSERT_TRUE(journal->Append(first).ok());
    ASSERT_TRUE(journal->Append(second).ok());
  }
  auto journal = Open();
  EXPECT_EQ(LoadAll(*journal), (std::vector<Migration>{first, second}));
  EXPECT_EQ(*journal->Read(second.id), second);
}

TEST_F(SqliteJournalTest, TheLatestRecordCountsAndOrderIsThatOfAdmission) {
  auto journal = Open();
  ASSERT_TRUE(journal->Append(Record(1, 1)).ok());
  ASSERT_TRUE(journal->Append(Record(2, 1)).ok());
  ASSERT_TRUE(journal->Append(Record(1, 2, MigrationState::kFailed)).ok());
  const std::vector<Migration> records = LoadAll(*journal);
  ASSERT_EQ(records.size(), 2u);
  EXPECT_EQ(records[0], Record(1, 2, MigrationState::kFailed));
}

TEST_F(SqliteJournalTest, EveryTransitionIsKeptInOrder) {
  auto journal = Open();
  Migration record = Record(1, 1);
  ASSERT_TRUE(journal->Append(record).ok());
  record.revision = 2;
  record.step = Step::kPreflight;
  record.state = MigrationState::kPreparing;
  ASSERT_TRUE(journal->Append(record).ok());
  EXPECT_EQ(Sql("SELECT group_concat(revision || ' ' || step || ' ' || state) FROM "
                "(SELECT * FROM transitions ORDER BY revision)"),
            "1 QUEUED PENDING,2 PREFLIGHT PREPARING");
}

TEST_F(SqliteJournalTest, ARevisionIsAppendedOnce) {
  auto journal = Open();
  ASSERT_TRUE(journal->Append(Record(1, 1)).ok());
  const absl::Status again = journal->Append(Record(1, 1, MigrationState::kFailed));
  EXPECT_EQ(ReasonOf(again), reason::kJournalFailed);
  EXPECT_EQ(journal->Read(Record(1, 1).id)->state, MigrationState::kPending)
      << "a failed append changes nothing";
  EXPECT_TRUE(journal->Append(Record(1, 2)).ok());
}

TEST_F(SqliteJournalTest, AnUnknownMigrationIsNotFound) {
  EXPECT_EQ(ReasonOf(Open()->Read("m-0000000000000009").status()), reason::kMigrationNotFound);
}

TEST_F(SqliteJournalTest, TheOldestFinishedOnesArePrunedAndUnfinishedOnesNever) {
  auto journal = Open({.max_finished = 3});
  ASSERT_TRUE(journal->Append(Record(1, 1)).ok());
  for (uint64_t number = 2; number <= 7; ++number) {
    ASSERT_TRUE(journal->Append(Record(number, 1)).ok());
    ASSERT_TRUE(journal->Append(Record(number, 2, MigrationState::kSucceeded)).ok());
  }
  std::vector<std::string> ids;
  for (const Migration& record : LoadAll(*journal)) ids.push_back(record.id);
  EXPECT_EQ(ids, (std::vector<std::string>{Record(1, 1).id, Record(5, 1).id, Record(6, 1).id,
                                           Record(7, 1).id}));
  EXPECT_EQ(Sql("SELECT count(*) FROM transitions"), "7") << "pruned with their migrations";
}

MigrationTrace TraceWith(uint32_t operation) {
  MigrationTrace trace;
  trace.steps = {{Step::kHandingOver, 1'000, 90'000}};
  trace.source.calls = {
      {.operation = operation, .vcpu = 1, .thread = 12, .begin_ns = 2'000, .end_ns = 40'000}};
  trace.target.dropped = 3;
  return trace;
}

TEST_F(SqliteJournalTest, ATraceIsKeptAsLongAsItsMigration) {
  auto journal = Open({.max_finished = 2});
  for (uint32_t number = 1; number <= 3; ++number) {
    ASSERT_TRUE(journal->Append(Record(number, 1)).ok());
    ASSERT_TRUE(journal->PutTrace(Record(number, 1).id, TraceWith(50)).ok());
    ASSERT_TRUE(journal->PutTrace(Record(number, 1).id, TraceWith(number)).ok());
    ASSERT_TRUE(journal->Append(Record(number, 2, MigrationState::kSucceeded)).ok());
  }
  journal.reset();
  journal = Open({.max_finished = 2});
  EXPECT_EQ(ReasonOf(journal->ReadTrace(Record(1, 1).id).status()), reason::kTraceNotFound);
  for (uint32_t number = 2; number <= 3; ++number) {
    const absl::StatusOr<MigrationTrace> trace = journal->ReadTrace(Record(number, 1).id);
    ASSERT_TRUE(trace.ok()) << trace.status();
    EXPECT_EQ(*trace, TraceWith(number));
  }
  EXPECT_EQ(Sql("SELECT count(*) FROM traces"), "2");
}

TEST_F(SqliteJournalTest, ADamagedTraceIsSaidSoAndTheMigrationIsThere) {
  auto journal = Open();
  ASSERT_TRUE(journal->Append(Record(1, 1)).ok());
  ASSERT_TRUE(journal->PutTrace(Record(1, 1).id, TraceWith(1)).ok());
  Sql("UPDATE traces SET trace = x'ff00ff'");
  EXPECT_EQ(ReasonOf(journal->ReadTrace(Record(1, 1).id).status()), reason::kJournalCorrupt);
  EXPECT_TRUE(journal->Read(Record(1, 1).id).ok());
}

// As an older daemon leaves it, which knows the journal's version and not this table.
TEST_F(SqliteJournalTest, TracesWithoutATableOrAMigrationAreNoDamage) {
  Open().reset();
  Sql("INSERT INTO traces VALUES ('m-gone', x'00')");
  Open().reset();
  EXPECT_EQ(Sql("SELECT count(*) FROM traces"), "0");
  Sql("DROP TABLE traces");
  auto journal = Open();
  EXPECT_TRUE(repair_.none());
  EXPECT_TRUE(journal->PutTrace(Record(1, 1).id, TraceWith(1)).ok());
}

TEST_F(SqliteJournalTest, ASecondDaemonIsKeptOut) {
  auto journal = Open();
  EXPECT_EQ(OpenError(), reason::kStateDirectoryInUse);
  journal.reset();
  EXPECT_TRUE(OpenSqliteJournal(directory_).ok());
}

TEST_F(SqliteJournalTest, ADirectoryThatCannotBeMadeIsNamed) {
  directory_ = directory_ / "missing" / "deeper";
  const auto journal = OpenSqliteJournal(directory_);
  EXPECT_EQ(ReasonOf(journal.status()), reason::kStateDirectoryUnusable);
  EXPECT_NE(journal.status().message().find(directory_.string()), absl::string_view::npos);
}

TEST_F(SqliteJournalTest, NobodyElseCanReadItsFiles) {
  auto journal = Open();
  ASSERT_TRUE(journal->Append(Record(1, 1)).ok());
  size_t files = 0;
  for (const auto& entry : fs::directory_iterator(directory_)) {
    struct stat info;
    ASSERT_EQ(stat(entry.path().c_str(), &info), 0);
    EXPECT_EQ(info.st_mode & 0077, 0u) << entry.path();
    ++files;
  }
  EXPECT_EQ(files, 4u) << "lock, database, -wal, -shm";
}

TEST_F(SqliteJournalTest, NoDescriptorOfItSurvivesAnExec) {
  auto journal = Open();
  ASSERT_TRUE(journal->Append(Record(1, 1)).ok());
  size_t ours = 0;
  for (const auto& entry : fs::directory_iterator("/proc/self/fd")) {
    std::error_code gone;
    const std::string target = fs::read_symlink(entry.path(), gone).string();
    if (gone || target.find(directory_.string()) == std::string::npos) continue;
    const int fd = std::stoi(entry.path().filename());
    EXPECT_EQ(fcntl(fd, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC) << target;
    ++ours;
  }
  EXPECT_EQ(ours, 4u);
}

TEST_F(SqliteJournalTest, ANewerJournalIsRefusedAndLeftUntouched) {
  ASSERT_TRUE(Open()->Append(Record(1, 1)).ok());
  Sql("PRAGMA user_version = 3");
  const auto before = Contents(directory_);
  EXPECT_EQ(OpenError(), reason::kJournalFromNewerVersion);
  EXPECT_EQ(Contents(directory_), before);
}

// As a newer daemon leaves it when it is killed: the version is in a WAL that nobody folded in.
TEST_F(SqliteJournalTest, ANewerJournalWithAnOpenWalIsLeftUntouchedToo) {
  ASSERT_TRUE(Open()->Append(Record(1, 1)).ok());
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    sqlite3* db = nullptr;
    sqlite3_open((directory_ / "journal.db").c_str(), &db);
    sqlite3_exec(db, "PRAGMA journal_mode=WAL; PRAGMA user_version = 7", nullptr, nullptr, nullptr);
    raise(SIGKILL);
  }
  ASSERT_EQ(waitpid(child, nullptr, 0), child);
  const auto before = Contents(directory_);
  ASSERT_TRUE(before.contains("journal.db-wal"));
  EXPECT_EQ(OpenError(), reason::kJournalFromNewerVersion);
  EXPECT_EQ(Contents(directory_), before);
}

TEST_F(SqliteJournalTest, ADatabaseThatIsNoJournalIsRefused) {
  fs::create_directory(directory_);
  Sql("CREATE TABLE recipes (name TEXT)");
  EXPECT_EQ(OpenError(), reason::kJournalForeign);
  EXPECT_EQ(Sql("SELECT count(*) FROM recipes"), "0") << "left alone";
}

TEST_F(SqliteJournalTest, ADatabaseThatIsNoJournalIsLeftUntouchedWhateverItsVersion) {
  fs::create_directory(directory_);
  Sql("CREATE TABLE recipes (name TEXT)");
  for (const char* version : {"PRAGMA user_version = 1", "PRAGMA user_version = 2"}) {
    Sql(version);
    const auto before = Contents(directory_);
    EXPECT_EQ(OpenError(), reason::kJournalForeign);
    EXPECT_EQ(Contents(directory_), before);
  }
}

TEST_F(SqliteJournalTest, AFullDiskIsSaidSoAndLosesNothing) {
  auto journal = Open({.max_pages = 24});
  uint64_t number = 0;
  absl::Status status = absl::OkStatus();
  while (status.ok() && number < 10'000) status = journal->Append(Record(++number, 1));
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(ReasonOf(status), reason::kJournalFull);
  EXPECT_EQ(LoadAll(*journal).size(), number - 1);

  journal.reset();
  journal = Open();
  EXPECT_EQ(LoadAll(*journal).size(), number - 1);
  EXPECT_TRUE(journal->Append(Record(number, 1)).ok()) << "room again";
}

// On a file system of `kib` KiB: opens the journal and appends until it is full. 0 if the end is an
// error with the right reason and everything appended before can be read.
int FillSmallDisk(const fs::path& directory, size_t kib) {
  const std::string options = absl::StrCat("mode=0700,size=", kib, "k");
  if (mount("journal", directory.c_str(), "tmpfs", 0, options.c_str()) != 0) return 2;
  auto journal = OpenSqliteJournal(directory);
  if (!journal.ok()) return ReasonOf(journal.status()) == reason::kJournalFull ? 0 : 3;
  uint64_t number = 0;
  absl::Status status = absl::OkStatus();
  while (status.ok() && number < 100'000) status = (*journal)->Append(Record(++number, 1));
  if (ReasonOf(status) != reason::kJournalFull) return 4;
  uint64_t there = 0;
  status = (*journal)->Load([&](const Migration&) { ++there; });
  return status.ok() && there == number - 1 ? 0 : 5;
}

// Sizes from "nothing fits" to "some hundred records fit", so that each of SQLite's files is the
// one that finds the disk full. In a child, because the mount is in a mount namespace of its own.
TEST_F(SqliteJournalTest, AFullFileSystemIsSaidSoWhicheverFileFindsIt) {
  fs::create_directory(directory_);
  for (size_t kib = 8; kib <= 256; kib += 8) {
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      if (unshare(CLONE_NEWNS) != 0 || mount("", "/", "", MS_REC | MS_PRIVATE, "") != 0) _exit(77);
      _exit(FillSmallDisk(directory_, kib));
    }
    int how = 0;
    ASSERT_EQ(waitpid(child, &how, 0), child);
    ASSERT_TRUE(WIFEXITED(how)) << kib << " KiB: killed by signal " << WTERMSIG(how);
    if (WEXITSTATUS(how) == 77) GTEST_SKIP() << "mounting a small file system needs CAP_SYS_ADMIN";
    EXPECT_EQ(WEXITSTATUS(how), 0) << kib << " KiB";
  }
}

TEST_F(SqliteJournalTest, ThreadsMayAppendAndReadAtOnce) {
  auto journal = Open();
  constexpr uint64_t kThreads = 4, kRevisions = 50;
  std::vector<std::thread> threads;
  for (uint64_t thread = 0; thread < kThreads; ++thread) {
    threads.emplace_back([&, thread] {
      for (uint64_t revision = 1; revision <= kRevisions; ++revision) {
        EXPECT_TRUE(journal->Append(Record(thread, revision)).ok());
        EXPECT_EQ(journal->Read(Record(thread, 1).id)->revision, revision);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(LoadAll(*journal).size(), kThreads);
}

// The child announces each append on the pipe once it has returned, and is killed in the middle of
// a later one: what was announced must be there, and nothing half of what was not.
TEST_F(SqliteJournalTest, NothingThatWasAppendedIsLostWhenTheProcessIsKilled) {
  constexpr uint64_t kKills = 20;
  uint64_t base = 0;
  for (uint64_t round = 1; round <= kKills; ++round) {
    int ends[2];
    ASSERT_EQ(pipe2(ends, O_CLOEXEC), 0);
    const UniqueFd from_child(ends[0]);
    UniqueFd to_parent(ends[1]);
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      auto journal = OpenSqliteJournal(directory_);
      for (uint64_t revision = base + 1; journal.ok(); ++revision) {
        if (!(*journal)->Append(Record(1, revision)).ok()) _exit(1);
        if (write(to_parent.borrow().raw(), &revision, sizeof(revision)) < 0) _exit(2);
      }
      _exit(3);
    }
    to_parent.Reset();
    uint64_t announced = 0;
    for (uint64_t count = 0; count < 7 * round; ++count) {
      ASSERT_EQ(read(from_child.borrow().raw(), &announced, sizeof(announced)),
                static_cast<ssize_t>(sizeof(announced)));
    }
    kill(child, SIGKILL);
    int how = 0;
    ASSERT_EQ(waitpid(child, &how, 0), child);
    ASSERT_TRUE(WIFSIGNALED(how));
    while (read(from_child.borrow().raw(), &announced, sizeof(announced)) > 0) {
    }

    auto journal = Open();
    const std::vector<Migration> records = LoadAll(*journal);
    ASSERT_EQ(records.size(), 1u);
    EXPECT_GE(records[0].revision, announced);
    EXPECT_LE(records[0].revision, announced + 1);
    base = records[0].revision;
    journal.reset();
    constexpr uint64_t kKept = kFirstTransitionsKept + kLatestTransitionsKept;
    EXPECT_EQ(Sql("SELECT count(*) || ' ' || max(revision) FROM transitions"),
              absl::StrCat(std::min(base, kKept), " ", base))
        << "record and transition are one";
  }
}

}  // namespace
}  // namespace rehome
