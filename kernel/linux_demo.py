#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""./dev demo --guest=linux: runs //bench:linux_demo where KVM runs Linux, with the machine's own
kernel as the guest's: on this host if Linux comes up there, else in the machine, which it boots. What
follows the options here goes to that program."""

import argparse
import os
import pathlib
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

import boot  # noqa: E402
import build  # noqa: E402
import run  # noqa: E402

NAME = "linux_demo"
# Boot of the guest, and what each move may take with the look after it; two layers of emulation.
START_SECONDS = 1200
HOP_SECONDS = 120
MEMORY_MIB = 2048
# What the emulator asks of a guest and of KVM: docs/linux-guest.md.
GUEST_CMDLINE = "noxsave"
PAGING = "shadow"
# On this host. Where KVM runs Linux at all, the guest is ready within two seconds; where it does not,
# the guest dies at its first system call, or comes nowhere.
HOST_BOOT_SECONDS = 20
OWN_NETWORK = ("unshare", "--net")
# bench/linux_demo.cc: kNotBooted.
NOT_BOOTED = 3


class Follower:
    """Prints what is appended to a file."""

    def __init__(self, path, stream):
        self.path = path
        self.stream = stream
        self.place = 0

    def poll(self):
        """Prints what has come since the last call."""
        if not self.path.exists():
            return
        with open(self.path, "rb") as file:
            file.seek(self.place)
            text = file.read()
        self.place += len(text)
        self.stream.write(text.decode(errors="replace"))
        self.stream.flush()


def program_of(image, hops, arguments):
    """What the machine runs."""
    return run.Program(
        name=NAME, kernels="both", seconds=START_SECONDS + HOP_SECONDS * hops,
        memory_mib=MEMORY_MIB, paging=PAGING, target="//bench:linux_demo",
        arguments=("--image", str(image), "--initramfs", "{//bench/linux_guest:initramfs.cpio}",
                   "--hops", str(hops), "--cmdline", GUEST_CMDLINE, *arguments))


def why_not_here():
    """What the host lacks that can be seen without trying; "" if nothing."""
    if os.geteuid() != 0:
        return "the guest's network needs root"
    for device in ("/dev/kvm", "/dev/net/tun"):
        try:
            os.close(os.open(device, os.O_RDWR | os.O_CLOEXEC))
        except OSError as error:
            return f"{device}: {error.strerror}"
    try:
        made = subprocess.run([*OWN_NETWORK, "true"], stderr=subprocess.PIPE, text=True, check=False)
    except OSError as error:
        return f"unshare: {error.strerror}"
    return made.stderr.strip() if made.returncode else ""


def host_command(bazel_bin, image, hops, arguments):
    """The program as it runs on this host, in a network of its own: the host's has nothing to do
    with the guest's, and may use its addresses."""
    return [*OWN_NETWORK, str(bazel_bin / "bench/linux_demo"), "--image", str(image),
            "--initramfs", str(bazel_bin / "bench/linux_guest/initramfs.cpio"),
            "--hops", str(hops), "--boot-seconds", str(HOST_BOOT_SECONDS), *arguments]


def on_host(command, call=subprocess.call):
    """The program's exit status and ""; or None and why it did not come to anything here."""
    why = why_not_here()
    if why:
        return None, why
    print("trying this host's KVM", flush=True)
    status = call(command)
    if status == NOT_BOOTED:
        return None, "Linux does not come up on its KVM"
    return status, ""


def verdict(scratch, ended):
    """The program's exit status, or 1 and why there is none."""
    status = scratch / f"{NAME}.status"
    if ended and status.exists():
        return int(status.read_text())
    print(f"demo: the machine did not come to its end\n{run.tail(scratch / 'console.log')}",
          file=sys.stderr)
    return 1


def in_machine(flavour, image, bazel_bin, program):
    """Boots the machine, shows what the program says in it, and tells its verdict."""
    scratch = run.fresh_scratch(flavour)
    (scratch / "plan").write_text(run.plan_line(program, bazel_bin, "", flavour))
    machine = boot.Machine(image=image, scratch=scratch, trees=(run.REPOSITORY, bazel_bin),
                           memory_mib=MEMORY_MIB, nested_paging=PAGING == "nested")
    follower = Follower(scratch / f"{NAME}.log", sys.stdout)
    ended = boot.boot(machine, program.seconds + run.BOOT_SECONDS, follower.poll)
    follower.poll()
    return verdict(scratch, ended)


def main():
    """The command line."""
    parser = argparse.ArgumentParser(prog="./dev demo --guest=linux", description=__doc__)
    parser.add_argument("--hops", type=int, default=20, help="how often the guest moves")
    parser.add_argument("--where", choices=("auto", "host", "machine"), default="auto",
                        help="this host's KVM, the emulated machine, or the first that runs Linux")
    parser.add_argument("--patched", action="store_true",
                        help="in the machine on the kernel with our patches; the guest moves by MAP "
                             "on either")
    parser.add_argument("--bazel-bin", default=run.REPOSITORY / "bazel-bin",
                        help=argparse.SUPPRESS)
    args, rest = parser.parse_known_args()
    if args.patched and args.where == "host":
        parser.error("--patched is a kernel of the machine's, not of this host's")
    flavour = build.Flavour(stock=not args.patched)
    bazel_bin = pathlib.Path(args.bazel_bin).resolve()
    try:
        image = build.ensure_image(flavour)
    except build.BuildError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    if args.where != "machine" and not args.patched:
        status, why = on_host(host_command(bazel_bin, image, args.hops, rest))
        if status is not None:
            return status
        print(f"not on this host: {why}", flush=True)
        if args.where == "host":
            return 1
        print("in the emulated machine instead", flush=True)
    return in_machine(flavour, image, bazel_bin, program_of(image, args.hops, rest))


if __name__ == "__main__":
    sys.exit(main())
