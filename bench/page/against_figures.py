# SPDX-License-Identifier: Apache-2.0
"""Whether the blackout got worse, from what old and new measured in turn. No I/O."""

import dataclasses
import math
import statistics

# How sure the interval of a ratio has to be.
CONFIDENCE = 0.95
# With fewer, rounds that all say the same may well do so by chance.
MIN_ROUNDS = 6
# A ratio above this is worse, if the noise does not explain it. Below it lies what a new place of
# the code in memory can do; a p99 is the scheduler's for the most part.
BOUNDS = {"p50": 1.05, "p99": 1.25}


class MissingField(Exception):
    """A benchmark's JSON does not have what is compared; the text names it."""


@dataclasses.dataclass(frozen=True)
class Program:
    """What measures the blackout on one backend."""

    name: str
    arguments: tuple  # pairs of option and value, which the caller's own replace
    flags: tuple  # as `arguments`, but only given if old and new both know them
    hops_option: str
    field: str  # of its JSON: an object with p50 and p99, in us
    phases: tuple  # path in its JSON to each phase's median


PROGRAMS = {
    # The shape that the page holds its goals against, without what `against` has no use for.
    "kvm": Program("blackout", (("--vcpus", "1"), ("--memory", "64")),
                   (("--floor-runs", "0"), ("--fenced-runs", "0")), "--runs", "rehome_us",
                   ("rehome_phases_p50_us",)),
    # As alike as the simulated kernel can: no MOVE, and the fence after the resume.
    "sim": Program("demo", (("--backend", "sim"), ("--vm-type", "default"), ("--fence", "after"),
                            ("--vcpus", "1"), ("--memory", "64")), (), "--hops", "blackout_us",
                   ("blackout_us", "phases")),
}
# Set by `against` itself.
RESERVED = ("--runs", "--floor-runs", "--fenced-runs", "--backend", "--json")


def option_names(arguments):
    """The options among ARGS, without their values."""
    return [argument.split("=", 1)[0] for argument in arguments if argument.startswith("-")]


def command_line(program, hops, arguments, known_by_both):
    """Options of a turn."""
    given = option_names(arguments)
    fixed = [pair for pair in program.arguments if pair[0] not in given]
    fixed += [pair for pair in program.flags if pair[0] in known_by_both]
    return [*(part for pair in fixed for part in pair), program.hops_option, str(hops),
            *arguments, "--json"]


def needed_options(program, arguments):
    """What a program must know to take part."""
    return [*(name for name, _ in program.arguments), program.hops_option, "--json",
            *option_names(arguments)]


def turn_of(result, program, hops):
    """p50, p99 and phases in a benchmark's JSON; raises MissingField."""
    counted = program.hops_option.lstrip("-")
    if result.get(counted) != hops:
        raise MissingField(f"{hops} {counted}")
    turn = {}
    for name in BOUNDS:
        value = (result.get(program.field) or {}).get(name)
        if not isinstance(value, (int, float)) or value <= 0:
            raise MissingField(f"{program.field}.{name}")
        turn[name] = value
    phases = result
    for key in program.phases:
        phases = phases.get(key) or {}
    return {**turn, "phases": phases}


def interval(ratios):
    """(low, high, coverage) for the median that the ratios are drawn around, whatever their
    distribution: the k-th from either end miss it only if fewer than k of them lie on one side."""
    ordered, count = sorted(ratios), len(ratios)
    outside, rank, missed = 0.0, 0, 1.0
    while rank < count // 2:
        outside += 2 * math.comb(count, rank) / 2 ** count
        if outside > 1 - CONFIDENCE:
            break
        rank, missed = rank + 1, outside
    if rank == 0:
        raise ValueError(f"at least {MIN_ROUNDS} rounds")
    return ordered[rank - 1], ordered[count - rank], 1 - missed


def verdict(ratio, low, high, bound):
    """One of the four answers."""
    if low > 1 and ratio > bound:
        return "worse"
    if low > 1:
        return "slower, within the bound"
    if high < 1:
        return "faster"
    return "no difference can be seen"


def spread(values):
    """The median of the rounds, and the rounds that are farthest from it."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def compare(name, rounds):
    """The row of a percentile over all rounds; each has a turn of `old` and one of `new`."""
    ratios = [each["new"][name] / each["old"][name] for each in rounds]
    low, high, coverage = interval(ratios)
    ratio = statistics.median(ratios)
    return {"old_us": spread([each["old"][name] for each in rounds]),
            "new_us": spread([each["new"][name] for each in rounds]),
            "ratio": spread(ratios), "interval": [low, high], "coverage": coverage,
            "bound": BOUNDS[name], "verdict": verdict(ratio, low, high, BOUNDS[name])}


def phase_medians(rounds):
    """{phase: (old, new)}, each the median of its rounds' medians, of the phases both have."""
    def median(side, phase):
        return statistics.median(each[side]["phases"][phase] for each in rounds)
    every = [each[side]["phases"] for each in rounds for side in ("old", "new")]
    return {phase: (median("old", phase), median("new", phase)) for phase in every[0]
            if all(phase in phases for phases in every)}


def answer(rounds):
    """The whole answer: a row for each percentile, and whether either is worse."""
    rows = {name: compare(name, rounds) for name in BOUNDS}
    return {**rows, "phases_p50_us": phase_medians(rounds),
            "worse": any(row["verdict"] == "worse" for row in rows.values())}


def explain(name, row):
    """The verdict of a row in one sentence."""
    low, high = row["interval"]
    text = (f"{name}: {row['verdict']}; the ratio is {row['ratio']['median']:.2f}, with "
            f"{row['coverage'] * 100:.0f} % confidence between {low:.2f} and {high:.2f}")
    if row["verdict"] == "no difference can be seen" and high > row["bound"]:
        text += (f", so that one beyond the bound of {row['bound']:.2f} can hide in it: more "
                 "--rounds or a quieter machine shows it")
    elif row["verdict"] in ("worse", "slower, within the bound"):
        text += f"; the bound is {row['bound']:.2f}"
    return text


def table(result):
    """What is printed."""
    loads = [each["load"] for each in result["rounds"]]
    lines = [f"old  {result['old']}", f"new  {result['new']}",
             f"on   {result['machine']}, {result['backend_text']}",
             f"{result['program']} {' '.join(result['arguments'])}: {len(loads)} rounds, load "
             f"average {min(loads):.1f} to {max(loads):.1f}", "",
             "blackout    old us (of the rounds)     new us (of the rounds)    ratio (of the rounds)"]
    def cell(values, digits):
        return (f"{values['median']:6.{digits}f} "
                f"({values['min']:.{digits}f} to {values['max']:.{digits}f})")
    for name in BOUNDS:
        row = result["answer"][name]
        lines.append(f"{name:9} {cell(row['old_us'], 0):26} {cell(row['new_us'], 0):26}"
                     f"{cell(row['ratio'], 2)}")
    phases = [f"{phase} {old:.0f} > {new:.0f}"
              for phase, (old, new) in result["answer"]["phases_p50_us"].items() if old or new]
    lines += ["", f"phases of the p50, old > new: {', '.join(phases)}"] if phases else []
    lines += ["", *(explain(name, result["answer"][name]) for name in BOUNDS),
              "WORSE" if result["answer"]["worse"] else "not worse"]
    return lines
