// SPDX-License-Identifier: Apache-2.0
#include "client/trace/timeline_svg.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <string>
#include <tuple>
#include <vector>

#include "client/cli/format.h"
#include "client/trace/label_rows.h"
#include "client/trace/markup.h"

namespace rehome {
namespace {

// px of the picture at its natural size.
constexpr double kNameWidth = 110;   // lanes' names, on the left
constexpr double kPlotWidth = 1180;  // time
constexpr double kTailWidth = 190;   // for the labels of bars at the right edge
constexpr double kWidth = kNameWidth + kPlotWidth + kTailWidth;
constexpr double kBarHeight = 18;
constexpr double kRowHeight = 14;
constexpr double kLaneGap = 10;
constexpr double kTitleHeight = 24;  // of a group
constexpr double kAxisHeight = 40;
constexpr double kLegendHeight = 40;
// Of the monospaced font at 11 px; a little more than it is, so that what is said to fit does.
constexpr double kCharWidth = 6.9;
// Narrower bars are drawn so wide, to be seen.
constexpr double kMinBarWidth = 1.5;
constexpr int kTicks = 10;

// Code points, since a µ is two bytes.
double TextWidth(const std::string& text) {
  const auto count = std::count_if(text.begin(), text.end(), [](char c) {
    return (static_cast<unsigned char>(c) & 0xc0) != 0x80;
  });
  return static_cast<double>(count) * kCharWidth;
}

std::string LabelOf(const Bar& bar) {
  // What the guest does says its own time.
  if (bar.kind == BarKind::kGuestRuns || bar.kind == BarKind::kPaused) return bar.label;
  return bar.label + " " + FormatNanos(bar.took_ns, "µ");
}

// 1, 2 or 5 times a power of ten, so that there are about kTicks of them.
int64_t TickStep(int64_t range_ns) {
  int64_t step = 1000;
  while (true) {
    for (const int64_t factor : {1, 2, 5}) {
      if (range_ns / (step * factor) <= kTicks) return step * factor;
    }
    step *= 10;
  }
}

std::string TickLabel(int64_t ns) {
  if (ns == 0) return "0";
  const bool millis = std::abs(ns) >= 1'000'000;
  return Number(static_cast<double>(ns) / (millis ? 1e6 : 1e3)) + (millis ? " ms" : " µs");
}

class Drawing {
 public:
  explicit Drawing(const Timeline& timeline) : timeline_(timeline) {}

  std::string Draw() {
    for (const Group& group : timeline_.groups) DrawGroup(group);
    const double bottom = y_;
    DrawLegend();
    std::string svg =
        "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"timeline\" role=\"img\" viewBox=\"0 0 " +
        Number(kWidth) + " " + Number(y_) + "\">\n<title>" + Escaped(timeline_.title) +
        "</title>\n<style>\n" + ColourCss(".timeline") + kCss +
        "</style>\n<rect class=\"ground\" width=\"" + Number(kWidth) + "\" height=\"" + Number(y_) +
        "\"/>\n";
    DrawBackground(bottom, svg);
    return svg + body_ + "</svg>\n";
  }

 private:
  static constexpr const char* kCss = R"css(
.timeline { font: 11px ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; }
.timeline text { fill: var(--text); }
.timeline .ground { fill: var(--ground); }
.timeline .soft { fill: var(--soft); }
.timeline .group-title { font-weight: bold; font-size: 12px; }
.timeline .in-bar { fill: #ffffff; }
.timeline .blackout { fill: var(--blackout); }
.timeline .edge { stroke: var(--paused); stroke-width: 1; }
.timeline .tick { stroke: var(--line); stroke-width: 1; }
.timeline .boundary { stroke: var(--phase); stroke-width: 1; stroke-dasharray: 2 4; }
.timeline .leader { stroke: var(--soft); stroke-width: 0.7; }
.timeline .rail { stroke: var(--line); stroke-width: 1; }
.timeline .mark { fill: var(--paused); }
)css";

  double X(int64_t ns) const {
    const auto range = static_cast<double>(timeline_.end_ns - timeline_.begin_ns);
    return kNameWidth + static_cast<double>(ns - timeline_.begin_ns) / range * kPlotWidth;
  }

