# SPDX-License-Identifier: Apache-2.0
"""The demo in the machine tells what the program inside told, and never better."""

import contextlib
import io
import pathlib
import sys
import tempfile
import unittest
from unittest import mock

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "tools"))

import build  # pylint: disable=wrong-import-position
import linux_demo  # pylint: disable=wrong-import-position
import run  # pylint: disable=wrong-import-position
from junit_main import junit_main  # pylint: disable=wrong-import-position


class LinuxDemo(unittest.TestCase):
    """What is around the machine; the machine itself takes minutes."""

    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.scratch = pathlib.Path(directory.name)

    def test_what_is_written_is_shown_once(self):
        shown = io.StringIO()
        log = self.scratch / "log"
        follower = linux_demo.Follower(log, shown)
        follower.poll()
        for text in ("one\n", "two\nthr", "ee\n"):
            with open(log, "a", encoding="utf-8") as file:
                file.write(text)
            follower.poll()
            follower.poll()
        self.assertEqual(shown.getvalue(), "one\ntwo\nthree\n")

    def verdict(self, ended):
        with contextlib.redirect_stderr(io.StringIO()):
            return linux_demo.verdict(self.scratch, ended)

    def test_the_verdict_is_the_programs(self):
        self.assertEqual(self.verdict(True), 1)
        (self.scratch / "linux_demo.status").write_text("0\n")
        self.assertEqual(self.verdict(True), 0)
        self.assertEqual(self.verdict(False), 1)
        (self.scratch / "linux_demo.status").write_text("3\n")
        self.assertEqual(self.verdict(True), 3)

    def test_the_plan_names_image_and_initramfs(self):
        program = linux_demo.program_of(pathlib.Path("/images/bzImage"), 7, ["--json"])
        line = run.plan_line(program, pathlib.Path("/bin-tree"), "", build.Flavour(stock=True))
        self.assertIn("/bin-tree/bench/linux_demo --image /images/bzImage --initramfs "
                      "/bin-tree/bench/linux_guest/initramfs.cpio --hops 7 "
                      "--cmdline noxsave --json", line)

    def on_host(self, status, lacking=""):
        """What on_host() says of a program that exits with `status`, and how often it ran."""
        calls = []
        with mock.patch.object(linux_demo, "why_not_here", return_value=lacking), \
                contextlib.redirect_stdout(io.StringIO()):
            answer = linux_demo.on_host(["demo"], lambda command: calls.append(command) or status)
        return answer, len(calls)

    def test_the_hosts_verdict_stands_whatever_it_is(self):
        self.assertEqual(self.on_host(0), ((0, ""), 1))
        self.assertEqual(self.on_host(1), ((1, ""), 1))
        self.assertEqual(self.on_host(-9), ((-9, ""), 1))

    def test_a_host_on_which_linux_does_not_come_up_says_nothing_about_moves(self):
        (status, why), calls = self.on_host(linux_demo.NOT_BOOTED)
        self.assertIsNone(status)
        self.assertIn("does not come up", why)
        self.assertEqual(calls, 1)

    def test_a_host_that_lacks_something_is_not_tried(self):
        self.assertEqual(self.on_host(0, "/dev/kvm: gone"), ((None, "/dev/kvm: gone"), 0))

    def test_on_the_host_the_guest_boots_as_on_any_kvm_with_a_bound(self):
        command = linux_demo.host_command(pathlib.Path("/bin-tree"), "/bzImage", 7, ["--json"])
        self.assertNotIn("noxsave", command)
        self.assertIn("--boot-seconds", command)
        self.assertEqual(command[-1], "--json")


if __name__ == "__main__":
    junit_main()
