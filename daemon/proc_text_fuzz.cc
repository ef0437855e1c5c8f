// SPDX-License-Identifier: Apache-2.0
//
// Text of /proc, in which a process chooses its name and the names of its files. Promises: of a
// stat line nothing counts but what stands behind the last ')'; a mapping that is read is the one
// that the line's columns name, whatever path follows; a maps file gives its lines in order up to
// the first that is none, which is an error; a field is a line of its own; and under any name that
// this process takes, or gives a file that it maps, the kernel's files say the same of it.
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <set>
#include <type_traits>

#include "absl/strings/str_cat.h"
#include "daemon/proc_files.h"
#include "daemon/process_identity.h"
#include "kvmglue/status_reason.h"
#include "tools/fuzz/fuzz_target.h"

namespace rehome::fuzz {
namespace {

// The first byte of an input.
enum class What : uint8_t { kStat, kMaps, kField, kMadeStat, kOwnName, kFileName, kCount };

// As long as a piece in which a maps file is read, which is as long as a line may be.
constexpr size_t kMaxLineBytes = 32 * 1024;
// Of a maps file: makes some pieces of what libFuzzer gives.
constexpr size_t kMaxRepeats = 64;

std::vector<std::string> Words(std::string_view text) {
  std::vector<std::string> words(1);
  for (const char c : text) {
    if (c != ' ') {
      words.back() += c;
    } else if (!words.back().empty()) {
      words.emplace_back();
    }
  }
  return words;
}

// Whether the word is that number and nothing else.
template <typename T>
bool Says(const std::string& word, int base, T value) {
  char* end = nullptr;
  const auto number = std::is_signed_v<T>
                          ? static_cast<unsigned long long>(std::strtoll(word.c_str(), &end, base))
                          : std::strtoull(word.c_str(), &end, base);
  return !word.empty() && end == word.c_str() + word.size() && static_cast<T>(number) == value;
}

bool SaysTheSame(const TaskStat& a, const TaskStat& b) {
  return a.state == b.state && a.parent == b.parent && a.flags == b.flags &&
         a.thread_count == b.thread_count && a.start_ticks == b.start_ticks;
}

// ---- stat ----

bool CheckStat(std::string_view line) {
  const std::optional<TaskStat> stat = ParseTaskStat(line);
  if (!stat.has_value()) return false;
  const size_t close = line.rfind(')');
  REHOME_PROMISE(close != std::string_view::npos);
  std::string_view rest = line.substr(close + 1);
  for (const std::string name : {"", "vmm", ") Z 1 (", "a b", "\n", "1 (b) R 2"}) {
    const std::optional<TaskStat> other = ParseTaskStat("7 (" + name + ")" + std::string(rest));
    REHOME_PROMISE(other.has_value() && other->command == name && SaysTheSame(*other, *stat));
  }
  if (rest.ends_with('\n')) rest.remove_suffix(1);
  const std::vector<std::string> words = Words(rest);
  // proc(5) counts from 1, and two stand before the ')'.
  REHOME_PROMISE(words.size() >= 20 && words[0] == std::string(1, stat->state));
  REHOME_PROMISE(Says(words[1], 10, stat->parent) && Says(words[6], 10, stat->flags));
  REHOME_PROMISE(Says(words[17], 10, stat->thread_count) && Says(words[19], 10, stat->start_ticks));
  return true;
}

// A line as the kernel makes it (fs/proc/array.c, do_task_stat()) of any numbers.
bool CheckMadeStat(Input in) {
  TaskStat made;
  made.state = static_cast<char>('A' + in.Take<uint8_t>() % 26);
  made.parent = in.Take<int32_t>();
  made.flags = in.Take<uint32_t>();
  made.thread_count = in.Take<uint32_t>();
  made.start_ticks = in.Take<uint64_t>();
  made.command = Input::Text(in.rest());
  const std::string line =
      absl::StrCat("1 (", made.command, ") ", std::string(1, made.state), " ", made.parent,
                   " 1 1 0 -1 ", made.flags, " 0 0 0 0 1 2 3 4 20 0 ", made.thread_count, " 0 ",
                   made.start_ticks, " 4096 1\n");
  const std::optional<TaskStat> stat = ParseTaskStat(line);
  REHOME_PROMISE(stat.has_value() && stat->command == made.command && SaysTheSame(*stat, made));
  return CheckStat(line);
}

// ---- maps ----

bool CheckMapsLine(std::string_view line) {
  const std::optional<Mapping> mapping = ParseMapping(line);
  if (!mapping.has_value()) return false;
  REHOME_PROMISE(mapping->begin < mapping->end);
  const std::vector<std::string> words = Words(line);
  REHOME_PROMISE(words.size() >= 5 && words[1].size() == 4);
  const size_t dash = words[0].find('-'), colon = words[3].find(':');
  REHOME_PROMISE(dash != std::string::npos && colon != std::string::npos);
  REHOME_PROMISE(Says(words[0].substr(0, dash), 16, mapping->begin));
  REHOME_PROMISE(Says(words[0].substr(dash + 1), 16, mapping->end));
  REHOME_PROMISE(words[1].ends_with('s') == mapping->shared);
  REHOME_PROMISE(Says(words[2], 16, mapping->offset));
  REHOME_PROMISE(Says(words[3].substr(0, colon), 16, major(mapping->inode.device)));
  REHOME_PROMISE(Says(words[3].substr(colon + 1), 16, minor(mapping->inode.device)));
  REHOME_PROMISE(Says(words[4], 10, mapping->inode.inode));
  // Any path behind it, and none.
  const size_t inode_at = line.find(' ' + words[4], line.find(words[3]));
  const std::string columns(line.substr(0, inode_at + 1 + words[4].size()));
  for (const char* path : {"", " /x 00:01 7", "\t\n", " 1-2 rw-s 0 0:1 9"}) {
    const std::optional<Mapping> other = ParseMapping(columns + " " + path);
    REHOME_PROMISE(other.has_value() && *other == *mapping);
  }
  return true;
}

// The file that has this text, by a path; closed with the owner.
UniqueFd FileWith(std::string_view text, std::string* path) {
  UniqueFd file(memfd_create("maps", MFD_CLOEXEC));
  REHOME_PROMISE(file.valid());
  REHOME_PROMISE(write(file.borrow().raw(), text.data(), text.size()) ==
                 static_cast<ssize_t>(text.size()));
  *path = absl::StrCat("/proc/self/fd/", file.borrow().raw());
  return file;
}

bool CheckMaps(Input in) {
  const size_t repeats = 1 + in.Take<uint8_t>() % kMaxRepeats;
  std::string text;
  for (size_t i = 0; i < repeats; ++i) text += Input::Text(in.rest());
  // What is in it, up to the first line that is none.
  std::vector<Mapping> expected;
  std::string_view rest = text;
  bool sound = true;
  while (!rest.empty() && sound) {
    const size_t end = rest.find('\n');
    sound = end < kMaxLineBytes && CheckMapsLine(rest.substr(0, end));
    if (!sound) break;
    expected.push_back(*ParseMapping(rest.substr(0, end)));
    rest.remove_prefix(end + 1);
  }
  std::string path;
  const UniqueFd file = FileWith(text, &path);
  std::vector<Mapping> read;
  const absl::Status status = ForEachMapping(path, [&read](const Mapping& mapping) {
    read.push_back(mapping);
    return true;
  });
  REHOME_PROMISE(status.ok() == sound && (sound || ReasonOf(status) == "PROC_UNREADABLE"));
  REHOME_PROMISE(read == expected);
  size_t files = 0;
  const absl::StatusOr<bool> any = ForEachMappedInodeByText(path, [&](const InodeId& inode) {
    while (files < expected.size() && expected[files].inode.inode == 0) ++files;
    REHOME_PROMISE(files < expected.size() && expected[files].inode == inode);
    ++files;
    return true;
  });
  REHOME_PROMISE(any.ok() == sound && (!sound || *any == !expected.empty()));
  return sound;
}

// ---- fields of status and fdinfo ----

bool CheckField(std::string_view text) {
  bool found = false;
  for (const std::string name : {"Pid", "CapEff"}) {
    const std::optional<std::string_view> value = FieldOf(text, name);
    const std::string begin = "\n" + name + ":";
    const size_t at = text.find(begin);
    const bool is_line = at != std::string_view::npos && text.find('\n', at + 1) != text.npos;
    REHOME_PROMISE(value.has_value() == is_line);
    if (!is_line) continue;
    found = true;
    const std::string_view line = text.substr(at + 1, text.find('\n', at + 1) - at - 1);
    REHOME_PROMISE(line.ends_with(*value) && line.starts_with(begin.substr(1)));
    // Blanks, and nothing else, are left out.
    const std::string_view between =
        line.substr(begin.size() - 1, line.size() - value->size() - (begin.size() - 1));
    REHOME_PROMISE(between.find_first_not_of("\t ") == std::string_view::npos);
    REHOME_PROMISE(value->empty() || (value->front() != '\t' && value->front() != ' '));
  }
  const std::optional<int32_t> pid = ParsePidfdInfo(text);
  REHOME_PROMISE(!pid.has_value() || Says(std::string(*FieldOf(text, "Pid")), 10, *pid));
  return found;
}

// ---- the kernel's own files, under names that we choose ----

std::string OwnCapabilities() {
  const absl::StatusOr<std::string> status = ReadProcFile("/proc/self/status");
  REHOME_PROMISE(status.ok());
  const std::optional<std::string_view> value = FieldOf(*status, "CapEff");
  REHOME_PROMISE(value.has_value());
  return std::string(*value);
}

bool CheckOwnName(std::string_view bytes) {
  // 15 bytes and a NUL; the kernel cuts.
  const std::string name(bytes.substr(0, bytes.find('\0')));
  static const absl::StatusOr<TaskStat> before = ReadTaskStat("/proc/self/stat");
  static const std::string capabilities = OwnCapabilities();
  REHOME_PROMISE(before.ok());
  REHOME_PROMISE(prctl(PR_SET_NAME, name.c_str(), 0, 0, 0) == 0);
  const absl::StatusOr<TaskStat> stat = ReadTaskStat("/proc/self/stat");
  REHOME_PROMISE(stat.ok() && stat->command == name.substr(0, 15));
  REHOME_PROMISE(stat->state == 'R' && stat->parent == before->parent &&
                 stat->start_ticks == before->start_ticks);
  REHOME_PROMISE(OwnCapabilities() == capabilities);
  REHOME_PROMISE(prctl(PR_SET_NAME, before->command.c_str(), 0, 0, 0) == 0);
  return true;
}

bool CheckFileName(std::string_view bytes) {
  // memfd_create(2): at most 249 bytes.
  const std::string name(bytes.substr(0, std::min<size_t>(bytes.find('\0'), 249)));
  const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  const UniqueFd file(memfd_create(name.c_str(), MFD_CLOEXEC));
  REHOME_PROMISE(file.valid() && ftruncate(file.borrow().raw(), static_cast<off_t>(page)) == 0);
  void* const place = mmap(nullptr, page, PROT_READ, MAP_SHARED, file.borrow().raw(), 0);
  REHOME_PROMISE(place != MAP_FAILED);
  const InodeId inode = Identify(file.borrow()).value().id;
  std::set<InodeId> read, asked;
  size_t here = 0;
  const absl::Status status = ForEachMapping("/proc/self/maps", [&](const Mapping& mapping) {
    if (mapping.inode.inode != 0) read.insert(mapping.inode);
    if (mapping.inode != inode) return true;
    ++here;
    REHOME_PROMISE(mapping.begin == reinterpret_cast<uintptr_t>(place) && mapping.shared &&
                   mapping.end == mapping.begin + page && mapping.offset == 0);
    return true;
  });
  const absl::StatusOr<bool> any =
      ForEachMappedInode("/proc/self/maps", [&asked](const InodeId& mapped) {
        asked.insert(mapped);
        return true;
      });
  REHOME_PROMISE(munmap(place, page) == 0);
  REHOME_PROMISE(status.ok() && here == 1);
  REHOME_PROMISE(any.ok() && *any && asked == read);
  return true;
}

Seed MakeSeed(std::string name, What what, std::string_view text) {
  Seed seed{.name = std::move(name), .bytes = {}};
  Append(seed.bytes, what);
  AppendText(seed.bytes, text);
  return seed;
}

constexpr char kStatRest[] = " R 7 42 42 0 -1 1077936132 1 2 3 4 5 6 7 8 20 0 3 0 1234 4096 10\n";
constexpr char kMapsText[] =
    "7f0000000000-7f0000200000 rw-s 00001000 00:10 123456      /memfd:guest (deleted)\n"
    "7f0000200000-7f0000201000 rw-p 00000000 00:00 0 \n"
    "7ffd00000000-7ffd00021000 rw-p 00000000 00:00 0           [stack]\n";

}  // namespace

bool Feed(std::span<const std::byte> input) {
  Input in(input);
  const auto what = static_cast<What>(in.Take<uint8_t>() % static_cast<uint8_t>(What::kCount));
  switch (what) {
    case What::kStat:
      return CheckStat(Input::Text(in.rest()));
    case What::kMaps:
      return CheckMaps(in);
    case What::kField:
      return CheckField(Input::Text(in.rest()));
    case What::kMadeStat:
      return CheckMadeStat(in);
    case What::kOwnName:
      return CheckOwnName(Input::Text(in.rest()));
    case What::kFileName:
      return CheckFileName(Input::Text(in.rest()));
    case What::kCount:
      break;
  }
  return false;
}

std::vector<Seed> Seeds() {
  return {
      MakeSeed("stat", What::kStat, absl::StrCat("42 (vmm)", kStatRest)),
      MakeSeed("stat-named-to-deceive", What::kStat, absl::StrCat("42 (a) Z 1 (b)", kStatRest)),
      MakeSeed("maps", What::kMaps, absl::StrCat(std::string(1, '\0'), kMapsText)),
      MakeSeed("maps-in-pieces", What::kMaps, absl::StrCat("\xff", kMapsText)),
      MakeSeed("pidfd", What::kField,
               "pos:\t0\nflags:\t02000002\nmnt_id:\t16\nino:\t4711\nPid:\t42\nNSpid:\t42\n"),
      MakeSeed("status", What::kField, "Name:\tvmm\nUmask:\t0022\nCapEff:\t000001ffffffffff\n"),
      MakeSeed("made-stat", What::kMadeStat, "S....................) R 1 1 (x"),
      MakeSeed("own-name", What::kOwnName, ") Z 1 (\nCapEff:"),
      MakeSeed("file-name", What::kFileName, "x\n1000-2000 rw-s 0 00:01 1 y"),
  };
}

}  // namespace rehome::fuzz
