# SPDX-License-Identifier: Apache-2.0
"""Boots a kernel in QEMU's software emulation, with the host's files as its root.

Nothing is packed or installed: the guest sees the host's root read-only over 9p, and one scratch
directory that both can write. Neither root nor /dev/kvm is needed.
"""

import ctypes
import dataclasses
import mmap
import pathlib
import shutil
import subprocess
import tempfile
import time

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


# rdtsc; shl rdx, 32; or rax, rdx; ret
READ_TSC = bytes.fromhex("0f3148c1e2204809d0c3")
TSC_SAMPLES = 50
TSC_INTERVAL_SECONDS = 0.3


def tsc_khz():
    """The frequency of this processor's time stamp counter, which is the machine's as well.

    The machine's kernel finds it out by itself, but on a host that is busy first by some hundred
    millionths wrong and then, after KVM has asked, right; without TSC scaling KVM then takes every
    vCPU's TSC for zero, and kvmclock jumps whenever a guest is moved.
    """
    page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(READ_TSC)
    read_tsc = ctypes.CFUNCTYPE(ctypes.c_uint64)(
        ctypes.addressof(ctypes.c_char.from_buffer(page)))

    def sample():
        """The counter and the time, of the attempt that was disturbed least."""
        attempts = []
        for _ in range(TSC_SAMPLES):
            before, ticks, after = time.monotonic_ns(), read_tsc(), time.monotonic_ns()
            attempts.append((after - before, ticks, (before + after) // 2))
        return min(attempts)[1:]

    first_ticks, first_ns = sample()
    time.sleep(TSC_INTERVAL_SECONDS)
    last_ticks, last_ns = sample()
    return (last_ticks - first_ticks) * 1_000_000 // (last_ns - first_ns)


@dataclasses.dataclass(frozen=True)
class Machine:
    """What is booted. `scratch` is the guest's /rehome; `trees` are host paths that it needs."""

    image: pathlib.Path
    scratch: pathlib.Path
    trees: tuple = ()
    memory_mib: int = 2048
    cpus: int = 2
    # False: KVM in the machine shadows the page tables of its guests.
    nested_paging: bool = True

    def binds(self):
        """The kernel argument that names the trees which the root share does not show."""
        hidden = [str(tree) for tree in self.trees if str(tree).startswith(LEFT_OUT)]
        return ["rehome.bind=" + ":".join(hidden)] if hidden else []

    def command(self, initramfs, console):
        """The QEMU command line."""
        clock = [f"tsc_early_khz={tsc_khz()}"]
        paging = [] if self.nested_paging else ["kvm_amd.npt=0"]
        arguments = " ".join(KERNEL_ARGUMENTS + clock + paging + self.binds())
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
