# SPDX-License-Identifier: Apache-2.0
"""QEMU's migrations with the peer guest, emulated: that the guest is whole afterwards, and that
nothing is left however it ends."""

import argparse
import os
import pathlib
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest

_HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(_HERE), str(_HERE.parent.parent / "tools")]

import qemu_peer  # pylint: disable=wrong-import-position
import qemu_vm  # pylint: disable=wrong-import-position
import qmp  # pylint: disable=wrong-import-position
from junit_main import junit_main  # pylint: disable=wrong-import-position

# Where Bazel starts a test.
GUEST = pathlib.Path("bench/page/peer/peer-guest.elf").resolve()
# Emulation on a busy machine, many times over.
TIMEOUT_SECONDS = 120
PAGE = 4096
# A page of the guest's memory that holds nothing but its pattern.
LOST_PAGE = 0x3000


def shape(vcpus=1, shared_fd=None):
    return qemu_vm.Shape("tcg", qemu_peer.TCG_CPU, vcpus, 64, str(GUEST), shared_fd)


def children_of(pid):
    """Pids of a process's children."""
    text = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8")
    return [int(child) for child in text.split()]


def await_children(pid, count):
    """Its children as soon as there are so many."""
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while len(children_of(pid)) < count:
        if time.monotonic() > deadline:
            raise AssertionError(f"not {count} children of {pid}")
        select.select([], [], [], 0.01)
    return children_of(pid)


def named_files(pid):
    """Files in memory or a temporary directory that the process has open and that have a name."""
    places = tuple(f"{place}/" for place in (qemu_vm.SHARED_MEMORY, tempfile.gettempdir()))
    opened = []
    for entry in pathlib.Path(f"/proc/{pid}/fd").iterdir():
        try:
            opened.append(os.readlink(entry))
        except FileNotFoundError:  # closed meanwhile
            pass
    return [path for path in opened if path.startswith(places) and not path.endswith("(deleted)")]


@unittest.skipUnless(shutil.which(qemu_vm.QEMU), f"{qemu_vm.QEMU} is not installed")
class QemuPeerTest(unittest.TestCase):
    def test_both_ways_move_a_guest_with_two_vcpus(self):
        options = argparse.Namespace(vcpus=2, memory=64, runs=2, guest=str(GUEST))
        for mode in qemu_peer.MODES:
            row = qemu_peer.row("tcg", qemu_peer.TCG_CPU, options, mode)
            self.assertEqual(row["runs"], 2)
            self.assertGreater(row["stop_resume_us"]["p50"], 0)
            # Memory is copied in one way only.
            self.assertEqual(row["moved_mib"]["p50"] > 32, mode == "copying")

    def test_a_page_that_is_lost_on_the_way_is_noticed(self):
        fd = qemu_vm.unnamed_shared_file(64)
        self.addCleanup(os.close, fd)
        with qemu_vm.QemuVm(shape(shared_fd=fd)) as vm:
            qemu_peer.await_ready(vm)
            before = vm.report()
            qemu_peer.check_guest(vm, before)
            os.pwrite(fd, bytes(PAGE), LOST_PAGE * PAGE)
            with self.assertRaisesRegex(qmp.QmpError, "not what it was"):
                qemu_peer.check_guest(vm, before)

    def test_a_qemu_that_does_not_start_says_why(self):
        with qemu_vm.QemuVm(qemu_vm.Shape("tcg", "no-such-cpu", 1, 64, str(GUEST))) as vm:
            with self.assertRaisesRegex(qmp.QmpError, "no-such-cpu"):
                qemu_peer.await_ready(vm)

    def test_nothing_is_left_when_it_is_ended_or_killed(self):
        for number in (signal.SIGTERM, signal.SIGKILL):
            peer = subprocess.Popen(
                [sys.executable, "-B", str(_HERE / "qemu_peer.py"), "--guest", str(GUEST),
                 "--accel", "tcg", "--runs", "100000"],
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            self.addCleanup(peer.kill)
            pids = await_children(peer.pid, 2)
            qemus = [os.pidfd_open(pid) for pid in pids]
            # What has no name needs nobody to remove it.
            for pid in [peer.pid, *pids]:
                self.assertEqual(named_files(pid), [])
            peer.send_signal(number)
            self.assertNotEqual(peer.wait(TIMEOUT_SECONDS), 0)
            for pidfd in qemus:
                self.assertTrue(select.select([pidfd], [], [], TIMEOUT_SECONDS)[0])
                os.close(pidfd)


if __name__ == "__main__":
    junit_main()
