#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Counts the test cases of one `bazel test` run and says what failed.

Reads Bazel's build event file rather than bazel-testlogs, which also holds results of targets that
were not part of this run. The last line is `N passed, N failed, N skipped`.
"""

import argparse
import dataclasses
import json
import os
import sys
import urllib.parse
import urllib.request
import xml.etree.ElementTree as ElementTree

PASSED, FAILED, SKIPPED = "passed", "failed", "skipped"

# Of a failure's text; all of it is in the target's log.
MAX_DETAIL_LINES = 16

WRITTEN_BY_BAZEL = "exited with error code"


@dataclasses.dataclass(frozen=True)
class Case:
    """One test case and how it ended."""

    target: str
    name: str
    outcome: str
    detail: str = ""


@dataclasses.dataclass
class Target:
    """What Bazel reported about one test target."""

    label: str
    tags: tuple = ()
    # (run, shard) -> (attempt, event): only the last attempt counts.
    results: dict = dataclasses.field(default_factory=dict)
    cases: list = dataclasses.field(default_factory=list)
    cached: bool = True


def read_cases(label, path):
    """The cases in one JUnit XML file, as googletest, unittest and Bazel itself write it."""
    cases = []
    for element in ElementTree.parse(path).getroot().iter("testcase"):
        suite, name = element.get("classname"), element.get("name", "?")
        full_name = f"{suite}.{name}" if suite else name
        problem = element.find("failure")
        if problem is None:
            problem = element.find("error")
        skip = element.find("skipped")
        if problem is not None:
            detail = problem.get("message") or problem.text or ""
            cases.append(Case(label, full_name, FAILED, detail))
        elif skip is not None or element.get("status") == "notrun":
            # googletest writes DISABLED_ tests as "notrun".
            reason = "disabled" if skip is None else skip.get("message") or "no reason given"
            cases.append(Case(label, full_name, SKIPPED, reason))
        else:
            cases.append(Case(label, full_name, PASSED))
    return cases


def read_events(path):
    """The test targets of a build event file, by label."""
    targets = {}
    try:
        with open(path, encoding="utf-8") as events:
            lines = [json.loads(line) for line in events if line.strip()]
    except (OSError, json.JSONDecodeError):
        # Bazel stopped before it wrote anything; its exit status says so.
        return targets
    for event in lines:
        identity = event.get("id", {})
        if "targetConfigured" in identity and "testSize" in event.get("configured", {}):
            label = identity["targetConfigured"]["label"]
            targets[label] = Target(label, tuple(event["configured"].get("tag", ())))
        elif "testResult" in identity and "testResult" in event:
            key = identity["testResult"]
            target = targets.setdefault(key["label"], Target(key["label"]))
            place = (key.get("run", 1), key.get("shard", 1))
            attempt = key.get("attempt", 1)
            if attempt >= target.results.get(place, (0, None))[0]:
                target.results[place] = (attempt, event["testResult"])
    return targets


def output_path(result, name):
    """The local path of one output of a test run, or None."""
    for output in result.get("testActionOutput", []):
        if output.get("name") == name and output.get("uri", "").startswith("file:"):
            return urllib.request.url2pathname(urllib.parse.urlparse(output["uri"]).path)
    return None


def tail(path):
    """The last lines of a log."""
    try:
        with open(path, encoding="utf-8", errors="replace") as log:
            return "".join(log.readlines()[-(MAX_DETAIL_LINES - 1) :])
    except (OSError, TypeError):
        return ""


def run_cases(label, result):
    """The cases of one run of a target; a run that failed has at least one failed case."""
    xml, log = output_path(result, "test.xml"), output_path(result, "test.log")
    status = result.get("status", "NO_STATUS")
    end = f"{status}; log: {log}\n{tail(log)}"
    cases = []
    if xml and os.path.exists(xml):
        try:
            cases = read_cases(label, xml)
        except ElementTree.ParseError:
            cases = [Case(label, "(result file)", FAILED, f"not XML: {xml}")]
    if status not in ("PASSED", "FLAKY") and not any(c.outcome == FAILED for c in cases):
        # A crash, a timeout, or a sanitizer's report after the last case.
        cases.append(Case(label, "(the program)", FAILED, end))
    # Bazel writes one case itself for a program that left no results.
    return [
        dataclasses.replace(case, detail=end) if WRITTEN_BY_BAZEL in case.detail else case
        for case in cases
    ]


def collect(targets):
    """Fills in the cases of all targets."""
    for target in targets.values():
        if not target.results:
            target.cases = [Case(target.label, "(build)", FAILED, "did not build or did not run")]
        for _, result in target.results.values():
            target.cases += run_cases(target.label, result)
            target.cached = target.cached and bool(result.get("cachedLocally"))


def read_extra(path):
    """The cases of a file that Bazel knows nothing of; a missing file is a failed case."""
    try:
        return read_cases("", path)
    except (OSError, ElementTree.ParseError) as error:
        return [Case("", path, FAILED, str(error))]


def bazel_failed_unseen(status, cases):
    """Whether Bazel failed for a reason that no test case shows, or nothing ran at all."""
    # 4: no test among the targets.
    unseen = status not in (0, 4) and not any(case.outcome == FAILED for case in cases)
    return unseen or not cases


def kvm_line(targets):
    """How many test cases ran against the real kernel."""
    tagged = [target for target in targets.values() if "kvm" in target.tags]
    cases = [case for target in tagged for case in target.cases]
    skipped = sum(case.outcome == SKIPPED for case in cases)
    return (
        f"real KVM: {len(cases) - skipped} test cases ran, {skipped} skipped"
        f" (targets tagged kvm: {len(tagged)})"
    )


def read_run(events, status):
    """The targets of one run of Bazel, with their cases, and what Bazel itself has to complain of."""
    targets = read_events(events)
    collect(targets)
    cases = [case for target in targets.values() for case in target.cases]
    complaints = []
    if bazel_failed_unseen(status, cases):
        complaints = [Case("bazel", "(build)", FAILED, f"exit status {status}")]
    return targets, cases, complaints


def also_line(name, targets, cases):
    """How many test cases ran once more in another way."""
    return f"under {name}: {len(cases)} test cases ran (targets: {len(targets)})"


def print_cases(title, cases):
    """Lists cases with the beginning of what each said."""
    for case in cases:
        print(f"{title} {case.target} {case.name}")
        for line in case.detail.strip().splitlines()[:MAX_DETAIL_LINES]:
            print(f"    {line}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", required=True, help="Bazel's build event file (JSON)")
    parser.add_argument("--bazel-status", type=int, required=True, help="Bazel's exit status")
    parser.add_argument("--xml", action="append", default=[], help="more results, as JUnit XML")
    parser.add_argument(
        "--also",
        action="append",
        nargs=3,
        default=[],
        metavar=("NAME", "EVENTS", "STATUS"),
        help="another run whose cases count, such as the same tests under a sanitizer",
    )
    options = parser.parse_args()

    targets, cases, complaints = read_run(options.events, options.bazel_status)
    for path in options.xml:
        cases += read_extra(path)
    cases += complaints
    also_lines = []
    for name, events, status in options.also:
        more_targets, more_cases, complaints = read_run(events, int(status))
        also_lines.append(also_line(name, more_targets, more_cases))
        cases += [
            dataclasses.replace(case, target=f"{case.target} ({name})")
            for case in more_cases + complaints
        ]

    by_outcome = {outcome: [] for outcome in (PASSED, FAILED, SKIPPED)}
    for case in cases:
        by_outcome[case.outcome].append(case)
    print_cases("SKIPPED", by_outcome[SKIPPED])
    print_cases("FAILED", by_outcome[FAILED])
    ran = [target for target in targets.values() if target.results]
    cached = sum(target.cached for target in ran)
    print(f"test targets: {len(ran) - cached} ran, {cached} unchanged since they passed last")
    print(kvm_line(targets))
    print(*also_lines, sep="\n", end="\n" if also_lines else "")
    print(", ".join(f"{len(by_outcome[outcome])} {outcome}" for outcome in by_outcome))
    return 1 if by_outcome[FAILED] else 0


if __name__ == "__main__":
    sys.exit(main())
