# SPDX-License-Identifier: Apache-2.0
"""The demo in the machine tells what the program inside told, and never better."""

import contextlib
import io
import pathlib
import sys
import tempfile
import unittest

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


if __name__ == "__main__":
    junit_main()