  static std::string Line(const char* kind, double x1, double y1, double x2, double y2) {
    return std::string("<line class=\"") + kind + "\" x1=\"" + Number(x1) + "\" y1=\"" +
           Number(y1) + "\" x2=\"" + Number(x2) + "\" y2=\"" + Number(y2) + "\"/>\n";
  }
  static std::string Text(const char* kind, double x, double y, const std::string& text,
                          const char* anchor = "start") {
    return std::string("<text class=\"") + kind + "\" x=\"" + Number(x) + "\" y=\"" + Number(y) +
           "\" text-anchor=\"" + anchor + "\">" + Escaped(text) + "</text>\n";
  }

  // Axis, blackout and the limits of its phases, behind the lanes.
  void DrawBackground(double bottom, std::string& svg) const {
    if (timeline_.blackout_ns > 0) {
      const double left = X(0), right = X(timeline_.blackout_ns);
      svg += "<rect class=\"blackout\" x=\"" + Number(left) + "\" y=\"" + Number(kAxisHeight) +
             "\" width=\"" + Number(right - left) + "\" height=\"" + Number(bottom - kAxisHeight) +
             "\"/>\n";
    }
    const int64_t step = TickStep(timeline_.end_ns - timeline_.begin_ns);
    const int64_t first = timeline_.begin_ns / step * step;
    for (int64_t at = first; at <= timeline_.end_ns; at += step) {
      if (at < timeline_.begin_ns) continue;
      svg += Line("tick", X(at), kAxisHeight - 6, X(at), bottom);
      svg += Text("soft", X(at), kAxisHeight - 10, TickLabel(at), "middle");
    }
    if (timeline_.blackout_ns <= 0) return;
    for (const Bar& phase : timeline_.groups.front().lanes.back().bars) {
      svg += Line("boundary", X(phase.end_ns), kAxisHeight, X(phase.end_ns), bottom);
    }
    for (const auto& [at, what, anchor] :
         {std::tuple{int64_t{0}, "pause", "end"}, {timeline_.blackout_ns, "resume", "start"}}) {
      svg += Line("edge", X(at), kAxisHeight - 6, X(at), bottom);
      svg += Text("", X(at) + (at == 0 ? -4 : 4), 14, what, anchor);
    }
  }

  void DrawGroup(const Group& group) {
    y_ += kTitleHeight;
    body_ += Text("group-title", 4, y_ - 8, group.title);
    for (const Lane& lane : group.lanes) DrawLane(lane);
  }

  void DrawLane(const Lane& lane) {
    body_ += "<g class=\"lane\" data-group=\"" + Escaped(lane.group) + "\" data-lane=\"" +
             Escaped(lane.name) + "\">\n";
    body_ += Text("", 14, y_ + kBarHeight - 5, lane.name);
    body_ += Line("rail", kNameWidth, y_ + kBarHeight, kNameWidth + kPlotWidth, y_ + kBarHeight);
    std::vector<LabelBox> boxes;
    std::vector<std::string> texts;
    for (const Bar& bar : lane.bars) DrawBar(bar, boxes, texts);
    for (const Mark& mark : lane.marks) {
      const double x = X(mark.at_ns);
      body_ +=
          "<path class=\"mark\" d=\"M" + Number(x - 4) + " " + Number(y_ - 3) + "h8l-4 7z\"/>\n";
      boxes.push_back({.left = x, .width = TextWidth(mark.label)});
      texts.push_back(mark.label);
    }
    y_ += kBarHeight + DrawLabels(boxes, texts) * kRowHeight + kLaneGap;
    body_ += "</g>\n";
  }

  void DrawBar(const Bar& bar, std::vector<LabelBox>& boxes, std::vector<std::string>& texts) {
    const double x = X(bar.begin_ns);
    const double width = std::max(X(bar.end_ns) - x, kMinBarWidth);
    const std::string label = LabelOf(bar);
    body_ += std::string("<rect class=\"bar k-") + StyleOf(bar.kind).name + "\" data-name=\"" +
             Escaped(bar.label) + "\" data-ns=\"" + std::to_string(bar.took_ns) + "\" x=\"" +
             Number(x) + "\" y=\"" + Number(y_) + "\" width=\"" + Number(width) + "\" height=\"" +
             Number(kBarHeight) + "\" rx=\"2\"><title>" + Escaped(label) + "</title></rect>\n";
    if (TextWidth(label) + 8 <= width) {
      body_ += Text("in-bar", x + 4, y_ + kBarHeight - 5, label);
      return;
    }
    boxes.push_back({.left = x, .width = TextWidth(label)});
    texts.push_back(label);
  }

