#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
echo "bazel coverage is not available offline; build with clang source coverage instead" >&2
exit 1
