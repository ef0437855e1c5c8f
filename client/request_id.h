// SPDX-License-Identifier: Apache-2.0
#ifndef REHOME_CLIENT_REQUEST_ID_H_
#define REHOME_CLIENT_REQUEST_ID_H_

#include <string>

namespace rehome {

// A fresh random UUID (version 4, RFC 9562): "f81d4fae-7dec-4d0e-a765-00a0c91e6bf6". From the
// kernel's random generator, so that two processes, or a process and its fork, never share one.
std::string NewRequestId();

}  // namespace rehome

#endif  // REHOME_CLIENT_REQUEST_ID_H_
