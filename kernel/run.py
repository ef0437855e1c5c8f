#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs test programs inside a kernel under test; ./dev kernel test and ./dev kernel shell."""

import argparse
import dataclasses
import fnmatch
import json
import pathlib
import re
import shlex
import shutil
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

import boot  # noqa: E402
import build  # noqa: E402
import results  # noqa: E402

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
# Boot and shutdown, on top of what the programs may take.
BOOT_SECONDS = 120
# KASAN and lockdep, measured: a factor of 8 to 20.
DEBUG_FACTOR = 20
# In an argument: the stock kernel's image, for a guest.
GUEST_IMAGE = "{guest-image}"
# The end of a log that is shown when something failed.
TAIL_LINES = 40


@dataclasses.dataclass(frozen=True)
class Program:
    """A line of tests.txt."""

    name: str
    kernels: str  # "patched", "stock" or "both"
    seconds: int
    memory_mib: int
    paging: str  # of the guests in the machine: "nested" or "shadow"
    target: str
    arguments: tuple

    def targets(self):
        """The Bazel targets it needs."""
        return [self.target] + re.findall(r"\{(//[^}]+)\}", " ".join(self.arguments))


def read_programs(text):
    """The programs that a list names."""
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    fields = [shlex.split(line) for line in lines]
    return [
        Program(name, kernels, int(seconds), int(memory), paging, target, tuple(arguments))
        for name, kernels, seconds, memory, paging, target, *arguments in fields
    ]


def kernel_name(flavour):
    """What tests.txt and the programs call it."""
    return "stock" if flavour.stock else "patched"


def choose(programs, wanted, flavour):
    """The programs for a kernel that match NAME or NAME:CASES, or all that are not manual."""
    there = [program for program in programs if program.kernels in ("both", kernel_name(flavour))]
    if not wanted:
        return [program for program in there if not program.name.startswith("manual_")]
    pattern = wanted.split(":", 1)[0]
    return [
        program for program in there
        if fnmatch.fnmatch(program.name.removeprefix("manual_"), f"*{pattern}*")
    ]


def slowness(flavour):
    """How much longer everything may take."""
    return DEBUG_FACTOR if flavour.debug else 1


def path_of(target, bazel_bin):
    """The program that Bazel built for a target."""
    package, name = target.removeprefix("//").split(":")
    return str(bazel_bin / package / name)


def filled_in(argument, bazel_bin, flavour):
    """An argument of a program with what stands for something else replaced."""
    argument = re.sub(r"\{(//[^}]+)\}", lambda m: path_of(m.group(1), bazel_bin), argument)
    argument = argument.replace("{kernel}", kernel_name(flavour))
    if GUEST_IMAGE in argument:
        argument = argument.replace(GUEST_IMAGE, str(build.image_of(build.Flavour(stock=True))))
    return argument


def plan_line(program, bazel_bin, wanted, flavour):
    """What guest.sh reads."""
    arguments = [filled_in(argument, bazel_bin, flavour) for argument in program.arguments]
    path = path_of(program.target, bazel_bin)
    command = shlex.join([path, *arguments])
    if ":" in wanted:
        cases = wanted.split(":", 1)[1]
        command = f"GTEST_FILTER={shlex.quote(cases)} {command}"
    # Where Bazel would have started it.
    runfiles = pathlib.Path(path + ".runfiles") / "rehome"
    if runfiles.is_dir():
        command = f"cd {shlex.quote(str(runfiles))} && {command}"
    return f"{program.name} {program.seconds * slowness(flavour)} {command}\n"


def fresh_scratch(flavour):
    """An empty directory for the guest to write to, and for the reader to look at afterwards."""
    scratch = REPOSITORY / ".cache" / ("kernel" + flavour.suffix)
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    return scratch


def tail(path):
    """The end of a log, indented."""
    if not path.exists():
        return ""
    lines = path.read_text(errors="replace").splitlines()[-TAIL_LINES:]
    return "\n".join("    " + line for line in lines)


def report(scratch, programs, cases, log):
    """What a person wants to read: each verdict, and the logs of what failed."""
    for case in cases:
        print(f"{case.verdict:8}{case.name}" + (f": {case.detail}" if case.detail else ""),
              file=log)
    for name in [program.name for program in programs] + ["kernel"]:
        failed = any(case.verdict == results.FAILED and case.name.split(":")[0] == name
                     for case in cases)
        if failed:
            path = scratch / ("console.log" if name == "kernel" else f"{name}.log")
            print(f"--- the end of {path}\n{tail(path)}", file=log)
    print(f"logs: {scratch}", file=log)


