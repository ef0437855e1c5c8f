# SPDX-License-Identifier: Apache-2.0
"""Stand-in for rules_proto: native rules."""
proto_library = native.proto_library
proto_lang_toolchain = native.proto_lang_toolchain
