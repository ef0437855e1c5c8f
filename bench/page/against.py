#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""./dev bench against REV: did the blackout get worse than in commit REV?

Builds REV beside the working tree and lets both measure in turn, on this machine and at the same
time. Exit codes: 0 not worse, 1 worse beyond the noise and the bound, 2 nothing was compared.
"""

import argparse
import json
import os
import pathlib
import re
import signal
import subprocess
import sys

import against_figures as figures
import against_tree
import bench_run
import page_host
from against_tree import Refusal

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
# Rounds that are no use to anybody: a day's worth.
MAX_ROUNDS = 200
MAX_HOPS = 1000
HELP_TIMEOUT_S = 60


def say(text):
    """A line about what is done, on stderr."""
    print("against:", text, file=sys.stderr, flush=True)


def options_of(path):
    """The options that a program's --help names."""
    try:
        text = subprocess.run([path, "--help"], stdout=subprocess.PIPE, text=True, check=False,
                              timeout=HELP_TIMEOUT_S).stdout
    except (OSError, subprocess.TimeoutExpired):
        text = ""
    return set(re.findall(r"(?<![\w-])--[a-z][\w-]*", text))


def common_options(paths, names, program, arguments):
    """The options that both know; refuses if one lacks what is needed."""
    known = {side: options_of(path) for side, path in paths.items()}
    given = figures.option_names(arguments)
    for option in figures.needed_options(program, arguments):
        for side in ("new", "old"):
            if option not in known[side]:
                way = "leave it out" if option in given else "give a commit that has it"
                raise Refusal(f"the {program.name} of {names[side]} knows no {option}; {way}")
    return known["old"] & known["new"]


def take_turn(path, name, program, options, hops):
    """One side's figures of a round."""
    result = bench_run.run([path, *options], say)
    if result is None:
        raise Refusal(f"the {program.name} of {name} gave no result; run `{path} "
                      f"{' '.join(options)}` to see why")
    try:
        return figures.turn_of(result, program, hops)
    except figures.MissingField as missing:
        raise Refusal(f"the {program.name} of {name} says no {missing}; give a commit that "
                      "measures it") from missing


def measure(paths, names, program, options, arguments):
    """All rounds. Who is first changes from round to round, so that a drift of the machine, and
    what the one leaves for the other, cancel."""
    rounds = []
    for number in range(arguments.rounds):
        order = ("old", "new") if number % 2 == 0 else ("new", "old")
        turns = {side: take_turn(paths[side], names[side], program, options, arguments.hops)
                 for side in order}
        rounds.append({"first": order[0], **turns, "load": os.getloadavg()[0]})
        old, new = turns["old"], turns["new"]
        say(f"round {number + 1} of {arguments.rounds}, {order[0]} first: p50 old {old['p50']:.0f} "
            f"new {new['p50']:.0f} us, p99 old {old['p99']:.0f} new {new['p99']:.0f} us, load "
            f"{rounds[-1]['load']:.1f}")
    return rounds


def backend_here(wanted):
    """(backend, what to say of it)."""
    error = page_host.kvm_error()
    if wanted == "kvm" and error is not None:
        raise Refusal(f"{error}; leave --backend out")
    if wanted == "sim" or error is not None:
        why = "as asked for" if wanted else error
        return "sim", f"on the SIMULATED kernel ({why}): no figure of hardware"
    return "kvm", "on its KVM"


def compare(root, arguments, extra):
    """The result of a run, as --json has it."""
    commit = against_tree.resolve(root, arguments.rev)
    backend, backend_text = backend_here(arguments.backend)
    program = figures.PROGRAMS[backend]
    against_tree.require_source(root, arguments.rev, commit, f"bench/{program.name}.cc")
    head, changed = against_tree.working_tree(root)
    old = against_tree.short(root, commit)
    names = {"old": arguments.rev if arguments.rev == old else f"{arguments.rev} ({old})",
             "new": f"the working tree ({head}{', with changes' if changed else ''})"}
    with against_tree.Lock(root):
        paths = {"new": against_tree.build(root, program.name, names["new"], "mend it first")}
        tree = against_tree.check_out(root, commit)
        try:
            paths["old"] = against_tree.build(tree, program.name, names["old"],
                                              f"see {tree}/.cache/log, or give another commit")
        finally:
            against_tree.leave(tree)
        both = common_options(paths, names, program, extra)
        options = figures.command_line(program, arguments.hops, extra, both)
        say(f"{backend_text}: {program.name} {' '.join(options)}")
        rounds = measure(paths, names, program, options, arguments)
    return {**names, "old_commit": commit, "backend": backend, "backend_text": backend_text,
            "machine": page_host.machine(), "program": program.name, "arguments": options,
            "hops": arguments.hops, "rounds": rounds, "answer": figures.answer(rounds)}


def number_of_rounds(text):
    """An even number, so that each side is first as often as the other."""
    value = int(text)
    if not figures.MIN_ROUNDS <= value <= MAX_ROUNDS or value % 2:
        raise argparse.ArgumentTypeError(
            f"an even number from {figures.MIN_ROUNDS} to {MAX_ROUNDS}")
    return value


def number_of_hops(text):
    """Of each side, in each round."""
    value = int(text)
    if not 1 <= value <= MAX_HOPS:
        raise argparse.ArgumentTypeError(f"a number from 1 to {MAX_HOPS}")
    return value


def parse(argv):
    """(options, ARGS for the benchmark)."""
    parser = argparse.ArgumentParser(
        prog="./dev bench against", allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter, description=__doc__,
        usage="%(prog)s REV [--rounds N] [--hops N] [--backend kvm|sim] [--json] [ARGS]",
        epilog="ARGS: of `./dev bench blackout`; without KVM of `./dev demo`, as --vcpus, --memory")
    parser.add_argument("rev", metavar="REV", help="the old commit; new is the working tree")
    parser.add_argument("--rounds", type=number_of_rounds, default=10,
                        help="a turn of each side in each (10)")
    parser.add_argument("--hops", type=number_of_hops, default=20, help="in each turn (20)")
    parser.add_argument("--backend", choices=tuple(figures.PROGRAMS),
                        help="kvm where there is one, else the simulated kernel")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    if not argv or (argv[0].startswith("-") and argv[0] not in ("-h", "--help")):
        parser.error("REV comes first")
    options, extra = parser.parse_known_args(argv)
    for name in figures.option_names(extra):
        if name in figures.RESERVED:
            parser.error(f"{name} is not for ARGS; --rounds and --hops say how much is measured")
    return options, extra


def main(argv, root=ROOT):
    """The exit code."""
    options, extra = parse(argv)
    try:
        result = compare(root, options, extra)
    except Refusal as refusal:
        say(refusal)
        return 2
    except KeyboardInterrupt:
        say("stopped; nothing is compared")
        return 2
    # Python's own exit code for it would say "worse".
    except Exception as error:  # pylint: disable=broad-except
        say(f"nothing is compared: {type(error).__name__}: {error}")
        return 2
    print("\n".join(figures.table(result)))
    if options.json:
        print(json.dumps(result))
    return 1 if result["answer"]["worse"] else 0


if __name__ == "__main__":
    # What is running is ended then, instead of left behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(2))
    sys.exit(main(sys.argv[1:]))
