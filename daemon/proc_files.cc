// SPDX-License-Identifier: Apache-2.0
#include "daemon/proc_files.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <utility>

#include "absl/strings/str_cat.h"
#include "daemon/reasons.h"
#include "kvmglue/procmap.h"
#include "kvmglue/status_reason.h"
#include "kvmglue/sys_result.h"

namespace rehome {
namespace {

// A piece of a maps file; show_map_vma() writes whole lines, and the longest has a path of PATH_MAX
// bytes, four for each if it is escaped.
constexpr size_t kMapsPieceBytes = 32 * 1024;
// Entries of a directory, some hundred at a time (getdents64(2)).
constexpr size_t kDirectoryPieceBytes = 16 * 1024;

absl::Status ProcError(const std::string& path, int error) {
  const std::string text = absl::StrCat(path, ": ", strerror(error));
  switch (error) {
    case ENOENT:
    case ESRCH:
      return MakeStatus(absl::StatusCode::kNotFound, reason::kProcessGone, text);
    case EACCES:
    case EPERM:
      return MakeStatus(absl::StatusCode::kPermissionDenied, reason::kProcUnreadable, text);
    case EMFILE:
    case ENFILE:
      return MakeStatus(absl::StatusCode::kResourceExhausted, reason::kFdLimit, text);
    default:
      return MakeStatus(absl::StatusCode::kInternal, reason::kProcUnreadable, text);
  }
}

absl::StatusOr<UniqueFd> OpenProc(const std::string& path, int flags) {
  const SysResult fd =
      Uninterrupted([&] { return open(path.c_str(), flags | O_RDONLY | O_CLOEXEC); });
  if (!fd.ok()) return ProcError(path, fd.error);
  return UniqueFd(static_cast<int>(fd.value));
}

// Up to `size` bytes; 0 at the end.
absl::StatusOr<size_t> ReadSome(const std::string& path, BorrowedFd fd, char* data, size_t size) {
  const SysResult count = Uninterrupted([&] { return read(fd.raw(), data, size); });
  if (!count.ok()) return ProcError(path, count.error);
  return static_cast<size_t>(count.value);
}

template <typename T>
bool ParseNumber(std::string_view text, int base, T* out) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), *out, base);
  return error == std::errc() && end == text.data() + text.size();
}

// The next word of `text`, which is shortened by it and the separators around it.
std::string_view TakeWord(std::string_view& text, char separator = ' ') {
  while (!text.empty() && text.front() == ' ') text.remove_prefix(1);
  const size_t length = std::min(text.find(separator), text.size());
  const std::string_view word = text.substr(0, length);
  text.remove_prefix(std::min(length + 1, text.size()));
  return word;
}

}  // namespace

absl::StatusOr<std::string> ReadProcFile(const std::string& path) {
  absl::StatusOr<UniqueFd> fd = OpenProc(path, 0);
  if (!fd.ok()) return fd.status();
  std::string text(kMaxProcFileBytes, '\0');
  size_t used = 0;
  while (used < text.size()) {
    absl::StatusOr<size_t> count =
        ReadSome(path, fd->borrow(), text.data() + used, text.size() - used);
    if (!count.ok()) return count.status();
    if (*count == 0) break;
    used += *count;
  }
  text.resize(used);
  return text;
}

absl::StatusOr<UniqueFd> OpenDirectory(const std::string& path) {
  return OpenProc(path, O_DIRECTORY);
}

absl::StatusOr<std::vector<int32_t>> ListNumbers(const std::string& path) {
  absl::StatusOr<UniqueFd> fd = OpenDirectory(path);
  if (!fd.ok()) return fd.status();
  return ListNumbers(fd->borrow(), path);
}

absl::StatusOr<std::vector<int32_t>> ListNumbers(BorrowedFd directory, const std::string& path) {
  std::vector<int32_t> numbers;
  // readdir(3) would allocate its buffer and ask fstat(2) for each directory, and a search of /proc
  // reads two for each process.
  alignas(dirent64) std::array<char, kDirectoryPieceBytes> piece;
  for (;;) {
    const SysResult count =
        Uninterrupted([&] { return getdents64(directory.raw(), piece.data(), piece.size()); });
    if (!count.ok()) return ProcError(path, count.error);
    if (count.value == 0) return numbers;
    for (ssize_t at = 0; at < count.value;) {
      const auto* const entry = reinterpret_cast<const dirent64*>(piece.data() + at);
      int32_t number = 0;
      if (ParseNumber(entry->d_name, 10, &number)) numbers.push_back(number);
      at += entry->d_reclen;
    }
  }
}

std::optional<std::string_view> FieldOf(std::string_view text, std::string_view name) {
  const std::string begin = "\n" + std::string(name) + ":";
  const size_t at = text.find(begin);
  if (at == std::string_view::npos) return std::nullopt;
  std::string_view value = text.substr(at + begin.size());
  const size_t end = value.find('\n');
  if (end == std::string_view::npos) return std::nullopt;
  value = value.substr(0, end);
  value.remove_prefix(std::min(value.find_first_not_of("\t "), value.size()));
  return value;
}

