# SPDX-License-Identifier: Apache-2.0
"""A fuzz target: one *_fuzz.cc, run by libFuzzer and replayed as a test. docs/fuzzing.md."""

load("//tools:house.bzl", "rehome_cc_binary", "rehome_cc_library", "rehome_cc_test")

def rehome_fuzz_test(name, runs, deps = [], size = "small"):
    """The targets of NAME.cc, whose corpus is tests/fuzz_corpus/NAME.

    NAME is a test that feeds it the seeds and the corpus; NAMEr is libFuzzer's program, which only
    --config=fuzz can link. NAME ends in _fuzz.

    Args:
      name: the target, the file without .cc, and the directory of the corpus.
      runs: inputs of the short run in `./dev test`; some 5 s of it.
      deps: what NAME.cc uses.
      size: of the test.
    """
    rehome_cc_library(
        name = name + "_target",
        testonly = True,
        srcs = [name + ".cc"],
        # Feed() is called by what is linked in front of it.
        alwayslink = True,
        deps = deps + ["//tools/fuzz:fuzz_target"],
    )
    rehome_cc_test(
        name = name,
        size = size,
        args = ["tests/fuzz_corpus/" + name],
        data = ["//tests/fuzz_corpus:" + name],
        main = "//tools/fuzz:replay_main",
        tags = ["parses-foreign-input"],
        deps = [":" + name + "_target"],
    )
    rehome_cc_binary(
        name = name + "er",
        testonly = True,
        linkopts = ["-fsanitize=fuzzer"],
        tags = [
            "fuzzer",
            "fuzz-runs=%d" % runs,
            "manual",
        ],
        deps = [
            ":" + name + "_target",
            "//tools/fuzz:libfuzzer_entry",
        ],
    )
