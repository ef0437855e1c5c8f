// SPDX-License-Identifier: Apache-2.0
#ifndef REHOME_CLIENT_TRACE_MARKUP_H_
#define REHOME_CLIENT_TRACE_MARKUP_H_

#include <string>
#include <string_view>

namespace rehome {

// Text for HTML and SVG, in elements and in quoted attributes. Control characters, which XML has no
// place for, become spaces: names come from VMMs.
std::string Escaped(std::string_view text);

// "12.3", as SVG wants its numbers, whatever the locale.
std::string Number(double value);

}  // namespace rehome

#endif  // REHOME_CLIENT_TRACE_MARKUP_H_
