// SPDX-License-Identifier: Apache-2.0
//
// A timeline as one SVG element: self-contained, no script, light and dark, everything that matters
// written out, so that nothing has to be pointed at.
#ifndef REHOME_CLIENT_TRACE_TIMELINE_SVG_H_
#define REHOME_CLIENT_TRACE_TIMELINE_SVG_H_

#include <string>

#include "client/trace/timeline.h"

namespace rehome {

// Lanes are <g class="lane" data-group="source" data-lane="vCPU 0">, bars <rect class="bar k-read"
// data-name="GET_MSRS" data-ns="12345"> in them.
std::string TimelineSvg(const Timeline& timeline);

// The colours, as CSS custom properties of `selector`, for light and dark.
std::string ColourCss(const std::string& selector);
// What the legend says of each kind, in the order of BarKind; the class is "k-" and this name.
struct KindStyle {
  const char* name;
  const char* meaning;
};
const KindStyle& StyleOf(BarKind kind);

}  // namespace rehome

#endif  // REHOME_CLIENT_TRACE_TIMELINE_SVG_H_
