#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The account of a test run never looks better than the run was."""

import json
import pathlib
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

import test_summary  # pylint: disable=wrong-import-position
from junit_main import junit_main  # pylint: disable=wrong-import-position

GOOD = '<testcase classname="S" name="Good" status="run"/>'
BAD = '<testcase classname="S" name="Bad" status="run"><failure message="a.cc:1&#xA;no"/></testcase>'
SKIP = '<testcase classname="S" name="Skip"><skipped message="no /dev/kvm"/></testcase>'
OFF = '<testcase classname="S" name="DISABLED_Off" status="notrun"/>'


class Summary(unittest.TestCase):
    """Runs the program on event files as Bazel writes them."""

    def setUp(self):
        self.directory = tempfile.TemporaryDirectory()
        self.addCleanup(self.directory.cleanup)
        self.root = pathlib.Path(self.directory.name)
        self.events = []

    def add_target(self, label, tags=()):
        self.events.append(
            {
                "id": {"targetConfigured": {"label": label}},
                "configured": {"testSize": "SMALL", "tag": list(tags)},
            }
        )

    def add_result(self, label, cases, status="PASSED", **identity):
        outputs = []
        if cases is not None:
            xml = self.root / f"{len(list(self.root.iterdir()))} result.xml"
            xml.write_text(f"<testsuites><testsuite>{cases}</testsuite></testsuites>")
            outputs.append({"name": "test.xml", "uri": xml.as_uri()})
        self.events.append(
            {
                "id": {"testResult": {"label": label, **identity}},
                "testResult": {"status": status, "testActionOutput": outputs},
            }
        )

    def write_events(self, name):
        events = self.root / name
        events.write_text("".join(json.dumps(event) + "\n" for event in self.events))
        self.events = []
        return events

    def summarize(self, bazel_status=0, extra=(), also=()):
        events = self.write_events("events.json")
        command = [sys.executable, pathlib.Path(test_summary.__file__).resolve()]
        command += ["--events", events, "--bazel-status", str(bazel_status)]
        for name, more_events, status in also:
            command += ["--also", name, more_events, str(status)]
        for path in extra:
            command += ["--xml", path]
        result = subprocess.run(command, stdout=subprocess.PIPE, check=False, text=True)
        return result.returncode, result.stdout.splitlines()

    def test_counts_cases_not_targets(self):
        self.add_target("//a:a")
        self.add_result("//a:a", GOOD + GOOD + SKIP + OFF)
        status, lines = self.summarize()
        self.assertEqual((status, lines[-1]), (0, "2 passed, 0 failed, 2 skipped"))
        self.assertIn("    no /dev/kvm", lines)

    def test_another_run_counts_and_is_told_apart(self):
        self.add_target("//a:a")
        self.add_result("//a:a", GOOD + GOOD)
        sanitized = self.write_events("sanitized.json")
        self.add_target("//a:a")
        self.add_target("//a:b")
        self.add_result("//a:a", GOOD)
        self.add_result("//a:b", GOOD)
        status, lines = self.summarize(also=[("ASan", sanitized, 0)])
        self.assertEqual((status, lines[-1]), (0, "4 passed, 0 failed, 0 skipped"))
        self.assertIn("under ASan: 2 test cases ran (targets: 1)", lines)

    def test_a_failure_in_another_run_fails_the_whole(self):
        self.add_target("//a:a")
        self.add_result("//a:a", BAD, status="FAILED")
        sanitized = self.write_events("sanitized.json")
        self.add_target("//a:a")
        self.add_result("//a:a", GOOD)
        status, lines = self.summarize(also=[("ASan", sanitized, 3)])
        self.assertEqual((status, lines[-1]), (1, "1 passed, 1 failed, 0 skipped"))
        self.assertIn("FAILED //a:a (ASan) S.Bad", lines)

    def test_another_run_that_did_not_happen_is_a_failure(self):
        self.add_target("//a:a")
        self.add_result("//a:a", GOOD)
        missing = self.root / "missing.json"
        status, lines = self.summarize(also=[("ASan", missing, 1)])
        self.assertEqual((status, lines[-1]), (1, "1 passed, 1 failed, 0 skipped"))

    def test_a_failed_case_fails_the_run_and_is_shown(self):
        self.add_target("//a:a")
        self.add_result("//a:a", GOOD + BAD, status="FAILED")
        status, lines = self.summarize(bazel_status=3)
        self.assertEqual((status, lines[-1]), (1, "1 passed, 1 failed, 0 skipped"))
        self.assertIn("FAILED //a:a S.Bad", lines)
        self.assertIn("    no", lines)

    def test_a_crash_after_the_last_case_is_a_failure(self):
        self.add_target("//a:a")
        self.add_result("//a:a", GOOD, status="FAILED")
        status, lines = self.summarize(bazel_status=3)
        self.assertEqual((status, lines[-1]), (1, "1 passed, 1 failed, 0 skipped"))

    def test_a_program_without_results_shows_the_end_of_its_log(self):
        log = self.root / "test.log"
        log.write_text("what it said last\n")
        self.add_target("//a:a")
        error = '<testcase name="a/a"><error message="exited with error code 134"/></testcase>'
        self.add_result("//a:a", error, status="FAILED")
        outputs = self.events[-1]["testResult"]["testActionOutput"]
        outputs.append({"name": "test.log", "uri": log.as_uri()})
        lines = self.summarize(bazel_status=3)[1]
        self.assertIn("    what it said last", lines)
        self.assertEqual(lines[-1], "0 passed, 1 failed, 0 skipped")

    def test_a_timeout_without_results_is_a_failure(self):
        self.add_target("//a:a")
        self.add_result("//a:a", None, status="TIMEOUT")
        self.assertEqual(self.summarize(3)[1][-1], "0 passed, 1 failed, 0 skipped")

    def test_a_target_that_did_not_build_is_a_failure(self):
        self.add_target("//a:a")
        self.add_target("//b:b")
        self.add_result("//a:a", GOOD)
        self.assertEqual(self.summarize(1)[1][-1], "1 passed, 1 failed, 0 skipped")

    def test_bazel_failing_outside_tests_is_a_failure(self):
        self.add_target("//a:a")
        self.add_result("//a:a", GOOD)
        status, lines = self.summarize(bazel_status=1)
        self.assertEqual((status, lines[-1]), (1, "1 passed, 1 failed, 0 skipped"))

    def test_a_run_of_nothing_is_a_failure(self):
        status, lines = self.summarize(bazel_status=4)
        self.assertEqual((status, lines[-1]), (1, "0 passed, 1 failed, 0 skipped"))

    def test_only_the_last_attempt_counts(self):
        self.add_target("//a:a")
        self.add_result("//a:a", BAD, status="FAILED", attempt=1)
        self.add_result("//a:a", GOOD, attempt=2)
        self.assertEqual(self.summarize()[1][-1], "1 passed, 0 failed, 0 skipped")

    def test_shards_and_runs_add_up(self):
        self.add_target("//a:a")
        for shard in (1, 2):
            for run in (1, 2):
                self.add_result("//a:a", GOOD, shard=shard, run=run)
        self.assertEqual(self.summarize()[1][-1], "4 passed, 0 failed, 0 skipped")

    def test_real_kvm_cases_are_counted_apart(self):
        self.add_target("//a:a")
        self.add_target("//k:k", tags=["kvm", "external"])
        self.add_result("//a:a", GOOD)
        self.add_result("//k:k", GOOD + GOOD + SKIP)
        lines = self.summarize()[1]
        self.assertEqual(lines[-2], "real KVM: 2 test cases ran, 1 skipped (targets tagged kvm: 1)")

    def test_results_from_elsewhere_count_and_a_missing_file_fails(self):
        extra = self.root / "rules.xml"
        extra.write_text(f"<testsuite>{GOOD}</testsuite>")
        self.add_target("//a:a")
        self.add_result("//a:a", GOOD)
        self.assertEqual(self.summarize(extra=[extra])[1][-1], "2 passed, 0 failed, 0 skipped")
        self.assertEqual(self.summarize(extra=[self.root / "none.xml"])[0], 1)


if __name__ == "__main__":
    junit_main()