def account(scratch, cases, flavour):
    """The JSON line."""
    kernel = scratch / "kernel"
    name = kernel.read_text().strip() if kernel.exists() else "did not boot" + flavour.suffix
    return {"kernel": name, **results.count(cases)}


def run_machine(scratch, programs, args, flavour):
    """Boots once and runs these programs, which want the same machine. The verdicts."""
    bazel_bin = pathlib.Path(args.bazel_bin).resolve()
    (scratch / "plan").write_text(
        "".join(plan_line(program, bazel_bin, args.filter, flavour) for program in programs))
    machine = boot.Machine(
        image=build.ensure_image(flavour),
        scratch=scratch,
        trees=(REPOSITORY, bazel_bin),
        memory_mib=max(program.memory_mib for program in programs),
        nested_paging=programs[0].paging == "nested",
    )
    seconds = slowness(flavour) * (BOOT_SECONDS + sum(program.seconds for program in programs))
    ended = boot.boot(machine, seconds, lambda: None)
    cases = results.collect(scratch, [program.name for program in programs])
    if not ended:
        # Also when every test had passed: whatever keeps the machine from its end is a finding.
        cases.append(results.Case("kernel", results.FAILED, f"no end after {seconds} s"))
    return cases


def by_machine(programs):
    """The programs of each machine, in the order of the list."""
    return [[program for program in programs if program.paging == paging]
            for paging in dict.fromkeys(program.paging for program in programs)]


def run_tests(args, flavour):
    """Boots a machine for each kind of paging and runs what was asked for. The exit status."""
    programs = listed(args, flavour)
    if not programs:
        print(f"kernel: kernel/tests.txt has no '{args.filter}' for this kernel", file=sys.stderr)
        return 2
    if any(GUEST_IMAGE in argument for program in programs for argument in program.arguments):
        build.ensure_image(build.Flavour(stock=True))
    log = sys.stderr if args.json else sys.stdout
    top = fresh_scratch(flavour)
    cases = []
    for group in by_machine(programs):
        scratch = top / f"{group[0].paging}-paging"
        scratch.mkdir()
        there = run_machine(scratch, group, args, flavour)
        report(scratch, group, there, log)
        cases += there
    if args.xml:
        results.write_junit(args.xml, cases)
    summary = account(scratch, cases, flavour)
    if args.json:
        print(json.dumps(summary))
    else:
        print("{kernel}: {passed} passed, {failed} failed, {skipped} skipped".format(**summary))
    return 1 if summary["failed"] else 0


def run_shell(args, flavour):
    """A shell in the machine."""
    trees = (REPOSITORY, pathlib.Path(args.bazel_bin).resolve())
    machine = boot.Machine(build.ensure_image(flavour), fresh_scratch(flavour), trees)
    return boot.boot_shell(machine)


def listed(args, flavour):
    """What of tests.txt is asked for."""
    programs = read_programs((REPOSITORY / "kernel/tests.txt").read_text())
    return choose(programs, args.filter, flavour)


def print_targets(args, flavour):
    """The Bazel targets that a test run needs."""
    programs = listed(args, flavour)
    print("\n".join(sorted({name for program in programs for name in program.targets()})))
    return 0


def main():
    """The command line."""
    parser = argparse.ArgumentParser(prog="./dev kernel", description=__doc__)
    parser.add_argument("what", choices=["test", "shell", "targets"])
    parser.add_argument("filter", nargs="?", default="",
                        help="part of a name in kernel/tests.txt, or NAME:CASES for googletest")
    parser.add_argument("--stock", action="store_true", help="on the kernel without the patches")
    parser.add_argument("--debug", action="store_true", help="with lockdep, KASAN, KVM_PROVE_MMU")
    parser.add_argument("--json", action="store_true", help="the account as a last line of JSON")
    parser.add_argument("--xml", help="write the verdicts there, as JUnit XML")
    parser.add_argument("--bazel-bin", default=REPOSITORY / "bazel-bin", help=argparse.SUPPRESS)
    args = parser.parse_intermixed_args()
    flavour = build.Flavour(args.stock, args.debug)
    try:
        actions = {"test": run_tests, "shell": run_shell, "targets": print_targets}
        return actions[args.what](args, flavour)
    except build.BuildError as error:
        print(f"kernel: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
