// SPDX-License-Identifier: Apache-2.0
//
// Strings that a client of the API may make up: filters, page tokens, resource names. Promises:
// what is accepted means one thing (a name made of the id in a name is that name; a token made for
// what a token led to leads there again, and to nowhere for another list), and errors name the
// field.
#include <google/protobuf/stubs/logging.h>

#include <string>
#include <string_view>

#include "daemon/service/migration_filter.h"
#include "daemon/service/page_token.h"
#include "daemon/service/resource_names.h"
#include "kvmglue/status_reason.h"
#include "tools/fuzz/fuzz_target.h"

namespace rehome::fuzz {
namespace {

enum Kind : uint8_t { kFilter, kToken, kName, kKinds };

constexpr char kMethod[] = "ListMigrations";

bool FeedFilter(std::string_view text) {
  const auto filter = ParseMigrationFilter(text);
  if (!filter.ok()) {
    REHOME_PROMISE(ReasonOf(filter.status()) == "BAD_FILTER");
    return false;
  }
  REHOME_PROMISE(text.size() <= kMaxFilterLength);
  REHOME_PROMISE(filter->vm_id.empty() || IsId(filter->vm_id));
  // Said again in the plainest form it selects the same.
  std::string plain;
  if (!filter->vm_id.empty()) plain.append("vm=").append(filter->vm_id);
  if (filter->state.has_value()) {
    plain.append(plain.empty() ? "" : " AND ").append("state=");
    plain.append(MigrationStateName(*filter->state));
  }
  const auto again = ParseMigrationFilter(plain);
  REHOME_PROMISE(again.ok() && again->vm_id == filter->vm_id && again->state == filter->state);
  return true;
}

// The filter that the list has, a NUL, the token.
bool FeedToken(std::string_view text) {
  const size_t end = std::min(text.find('\0'), text.size());
  const std::string_view filter = text.substr(0, end);
  const std::string_view token = text.substr(std::min(end + 1, text.size()));
  const auto id = ParsePageToken(token, kMethod, filter);
  if (!id.ok()) {
    REHOME_PROMISE(ReasonOf(id.status()) == "BAD_PAGE_TOKEN");
    return false;
  }
  if (token.empty()) return id->empty();
  REHOME_PROMISE(IsId(*id));
  const std::string made = MakePageToken(kMethod, filter, *id);
  const auto again = ParsePageToken(made, kMethod, filter);
  REHOME_PROMISE(again.ok() && *again == *id);
  REHOME_PROMISE(!ParsePageToken(made, kMethod, std::string(filter) + "x").ok());
  REHOME_PROMISE(!ParsePageToken(made, "ListVirtualMachines", filter).ok());
  return true;
}

bool FeedName(std::string_view text) {
  const auto migration = MigrationIdIn(text);
  const auto vm = VmIdIn(text);
  REHOME_PROMISE(!migration.has_value() || !vm.has_value());
  REHOME_PROMISE(!migration.has_value() || MigrationName(*migration) == text);
  REHOME_PROMISE(!vm.has_value() || VmName(*vm) == text);
  REHOME_PROMISE(ParseMigrationName(text).ok() == migration.has_value());
  REHOME_PROMISE(ParseVmName(text).ok() == vm.has_value());
  return migration.has_value() || vm.has_value();
}

// gRPC refuses a string that is not UTF-8, so a client cannot send one: bytes become letters.
std::string Utf8Of(std::span<const std::byte> bytes) {
  std::string text;
  for (const std::byte byte : bytes) {
    const auto letter = static_cast<unsigned char>(byte);
    if (letter >= 0x80) text.push_back(static_cast<char>(0xc0 | letter >> 6));
    text.push_back(static_cast<char>(letter < 0x80 ? letter : 0x80 | (letter & 0x3f)));
  }
  return text;
}

// What protobuf says, it says of text that is not UTF-8.
void SayNothing(google::protobuf::LogLevel, const char*, int, const std::string& message) {
  std::fprintf(stderr, "%s\n", message.c_str());
  REHOME_PROMISE(false && "an answer is UTF-8");
}

Seed MakeSeed(const char* name, Kind kind, std::string_view text) {
  Seed seed{.name = name, .bytes = {std::byte{kind}}};
  AppendText(seed.bytes, text);
  return seed;
}

}  // namespace

// One byte: which kind. The rest is the string.
bool Feed(std::span<const std::byte> input) {
  static const auto previous = google::protobuf::SetLogHandler(&SayNothing);
  (void)previous;
  Input in(input);
  const uint8_t kind = in.Take<uint8_t>() % kKinds;
  const std::string text = Utf8Of(in.rest());
  if (kind == kFilter) return FeedFilter(text);
  return kind == kToken ? FeedToken(text) : FeedName(text);
}

std::vector<Seed> Seeds() {
  const std::string filter = "vm = web-1";
  const std::string list = filter + '\0';
  return {
      MakeSeed("filter-none", kFilter, ""),
      MakeSeed("filter-both", kFilter, "vm = virtualMachines/web-1 AND state = SUCCEEDED"),
      MakeSeed("filter-quoted", kFilter, "state=\"FAILED\" AND vm=\"web-1\""),
      MakeSeed("token", kToken, list + MakePageToken(kMethod, filter, "m-0123456789abcdef")),
      MakeSeed("token-without-filter", kToken,
               std::string(1, '\0') + MakePageToken(kMethod, "", "m-1")),
      MakeSeed("name-migration", kName, MigrationName("m-0123456789abcdef")),
      MakeSeed("name-vm", kName, VmName("web-1")),
  };
}

}  // namespace rehome::fuzz
