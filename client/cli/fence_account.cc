// SPDX-License-Identifier: Apache-2.0
#include "client/cli/fence_account.h"

#include <cstdint>
#include <string>

#include "client/cli/format.h"
#include "client/cli/steps.h"
#include "client/cli/table.h"

namespace rehome {
namespace {

// All that tells a process from a later one with its number.
std::string IdentityText(const v1::VmmProcess& process) {
  std::string text = "pid " + std::to_string(process.pid()) + ", started at tick " +
                     std::to_string(process.start_ticks());
  if (process.pidfd_inode() != 0) text += ", pidfd " + std::to_string(process.pidfd_inode());
  return text;
}

std::string SeenBy(const v1::FenceProof::Observer& observer) {
  if (observer.role().empty()) return "";
  return ", seen by " + Printable(observer.role()) + " (" + IdentityText(observer.process()) + ")";
}

// "3.100 ms after SIGKILL", or `without` if nobody sent one.
std::string SinceKill(int64_t at_ns, const v1::FenceProof& proof, const Console& console,
                      const std::string& without) {
  const int64_t took = at_ns - proof.kill_sent_monotonic_ns();
  if (proof.kill_sent_monotonic_ns() == 0 || took < 0) return without;
  return FormatNanos(took, console.micro()) + " after SIGKILL";
}

std::string SearchText(const v1::FenceProof& proof, const Console& console) {
  if (proof.memory().empty()) return "not searched for";
  std::string text = "all of /proc searched for " + Count(proof.memory_size(), "memory file");
  const int64_t after = proof.search_monotonic_ns() - proof.exited_monotonic_ns();
  if (proof.exited_monotonic_ns() != 0 && after >= 0) {
    text += ", " + FormatNanos(after, console.micro()) + " after the exit";
  }
  if (proof.init_shielded()) text += "; process 1 is shielded and was left out";
  return text;
}

void PrintMemory(const v1::FenceProof& proof, const Console& console, std::ostream& out) {
  Table table({Table::Align::kLeft, Table::Align::kLeft, Table::Align::kLeft, Table::Align::kLeft});
  for (const v1::FenceProof::InodeSearch& search : proof.memory()) {
    std::string inode =
        "inode " + std::to_string(search.device()) + ":" + std::to_string(search.inode());
    if (search.holders().empty()) table.Add({inode, console.Red("nobody"), "", ""});
    for (const v1::FenceProof::Holder& holder : search.holders()) {
      const std::string name = v1::FenceProof::HolderClass_Name(holder.holder_class());
      const bool foreign = holder.holder_class() != v1::FenceProof::TARGET &&
                           holder.holder_class() != v1::FenceProof::DAEMON;
      table.Add({inode, foreign ? console.Red(name) : name,
                 "pid " + std::to_string(holder.pid()) + " (" + Printable(holder.command()) + ")",
                 Printable(holder.how())});
      inode.clear();
    }
  }
  table.Print("    ", out);
}

}  // namespace

void PrintFence(const v1::Migration& migration, const Console& console, std::ostream& out) {
  if (!migration.has_fence_proof()) return;
  const v1::FenceProof& proof = migration.fence_proof();
  // Nobody was fenced; all there can be is who got hold of the guest's memory meanwhile.
  if (migration.guest_owner() == v1::Migration::SOURCE) {
    PrintForeignHolders(proof, out);
    return;
  }
  out << "\n  " << console.Bold("Fence") << "  "
      << (proof.complete() ? console.Green("complete") : console.Red("not complete")) << "\n";
  Table table({Table::Align::kLeft, Table::Align::kLeft});
  table.Add({"source", IdentityText(proof.source())});
  if (proof.kernel_vm_dead()) {
    table.Add({"kernel", "marked its VM dead" + SeenBy(proof.kernel_observer())});
  }
  if (proof.stopped_before_resume()) {
    table.Add({"stopped", SinceKill(proof.tasks_stopped_monotonic_ns(), proof, console,
                                    "before the target ran") +
                              SeenBy(proof.stop_observer())});
  }
  table.Add({"exited", proof.process_exited()
                           ? SinceKill(proof.exited_monotonic_ns(), proof, console, "by itself") +
                                 SeenBy(proof.exit_observer())
                           : "not proven"});
  table.Add({"memory", SearchText(proof, console)});
  if (!proof.kernel_release().empty()) {
    table.Add({"where", "kernel " + Printable(proof.kernel_release()) + ", boot " +
                            Printable(migration.boot_id())});
  }
  table.Print("    ", out);
  PrintMemory(proof, console, out);
}

void PrintForeignHolders(const v1::FenceProof& proof, std::ostream& out) {
  for (const v1::FenceProof::Holder& holder : proof.foreign_holders()) {
    out << "    pid " << holder.pid() << " (" << Printable(holder.command())
        << ") holds guest memory: " << Printable(holder.how()) << "\n";
  }
}

}  // namespace rehome
