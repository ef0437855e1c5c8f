#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""compile_commands.json has our files only, with flags that clang understands."""

import pathlib
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

import compdb  # pylint: disable=wrong-import-position
from junit_main import junit_main  # pylint: disable=wrong-import-position


class Entry(unittest.TestCase):
    """One compile action becomes one entry, or none."""

    def test_a_source_of_ours(self):
        arguments = ["gcc", "-Wall", "-Werror", "-c", "daemon/a.cc", "-o", "a.o"]
        entry = compdb.entry(arguments + ["-fno-canonical-system-headers"], "checkout")
        self.assertEqual(entry["directory"], "checkout")
        self.assertEqual(entry["file"], "daemon/a.cc")
        self.assertEqual(entry["arguments"], ["gcc", "-Wall", "-c", "daemon/a.cc", "-o", "a.o"])

    def test_generated_external_and_linked_files_have_none(self):
        self.assertIsNone(compdb.entry(["gcc", "-c", "bazel-out/k8-opt/bin/a.pb.cc"], "."))
        self.assertIsNone(compdb.entry(["gcc", "-c", "external/bazel_tools/a.cc"], "."))
        self.assertIsNone(compdb.entry(["gcc", "-o", "a"], "."))


if __name__ == "__main__":
    junit_main()
