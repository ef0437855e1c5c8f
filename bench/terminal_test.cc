// SPDX-License-Identifier: Apache-2.0
#include "bench/terminal.h"

#include <stdlib.h>

#include "gtest/gtest.h"

namespace rehome::bench {
namespace {

const Style kPlain({.colour = false, .utf8 = false});
const Style kRich({.colour = true, .utf8 = true});

TEST(StyleTest, WithoutColourThereIsNoEscapeSequence) {
  EXPECT_EQ(kPlain.Bold("x") + kPlain.Dim("x") + kPlain.Good("x") + kPlain.Bad("x"), "xxxx");
  EXPECT_EQ(kPlain.Passed(), "+");
  EXPECT_NE(kRich.Bold("x"), "x");
}

TEST(StyleTest, NoColorAndAPipeAreRespected) {
  // The standard output of a test is no terminal; NO_COLOR is looked at first.
  setenv("TERM", "xterm", 1);
  EXPECT_EQ(Style::ForStdout().Bold("x"), "x");
  setenv("NO_COLOR", "1", 1);
  EXPECT_EQ(Style::ForStdout().Bold("x"), "x");
}

TEST(StyleTest, BarsAreInProportionAndNeverWiderThanTheirRoom) {
  EXPECT_EQ(kPlain.Bar(50, 100, 10), "#####");
  EXPECT_EQ(kPlain.Bar(100, 100, 10), "##########");
  EXPECT_EQ(kPlain.Bar(900, 100, 10), "##########");
  EXPECT_EQ(DisplayWidth(kRich.Bar(50, 100, 10)), 5u);
  EXPECT_EQ(DisplayWidth(kRich.Bar(51.25, 100, 10)), 6u);
  EXPECT_EQ(DisplayWidth(kRich.Bar(900, 100, 10)), 10u);
}

TEST(StyleTest, WhatTookTimeLeavesATraceAndWhatTookNoneDoesNot) {
  EXPECT_EQ(kPlain.Bar(0.001, 100, 10), "#");
  EXPECT_EQ(DisplayWidth(kRich.Bar(0.001, 100, 10)), 1u);
  EXPECT_EQ(kPlain.Bar(0, 100, 10), "");
  EXPECT_EQ(kPlain.Bar(5, 0, 10), "");
}

TEST(WidthTest, CountsColumnsAndNotBytes) {
  EXPECT_EQ(DisplayWidth("abc"), 3u);
  EXPECT_EQ(DisplayWidth(kRich.Bold("abc")), 3u);
  EXPECT_EQ(DisplayWidth("✓→█"), 3u);
  EXPECT_EQ(PadRight(kRich.Passed(), 3), kRich.Passed() + "  ");
  EXPECT_EQ(PadLeft("7", 3), "  7");
  EXPECT_EQ(PadLeft("1234", 3), "1234");
}

TEST(WrapTest, BreaksBetweenWordsOnly) {
  EXPECT_EQ(Wrap("one two three", 7), (std::vector<std::string>{"one two", "three"}));
  EXPECT_EQ(Wrap("incomprehensible x", 5), (std::vector<std::string>{"incomprehensible", "x"}));
  EXPECT_EQ(Wrap("one two\nthree", 20), (std::vector<std::string>{"one two", "three"}));
  EXPECT_TRUE(Wrap("", 5).empty());
}

TEST(FormatTest, DurationsHaveAUnitThatFits) {
  EXPECT_EQ(FormatMicros(0), "0.0 us");
  EXPECT_EQ(FormatMicros(0.84), "0.8 us");
  EXPECT_EQ(FormatMicros(412.4), "412 us");
  EXPECT_EQ(FormatMicros(999.4), "999 us");
  EXPECT_EQ(FormatMicros(999.9), "1.00 ms");
  EXPECT_EQ(FormatMicros(12345), "12.3 ms");
  EXPECT_EQ(FormatMicros(1.5e6), "1.50 s");
}

TEST(FormatTest, SizesHaveAUnitThatFits) {
  EXPECT_EQ(FormatBytes(0), "0 bytes");
  EXPECT_EQ(FormatBytes(64 << 20), "64 MiB");
  EXPECT_EQ(FormatBytes(3584), "3.5 KiB");
  EXPECT_EQ(FormatBytes(8.0 * (1 << 30)), "8 GiB");
}

TEST(FormatTest, CountsAreReadable) {
  EXPECT_EQ(FormatCount(0), "0");
  EXPECT_EQ(FormatCount(999), "999");
  EXPECT_EQ(FormatCount(1000), "1,000");
  EXPECT_EQ(FormatCount(12345678), "12,345,678");
}

}  // namespace
}  // namespace rehome::bench
