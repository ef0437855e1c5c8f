# SPDX-License-Identifier: Apache-2.0
"""The archive is what the kernel reads, and the same for the same program."""

import pathlib
import shutil
import stat
import subprocess
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent.parent / "tools"))

import pack_initramfs  # pylint: disable=wrong-import-position
from junit_main import junit_main  # pylint: disable=wrong-import-position


def entries(archive):
    """(name, mode, device, data) of each file, read as the kernel's init/initramfs.c does."""
    place = 0
    while True:
        assert archive[place:place + 6] == b"070701", place
        fields = [int(archive[place + 6 + 8 * i:place + 14 + 8 * i], 16) for i in range(13)]
        name_start = place + 110
        name = archive[name_start:name_start + fields[11] - 1].decode()
        data_start = -(-(name_start + fields[11]) // 4) * 4
        if name == "TRAILER!!!":
            return
        yield name, fields[1], (fields[9], fields[10]), archive[data_start:data_start + fields[6]]
        place = -(-(data_start + fields[6]) // 4) * 4


class PackInitramfs(unittest.TestCase):
    """With programs of every length modulo the alignment."""

    def test_holds_the_program_and_the_console(self):
        for length in range(5):
            program = bytes(range(length))
            found = {entry[0]: entry[1:] for entry in entries(pack_initramfs.archive(program))}
            self.assertEqual(found["init"], (stat.S_IFREG | 0o755, (0, 0), program))
            self.assertEqual(found["dev/console"], (stat.S_IFCHR | 0o600, (5, 1), b""))
            self.assertLess(list(found).index("dev"), list(found).index("dev/console"))

    def test_is_the_same_each_time(self):
        self.assertEqual(pack_initramfs.archive(b"x"), pack_initramfs.archive(b"x"))
        self.assertNotEqual(pack_initramfs.archive(b"x"), pack_initramfs.archive(b"y"))

    @unittest.skipUnless(shutil.which("cpio"), "cpio is not installed")
    def test_cpio_reads_it(self):
        listed = subprocess.run(["cpio", "-t", "--quiet"], capture_output=True, check=True,
                                input=pack_initramfs.archive(b"program"))
        self.assertEqual(listed.stdout.decode().split(),
                         ["dev", "dev/console", "dev/null", "proc", "sys", "init"])


if __name__ == "__main__":
    junit_main()
