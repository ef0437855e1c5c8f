// SPDX-License-Identifier: Apache-2.0
//
// A journal on real files, and SQL from outside.
#ifndef REHOME_DAEMON_TESTING_JOURNAL_FIXTURE_H_
#define REHOME_DAEMON_TESTING_JOURNAL_FIXTURE_H_

#include <gtest/gtest.h>
#include <signal.h>
#include <sqlite3.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "daemon/journal.h"
#include "kvmglue/status_reason.h"

namespace rehome::testing_support {

inline Migration Record(uint64_t number, uint64_t revision,
                        MigrationState state = MigrationState::kPending) {
  Migration record;
  record.id = absl::StrFormat("m-%016x", number);
  record.request.vm_id = absl::StrCat("vm-", number);
  record.revision = revision;
  record.state = state;
  record.step = IsTerminal(state) ? Step::kDone : Step::kQueued;
  record.boot_id = "this-boot";
  return record;
}

class JournalFixture : public testing::Test {
 protected:
  void SetUp() override {
    directory_ = std::filesystem::path(testing::TempDir()) /
                 absl::StrCat("journal-", getpid(), "-",
                              testing::UnitTest::GetInstance()->current_test_info()->name());
    std::filesystem::remove_all(directory_);
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }

  std::unique_ptr<Journal> Open(const SqliteJournalOptions& options = {}) {
    auto journal = OpenSqliteJournal(directory_, options);
    EXPECT_TRUE(journal.ok()) << journal.status();
    if (journal.ok()) repair_ = (*journal)->repair();
    return journal.ok() ? *std::move(journal) : nullptr;
  }
  std::string OpenError() {
    const auto journal = OpenSqliteJournal(directory_);
    return ReasonOf(journal.status());
  }
  std::vector<Migration> LoadAll(Journal& journal) {
    std::vector<Migration> records;
    const absl::Status status =
        journal.Load([&](const Migration& record) { records.push_back(record); });
    EXPECT_TRUE(status.ok()) << status;
    repair_ = journal.repair();
    return records;
  }
  std::string db() const { return directory_ / "journal.db"; }
  std::string wal() const { return directory_ / "journal.db-wal"; }
  // As a daemon leaves it that is killed after `count` appends: everything is in the log.
  void AppendAndDie(uint64_t count) {
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      auto journal = OpenSqliteJournal(directory_);
      for (uint64_t number = 1; number <= count && journal.ok(); ++number) {
        if (!(*journal)->Append(Record(number, 1)).ok()) _exit(1);
      }
      raise(SIGKILL);
    }
    int how = 0;
    ASSERT_EQ(waitpid(child, &how, 0), child);
    ASSERT_TRUE(WIFSIGNALED(how));
  }
  // Runs SQL on the file from outside; the first column of the last row.
  std::string Sql(const std::string& sql) {
    sqlite3* db = nullptr;
    EXPECT_EQ(sqlite3_open((directory_ / "journal.db").c_str(), &db), SQLITE_OK);
    std::string answer;
    const auto take = [](void* out, int, char** values, char**) {
      *static_cast<std::string*>(out) = values[0] == nullptr ? "" : values[0];
      return 0;
    };
    EXPECT_EQ(sqlite3_exec(db, sql.c_str(), take, &answer, nullptr), SQLITE_OK)
        << sqlite3_errmsg(db);
    sqlite3_close(db);
    return answer;
  }
  std::filesystem::path directory_;
  JournalRepair repair_;  // of the last Open() or LoadAll()
};

// Digests, so that a difference is not printed byte by byte.
inline std::map<std::string, size_t> Contents(const std::filesystem::path& directory) {
  std::map<std::string, size_t> contents;
  for (const auto& entry : std::filesystem::directory_iterator(directory)) {
    // Every reader makes the index anew, and a WAL without a frame says nothing.
    if (entry.path().extension() == ".db-shm" || entry.file_size() == 0) continue;
    std::ifstream file(entry.path(), std::ios::binary);
    const std::string bytes{std::istreambuf_iterator<char>(file), {}};
    contents[entry.path().filename()] = std::hash<std::string>()(bytes);
  }
  return contents;
}

}  // namespace rehome::testing_support

#endif  // REHOME_DAEMON_TESTING_JOURNAL_FIXTURE_H_
