// SPDX-License-Identifier: Apache-2.0
//
// Where the labels of a lane go that do not fit into their bars: in rows below it, each at the left
// edge of its bar, so that no two overlap and no leader line crosses a text.
#ifndef REHOME_CLIENT_TRACE_LABEL_ROWS_H_
#define REHOME_CLIENT_TRACE_LABEL_ROWS_H_

#include <cstddef>
#include <vector>

namespace rehome {

// Rows that a lane may have; labels that find no room are left to the table.
inline constexpr size_t kMaxLabelRows = 12;
// Between two labels in a row, in px.
inline constexpr double kLabelGap = 10;

struct LabelBox {
  double left = 0;
  double width = 0;
  int row = -1;  // -1: no room
};

// Sets the rows of `labels`, which are in the order of `left`; returns how many there are. From the
// right: what is to the left of a label goes below it, so that its leader passes on the left.
size_t AssignRows(std::vector<LabelBox>& labels);

}  // namespace rehome

#endif  // REHOME_CLIENT_TRACE_LABEL_ROWS_H_
