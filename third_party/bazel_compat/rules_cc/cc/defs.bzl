# SPDX-License-Identifier: Apache-2.0
"""Stand-in for rules_cc: Bazel 4.2's own native C++ rules under the names it expects.

Bazel 4.2's built-in WORKSPACE suffix would download rules_cc. The distribution's bazel-rules-cc
package does not help: it needs Bazel 5 (`use_cpp_toolchain`).
"""

cc_binary = native.cc_binary
cc_import = native.cc_import
cc_library = native.cc_library
cc_proto_library = native.cc_proto_library
cc_test = native.cc_test
cc_toolchain = native.cc_toolchain
cc_toolchain_alias = native.cc_toolchain_alias
cc_toolchain_suite = native.cc_toolchain_suite
fdo_prefetch_hints = native.fdo_prefetch_hints
fdo_profile = native.fdo_profile
objc_import = native.objc_import
objc_library = native.objc_library
