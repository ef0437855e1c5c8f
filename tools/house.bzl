# SPDX-License-Identifier: Apache-2.0
"""The house's rules for C and C++: native rules plus one set of flags for every room.

The language standards (C++20, C11) are in .bazelrc, because generated code needs them too.
"""

load("@system//:versions.bzl", "FINGERPRINT")

_WARNINGS = [
    "-Wall",
    "-Wextra",
    "-Werror",
    "-Wswitch",
    "-Wvla",
    # Members that a designated initialiser leaves out have a default on purpose.
    "-Wno-missing-field-initializers",
]

# See //third_party/system:system_libs.bzl.
_SYSTEM = ["-DREHOME_SYSTEM_FINGERPRINT=" + FINGERPRINT]

_CXX = _SYSTEM + _WARNINGS + ["-Wnon-virtual-dtor"]

# -std=c11 hides what the agent lives on (memfd_create, SCM_RIGHTS, accept4); g++ defines
# _GNU_SOURCE by itself.
_C = _SYSTEM + _WARNINGS + ["-D_GNU_SOURCE", "-Wstrict-prototypes"]

def _merged(first, more):
    """Lists may repeat a label in a macro call; Bazel refuses that in `deps`."""
    return first + [item for item in more if item not in first]

def rehome_cc_library(name, copts = [], **kwargs):
    """A C++ library: one unit, header and source."""
    native.cc_library(name = name, copts = _CXX + copts, **kwargs)

def rehome_cc_binary(name, copts = [], **kwargs):
    """A C++ program."""
    native.cc_binary(name = name, copts = _CXX + copts, **kwargs)

def rehome_cc_test(
        name,
        size = "small",
        copts = [],
        deps = [],
        main = "@system//:gtest_main",
        tags = [],
        **kwargs):
    """A googletest test with googletest's main().

    Add tags = ["kvm"] to a test that needs a working /dev/kvm: `./dev test` counts those apart and
    runs them each time, because their result depends on a kernel that Bazel does not see.

    Args:
      name: the target.
      size: Bazel's size; small (60 s) unless the test says why not.
      copts: more compiler flags.
      deps: libraries; gmock is one of them where it is used.
      main: the library with main(), or None where srcs has its own.
      tags: as in cc_test.
      **kwargs: passed to cc_test.
    """
    native.cc_test(
        name = name,
        size = size,
        copts = _CXX + copts,
        tags = _merged(tags, ["external"] if "kvm" in tags else []),
        deps = _merged(deps, [main] if main else []),
        **kwargs
    )

def rehome_c_library(name, copts = [], **kwargs):
    """A C11 library that needs libc only."""
    native.cc_library(name = name, copts = _C + copts, **kwargs)

def rehome_c_binary(name, copts = [], **kwargs):
    """A C11 program."""
    native.cc_binary(name = name, copts = _C + copts, **kwargs)

def rehome_py_test(name, srcs, data = [], size = "small", **kwargs):
    """A Python test of one file; data are the scripts and files it uses.

    Not py_test: the launcher that Bazel 4.2 writes for it starts `python`, which Debian does not
    have.

    Args:
      name: the target.
      srcs: the one file.
      data: what it needs at run time.
      size: Bazel's size.
      **kwargs: passed to sh_test.
    """
    native.sh_test(
        name = name,
        size = size,
        srcs = ["//tools:run_python.sh"],
        args = ["$(location %s)" % srcs[0]],
        data = srcs + data,
        **kwargs
    )
