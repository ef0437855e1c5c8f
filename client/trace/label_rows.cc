// SPDX-License-Identifier: Apache-2.0
#include "client/trace/label_rows.h"

#include <algorithm>

namespace rehome {

size_t AssignRows(std::vector<LabelBox>& labels) {
  std::vector<double> begins;  // of the leftmost label in each row
  for (auto label = labels.rbegin(); label != labels.rend(); ++label) {
    const double end = label->left + label->width + kLabelGap;
    // The rows below count too: their leaders come through this one.
    const auto blocking =
        std::find_if(begins.rbegin(), begins.rend(), [end](double begin) { return end > begin; });
    const auto row = blocking.base();
    label->row = static_cast<int>(row - begins.begin());
    if (row != begins.end()) {
      *row = label->left;
    } else if (begins.size() < kMaxLabelRows) {
      begins.push_back(label->left);
    } else {
      label->row = -1;
    }
  }
  return begins.size();
}

}  // namespace rehome