std::optional<TaskStat> ParseTaskStat(std::string_view line) {
  // The command is the only field that may contain anything; the last ')' ends it.
  const size_t open = line.find('(');
  const size_t close = line.rfind(')');
  if (open == std::string_view::npos || close == std::string_view::npos || close < open) {
    return std::nullopt;
  }
  TaskStat stat;
  stat.command = std::string(line.substr(open + 1, close - open - 1));
  std::string_view rest = line.substr(close + 1);
  if (!rest.empty() && rest.back() == '\n') rest.remove_suffix(1);
  const std::string_view state = TakeWord(rest);
  if (state.size() != 1) return std::nullopt;
  stat.state = state.front();
  for (int field = 4; field <= 22; ++field) {
    const std::string_view word = TakeWord(rest);
    bool good = !word.empty();
    if (field == 4) good = ParseNumber(word, 10, &stat.parent);
    if (field == 9) good = ParseNumber(word, 10, &stat.flags);
    if (field == 20) good = ParseNumber(word, 10, &stat.thread_count);
    if (field == 22) good = ParseNumber(word, 10, &stat.start_ticks);
    if (!good) return std::nullopt;
  }
  return stat;
}

absl::StatusOr<TaskStat> ReadTaskStat(const std::string& path) {
  absl::StatusOr<std::string> text = ReadProcFile(path);
  if (!text.ok()) return text.status();
  std::optional<TaskStat> stat = ParseTaskStat(*text);
  if (!stat.has_value()) {
    return MakeStatus(absl::StatusCode::kInternal, reason::kProcUnreadable,
                      absl::StrCat(path, ": unknown format"));
  }
  return *std::move(stat);
}

std::optional<Mapping> ParseMapping(std::string_view line) {
  Mapping mapping;
  const std::string_view begin = TakeWord(line, '-');
  bool is_joined = !line.starts_with(' ');
  const std::string_view end = TakeWord(line);
  const std::string_view permissions = TakeWord(line);
  const std::string_view offset = TakeWord(line);
  const std::string_view major_number = TakeWord(line, ':');
  is_joined = is_joined && !line.starts_with(' ');
  const std::string_view minor_number = TakeWord(line);
  const std::string_view inode = TakeWord(line);
  uint32_t device_major = 0, device_minor = 0;
  if (!is_joined || permissions.size() != 4 || !ParseNumber(begin, 16, &mapping.begin) ||
      !ParseNumber(end, 16, &mapping.end) || !ParseNumber(offset, 16, &mapping.offset) ||
      !ParseNumber(major_number, 16, &device_major) ||
      !ParseNumber(minor_number, 16, &device_minor) ||
      !ParseNumber(inode, 10, &mapping.inode.inode) || mapping.begin >= mapping.end) {
    return std::nullopt;
  }
  mapping.shared = permissions[3] == 's';
  mapping.inode.device = makedev(device_major, device_minor);
  return mapping;
}

absl::Status ForEachMapping(const std::string& path,
                            const std::function<bool(const Mapping&)>& visit) {
  absl::StatusOr<UniqueFd> fd = OpenProc(path, 0);
  if (!fd.ok()) return fd.status();
  std::array<char, kMapsPieceBytes> piece;
  size_t used = 0;
  for (;;) {
    if (used == piece.size()) return ProcError(path, EOVERFLOW);  // one line fills the piece
    absl::StatusOr<size_t> count =
        ReadSome(path, fd->borrow(), piece.data() + used, piece.size() - used);
    if (!count.ok()) return count.status();
    if (*count == 0) return used == 0 ? absl::OkStatus() : ProcError(path, EILSEQ);
    used += *count;
    std::string_view text(piece.data(), used);
    for (size_t end = text.find('\n'); end != std::string_view::npos; end = text.find('\n')) {
      const std::optional<Mapping> mapping = ParseMapping(text.substr(0, end));
      if (!mapping.has_value()) return ProcError(path, EILSEQ);
      if (!visit(*mapping)) return absl::OkStatus();
      text.remove_prefix(end + 1);
    }
    memmove(piece.data(), text.data(), text.size());
    used = text.size();
  }
}

absl::StatusOr<bool> ForEachMappedInodeByText(const std::string& path, const VisitInode& visit) {
  bool any = false;
  const absl::Status status = ForEachMapping(path, [&](const Mapping& mapping) {
    any = true;
    return mapping.inode.inode == 0 || visit(mapping.inode);
  });
  if (!status.ok()) return status;
  return any;
}

absl::StatusOr<bool> ForEachMappedInode(const std::string& path, const VisitInode& visit) {
  absl::StatusOr<UniqueFd> fd = OpenProc(path, 0);
  if (!fd.ok()) return fd.status();
  FileMapping mapping;
  for (;;) {
    const SysResult next = NextFileMapping(fd->borrow(), mapping.end, &mapping);
    if (next.ok()) {
      if (!visit(mapping.inode)) return true;
    } else if (next.error == ENOENT) {
      return true;  // behind the last
    } else if (next.error == ESRCH) {
      return false;
    } else if (next.error != EINTR) {
      return ForEachMappedInodeByText(path, visit);  // ENOTTY; whatever else, text may do
    }
  }
}

}  // namespace rehome
