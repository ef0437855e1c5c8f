# SPDX-License-Identifier: Apache-2.0
"""What became of the tests that ran in the guest, read from the scratch directory they shared."""

import dataclasses
import json
import pathlib
import re
import xml.etree.ElementTree as ElementTree

PASSED, FAILED, SKIPPED = "PASSED", "FAILED", "SKIPPED"
# The exit status of a program that is no googletest and has nothing to say here.
SKIP_STATUS = 77
# What the kernel prints when something is wrong with it. lockdep's complaints are no warnings.
SPLAT = re.compile(
    r"Kernel panic|WARNING: |BUG: |KASAN: |Oops: |possible circular locking|"
    r"possible recursive locking|inconsistent lock state|suspicious RCU usage|"
    r"detected stalls|trying to register non-static key|"
    r"blocked for more than \d+ seconds|invalid wait context|bad unlock balance"
)


@dataclasses.dataclass(frozen=True)
class Case:
    """One verdict."""

    name: str
    verdict: str
    detail: str = ""


def gtest_verdict(case):
    """A googletest case's verdict."""
    if case.get("failures"):
        return FAILED
    return SKIPPED if case.get("result") == "SKIPPED" else PASSED


def gtest_detail(case):
    """What went wrong first."""
    failures = case.get("failures") or [{}]
    return failures[0].get("failure", "")


def gtest_cases(program, report):
    """The cases of a googletest report that were run."""
    return [
        Case(f"{program}:{suite['name']}.{case['name']}", gtest_verdict(case), gtest_detail(case))
        for suite in report.get("testsuites", [])
        for case in suite.get("testsuite", [])
        if case.get("status") == "RUN"
    ]


def program_cases(scratch, program):
    """The verdicts on one program."""
    status_file, report_file = scratch / f"{program}.status", scratch / f"{program}.json"
    if not status_file.exists() or not status_file.read_text().strip():
        return [Case(program, FAILED, "the machine ended before it did")]
    status = int(status_file.read_text())
    cases = []
    if report_file.exists():
        try:
            cases = gtest_cases(program, json.loads(report_file.read_text()))
        except ValueError:
            cases = []
    if status == 0 and report_file.exists() and not cases:
        return [Case(program, FAILED, "it ran no test")]
    if status == 0 and cases:
        return cases
    if status == SKIP_STATUS:
        return cases + [Case(program, SKIPPED)]
    if status == 0:
        return [Case(program, PASSED)]
    if any(case.verdict == FAILED for case in cases):
        return cases
    detail = "out of time" if status in (124, 137) else f"exit status {status}"
    return cases + [Case(program, FAILED, detail)]


def kernel_cases(scratch):
    """A failed case if the kernel complained or the machine did not come to its end."""
    console_file = scratch / "console.log"
    console = console_file.read_text(errors="replace") if console_file.exists() else ""
    splat = SPLAT.search(console)
    if splat:
        line = console[splat.start():].split("\n", 1)[0].strip()
        return [Case("kernel", FAILED, line)]
    if not (scratch / "finished").exists():
        return [Case("kernel", FAILED, "the machine did not finish; see console.log")]
    return []


def collect(scratch, programs):
    """All verdicts."""
    scratch = pathlib.Path(scratch)
    return [case for name in programs for case in program_cases(scratch, name)] + kernel_cases(
        scratch)


def count(cases):
    """passed, failed and skipped."""
    return {
        key: sum(case.verdict == verdict for case in cases)
        for key, verdict in [("passed", PASSED), ("failed", FAILED), ("skipped", SKIPPED)]
    }


def write_junit(path, cases):
    """The verdicts as ./dev test reads them."""
    suite = ElementTree.Element("testsuite", name="kernel")
    for case in cases:
        program, _, name = case.name.partition(":")
        element = ElementTree.SubElement(
            suite, "testcase", classname=program, name=name or program, status="run")
        if case.verdict == FAILED:
            ElementTree.SubElement(element, "failure", message=case.detail or "see its log")
        elif case.verdict == SKIPPED:
            ElementTree.SubElement(element, "skipped", message=case.detail or "no reason given")
    ElementTree.ElementTree(suite).write(path, encoding="utf-8", xml_declaration=True)
