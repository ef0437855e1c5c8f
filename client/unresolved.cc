// SPDX-License-Identifier: Apache-2.0
#include "client/unresolved.h"

#include <utility>

namespace rehome {
namespace {

// The most that the daemon gives at once.
constexpr int kMigrationPage = 500;

}  // namespace

absl::StatusOr<UnresolvedByVm> ListUnresolved(MigrationClient* client) {
  UnresolvedByVm unresolved;
  v1::ListMigrationsRequest request;
  request.set_filter("state = INDETERMINATE");
  request.set_page_size(kMigrationPage);
  do {
    auto page = client->ListMigrations(request);
    if (!page.ok()) return page.status();
    request.set_page_token(page->next_page_token());
    for (v1::Migration& one : *page->mutable_migrations()) {
      const std::string vm = one.vm();
      unresolved.emplace(vm, std::move(one));
    }
  } while (!request.page_token().empty());
  return unresolved;
}

}  // namespace rehome
