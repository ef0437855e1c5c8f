#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""./dev demo --guest=linux: boots the machine and runs //bench:linux_demo in it, with the machine's
own kernel as the guest's. What follows the options here goes to that program."""

import argparse
import pathlib
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


def verdict(scratch, ended):
    """The program's exit status, or 1 and why there is none."""
    status = scratch / f"{NAME}.status"
    if ended and status.exists():
        return int(status.read_text())
    print(f"demo: the machine did not come to its end\n{run.tail(scratch / 'console.log')}",
          file=sys.stderr)
    return 1


def main():
    """The command line."""
    parser = argparse.ArgumentParser(prog="./dev demo --guest=linux", description=__doc__)
    parser.add_argument("--hops", type=int, default=20, help="how often the guest moves")
    parser.add_argument("--patched", action="store_true",
                        help="on the kernel with our patches; the guest moves by MAP on either")
    parser.add_argument("--bazel-bin", default=run.REPOSITORY / "bazel-bin",
                        help=argparse.SUPPRESS)
    args, rest = parser.parse_known_args()
    flavour = build.Flavour(stock=not args.patched)
    bazel_bin = pathlib.Path(args.bazel_bin).resolve()
    try:
        image = build.ensure_image(flavour)
    except build.BuildError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    program = program_of(image, args.hops, rest)
    scratch = run.fresh_scratch(flavour)
    (scratch / "plan").write_text(run.plan_line(program, bazel_bin, "", flavour))
    machine = boot.Machine(image=image, scratch=scratch, trees=(run.REPOSITORY, bazel_bin),
                           memory_mib=MEMORY_MIB, nested_paging=PAGING == "nested")
    follower = Follower(scratch / f"{NAME}.log", sys.stdout)
    ended = boot.boot(machine, program.seconds + run.BOOT_SECONDS, follower.poll)
    follower.poll()
    return verdict(scratch, ended)


if __name__ == "__main__":
    sys.exit(main())