  // The labels that are not in bars; returns the rows that they take.
  double DrawLabels(std::vector<LabelBox>& boxes, const std::vector<std::string>& texts) {
    std::vector<size_t> order(boxes.size());
    for (size_t i = 0; i < order.size(); ++i) order[i] = i;
    std::stable_sort(order.begin(), order.end(),
                     [&boxes](size_t a, size_t b) { return boxes[a].left < boxes[b].left; });
    std::vector<LabelBox> sorted;
    for (const size_t i : order) sorted.push_back(boxes[i]);
    const size_t rows = AssignRows(sorted);
    for (size_t i = 0; i < sorted.size(); ++i) {
      if (sorted[i].row < 0) continue;
      const double baseline = y_ + kBarHeight + (sorted[i].row + 1) * kRowHeight - 3;
      body_ += Line("leader", sorted[i].left, y_ + kBarHeight, sorted[i].left, baseline + 1);
      body_ += Text("", sorted[i].left + 3, baseline, texts[order[i]]);
    }
    return static_cast<double>(rows);
  }

  void DrawLegend() {
    double x = kNameWidth;
    y_ += 8;
    body_ += "<g class=\"legend\">\n";
    for (const BarKind kind :
         {BarKind::kGuestRuns, BarKind::kPaused, BarKind::kPhase, BarKind::kStep, BarKind::kRun,
          BarKind::kRead, BarKind::kWrite, BarKind::kOther}) {
      const KindStyle& style = StyleOf(kind);
      body_ += std::string("<rect class=\"k-") + style.name + "\" x=\"" + Number(x) + "\" y=\"" +
               Number(y_) + "\" width=\"12\" height=\"12\" rx=\"2\"/>\n";
      body_ += Text("", x + 17, y_ + 10, style.meaning);
      x += 17 + TextWidth(style.meaning) + 16;
    }
    body_ += "</g>\n";
    y_ += kLegendHeight - 8;
  }

  const Timeline& timeline_;
  std::string body_;
  double y_ = kAxisHeight;
};

constexpr std::array<KindStyle, 8> kStyles = {{{"guest", "guest runs"},
                                               {"paused", "guest paused"},
                                               {"phase", "phase of the blackout"},
                                               {"step", "step of rehomed"},
                                               {"run", "KVM_RUN"},
                                               {"read", "ioctl that reads"},
                                               {"write", "ioctl that writes"},
                                               {"other", "other ioctl"}}};

}  // namespace

std::string TimelineSvg(const Timeline& timeline) { return Drawing(timeline).Draw(); }

const KindStyle& StyleOf(BarKind kind) { return kStyles[static_cast<size_t>(kind)]; }

std::string ColourCss(const std::string& selector) {
  std::string css = selector +
                    " { --ground: #ffffff; --text: #1f2328; --soft: #6e7781; --line: #e1e4e8;"
                    " --blackout: #fff1ef; --guest: #2a8a4a; --paused: #cf222e; --phase: #7a4fc0;"
                    " --step: #57606a; --run: #13808f; --read: #0b62c4; --write: #b3540a;"
                    " --other: #6e7781; }\n@media (prefers-color-scheme: dark) { " +
                    selector +
                    " { --ground: #0d1117; --text: #e6edf3; --soft: #8b949e; --line: #262c34;"
                    " --blackout: #2a1517; --guest: #2f8f4e; --paused: #da3633; --phase: #8a63d2;"
                    " --step: #6e7681; --run: #1c8a99; --read: #1f6fdb; --write: #bd6418;"
                    " --other: #768390; } }\n";
  for (const KindStyle& style : kStyles) {
    css += std::string(".k-") + style.name + " { fill: var(--" + style.name +
           "); background: var(--" + style.name + "); }\n";
  }
  return css;
}

}  // namespace rehome
