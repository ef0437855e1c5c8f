# SPDX-License-Identifier: Apache-2.0
"""Boots a kernel in QEMU's software emulation, with the host's files as its root.

Nothing is packed or installed: the guest sees the host's root read-only over 9p, and one scratch
directory that both can write. Neither root nor /dev/kvm is needed.
"""

import dataclasses
import pathlib
import shutil
import subprocess
import tempfile

ROOM = pathlib.Path(__file__).resolve().parent
BUSYBOX = pathlib.Path("/bin/busybox")
# Directories of the host that init.sh does not pass on.
LEFT_OUT = ("/tmp/", "/run/")

# The console shows warnings (level 4), because lockdep's of RCU are no more than that. A WARN() of
# the kernel is a failure, and a failure ends the machine: QEMU does not restart it.
# Sixty seconds without progress under a lock is a deadlock even under emulation.
KERNEL_ARGUMENTS = [
    "console=ttyS0", "loglevel=5", "panic=-1", "panic_on_warn=1", "oops=panic",
    "tsc=reliable", "sysctl.kernel.hung_task_timeout_secs=60", "sysctl.kernel.hung_task_panic=1",
    "sysctl.kernel.panic_on_rcu_stall=1", "sysctl.kernel.watchdog_thresh=30",
]


@dataclasses.dataclass(frozen=True)
class Machine:
    """What is booted. `scratch` is the guest's /rehome; `trees` are host paths that it needs."""

    image: pathlib.Path
    scratch: pathlib.Path
    trees: tuple = ()
    memory_mib: int = 2048
    cpus: int = 2

    def binds(self):
        """The kernel argument that names the trees which the root share does not show."""
        hidden = [str(tree) for tree in self.trees if str(tree).startswith(LEFT_OUT)]
        return ["rehome.bind=" + ":".join(hidden)] if hidden else []

    def command(self, initramfs, console):
        """The QEMU command line."""
        arguments = " ".join(KERNEL_ARGUMENTS + self.binds())
        return [
            "qemu-system-x86_64", "-accel", "tcg,thread=multi", "-machine", "q35",
            # SVM with nested paging is what TCG emulates; everything it can do besides.
            "-cpu", "max", "-smp", str(self.cpus), "-m", str(self.memory_mib),
            "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
            "-serial", console, "-kernel", str(self.image), "-initrd", str(initramfs),
            "-append", arguments,
            *share("host", pathlib.Path("/"), writable=False),
            *share("rehome", self.scratch, writable=True),
        ]


def share(tag, path, writable):
    """QEMU's arguments for one 9p share."""
    # multidevs: the root may span several file systems, whose inode numbers collide.
    backend = f"local,id={tag},path={path},security_model=none,multidevs=remap"
    if not writable:
        backend += ",readonly=on"
    return ["-fsdev", backend, "-device", f"virtio-9p-pci,fsdev={tag},mount_tag={tag}"]


def make_initramfs(directory):
    """An archive of busybox and init.sh; returns its path."""
    root = pathlib.Path(directory) / "initramfs"
    (root / "bin").mkdir(parents=True)
    shutil.copy(BUSYBOX, root / "bin/busybox")
    shutil.copy(ROOM / "init.sh", root / "init")
    names = "\n".join(sorted(str(p.relative_to(root)) for p in root.rglob("*")))
    archive = pathlib.Path(directory) / "initramfs.cpio"
    with open(archive, "wb") as file:
        subprocess.run(["cpio", "-o", "-H", "newc", "--quiet", "-R", "0:0"], cwd=root,
                       input=names.encode(), stdout=file, check=True)
    return archive


def boot(machine, seconds, poll):
    """Runs the machine to its end; calls poll() about once a second. False when time ran out."""
    with tempfile.TemporaryDirectory() as directory:
        initramfs = make_initramfs(directory)
        shutil.copy(ROOM / "guest.sh", machine.scratch / "guest.sh")
        console = f"file:{machine.scratch / 'console.log'}"
        with open(machine.scratch / "qemu.log", "wb") as log:
            qemu = subprocess.Popen(machine.command(initramfs, console), stdin=subprocess.DEVNULL,
                                    stdout=log, stderr=log)
        try:
            return wait(qemu, seconds, poll)
        finally:
            qemu.kill()
            qemu.wait()


def wait(process, seconds, poll):
    """Waits for the process's end, at most so many seconds. False when it did not end."""
    for _ in range(seconds):
        try:
            process.wait(timeout=1)
            return True
        except subprocess.TimeoutExpired:
            poll()
    return False


def boot_shell(machine):
    """Runs the machine with the terminal as its console."""
    with tempfile.TemporaryDirectory() as directory:
        initramfs = make_initramfs(directory)
        shutil.copy(ROOM / "guest.sh", machine.scratch / "guest.sh")
        return subprocess.run(machine.command(initramfs, "mon:stdio"), check=False).returncode
