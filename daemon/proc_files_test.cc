// SPDX-License-Identifier: Apache-2.0
#include "daemon/proc_files.h"

#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <set>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kvmglue/status_reason.h"

namespace rehome {
namespace {

// Fields 4 to 24 of a stat file: parent 7, flags 0x40400004, 3 threads, started at tick 1234.
constexpr char kRest[] = " 7 42 42 0 -1 1077936132 1 2 3 4 5 6 7 8 20 0 3 0 1234 4096 10\n";

TEST(ParseTaskStat, TakesTheFieldsThatProofsAreMadeOf) {
  const std::optional<TaskStat> stat = ParseTaskStat(absl::StrCat("42 (vmm) S", kRest));
  ASSERT_TRUE(stat.has_value());
  EXPECT_EQ(stat->command, "vmm");
  EXPECT_EQ(stat->state, 'S');
  EXPECT_EQ(stat->parent, 7);
  EXPECT_EQ(stat->flags, 1077936132u);
  EXPECT_EQ(stat->thread_count, 3u);
  EXPECT_EQ(stat->start_ticks, 1234u);
}

TEST(ParseTaskStat, IsNotFooledByTheCommand) {
  // A process may call itself this to look like a zombie of another parent.
  const std::optional<TaskStat> stat = ParseTaskStat(absl::StrCat("42 (a) Z 1 (b) R", kRest));
  ASSERT_TRUE(stat.has_value());
  EXPECT_EQ(stat->command, "a) Z 1 (b");
  EXPECT_EQ(stat->state, 'R');
  EXPECT_EQ(stat->parent, 7);
}

TEST(ParseTaskStat, RefusesWhatIsCutOffAtAnyField) {
  const std::string line = absl::StrCat("42 (vmm) S", kRest);
  const size_t end_of_field_22 = line.find(" 4096");
  for (size_t length = 0; length < line.find("1234"); ++length) {
    EXPECT_FALSE(ParseTaskStat(line.substr(0, length)).has_value()) << length;
  }
  EXPECT_TRUE(ParseTaskStat(line.substr(0, end_of_field_22)).has_value());
  EXPECT_FALSE(ParseTaskStat("42 (vmm) S 7 x 42 0 -1 zz").has_value());
}

TEST(ParseMapping, ReadsFileAndAnonymousMappings) {
  const std::optional<Mapping> shared = ParseMapping(
      "7f0000000000-7f0000200000 rw-s 00001000 00:10 123456                  "
      "anon_inode:[kvm-gmem]");
  ASSERT_TRUE(shared.has_value());
  EXPECT_EQ(shared->begin, 0x7f0000000000u);
  EXPECT_EQ(shared->end, 0x7f0000200000u);
  EXPECT_TRUE(shared->shared);
  EXPECT_EQ(shared->offset, 0x1000u);
  EXPECT_EQ(shared->inode, (InodeId{.device = 0x10, .inode = 123456}));
  const std::optional<Mapping> anonymous =
      ParseMapping("55d0c0a00000-55d0c0a21000 rw-p 00000000 00:00 0 ");
  ASSERT_TRUE(anonymous.has_value());
  EXPECT_FALSE(anonymous->shared);
  EXPECT_EQ(anonymous->inode, InodeId{});
}

TEST(ParseMapping, RefusesWhatIsNoMapping) {
  for (const char* line :
       {"", "7f00-8000", "8000-7f00 rw-s 0 00:10 1", "zz-8000 rw-s 0 00:10 1",
        "7f00-8000 rw 0 00:10 1", "7f00-8000 rw-s 0 0010 1", "7f00-8000 rw-s 0 00:10 x"}) {
    EXPECT_FALSE(ParseMapping(line).has_value()) << line;
  }
}

TEST(ForEachMapping, FindsAMappingOfThisProcess) {
  const UniqueFd memfd(memfd_create("maps", MFD_CLOEXEC));
  ASSERT_EQ(ftruncate(memfd.borrow().raw(), 8192), 0);
  void* address = mmap(nullptr, 4096, PROT_READ, MAP_SHARED, memfd.borrow().raw(), 4096);
  ASSERT_NE(address, MAP_FAILED);
  absl::StatusOr<FileIdentity> file = Identify(memfd.borrow());
  ASSERT_TRUE(file.ok());
  int found = 0;
  ASSERT_TRUE(ForEachMapping("/proc/self/maps", [&](const Mapping& mapping) {
                if (mapping.inode != file->id) return true;
                ++found;
                EXPECT_EQ(mapping.begin, reinterpret_cast<uint64_t>(address));
                EXPECT_EQ(mapping.end - mapping.begin, 4096u);
                EXPECT_EQ(mapping.offset, 4096u);
                EXPECT_TRUE(mapping.shared);
                return true;
              }).ok());
  EXPECT_EQ(found, 1);
  munmap(address, 4096);
}

TEST(ForEachMapping, ReadsFilesThatAreLongerThanItsPiecesAndStopsWhenTold) {
  const std::string path = testing::TempDir() + "/long_maps";
  constexpr uint64_t kLines = 5000;
  {
    std::ofstream out(path);
    for (uint64_t i = 1; i <= kLines; ++i) {
      out << absl::StrCat(absl::Hex(i * 4096), "-", absl::Hex(i * 4096 + 4096), " r--s 0 00:01 ", i,
                          " /some/file\n");
    }
  }
  uint64_t expected = 0;
  ASSERT_TRUE(ForEachMapping(path, [&](const Mapping& mapping) {
                EXPECT_EQ(mapping.inode.inode, ++expected);
                return true;
              }).ok());
  EXPECT_EQ(expected, kLines);
  int visited = 0;
  ASSERT_TRUE(ForEachMapping(path, [&](const Mapping&) { return ++visited < 3; }).ok());
  EXPECT_EQ(visited, 3);
  std::ofstream(path) << "1000-2000 r--s 0 00:01 1 no newline";
  EXPECT_EQ(ReasonOf(ForEachMapping(path, [](const Mapping&) { return true; })), "PROC_UNREADABLE");
  unlink(path.c_str());
}

std::set<InodeId, bool (*)(const InodeId&, const InodeId&)> NoInodes() {
  return std::set<InodeId, bool (*)(const InodeId&, const InodeId&)>(
      [](const InodeId& a, const InodeId& b) {
        return std::pair(a.device, a.inode) < std::pair(b.device, b.inode);
      });
}

TEST(ForEachMappedInode, SeesWhatTheTextSays) {
  constexpr size_t kPage = 4096;
  const UniqueFd memory(memfd_create("mapped", MFD_CLOEXEC));
  ASSERT_EQ(ftruncate(memory.borrow().raw(), 2 * kPage), 0);
  void* const place = mmap(nullptr, kPage, PROT_READ, MAP_SHARED, memory.borrow().raw(), kPage);
  ASSERT_NE(place, MAP_FAILED);
  struct stat file;
  ASSERT_EQ(fstat(memory.borrow().raw(), &file), 0);
  auto asked = NoInodes();
  auto read = NoInodes();
  const auto into = [](auto* set) {
    return [set](const InodeId& inode) { return set->insert(inode), true; };
  };
  const absl::StatusOr<bool> by_query = ForEachMappedInode("/proc/self/maps", into(&asked));
  const absl::StatusOr<bool> by_text = ForEachMappedInodeByText("/proc/self/maps", into(&read));
  munmap(place, kPage);
  ASSERT_TRUE(by_query.ok() && by_text.ok());
  EXPECT_TRUE(*by_query && *by_text);
  EXPECT_TRUE(asked.contains({.device = file.st_dev, .inode = file.st_ino}));
  EXPECT_TRUE(std::equal(asked.begin(), asked.end(), read.begin(), read.end()));
}

TEST(ForEachMappedInode, SaysThatAZombieHasNoAddressSpace) {
  const pid_t child = fork();
  if (child == 0) _exit(0);
  siginfo_t info;
  ASSERT_EQ(waitid(P_PID, static_cast<id_t>(child), &info, WEXITED | WNOWAIT), 0);
  const std::string maps = absl::StrCat("/proc/", child, "/maps");
  const auto never = [](const InodeId&) { return ADD_FAILURE(), true; };
  const absl::StatusOr<bool> by_query = ForEachMappedInode(maps, never);
  const absl::StatusOr<bool> by_text = ForEachMappedInodeByText(maps, never);
  waitpid(child, nullptr, 0);
  ASSERT_TRUE(by_query.ok() && by_text.ok()) << by_query.status() << by_text.status();
  EXPECT_FALSE(*by_query);
  EXPECT_FALSE(*by_text);
  EXPECT_TRUE(absl::IsNotFound(ForEachMappedInode(maps, never).status())) << "reaped";
}

TEST(ReadProcFile, TellsAGoneProcessFromAnUnreadableFile) {
  EXPECT_EQ(ReasonOf(ReadProcFile("/proc/0/stat").status()), "PROCESS_GONE");
  EXPECT_EQ(ReasonOf(ReadProcFile("/proc/self").status()), "PROC_UNREADABLE");
  EXPECT_EQ(ReasonOf(ListNumbers("/proc/0/task").status()), "PROCESS_GONE");
}

TEST(ListNumbers, LeavesOutWhatIsNoNumber) {
  absl::StatusOr<std::vector<int32_t>> pids = ListNumbers("/proc");
  ASSERT_TRUE(pids.ok()) << pids.status();
  EXPECT_THAT(*pids, testing::Contains(getpid()));
  EXPECT_THAT(*pids, testing::Each(testing::Gt(0)));
}

}  // namespace
}  // namespace rehome
