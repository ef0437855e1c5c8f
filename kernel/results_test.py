# SPDX-License-Identifier: Apache-2.0
"""A run in the guest never looks better than it was."""

import json
import pathlib
import sys
import tempfile
import unittest
import xml.etree.ElementTree as ElementTree

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "tools"))

import results  # pylint: disable=wrong-import-position
from junit_main import junit_main  # pylint: disable=wrong-import-position


def gtest(*cases):
    """A googletest report with one suite S."""
    return json.dumps({"testsuites": [{"name": "S", "testsuite": list(cases)}]})


GOOD = {"name": "Good", "status": "RUN", "result": "COMPLETED"}
BAD = {"name": "Bad", "status": "RUN", "result": "COMPLETED", "failures": [{"failure": "no"}]}
SKIP = {"name": "Skip", "status": "RUN", "result": "SKIPPED"}
FILTERED = {"name": "Off", "status": "NOTRUN", "result": "SUPPRESSED"}


class Results(unittest.TestCase):
    """Reads scratch directories as guest.sh leaves them."""

    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.scratch = pathlib.Path(directory.name)
        self.put("console.log", "rehome: 3 s: t\n")
        self.put("finished", "4.5\n")

    def put(self, name, text):
        (self.scratch / name).write_text(text)

    def counts(self):
        return tuple(results.count(results.collect(self.scratch, ["t"])).values())

    def test_counts_cases_of_a_googletest(self):
        self.put("t.status", "0\n")
        self.put("t.json", gtest(GOOD, GOOD, SKIP, FILTERED))
        self.assertEqual(self.counts(), (2, 0, 1))

    def test_failed_case_fails(self):
        self.put("t.status", "1\n")
        self.put("t.json", gtest(GOOD, BAD))
        self.assertEqual(self.counts(), (1, 1, 0))

    def test_crash_after_a_good_report_fails(self):
        self.put("t.status", "139\n")
        self.put("t.json", gtest(GOOD))
        self.assertEqual(self.counts(), (1, 1, 0))

    def test_other_programs_are_judged_by_their_status(self):
        for status, expected in [("0", (1, 0, 0)), ("3", (0, 1, 0)), ("77", (0, 0, 1))]:
            self.put("t.status", status)
            self.assertEqual(self.counts(), expected, status)

    def test_program_that_ran_no_test_does_not_pass(self):
        self.put("t.status", "0\n")
        self.put("t.json", gtest(FILTERED))
        self.assertEqual(self.counts(), (0, 1, 0))

    def test_half_a_report_does_not_pass(self):
        self.put("t.status", "124\n")
        self.put("t.json", gtest(GOOD)[:20])
        self.assertEqual(self.counts(), (0, 1, 0))

    def test_machine_that_ends_early_fails_what_it_did_not_run_and_the_kernel(self):
        (self.scratch / "finished").unlink()
        self.assertEqual(self.counts(), (0, 2, 0))

    def test_complaint_of_the_kernel_fails_although_all_tests_passed(self):
        self.put("t.status", "0\n")
        for line in ["Kernel panic - not syncing: x", "BUG: KASAN: slab-use-after-free in x",
                     "WARNING: possible circular locking dependency detected",
                     "WARNING: CPU: 0 PID: 1 at a.c:1 b+0x1/0x2"]:
            self.put("console.log", f"[    1.0] {line}\n")
            self.assertEqual(self.counts(), (1, 1, 0), line)

    def test_missing_console_fails_unless_the_machine_finished(self):
        self.put("t.status", "0\n")
        (self.scratch / "console.log").unlink()
        (self.scratch / "finished").unlink()
        self.assertEqual(self.counts(), (1, 1, 0))

    def test_junit_has_each_verdict(self):
        self.put("t.status", "1\n")
        self.put("t.json", gtest(GOOD, BAD, SKIP))
        path = self.scratch / "all.xml"
        results.write_junit(path, results.collect(self.scratch, ["t", "u"]))
        read = [(case.get("classname"), case.get("name"), [child.tag for child in case])
                for case in ElementTree.parse(path).getroot()]
        self.assertEqual(read, [("t", "S.Good", []), ("t", "S.Bad", ["failure"]),
                                ("t", "S.Skip", ["skipped"]), ("u", "u", ["failure"])])


if __name__ == "__main__":
    junit_main()
