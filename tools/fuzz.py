#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs fuzzers that have been built and says what came of it; ./dev is its only caller.

The targets are read from Bazel's description of them (`bazel query --output=xml`): rules tagged
`fuzzer`, whose tag `fuzz-runs=N` bounds the short run. What is found is kept in FINDINGS/NAME.
"""

import argparse
import concurrent.futures
import dataclasses
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree

# Seconds for one input; the slowest take milliseconds, so a slower one is a finding.
INPUT_TIMEOUT_S = 20
# MiB. What a target needs is some 100; more is an input that makes its reader grow.
MEMORY_LIMIT_MB = 1024
# Seconds beyond what a run may take before it is ended from outside: a fuzzer that does not end is
# itself a finding.
GRACE_S = 120
# Of a short run. Its bound is the number of runs; this one is for a machine that is ten times as
# slow as those it was chosen on.
SHORT_RUN_LIMIT_S = 60
# Of a corpus that is kept, so that the tree stays small.
MAX_KEPT_BYTES = 16384

SANITIZERS = {
    "ASAN_OPTIONS": "detect_leaks=1:detect_stack_use_after_return=1:strict_init_order=1",
    "UBSAN_OPTIONS": "print_stacktrace=1",
}


@dataclasses.dataclass(frozen=True)
class Target:
    """One fuzzer."""

    name: str  # "config_fuzz"
    label: str  # "//daemon:config_fuzzer"
    runs: int

    def program(self, bazel_bin):
        """The program's path."""
        return pathlib.Path(bazel_bin, self.label[2:].replace(":", "/"))


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What came of one run."""

    target: Target
    ok: bool
    runs: int
    seconds: float
    log: str


def read_targets(xml_text):
    """The fuzzers in the output of `bazel query --output=xml`, by name."""
    targets = []
    for rule in ElementTree.fromstring(xml_text).iter("rule"):
        tags = [tag.get("value") for tag in rule.findall("list[@name='tags']/string")]
        runs = [int(tag.split("=")[1]) for tag in tags if tag.startswith("fuzz-runs=")]
        if "fuzzer" not in tags or len(runs) != 1:
            continue
        label = rule.get("name")
        targets.append(Target(label.split(":")[1][: -len("er")], label, runs[0]))
    return sorted(targets, key=lambda target: target.name)


def chosen(targets, names):
    """Those that are named; all, if none is. Ends the program for a name that there is not."""
    known = {target.name: target for target in targets}
    for name in names:
        if name not in known:
            print(f"no fuzz target {name!r}; there are:", *known, sep="\n  ", file=sys.stderr)
            sys.exit(2)
    return [known[name] for name in names] if names else targets


def runs_done(log):
    """How many inputs libFuzzer says that it ran; 0 if it did not come to say so."""
    found = re.findall(r"^Done (\d+) runs", log, re.MULTILINE)
    found += re.findall(r"^stat::number_of_executed_units: *(\d+)", log, re.MULTILINE)
    return int(found[-1]) if found else 0


def execute(command, limit_s):
    """Runs a fuzzer. Its exit status and what it said; a status of None is one that was ended."""
    try:
        done = subprocess.run(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, **SANITIZERS},
            timeout=limit_s + GRACE_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        output = (error.output or b"").decode(errors="replace")
        return None, output + f"\nstill running {GRACE_S} s after its time\n"
    return done.returncode, done.stdout.decode(errors="replace")


def fuzz(target, options):
    """One run, long or short."""
    findings = pathlib.Path(options.findings, target.name)
    findings.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="rehome-fuzz-") as scratch:
        work = pathlib.Path(options.work, target.name) if options.seconds else pathlib.Path(scratch)
        work.mkdir(parents=True, exist_ok=True)
        if options.seconds:
            limit_s, bounds = options.seconds, [f"-max_total_time={options.seconds}"]
        else:
            # The same inputs each time, as far as threads allow.
            limit_s = SHORT_RUN_LIMIT_S
            bounds = ["-seed=1", f"-runs={target.runs}", f"-max_total_time={limit_s}"]
        start = time.monotonic()
        status, log = execute(
            [target.program(options.bazel_bin)]
            + bounds
            + [
                f"-timeout={INPUT_TIMEOUT_S}",
                f"-rss_limit_mb={MEMORY_LIMIT_MB}",
                "-print_final_stats=1",
                f"-artifact_prefix={findings}/",
                work,
                pathlib.Path(options.corpus, target.name),
            ],
            limit_s,
        )
    runs = runs_done(log)
    # One that does not say how much it ran has not done what it was for.
    return Outcome(target, status == 0 and runs > 0, runs, time.monotonic() - start, log)


def important(log):
    """The lines of a failed run that say what is wrong."""
    marks = r"broken promise|ERROR: |runtime error|SUMMARY|Test unit written|still running|^ +#\d "
    lines = [line for line in log.splitlines() if re.search(marks, line)]
    return lines[:30] or log.splitlines()[-10:]


def write_junit(path, outcomes):
    """One test case for each target."""
    suite = ElementTree.Element("testsuite", name="fuzz")
    for outcome in outcomes:
        case = ElementTree.SubElement(
            suite, "testcase", classname="fuzz", name=outcome.target.name, status="run"
        )
        if not outcome.ok:
            failure = ElementTree.SubElement(case, "failure")
            failure.set("message", "\n".join(important(outcome.log)))
    ElementTree.ElementTree(suite).write(path, encoding="utf-8", xml_declaration=True)


def report(outcomes, options):
    """Prints the account; whether all went well."""
    for outcome in outcomes:
        mark = "ok  " if outcome.ok else "FAIL"
        print(f"{mark} {outcome.target.name:24} {outcome.runs:10} runs {outcome.seconds:7.1f} s")
        pathlib.Path(options.findings, outcome.target.name, "log").write_text(
            outcome.log, encoding="utf-8"
        )
        if not outcome.ok:
            print(*("    " + line for line in important(outcome.log)), sep="\n")
            print(f"    input and log: {options.findings}/{outcome.target.name}/")
            print(f"    again: ./dev fuzz {outcome.target.name} FILE")
    failed = sum(not outcome.ok for outcome in outcomes)
    total = sum(outcome.runs for outcome in outcomes)
    print(f"fuzzing: {len(outcomes)} targets, {total} runs, {failed} failed")
    return failed == 0 and bool(outcomes)


def replay(target, files, options):
    """Feeds single inputs to a target."""
    status, log = execute([target.program(options.bazel_bin)] + files, SHORT_RUN_LIMIT_S)
    print(log)
    return status == 0


def keep(target, options):
    """Makes the corpus in the tree the smallest that reaches what tree and work reach together."""
    corpus = pathlib.Path(options.corpus, target.name)
    with tempfile.TemporaryDirectory(prefix="rehome-fuzz-") as merged:
        # In this order: what is in the tree stays, where it does the same as something new.
        sources = [corpus, pathlib.Path(options.work, target.name)]
        sources = [source for source in sources if source.is_dir()]
        status, log = execute(
            [target.program(options.bazel_bin), "-merge=1", f"-timeout={INPUT_TIMEOUT_S}", merged]
            + sources,
            SHORT_RUN_LIMIT_S,
        )
        if status != 0:
            print(log)
            return False
        new = [path for path in pathlib.Path(merged).iterdir()
               if path.stat().st_size <= MAX_KEPT_BYTES]
        known = {path.read_bytes() for path in corpus.iterdir()}
        added = [path for path in new if path.read_bytes() not in known]
        # Smallest first: a corpus is read by people too.
        added.sort(key=lambda path: (path.stat().st_size, path.name))
        for path in added[: options.max_kept]:
            shutil.copyfile(path, corpus / path.name)
    print(f"{target.name}: {min(len(added), options.max_kept)} inputs added to {corpus}")
    return True


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--targets", required=True, help="file: bazel query --output=xml")
    parser.add_argument("--bazel-bin", required=True, help="where the programs are")
    parser.add_argument("--corpus", default="tests/fuzz_corpus")
    parser.add_argument("--work", required=True, help="corpora of long runs, kept between them")
    parser.add_argument("--findings", required=True, help="inputs that broke something")
    parser.add_argument("--seconds", type=int, default=0, help="of each target; 0: a short run")
    parser.add_argument("--xml", help="write the outcome there, as JUnit XML")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--keep", action="store_true", help="add what was found to the corpus")
    parser.add_argument("--max-kept", type=int, default=40, help="inputs that --keep adds")
    parser.add_argument("names", nargs="*", help="targets, or one target and files to feed it")
    options = parser.parse_args()

    targets = read_targets(pathlib.Path(options.targets).read_text(encoding="utf-8"))
    files = [name for name in options.names if os.path.isfile(name)]
    selected = chosen(targets, [name for name in options.names if name not in files])
    if files:
        return 0 if len(selected) == 1 and replay(selected[0], files, options) else 1
    if options.keep:
        return 0 if all([keep(target, options) for target in selected]) else 1
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        outcomes = list(pool.map(lambda target: fuzz(target, options), selected))
    if options.xml:
        write_junit(options.xml, outcomes)
    return 0 if report(outcomes, options) else 1


if __name__ == "__main__":
    sys.exit(main())
