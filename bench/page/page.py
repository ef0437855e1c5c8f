#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs the benchmarks and writes docs/performance: results.json, plots and a page (./dev bench page)."""

import argparse
import datetime
import json
import os
import pathlib
import platform
import subprocess
import sys

import page_figures as figures
import page_plots

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
# No benchmark of the page takes longer on a busy machine; one that hangs ends the run.
BENCH_TIMEOUT_S = 1800
VCPUS = (1, 2, 4, 8)
# Hops of a guest whose page tables take seconds to make.
LARGE_RUNS = 10


def parse_json(output):
    """The last line of a benchmark's output, or None if it has none."""
    lines = output.strip().splitlines()
    return json.loads(lines[-1]) if lines and lines[-1].startswith("{") else None


def run_bench(name, *arguments):
    """A benchmark's JSON; None, with the reason on stderr, if it failed or left everything out."""
    program = ROOT / "bazel-bin/bench" / name
    if not program.exists():
        print(f"page: {name} is not built; its rows are not taken", file=sys.stderr)
        return None
    command = [str(program), "--json", *map(str, arguments)]
    print("page:", name, *arguments, file=sys.stderr)
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False,
                              timeout=BENCH_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        print(f"page: {name} did not end in {BENCH_TIMEOUT_S} s", file=sys.stderr)
        return None
    result = parse_json(done.stdout) if done.returncode == 0 else None
    if result is None:
        print(f"page: {name} gave no result, exit code {done.returncode}", file=sys.stderr)
    return result


def cpu_model():
    for line in pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.split(": ", 1)[1]
    return "unknown CPU"


def collect(quick):
    """Everything that is measured, in one run."""
    load_before = os.getloadavg()[0]
    rows = []
    for vcpus in VCPUS:
        runs = 10 if quick else figures.TAIL_RUNS if vcpus == 1 else 100
        rows.append(run_bench("blackout", "--vcpus", vcpus, "--memory", figures.SMALL_MIB,
                              "--runs", runs))
    for memory in (1024,) if quick else (1024, figures.FENCE_MIB, figures.LARGE_MIB):
        rows.append(run_bench("blackout", "--memory", memory, "--runs", 2 if quick else LARGE_RUNS))
    refill = run_bench("refill", "--memory", figures.TOUCH_MIB, "--runs", 1 if quick else 5)
    return {"taken": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "machine": f"{cpu_model()}, {os.cpu_count()} CPUs, Linux {platform.release()}",
            "quick": quick, "load_before": load_before, "blackout": [row for row in rows if row],
            "refill": refill, "throughput": run_bench("throughput"),
            "load_after": os.getloadavg()[0]}


def goals_of(results):
    return (figures.blackout_goals(results["blackout"]) + [figures.touch_goal(results["refill"])]
            + figures.throughput_goals(results["throughput"]) + figures.not_taken())


def page(results, goals, plots):
    """The page's text."""
    lines = ["# Performance", "",
             "Written by `./dev bench page`; do not edit. Numbers: results.json. How each is taken:",
             "../benchmarks.md.", "",
             f"{results['taken']}, {results['machine']}; load average {results['load_before']:.1f} "
             f"before, {results['load_after']:.1f} after."]
    if results["quick"]:
        lines += ["", "**A trial with few runs: no figure here is a result.**"]
    lines += ["", "| what | measured | goal | |", "|---|---:|---:|---|"]
    for row in goals:
        value = "-" if row["value"] is None else f"{row['value']:.2f} {row['unit']}"
        sign = ">=" if row["at_least"] else "<="
        lines.append(f"| {row['name']} | {value} | {sign} {row['goal']} {row['unit']} "
                     f"| {row['verdict']}{' (trial)' * results['quick']} |")
    for row in goals:
        if row["verdict"] == "missed":
            lines += ["", f"**{row['name']}**: {figures.miss_text(row)} {row['evidence']}"]
    lines += ["", "Floor and Rehome move the same guest, in turns, in one run, under KVM. The floor",
              "has no daemon, no agent and no fence, and creates everything beforehand. No other",
              "hypervisor was measured."]
    for name, title in plots:
        lines += ["", f"![{title}]({name})"]
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a trial with few runs")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "docs/performance")
    arguments = parser.parse_args()
    results = collect(arguments.quick)
    if not results["blackout"]:
        print("page: no blackout was measured; nothing is written", file=sys.stderr)
        return 1
    arguments.out.mkdir(parents=True, exist_ok=True)
    goals = goals_of(results)
    plots = page_plots.write(results, arguments.out)
    (arguments.out / "results.json").write_text(
        json.dumps({**results, "goals": goals}, indent=1) + "\n", encoding="utf-8")
    (arguments.out / "README.md").write_text(page(results, goals, plots), encoding="utf-8")
    print(arguments.out / "README.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
