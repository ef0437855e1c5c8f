// SPDX-License-Identifier: Apache-2.0
//
// Runs many cells, several at a time, and tells what came of them.
#ifndef REHOME_TESTS_CHAOS_MATRIX_H_
#define REHOME_TESTS_CHAOS_MATRIX_H_

#include <functional>
#include <string>
#include <vector>

#include "tests/chaos/cell.h"
#include "tests/chaos/cell_run.h"

namespace rehome::chaos {

// Hosts beside each other. Most of a cell is waiting for deadlines.
inline constexpr int kHostsAtOnce = 4;

struct RanCell {
  Cell cell;
  CellResult result;
};

// `on_done` is called after each cell, by one thread at a time.
std::vector<RanCell> RunCells(const std::vector<Cell>& cells, int hosts_at_once,
                              const std::function<void(const RanCell&)>& on_done);

struct Summary {
  int cells = 0;
  int held = 0;
  int broken = 0;
  int lost_honestly = 0;
  int leftovers = 0;
  int repeated = 0;  // migrations that ended before they came to their cell's phase
  // Of the cells in which the daemon alone was killed in mid-handover: how long the guest stood
  // still.
  size_t orphaned = 0;
  int64_t orphaned_p50_ms = 0;
  int64_t orphaned_max_ms = 0;
  // The cell with the longest one.
  std::string orphaned_longest;
  // The most that any was beyond kBlackoutDeadline, not counting the time that it was held for.
  int64_t orphaned_late_ms = 0;
};
Summary Summarize(const std::vector<RanCell>& cells);

// "SIGKILL in a rescue, real KVM": the matrix that a cell belongs to.
std::string MatrixOf(const Cell& cell);

// One matrix: the cells of a kernel, a blow and what it falls into, and how long they took
// together.
struct RanMatrix {
  std::string name;  // "SIGKILL, real KVM"
  std::vector<RanCell> cells;
  double seconds = 0;
};

// Markdown: the table of what has been run in docs/chaos.md, a row for each matrix.
std::string ToRunTable(const std::vector<RanMatrix>& matrices);

// "held (target)", "lost", "BROKEN: ..." in a line.
std::string Describe(const CellResult& result);

// Markdown: a table for each variant and blow, and each first blow; a row for each phase, a column
// for each victim.
std::string ToMarkdown(const std::vector<RanCell>& cells);

}  // namespace rehome::chaos

#endif  // REHOME_TESTS_CHAOS_MATRIX_H_
