// SPDX-License-Identifier: Apache-2.0
#include "client/trace/timeline_html.h"

#include "client/cli/format.h"
#include "client/trace/markup.h"
#include "client/trace/timeline_svg.h"

namespace rehome {
namespace {

constexpr const char* kCss = R"css(
:root { color-scheme: light dark; }
body { margin: 24px; background: var(--ground); color: var(--text);
  font: 14px system-ui, "DejaVu Sans", sans-serif; }
h1 { font-size: 18px; margin: 0 0 8px; }
h2 { font-size: 15px; margin: 24px 0 8px; }
p { margin: 2px 0; color: var(--soft); }
figure { margin: 16px 0; overflow-x: auto; }
figure svg { display: block; width: 100%; min-width: 1100px; height: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 2px 14px 2px 0; text-align: left; border-bottom: 1px solid var(--line); }
th { color: var(--soft); font-weight: normal; }
td.number, th.number { text-align: right; }
.key { display: inline-block; width: 10px; height: 10px; border-radius: 2px; margin-right: 6px; }
)css";

std::string Cell(const std::string& text) { return "<td>" + Escaped(text) + "</td>"; }

std::string NumberCell(int64_t ns) {
  // Times before the pause are negative; FormatNanos() knows durations.
  const std::string text = ns < 0 ? "-" + FormatNanos(-ns, "µ") : FormatNanos(ns, "µ");
  return "<td class=\"number\">" + text + "</td>";
}

std::string Row(const Group& group, const Lane& lane, const Bar& bar) {
  const KindStyle& style = StyleOf(bar.kind);
  return "<tr>" + Cell(group.name) + Cell(lane.name) + "<td><span class=\"key k-" + style.name +
         "\" title=\"" + style.meaning + "\"></span>" + Escaped(bar.label) + "</td>" +
         NumberCell(bar.begin_ns) + NumberCell(bar.took_ns) + "</tr>\n";
}

std::string Table(const Group& group) {
  std::string rows;
  for (const Lane& lane : group.lanes) {
    for (const Bar& bar : lane.bars) {
      // When the guest began to run, and when it will stop, is not known here.
      if (bar.kind != BarKind::kGuestRuns) rows += Row(group, lane, bar);
    }
    for (const Mark& mark : lane.marks) {
      rows += "<tr>" + Cell(group.name) + Cell(lane.name) + Cell(mark.label) +
              NumberCell(mark.at_ns) + "<td></td></tr>\n";
    }
  }
  if (rows.empty()) return "";
  return "<h2>" + Escaped(group.title) +
         "</h2>\n<table>\n<tr><th>who</th><th>lane</th><th>what</th><th class=\"number\">at</th>"
         "<th class=\"number\">took</th></tr>\n" +
         rows + "</table>\n";
}

}  // namespace

std::string TimelineHtml(const Timeline& timeline) {
  std::string page =
      "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
      "<meta name=\"viewport\" content=\"width=device-width\">\n<title>" +
      Escaped(timeline.title) + "</title>\n<style>\n" + ColourCss(":root") + kCss +
      "</style>\n</head>\n<body>\n<h1>" + Escaped(timeline.title);
  if (timeline.blackout_ns > 0) {
    page += ", blackout " + FormatNanos(timeline.blackout_ns, "µ");
  }
  page += "</h1>\n";
  for (const std::string& fact : timeline.facts) page += "<p>" + Escaped(fact) + "</p>\n";
  page += "<figure>\n" + TimelineSvg(timeline) + "</figure>\n";
  for (const Group& group : timeline.groups) page += Table(group);
  return page + "</body>\n</html>\n";
}

}  // namespace rehome
