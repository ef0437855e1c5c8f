// SPDX-License-Identifier: Apache-2.0
#include "tests/harness/guest_probe.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "tests/harness/proc.h"
#include "vmm/reference/guest_check.h"

namespace rehome::harness {
namespace {

// Most that one system call takes (UIO_MAXIOV, include/uapi/linux/uio.h).
constexpr size_t kIovecs = 1024;
// Between two looks at a mailbox; a running vCPU answers within a microsecond.
constexpr int kAnswerPollMs = 1;

uint64_t MailboxOffset(uint32_t vcpu, size_t field) {
  return REHOME_GUEST_MAILBOXES + vcpu * REHOME_GUEST_MAILBOX_STRIDE + field;
}

absl::Status ReadFully(BorrowedFd mem, uint64_t hva, std::span<std::byte> out) {
  while (!out.empty()) {
    const ssize_t got = pread(mem.raw(), out.data(), out.size(), static_cast<off_t>(hva));
    if (got <= 0) return absl::ErrnoToStatus(got == 0 ? ESRCH : errno, "guest memory");
    out = out.subspan(static_cast<size_t>(got));
    hva += static_cast<uint64_t>(got);
  }
  return absl::OkStatus();
}

// Whole files that could be guest memory.
std::vector<GuestMemoryFile> Candidates(const std::vector<Mapping>& mappings) {
  std::vector<GuestMemoryFile> found;
  for (const Mapping& mapping : mappings) {
    const bool memory_file = mapping.path.find("[kvm-gmem]") != std::string::npos ||
                             mapping.path.find("memfd:") != std::string::npos;
    if (memory_file && mapping.shared && mapping.writable && mapping.offset == 0) {
      found.push_back({.inode = mapping.inode, .size_bytes = mapping.size(), .hva = mapping.start});
    }
  }
  return found;
}

}  // namespace

absl::StatusOr<GuestProbe> GuestProbe::Attach(pid_t pid) {
  const absl::StatusOr<std::vector<Mapping>> mappings = MappingsOf(pid);
  if (!mappings.ok()) return mappings.status();
  GuestProbe probe;
  probe.pid_ = pid;
  probe.mem_ = UniqueFd(open(absl::StrCat("/proc/", pid, "/mem").c_str(), O_RDWR | O_CLOEXEC));
  if (!probe.mem_) return absl::ErrnoToStatus(errno, absl::StrCat("memory of process ", pid));
  for (const GuestMemoryFile& file : Candidates(*mappings)) {
    if (file.size_bytes < REHOME_GUEST_RESERVED) continue;
    rehome_guest_boot_info boot = {};
    const absl::Status read = ReadFully(probe.mem_.borrow(), file.hva + REHOME_GUEST_BOOT_INFO,
                                        std::as_writable_bytes(std::span(&boot, 1)));
    if (!read.ok() || boot.magic != REHOME_GUEST_MAGIC) continue;
    probe.boot_ = boot;
    if (absl::Status status = probe.FindFiles(file); !status.ok()) return status;
    return probe;
  }
  return absl::NotFoundError(absl::StrCat("process ", pid, " maps no built-in guest"));
}

// The boot information names the files; the simulated CPU's does not, so there it must be one.
absl::Status GuestProbe::FindFiles(const GuestMemoryFile& first) {
  if (boot_.memory_count == 0) {
    files_ = {first};
    if (first.size_bytes == boot_.ram_bytes) return absl::OkStatus();
    return absl::NotFoundError("guest memory consists of several files, and nobody says which");
  }
  if (boot_.memory_count > REHOME_GUEST_MAX_MEMORIES) {
    return absl::NotFoundError("boot information without sense");
  }
  const absl::StatusOr<std::vector<Mapping>> mappings = MappingsOf(pid_);
  if (!mappings.ok()) return mappings.status();
  for (uint32_t i = 0; i < boot_.memory_count; ++i) {
    const std::vector<GuestMemoryFile> candidates = Candidates(*mappings);
    const auto file =
        std::find_if(candidates.begin(), candidates.end(), [&](const GuestMemoryFile& candidate) {
          return candidate.inode.inode == boot_.memory_inode[i] &&
                 candidate.size_bytes == boot_.memory_bytes[i];
        });
    if (file == candidates.end()) {
      return absl::NotFoundError(absl::StrCat("guest memory file ", i, " is not mapped"));
    }
    files_.push_back(*file);
  }
  return absl::OkStatus();
}

absl::StatusOr<uint64_t> GuestProbe::HvaOf(uint64_t ram_offset, size_t size) const {
  for (const GuestMemoryFile& file : files_) {
    if (ram_offset < file.size_bytes) {
      if (size > file.size_bytes - ram_offset) break;
      return file.hva + ram_offset;
    }
    ram_offset -= file.size_bytes;
  }
  return absl::OutOfRangeError("guest RAM");
}

absl::Status GuestProbe::Read(uint64_t ram_offset, std::span<std::byte> out) const {
  // Page by page: a file boundary is a page boundary.
  while (!out.empty()) {
    const size_t in_page = REHOME_GUEST_PAGE - ram_offset % REHOME_GUEST_PAGE;
    const size_t count = std::min(out.size(), in_page);
    const absl::StatusOr<uint64_t> hva = HvaOf(ram_offset, count);
    if (!hva.ok()) return hva.status();
    absl::Status status = ReadFully(mem_.borrow(), *hva, out.first(count));
    if (!status.ok()) return status;
    out = out.subspan(count);
    ram_offset += count;
  }
  return absl::OkStatus();
}

absl::Status GuestProbe::Write(uint64_t ram_offset, std::span<const std::byte> bytes) {
  const absl::StatusOr<uint64_t> hva = HvaOf(ram_offset, bytes.size());
  if (!hva.ok()) return hva.status();
  const ssize_t written =
      pwrite(mem_.borrow().raw(), bytes.data(), bytes.size(), static_cast<off_t>(*hva));
  if (written == static_cast<ssize_t>(bytes.size())) return absl::OkStatus();
  return absl::ErrnoToStatus(written < 0 ? errno : EIO, "guest memory");
}

absl::Status GuestProbe::TouchAllPages() const {
  for (const GuestMemoryFile& file : files_) {
    for (uint64_t done = 0; done < file.size_bytes;) {
      std::array<iovec, kIovecs> remote;
      std::array<char, kIovecs> bytes;
      size_t count = 0;
      for (; count < kIovecs && done < file.size_bytes; ++count, done += REHOME_GUEST_PAGE) {
        remote[count] = {.iov_base = reinterpret_cast<void*>(file.hva + done), .iov_len = 1};
      }
      const iovec local = {.iov_base = bytes.data(), .iov_len = count};
      const ssize_t got = process_vm_readv(pid_, &local, 1, remote.data(), count, 0);
      if (got != static_cast<ssize_t>(count)) {
        return absl::ErrnoToStatus(got < 0 ? errno : EFAULT, "guest memory");
      }
    }
  }
  return absl::OkStatus();
}

absl::Status GuestProbe::RequestReset() {
  for (uint32_t i = 0; i < boot_.vcpu_count; ++i) {
    const absl::StatusOr<rehome_guest_mailbox> mailbox = ReadMailbox(*this, i);
    if (!mailbox.ok()) return mailbox.status();
    const uint64_t request = mailbox->gap_reset_done + 1;
    absl::Status status = Write(MailboxOffset(i, offsetof(rehome_guest_mailbox, gap_reset_request)),
                                std::as_bytes(std::span(&request, 1)));
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status GuestProbe::ResetGaps(std::chrono::milliseconds timeout) {
  if (absl::Status status = RequestReset(); !status.ok()) return status;
  int64_t waited_ms = 0;
  for (uint32_t i = 0; i < boot_.vcpu_count;) {
    const absl::StatusOr<rehome_guest_mailbox> mailbox = ReadMailbox(*this, i);
    if (!mailbox.ok()) return mailbox.status();
    if (mailbox->gap_reset_done == mailbox->gap_reset_request) {
      ++i;
      continue;
    }
    if (waited_ms >= timeout.count()) {
      return absl::DeadlineExceededError(absl::StrCat("vCPU ", i, " does not answer"));
    }
    poll(nullptr, 0, kAnswerPollMs);
    waited_ms += kAnswerPollMs;
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<uint64_t>> GuestProbe::RoundCounts() const {
  std::vector<uint64_t> counts(REHOME_GUEST_ROUND_BUCKETS);
  for (uint32_t i = 0; i < boot_.vcpu_count; ++i) {
    const absl::StatusOr<rehome_guest_mailbox> mailbox = ReadMailbox(*this, i);
    if (!mailbox.ok()) return mailbox.status();
    for (size_t k = 0; k < counts.size(); ++k) counts[k] += mailbox->rounds[k];
  }
  return counts;
}

absl::StatusOr<double> GuestProbe::TimeToTouchAllUs(std::chrono::milliseconds timeout) {
  absl::StatusOr<rehome_guest_mailbox> mailbox = ReadMailbox(*this, 0);
  if (!mailbox.ok()) return mailbox.status();
  const uint64_t request = mailbox->touch_done + 1;
  absl::Status status = Write(MailboxOffset(0, offsetof(rehome_guest_mailbox, touch_request)),
                              std::as_bytes(std::span(&request, 1)));
  if (!status.ok()) return status;
  for (int64_t waited_ms = 0; mailbox->touch_done != request; waited_ms += kAnswerPollMs) {
    if (waited_ms >= timeout.count()) {
      return absl::DeadlineExceededError("the guest does not touch its memory");
    }
    poll(nullptr, 0, kAnswerPollMs);
    mailbox = ReadMailbox(*this, 0);
    if (!mailbox.ok()) return mailbox.status();
  }
  return static_cast<double>(mailbox->touch_tsc) * 1000 / static_cast<double>(boot_.tsc_khz);
}

absl::StatusOr<double> GuestProbe::LongestGapUs() const {
  uint64_t longest = 0;
  for (uint32_t i = 0; i < boot_.vcpu_count; ++i) {
    const absl::StatusOr<rehome_guest_mailbox> mailbox = ReadMailbox(*this, i);
    if (!mailbox.ok()) return mailbox.status();
    longest = std::max(longest, mailbox->gap_max);
  }
  return static_cast<double>(longest) * 1000 / static_cast<double>(boot_.tsc_khz);
}

}  // namespace rehome::harness
