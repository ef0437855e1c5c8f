// SPDX-License-Identifier: Apache-2.0
#include "tests/chaos/matrix.h"

#include <algorithm>
#include <atomic>
#include <map>
#include <mutex>
#include <set>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace rehome::chaos {
namespace {

std::string ColumnOf(const Cell& cell) {
  return cell.victims.Name() + (cell.store ? ", with a store" : "");
}

// Endings of the rounds of a cell, each once.
std::string Entry(const std::set<std::string>& endings) { return absl::StrJoin(endings, " / "); }

std::string Short(const CellResult& result) {
  if (result.outcome == Outcome::kBroken) return "**broken**";
  return result.leftovers.empty() ? result.ending : "**leftovers**";
}

// Of the table that a cell is in.
std::string TitleOf(const Cell& cell) {
  std::string title = absl::StrCat(cell.variant.backend, ", ", cell.variant.name, ", ",
                                   cell.blow == Blow::kKill ? "SIGKILL" : "SIGSTOP");
  switch (cell.within) {
    case Within::kHandover:
      return title;
    case Within::kRescue:
      return absl::StrCat(title, ", in a rescue after ", cell.first.Name());
    case Within::kRecovery:
      return absl::StrCat(title, ", in a recovery after ", cell.first.Name());
  }
  return title;
}

std::string Table(const std::vector<const RanCell*>& cells) {
  std::vector<std::string> columns, rows;
  std::map<std::string, std::map<std::string, std::set<std::string>>> entries;
  const auto note = [](std::vector<std::string>& names, const std::string& name) {
    if (std::find(names.begin(), names.end(), name) == names.end()) names.push_back(name);
  };
  for (const RanCell* ran : cells) {
    note(columns, ColumnOf(ran->cell));
    note(rows, ran->cell.phase.Name());
    entries[ran->cell.phase.Name()][ColumnOf(ran->cell)].insert(Short(ran->result));
  }
  std::string text = absl::StrCat("| phase | ", absl::StrJoin(columns, " | "), " |\n|---|");
  for (size_t i = 0; i < columns.size(); ++i) text += "---|";
  for (const std::string& row : rows) {
    absl::StrAppend(&text, "\n| ", row, " |");
    for (const std::string& column : columns) {
      absl::StrAppend(&text, " ", Entry(entries[row][column]), " |");
    }
  }
  return text + "\n";
}

}  // namespace

std::vector<RanCell> RunCells(const std::vector<Cell>& cells, int hosts_at_once,
                              const std::function<void(const RanCell&)>& on_done) {
  std::vector<RanCell> ran(cells.size());
  std::atomic<size_t> next = 0;
  std::mutex mutex;
  std::vector<std::thread> threads;
  for (int i = 0; i < hosts_at_once; ++i) {
    threads.emplace_back([&] {
      for (size_t index = next++; index < cells.size(); index = next++) {
        ran[index] = {cells[index], RunCell(cells[index])};
        const std::lock_guard lock(mutex);
        on_done(ran[index]);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  return ran;
}

Summary Summarize(const std::vector<RanCell>& cells) {
  Summary summary;
  std::vector<std::chrono::milliseconds> standstills;
  for (const RanCell& ran : cells) {
    ++summary.cells;
    summary.held += ran.result.outcome == Outcome::kHeld ? 1 : 0;
    summary.broken += ran.result.outcome == Outcome::kBroken ? 1 : 0;
    summary.lost_honestly += ran.result.outcome == Outcome::kLostHonestly ? 1 : 0;
    summary.leftovers += static_cast<int>(ran.result.leftovers.size());
    summary.repeated += ran.result.attempts - 1;
    if (!ran.result.orphaned_standstill) continue;
    const std::chrono::milliseconds standstill = *ran.result.orphaned_standstill;
    const bool longest = standstills.empty() ||
                         standstill > *std::max_element(standstills.begin(), standstills.end());
    if (longest) summary.orphaned_longest = ran.cell.Name();
    standstills.push_back(standstill);
    const int64_t late = (standstill - ran.result.held_for - kBlackoutDeadline).count();
    summary.orphaned_late_ms = std::max(summary.orphaned_late_ms, late);
  }
  if (standstills.empty()) return summary;
  std::sort(standstills.begin(), standstills.end());
  summary.orphaned = standstills.size();
  summary.orphaned_p50_ms = standstills[standstills.size() / 2].count();
  summary.orphaned_max_ms = standstills.back().count();
  return summary;
}

std::string MatrixOf(const Cell& cell) {
  std::string name = cell.blow == Blow::kKill ? "SIGKILL" : "SIGSTOP";
  switch (cell.within) {
    case Within::kHandover:
      break;
    case Within::kRescue:
      name += " in a rescue";
      break;
    case Within::kRecovery:
      name += " in a recovery";
      break;
  }
  return name + (cell.variant.backend == "kvm" ? ", real KVM" : ", simulated kernel");
}

std::string ToRunTable(const std::vector<RanMatrix>& matrices) {
  std::string table =
      "| matrix | cells | held | lost honestly | broken | leftovers | repeated | seconds |\n"
      "|---|---:|---:|---:|---:|---:|---:|---:|\n";
  for (const RanMatrix& matrix : matrices) {
    const Summary summary = Summarize(matrix.cells);
    absl::StrAppend(&table, "| ", matrix.name, " | ", summary.cells, " | ", summary.held, " | ",
                    summary.lost_honestly, " | ", summary.broken, " | ", summary.leftovers, " | ",
                    summary.repeated, " | ", static_cast<int64_t>(matrix.seconds + 0.5), " |\n");
  }
  return table;
}

std::string Describe(const CellResult& result) {
  std::string text;
  switch (result.outcome) {
    case Outcome::kHeld:
      text = absl::StrCat("held (", result.ending, ")");
      break;
    case Outcome::kLostHonestly:
      text = absl::StrCat("lost honestly (", result.ending, ")");
      break;
    case Outcome::kBroken:
      text = absl::StrCat("BROKEN (", result.ending, "): ", absl::StrJoin(result.faults, "; "));
      break;
  }
  if (result.orphaned_standstill) {
    absl::StrAppend(&text, ", stood still for ", result.orphaned_standstill->count(),
                    " ms, held for ", result.held_for.count(), " ms of it");
  }
  if (!result.leftovers.empty()) {
    absl::StrAppend(&text, "; LEFT: ", absl::StrJoin(result.leftovers, "; "));
  }
  return text;
}

std::string ToMarkdown(const std::vector<RanCell>& cells) {
  std::vector<std::string> titles;
  std::map<std::string, std::vector<const RanCell*>> tables;
  for (const RanCell& ran : cells) {
    const std::string title = TitleOf(ran.cell);
    if (!tables.contains(title)) titles.push_back(title);
    tables[title].push_back(&ran);
  }
  std::string text;
  for (const std::string& title : titles) {
    absl::StrAppend(&text, "## ", title, "\n\n", Table(tables[title]), "\n");
  }
  return text;
}

}  // namespace rehome::chaos
