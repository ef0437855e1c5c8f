// SPDX-License-Identifier: Apache-2.0
#include "bench/linux_guest/init/disk_writer.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <fstream>
#include <iterator>
#include <sstream>
#include <thread>
#include <utility>

#include "bench/linux_guest/disk_record.h"
#include "bench/linux_guest/pattern.h"

namespace rehome::linux_guest {
namespace {

// Between two records, so that a single processor has time for the network as well.
constexpr std::chrono::microseconds kPause{1000};

// O_DIRECT wants memory aligned to the device's block.
struct alignas(kRecordBytes) Buffer {
  std::array<std::byte, kRecordBytes> bytes;
};

DiskStats StatsOf(const std::string& device) {
  std::ifstream file("/proc/diskstats");
  const std::string text{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  return ParseDiskStats(text, device).value_or(DiskStats());
}

}  // namespace

// Documentation/admin-guide/iostats.rst: field 1 is completed reads, 5 writes, 16 flushes.
std::optional<DiskStats> ParseDiskStats(const std::string& text, const std::string& device) {
  std::istringstream lines(text);
  std::string line;
  while (std::getline(lines, line)) {
    std::istringstream words(line);
    std::string major, minor, name;
    words >> major >> minor >> name;
    if (name != device) continue;
    uint64_t fields[16] = {};
    for (uint64_t& field : fields) words >> field;
    if (!words) return std::nullopt;
    return DiskStats{.reads = fields[0], .writes = fields[4], .flushes = fields[15]};
  }
  return std::nullopt;
}

DiskWriter::DiskWriter(std::string device, uint64_t run) : device_(std::move(device)), run_(run) {}

std::string DiskWriter::Start() {
  const std::string path = "/dev/" + device_;
  disk_ = UniqueFd(open(path.c_str(), O_RDWR | O_DIRECT | O_CLOEXEC));
  if (!disk_) return WithErrno(path);
  slots_ = static_cast<uint64_t>(std::max<off_t>(lseek(disk_.borrow().raw(), 0, SEEK_END), 0)) /
           kRecordBytes;
  if (slots_ == 0) return path + " has no room for a record";
  before_ = StatsOf(device_);
  at_rest_ = false;
  std::thread([this] { Main(); }).detach();
  return "";
}

void DiskWriter::Main() {
  for (uint64_t sequence = 0; !stop_; ++sequence) {
    if (const std::string fault = Append(sequence); !fault.empty()) {
      faults_.Add("record " + std::to_string(sequence) + ": " + fault);
      break;
    }
    std::this_thread::sleep_for(kPause);
  }
  const std::lock_guard<std::mutex> lock(mutex_);
  at_rest_ = true;
  at_rest_changed_.notify_all();
}

std::string DiskWriter::Append(uint64_t sequence) {
  Buffer record;
  MakeRecord(run_, sequence, record.bytes);
  const off_t place = static_cast<off_t>(sequence % slots_ * kRecordBytes);
  if (pwrite(disk_.borrow().raw(), record.bytes.data(), kRecordBytes, place) != kRecordBytes) {
    return WithErrno("write");
  }
  if (fdatasync(disk_.borrow().raw()) != 0) return WithErrno("fdatasync");
  durable_ = sequence + 1;
  if (std::string fault = ReadAgain(sequence); !fault.empty()) return fault;
  const uint64_t kept = std::min(sequence + 1, slots_);
  return ReadAgain(sequence - Mix(sequence) % kept);
}

std::string DiskWriter::ReadAgain(uint64_t sequence) {
  Buffer found;
  const off_t place = static_cast<off_t>(sequence % slots_ * kRecordBytes);
  if (pread(disk_.borrow().raw(), found.bytes.data(), kRecordBytes, place) != kRecordBytes) {
    return WithErrno("read of record " + std::to_string(sequence));
  }
  const std::string fault = RecordFault(run_, sequence, found.bytes);
  if (!fault.empty()) return "where record " + std::to_string(sequence) + " was: " + fault;
  ++read_again_;
  return "";
}

void DiskWriter::Stop() {
  stop_ = true;
  std::unique_lock<std::mutex> lock(mutex_);
  at_rest_changed_.wait(lock, [this] { return at_rest_; });
}

void DiskWriter::Report(GuestAccount& account) const {
  const DiskStats now = StatsOf(device_);
  account.Set("disk_slots", slots_);
  account.Set("disk_durable", durable_);
  account.Set("disk_read_again", read_again_);
  account.Set("disk_faults", faults_.count());
  account.SetText("disk_first_fault", faults_.first());
  account.Set("disk_kernel_reads", now.reads - before_.reads);
  account.Set("disk_kernel_writes", now.writes - before_.writes);
  account.Set("disk_kernel_flushes", now.flushes - before_.flushes);
}

}  // namespace rehome::linux_guest
