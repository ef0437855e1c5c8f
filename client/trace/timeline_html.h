// SPDX-License-Identifier: Apache-2.0
#ifndef REHOME_CLIENT_TRACE_TIMELINE_HTML_H_
#define REHOME_CLIENT_TRACE_TIMELINE_HTML_H_

#include <string>

#include "client/trace/timeline.h"

namespace rehome {

// A page with the picture and, below it, all bars as a table. It loads nothing and runs nothing.
std::string TimelineHtml(const Timeline& timeline);

}  // namespace rehome

#endif  // REHOME_CLIENT_TRACE_TIMELINE_HTML_H_
