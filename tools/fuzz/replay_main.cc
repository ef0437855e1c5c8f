// SPDX-License-Identifier: Apache-2.0
//
// A fuzz target as a test, without libFuzzer:
//   PROGRAM DIRECTORY               its seeds, then every file of its corpus
//   PROGRAM --write-seeds DIRECTORY writes its seeds there, one file each
#include <gtest/gtest.h>

#include <algorithm>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <string>
#include <vector>

#include "tools/fuzz/fuzz_target.h"

namespace rehome::fuzz {
namespace {

namespace fs = std::filesystem;

std::string corpus_directory;

std::vector<fs::path> CorpusFiles() {
  std::vector<fs::path> files;
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator(corpus_directory, error)) {
    if (entry.is_regular_file()) files.push_back(entry.path());
  }
  std::sort(files.begin(), files.end());
  return files;
}

Bytes ReadFile(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  const std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  return BytesOfText(text);
}

// A seed that its own unit refuses would leave the fuzzer at the door.
TEST(FuzzTarget, TakesItsOwnSeedsForSound) {
  const std::vector<Seed> seeds = Seeds();
  EXPECT_FALSE(seeds.empty());
  for (const Seed& seed : seeds) EXPECT_TRUE(Feed(seed.bytes)) << seed.name;
}

TEST(FuzzTarget, WithstandsEveryPrefixOfItsSeeds) {
  // Bounds the work: the places where a message is cut matter, not each byte of a long one.
  constexpr size_t kMaxCuts = 64;
  for (const Seed& seed : Seeds()) {
    const size_t step = std::max<size_t>(1, seed.bytes.size() / kMaxCuts);
    for (size_t size = 0; size < seed.bytes.size(); size += step) {
      Feed(std::span(seed.bytes).first(size));
    }
  }
}

TEST(FuzzTarget, WithstandsItsCorpus) {
  const std::vector<fs::path> files = CorpusFiles();
  EXPECT_FALSE(files.empty()) << "no corpus in " << corpus_directory;
  for (const fs::path& file : files) {
    // The last one named is the one that ended the process.
    std::cerr << file.string() << std::endl;
    Feed(ReadFile(file));
  }
}

int WriteSeeds(const fs::path& directory) {
  fs::create_directories(directory);
  for (const Seed& seed : Seeds()) {
    std::ofstream file(directory / seed.name, std::ios::binary);
    file.write(reinterpret_cast<const char*>(seed.bytes.data()),
               static_cast<std::streamsize>(seed.bytes.size()));
    if (!file) {
      std::cerr << "cannot write " << (directory / seed.name).string() << std::endl;
      return 1;
    }
  }
  return 0;
}

}  // namespace
}  // namespace rehome::fuzz

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  std::signal(SIGPIPE, SIG_IGN);
  const std::vector<std::string> arguments(argv + 1, argv + argc);
  if (arguments.size() == 2 && arguments[0] == "--write-seeds") {
    return rehome::fuzz::WriteSeeds(arguments[1]);
  }
  if (arguments.size() != 1) {
    std::cerr << "usage: " << argv[0] << " CORPUS_DIRECTORY | --write-seeds DIRECTORY\n";
    return 2;
  }
  rehome::fuzz::corpus_directory = arguments[0];
  return RUN_ALL_TESTS();
}
