#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A fuzzer that failed, hung or never ran is never reported as one that found nothing."""

import contextlib
import io
import pathlib
import sys
import tempfile
import unittest
import unittest.mock
import xml.etree.ElementTree as ElementTree

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

import fuzz  # pylint: disable=wrong-import-position
from junit_main import junit_main  # pylint: disable=wrong-import-position

RULE = """<rule class="cc_binary" name="{label}"><list name="tags">{tags}</list></rule>"""

# Stand in for libFuzzer's programs.
FINDS_NOTHING = "echo 'Done 42 runs in 0 second(s)'"
FINDS_SOMETHING = "echo 'a.cc:1: broken promise: x == y'; exit 77"
SAYS_ITS_ARGUMENTS = 'echo "$@"; echo "Done 1 runs in 0 second(s)"'


def rule(label, *tags):
    """One rule of Bazel's description."""
    return RULE.format(label=label, tags="".join(f'<string value="{tag}"/>' for tag in tags))


class Fuzz(unittest.TestCase):
    """Runs the program on programs that are not fuzzers."""

    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.root = pathlib.Path(directory.name)
        self.rules = []

    def add(self, name, script):
        self.rules.append(rule(f"//room:{name}er", "fuzzer", "fuzz-runs=7", "manual"))
        program = self.root / "bin" / "room" / f"{name}er"
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text("#!/bin/sh\n" + script + "\n")
        program.chmod(0o755)

    def run_main(self, *arguments):
        targets = self.root / "targets.xml"
        targets.write_text("<query>" + "".join(self.rules) + "</query>")
        command = ["fuzz.py", f"--targets={targets}", f"--bazel-bin={self.root}/bin"]
        command += [f"--work={self.root}/work", f"--findings={self.root}/findings"]
        command += [f"--xml={self.root}/result.xml", *arguments]
        output = io.StringIO()
        with unittest.mock.patch.object(sys, "argv", command):
            with contextlib.redirect_stdout(output):
                status = fuzz.main()
        return status, output.getvalue()

    def failures(self):
        cases = ElementTree.parse(self.root / "result.xml").getroot().iter("testcase")
        return {case.get("name"): case.find("failure") is not None for case in cases}

    def test_a_quiet_run_passes_and_is_counted(self):
        self.add("a_fuzz", FINDS_NOTHING)
        self.add("b_fuzz", FINDS_NOTHING)
        status, output = self.run_main()
        self.assertEqual(status, 0)
        self.assertIn("fuzzing: 2 targets, 84 runs, 0 failed", output)
        self.assertEqual(self.failures(), {"a_fuzz": False, "b_fuzz": False})

    def test_a_finding_fails_the_run_and_is_shown(self):
        self.add("a_fuzz", FINDS_SOMETHING)
        self.add("b_fuzz", FINDS_NOTHING)
        status, output = self.run_main()
        self.assertEqual(status, 1)
        self.assertIn("a.cc:1: broken promise: x == y", output)
        self.assertEqual(self.failures(), {"a_fuzz": True, "b_fuzz": False})

    def test_a_fuzzer_that_ran_nothing_has_failed(self):
        self.add("a_fuzz", "true")
        status, _ = self.run_main()
        self.assertEqual((status, self.failures()), (1, {"a_fuzz": True}))

    def test_a_fuzzer_that_does_not_end_has_failed(self):
        self.add("a_fuzz", "exec sleep 1000")
        with unittest.mock.patch.object(fuzz, "GRACE_S", 0):
            status, output = self.run_main("--seconds=1")
        self.assertEqual((status, self.failures()), (1, {"a_fuzz": True}))
        self.assertIn("still running", output)

    def test_no_target_at_all_is_a_failure(self):
        status, _ = self.run_main()
        self.assertEqual(status, 1)

    def test_a_short_run_is_bounded_by_its_number_of_inputs(self):
        self.add("a_fuzz", SAYS_ITS_ARGUMENTS)
        self.run_main()
        log = (self.root / "findings" / "a_fuzz" / "log").read_text()
        self.assertIn("-runs=7 ", log)
        self.assertIn("-seed=1 ", log)

    def test_only_the_targets_named_run(self):
        self.add("a_fuzz", FINDS_NOTHING)
        self.add("b_fuzz", FINDS_SOMETHING)
        status, _ = self.run_main("a_fuzz")
        self.assertEqual((status, self.failures()), (0, {"a_fuzz": False}))
        with contextlib.redirect_stderr(io.StringIO()), self.assertRaises(SystemExit):
            self.run_main("c_fuzz")


if __name__ == "__main__":
    junit_main()
