# SPDX-License-Identifier: Apache-2.0
"""A QEMU with the peer guest (peer/peer_guest.c) in it.

Nothing that it needs has a name in a file system: the guest's shared memory is an unnamed file in
/dev/shm, QMP and migration run over socket pairs, its messages go to an unnamed file. So nothing
can be left over, however this program ends; and a QEMU is killed when it does (PR_SET_PDEATHSIG).
"""

import ctypes
import dataclasses
import os
import signal
import socket
import subprocess
import tempfile
import time

import qmp

QEMU = "qemu-system-x86_64"
SHARED_MEMORY = "/dev/shm"
PR_SET_PDEATHSIG = 1
# From `quit` to its exit; killed after that.
QUIT_SECONDS = 20
# Between two looks at the guest.
LOOK_AGAIN_SECONDS = 0.01
# The last words of a QEMU, for an error.
MESSAGE_CHARACTERS = 400

# bench/page/peer/peer_guest.h
REPORT_ADDRESS = 0x10000
REPORT_MAGIC = 0x50454552
REPORT_FIELDS = 5


@dataclasses.dataclass(frozen=True)
class Shape:
    """What both QEMUs of a migration are made of."""

    accelerator: str
    cpu: str
    vcpus: int
    memory_mib: int
    guest: str
    shared_fd: int = None  # the memory, where it is shared; the caller's


@dataclasses.dataclass(frozen=True)
class Report:
    """What the guest says of itself: struct peer_report."""

    ready: bool
    vcpus: int
    errors: int
    sweeps: int
    beats: tuple


def unnamed_shared_file(mib):
    """A descriptor of guest memory that a QEMU can inherit and map; the caller closes it."""
    fd = os.open(SHARED_MEMORY, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    os.ftruncate(fd, mib << 20)
    return fd


def command_line(shape, qmp_fd, incoming):
    """QEMU's arguments. No device but those of the machine itself."""
    machine = "q35"
    memory = []
    if shape.shared_fd is not None:
        machine += ",memory-backend=ram"
        memory = ["-object", f"memory-backend-file,id=ram,size={shape.memory_mib}M,share=on,"
                             f"mem-path=/proc/self/fd/{shape.shared_fd}"]
    return [QEMU, "-accel", shape.accelerator, "-cpu", shape.cpu, "-machine", machine,
            "-smp", str(shape.vcpus), "-m", f"{shape.memory_mib}M", *memory, "-nodefaults",
            "-no-user-config", "-display", "none", "-no-reboot", "-kernel", shape.guest,
            "-chardev", f"socket,id=qmp,fd={qmp_fd}", "-mon", "chardev=qmp,mode=control",
            *(["-incoming", "defer"] if incoming else [])]


def _die_with_parent(parent):
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it was faster
        os.kill(os.getpid(), signal.SIGKILL)


def parse_report(text, vcpus):
    """The report in the monitor's dump of its words."""
    words = [int(word, 16) for line in text.splitlines() if ":" in line
             for word in line.split(":", 1)[1].split()]
    if len(words) < REPORT_FIELDS + vcpus:
        raise qmp.QmpError(f"the monitor's dump has {len(words)} words: {text[:80]!r}")
    return Report(words[0] == REPORT_MAGIC, words[1], words[3], words[4],
                  tuple(words[REPORT_FIELDS:REPORT_FIELDS + vcpus]))


class QemuVm:
    """Owns the process. Use it in a `with`, or call close()."""

    def __init__(self, shape, incoming=False):
        self.shape = shape
        self._messages = tempfile.TemporaryFile()
        ours, theirs = socket.socketpair()
        self.qmp = qmp.Client(ours)
        inherited = [theirs.fileno()]
        if shape.shared_fd is not None:
            inherited.append(shape.shared_fd)
        parent = os.getpid()
        with theirs:
            self._process = subprocess.Popen(
                command_line(shape, theirs.fileno(), incoming), stdin=subprocess.DEVNULL,
                stdout=self._messages, stderr=self._messages, pass_fds=inherited,
                preexec_fn=lambda: _die_with_parent(parent))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        """Kills QEMU if it has not ended yet. May be called again."""
        self.qmp.close()
        self._process.kill()
        self._process.wait()
        self._messages.close()

    def quit(self):
        """Asks QEMU to end, and sees to it."""
        try:
            self.qmp.command("quit")
            self._process.wait(QUIT_SECONDS)
        except (qmp.QmpError, subprocess.TimeoutExpired):
            pass  # it is killed then
        self.close()

    def command(self, name, **arguments):
        """As qmp.Client.command(), with QEMU's last words in the error if it has ended."""
        try:
            return self.qmp.command(name, {key.replace("_", "-"): value
                                           for key, value in arguments.items()})
        except qmp.QmpError as error:
            raise qmp.QmpError(f"{error}{self._last_words()}") from error

    def lend(self, name, connection):
        """QEMU gets a duplicate of the socket under a name, for `fd:NAME`."""
        self.qmp.command("getfd", {"fdname": name}, pass_fd=connection.fileno())

    def report(self):
        """The guest's report as it is now."""
        words = REPORT_FIELDS + self.shape.vcpus
        dump = self.command("human-monitor-command",
                            command_line=f"xp /{words}xw {REPORT_ADDRESS:#x}")
        return parse_report(dump, self.shape.vcpus)

    def await_report(self, wanted, what, seconds):
        """The guest's report as soon as it is what is wanted; QmpError if that does not come."""
        deadline = time.monotonic() + seconds
        while True:
            found = self.report()
            if wanted(found):
                return found
            if time.monotonic() > deadline:
                raise qmp.QmpError(f"the guest {what} not within {seconds} s: {found}")
            time.sleep(LOOK_AGAIN_SECONDS)

    def _last_words(self):
        try:
            self._process.wait(1)
        except subprocess.TimeoutExpired:
            return ""
        self._messages.seek(0)
        text = self._messages.read().decode(errors="replace").strip()
        return f"; QEMU ended: {text[-MESSAGE_CHARACTERS:]}"
