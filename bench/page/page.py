#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""./dev bench page: runs the benchmarks and writes docs/performance: numbers, plots and a page."""

import argparse
import datetime
import json
import os
import pathlib
import signal
import sys

import bench_run
import page_figures as figures
import page_host
import page_plots
import page_text

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
BIN = ROOT / "bazel-bin/bench"
PEER_GUEST = BIN / "page/peer/peer-guest.elf"
# Hops of a guest whose page tables take seconds to make.
LARGE_RUNS = 10
# The fence comes first in so many hops, where it is no row of its own.
FENCED_RUNS = 50
# Registered with the daemon in the rows about that, the one that moves included.
REGISTERED_VMS = (10, 100, 1000)
# Of each way, before Rehome's hops of that shape and again after them.
PEER_RUNS = 10


def say(text):
    """A line about what is done, on stderr."""
    print("page:", text, file=sys.stderr)


def run(command):
    """A program's JSON, or None; its rows are not taken then."""
    say(" ".join(map(str, (pathlib.Path(command[0]).name, *command[1:]))))
    return bench_run.run(command, say)


def bench(name, *arguments):
    """A benchmark's JSON, or None."""
    return run([BIN / name, "--json", *arguments])


def add_peer(parts, shape, quick):
    """QEMU's hops of a shape, all with the accelerator of the first."""
    same = ["--accel", parts[0]["accelerator"], "--cpu", parts[0]["cpu"]] if parts else []
    vcpus, memory = shape
    part = run([sys.executable, "-B", pathlib.Path(__file__).parent / "qemu_peer.py", "--guest",
                PEER_GUEST, "--vcpus", vcpus, "--memory", memory, "--runs",
                2 if quick else PEER_RUNS, *same])
    if part:
        parts.append(part)


def blackout_plan(quick):
    """((vCPUs, MiB), hops, hops with the fence first) of each row."""
    for vcpus in figures.VCPUS:
        runs = 10 if quick else figures.TAIL_RUNS if vcpus == 1 else 100
        yield (vcpus, figures.SMALL_MIB), runs, min(runs, FENCED_RUNS)
    for memory in (1024,) if quick else (1024, figures.FENCE_MIB, figures.LARGE_MIB):
        runs = 2 if quick else LARGE_RUNS
        yield (1, memory), runs, runs if memory == figures.FENCE_MIB else 0


def collect_blackout(quick, memory_kind):
    """(rows, runs of the peer): a shape that QEMU moves too has its hops before and after ours."""
    rows, peers = [], []
    for shape, runs, fenced in blackout_plan(quick):
        beside = shape in figures.PEER_SHAPES
        if beside:
            add_peer(peers, shape, quick)
        rows.append(bench("blackout", "--vcpus", shape[0], "--memory", shape[1], "--runs", runs,
                          "--fenced-runs", fenced, *memory_kind))
        if beside:
            add_peer(peers, shape, quick)
    return [row for row in rows if row], peers


def collect_vms(quick, memory_kind):
    """The blackout with more and more VMs registered."""
    rows = [bench("blackout", "--vms", count - 1, "--vcpus", 1, "--runs", 5 if quick else 100,
                  "--floor-runs", 0, "--fenced-runs", 0, *memory_kind) for count in REGISTERED_VMS]
    return [row for row in rows if row]


def collect_steps(quick, memory_kind):
    """The blackout with and without each step, with each number of vCPUs."""
    size = ["--rounds", 2, "--hops", 2] if quick else []
    rows = [bench("steps", "--vcpus", vcpus, "--memory", figures.SMALL_MIB, *size, *memory_kind)
            for vcpus in figures.STEP_VCPUS]
    return [row for row in rows if row]


def collect_fences(quick):
    """The ways to fence; guest memory is a guest_memfd."""
    return bench("fence_ways", *(["--runs", 2, "--large-runs", 0] if quick else []))


def merged(parts):
    """All runs of the peer as one."""
    return {**parts[0], "rows": figures.merge_peers(parts)} if parts else None


def collect(quick, kvm_error, memfd):
    """Everything that can be measured here, in one run."""
    results = {"taken": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
               "machine": page_host.machine(), "kvm_error": kvm_error, "quick": quick,
               "memfd": memfd, "load_before": os.getloadavg()[0], "blackout": [],
               "vms": [], "refill": None, "steps": [], "fences": None}
    parts, memory_kind = [], ["--memfd"] * memfd
    total = ["--runs", 3 if quick else 50, *memory_kind]
    if kvm_error is None:
        results["blackout"], parts = collect_blackout(quick, memory_kind)
        results["vms"] = collect_vms(quick, memory_kind)
        results["refill"] = bench("refill", "--memory", figures.TOUCH_MIB, "--runs",
                                  1 if quick else 5, "--second-runs", 1 if quick else 3,
                                  *memory_kind)
        results["steps"] = collect_steps(quick, memory_kind)
        results["fences"] = collect_fences(quick) if not memfd else None
    else:
        for shape in figures.PEER_SHAPES:
            add_peer(parts, shape, quick)
        total += ["--kernel", "sim"]
    return {**results, "total_time": bench("total_time", *total), "peers": merged(parts),
            "throughput": bench("throughput", "--seconds", 1 if quick else 10),
            "load_after": os.getloadavg()[0]}


def read_results(directory):
    """The results that are there, or None."""
    path = directory / "results.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def write(results, directory):
    """Numbers, plots and page, in the place of those that are there."""
    directory.mkdir(parents=True, exist_ok=True)
    for name in page_plots.NAMES:
        (directory / name).unlink(missing_ok=True)
    goals = figures.all_goals(results)
    plots = page_plots.write(results, directory)
    (directory / "results.json").write_text(
        json.dumps({**results, "goals": goals}, indent=1) + "\n", encoding="utf-8")
    (directory / "README.md").write_text(page_text.page(results, goals, plots), encoding="utf-8")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a trial with few runs")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "docs/performance",
                        help="where to write; a page that is there is replaced")
    parser.add_argument("--memfd", action="store_true",
                        help="guest memory is a memfd, for a kernel before 6.18")
    arguments = parser.parse_args()
    # What is running is ended then, instead of left behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    kvm_error = page_host.kvm_error()
    why = figures.refusal(read_results(arguments.out), kvm_error, arguments.quick)
    if why is not None:
        print(f"page: {arguments.out} is left as it is: {why}. Give another directory with --out.",
              file=sys.stderr)
        return 1
    results = collect(arguments.quick, kvm_error, arguments.memfd)
    if kvm_error is None and not results["blackout"]:
        print("page: no blackout was measured; nothing is written", file=sys.stderr)
        return 1
    write(results, arguments.out)
    print(arguments.out / "README.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
