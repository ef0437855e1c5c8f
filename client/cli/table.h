// SPDX-License-Identifier: Apache-2.0
//
// Aligned columns.
#ifndef REHOME_CLIENT_CLI_TABLE_H_
#define REHOME_CLIENT_CLI_TABLE_H_

#include <ostream>
#include <string>
#include <vector>

namespace rehome {

// Rows of equal length; columns are as wide as their widest cell, two spaces apart.
class Table {
 public:
  enum class Align { kLeft, kRight };
  explicit Table(std::vector<Align> columns) : columns_(std::move(columns)) {}

  // REQUIRES: as many cells as columns.
  void Add(std::vector<std::string> cells);

  // Each row after `indent`, without blanks at its end.
  void Print(const std::string& indent, std::ostream& out) const;

 private:
  std::vector<Align> columns_;
  std::vector<std::vector<std::string>> rows_;
};

}  // namespace rehome

#endif  // REHOME_CLIENT_CLI_TABLE_H_
