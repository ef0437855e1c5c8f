# SPDX-License-Identifier: Apache-2.0
"""What the performance page says, computed from what the benchmarks measured. No I/O."""

RATIO_GOAL = 1.15
BLACKOUT_GOAL_US = 300
TAIL_GOAL = 3
TAIL_RUNS = 500
MEMORY_GOAL = 1.1
TOUCH_GOAL_MS = 10
FENCE_GOAL_US = 1000
TOTAL_GOAL_MS = 100
THROUGHPUT_GOAL = 200
# By mode of qemu_peer.py: its name here, and the share of its p50 that the blackout may take.
PEER_GOALS = {"ignore-shared": ("QEMU x-ignore-shared", 0.5),
              "copying": ("QEMU's copying migration", 0.01)}
# (vCPUs, MiB) that QEMU moves as well; the peer guest has no memory beyond 2 GiB.
PEER_SHAPES = ((1, 64), (2, 64), (1, 1024))
VCPUS = (1, 2, 4, 8)
# With which the steps of the blackout are left out: some make a difference with two only.
STEP_VCPUS = (1, 2)
SMALL_MIB = 64
FENCE_MIB = 4096
LARGE_MIB = 8192
TOUCH_MIB = 1024
# Least share of the rate with the fewest VMs that still counts as flat.
FLAT_SHARE = 0.9
# The way of bench/refill.cc that the product takes by default.
WARM_WAY = "populated and warm"
NO_RESULT = "its benchmark gave no result"


def summary(samples):
    """p50, p99 and max by nearest rank, as bench/percentile.h has it."""
    ordered = sorted(samples)

    def percentile(percent):
        return ordered[max(-(-len(ordered) * percent // 100), 1) - 1]
    return {"p50": percentile(50), "p99": percentile(99), "max": ordered[-1]}


def slope(points):
    """Least-squares slope of (x, y) pairs; None with fewer than two different x."""
    xs = [x for x, _ in points]
    if len(set(xs)) < 2:
        return None
    mean_x = sum(xs) / len(xs)
    mean_y = sum(y for _, y in points) / len(points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / sum((x - mean_x) ** 2 for x in xs)


def goal(name, value, limit, unit, source=None, evidence="", at_least=False):
    """One row; `source` is the benchmark's result that says at what load it was taken. A value of
    None was not taken, and is neither met nor missed; `evidence` says why."""
    row = {"name": name, "value": value, "goal": limit, "unit": unit, "at_least": at_least,
           "load": source["load"] if source else None}
    if value is None:
        return {**row, "verdict": "not taken", "evidence": evidence or NO_RESULT}
    met = value >= limit if at_least else value <= limit
    return {**row, "verdict": "met" if met else "missed", "evidence": "" if met else evidence}


def without_kvm(goals, kvm_error):
    """The rows of a host without KVM: what was not taken has that for its reason."""
    if kvm_error is None:
        return goals
    return [{**row, "evidence": kvm_error} if row["verdict"] == "not taken" else row
            for row in goals]


def phases_text(row):
    """The medians of both sides' phases in one sentence."""
    def side(name):
        phases = row[f"{name}_phases_p50_us"].items()
        return ", ".join(f"{phase} {us:.0f}" for phase, us in phases if us)
    return f"Phase medians in us: Rehome {side('rehome')}; floor {side('floor')}."


def find(rows, vcpus, memory_mib):
    """The row of a shape, or None."""
    for row in rows:
        if (row["vcpus"], row["memory_mib"]) == (vcpus, memory_mib):
            return row
    return None


def slope_goal(rows):
    """Blackout per added vCPU, against the floor's."""
    small = [row for row in rows if row["memory_mib"] == SMALL_MIB and row["floor_us"]]
    slopes = {side: slope([(row["vcpus"], row[side]["p50"]) for row in small])
              for side in ("rehome_us", "floor_us")}
    # A slope that is not positive is noise, and no ratio of it means anything.
    usable = all(value is not None and value > 0 for value in slopes.values())
    measured = (f"Rehome {slopes['rehome_us']:.0f} us, floor {slopes['floor_us']:.0f} us for each "
                "vCPU." if usable else "the slopes are not positive" if small else "")
    return goal("blackout per added vCPU / the floor's",
                slopes["rehome_us"] / slopes["floor_us"] if usable else None, RATIO_GOAL, "x",
                small[-1] if small else None, measured)


def tail_goal(one):
    """p99 against p50 of one vCPU."""
    enough = one is not None and one["runs"] >= TAIL_RUNS
    name = f"blackout p99 / p50 over {TAIL_RUNS} hops"
    if not enough:
        return goal(name, None, TAIL_GOAL, "x", one,
                    f"it needs {TAIL_RUNS} hops" if one else "")
    return goal(name, one["rehome_us"]["p99"] / one["rehome_us"]["p50"], TAIL_GOAL, "x", one,
                f"The floor's own: {one['floor_us']['p99'] / one['floor_us']['p50']:.1f} x.")


def blackout_goals(rows):
    """What bench/blackout.cc is asked for."""
    goals = []
    for vcpus in VCPUS:
        row = find(rows, vcpus, SMALL_MIB)
        goals.append(goal(f"blackout p50 / the floor's p50, {vcpus} vCPU",
                          row and row["ratio_p50"], RATIO_GOAL, "x", row, row and phases_text(row)))
    one = find(rows, 1, SMALL_MIB)
    goals.append(goal("blackout p50, 1 vCPU, 64 MiB", one and one["rehome_us"]["p50"],
                      BLACKOUT_GOAL_US, "us", one, one and phases_text(one)))
    # From loop to loop of the guest: what a pause costs it, getting out of and into a vCPU included.
    goals.append(goal("gap that the guest sees, p50, 1 vCPU, 64 MiB",
                      one and one["rehome_guest_gap_us"]["p50"], BLACKOUT_GOAL_US, "us", one,
                      one and f"The floor's: {one['floor_guest_gap_us']['p50']:.0f} us."))
    goals.append(tail_goal(one))
    large = find(rows, 1, LARGE_MIB)
    goals.append(goal("blackout p50 with 8 GiB touched / with 64 MiB",
                      large["rehome_us"]["p50"] / one["rehome_us"]["p50"]
                      if large and one else None, MEMORY_GOAL, "x", large,
                      large and phases_text(large)))
    goals.append(slope_goal(rows))
    fence = find(rows, 1, FENCE_MIB)
    fence = fence if fence and fence["rehome_fence_before_resume_us"] else None
    goals.append(goal("FENCE_BEFORE_RESUME, added to the blackout p50, 4 GiB mapped",
                      fence and fence["rehome_fence_before_resume_us"]["p50"]
                      - fence["rehome_us"]["p50"], FENCE_GOAL_US, "us", fence,
                      fence and phases_text(fence)))
    return goals


def touch_goal(refill):
    """What the guest pays after the switch."""
    ways = {way["name"]: way["touch_ms"]["p50"] for way in refill["ways"]} if refill else {}
    taken = bool(refill) and refill["memory_mib"] == TOUCH_MIB
    return goal("touch all of 1 GiB after the switch, p50", ways.get(WARM_WAY) if taken else None,
                TOUCH_GOAL_MS, "ms", refill,
                "; ".join(f"{name} {ms:.1f} ms" for name, ms in ways.items()))


def total_goal(total):
    """A whole migration. On the simulated kernel it is no figure of the product."""
    taken = total if total and total["kernel"] == "kvm" else None
    steps = ", ".join(f"{name} {ms:.1f}" for name, ms in taken["steps_p50_ms"].items()) \
        if taken else ""
    return goal("migration from CLI start to done, without the VMM's own start, p50",
                taken and taken["without_start_ms"]["p50"], TOTAL_GOAL_MS, "ms", taken,
                taken and f"Medians of the daemon's steps in ms: {steps}.")


def peer_row(mode, vcpus, memory_mib, samples, load):
    """One way of one shape; `samples` has a list for each quantity."""
    return {"mode": mode, "vcpus": vcpus, "memory_mib": memory_mib,
            "runs": len(samples["stop_resume_us"]), "samples": samples, "load": load,
            **{name: summary(values) for name, values in samples.items()}}


def merge_peers(parts):
    """The rows of several runs of qemu_peer.py, those of one way and shape as one."""
    merged = {}
    for row in (row for part in parts for row in part["rows"]):
        key = (row["mode"], row["vcpus"], row["memory_mib"])
        before = merged.get(key)
        samples = row["samples"] if before is None else {
            name: before["samples"][name] + values for name, values in row["samples"].items()}
        merged[key] = peer_row(*key, samples, row["load"])
    return list(merged.values())


def peer_goals(rows, peers):
    """The blackout against QEMU's; no verdict where one has KVM and the other emulation."""
    goals = []
    for mode, (name, limit) in PEER_GOALS.items():
        for vcpus, memory_mib in PEER_SHAPES:
            title = f"blackout / {name}, STOP to RESUME, p50, {vcpus} vCPU, {memory_mib} MiB"
            ours = find(rows, vcpus, memory_mib)
            theirs = find([row for row in (peers["rows"] if peers else []) if row["mode"] == mode],
                          vcpus, memory_mib)
            if not ours or not theirs:
                goals.append(goal(title, None, limit, "x"))
            elif peers["accelerator"] != "kvm":
                goals.append({**goal(title, None, limit, "x", theirs),
                              "verdict": "not comparable",
                              "evidence": f"QEMU ran with {peers['accelerator']}: "
                                          f"{peers['why_not_kvm']}"})
            else:
                goals.append(goal(title, ours["rehome_us"]["p50"] / theirs["stop_resume_us"]["p50"],
                                  limit, "x", theirs,
                                  f"Rehome {ours['rehome_us']['p50']:.0f} us, "
                                  f"QEMU {theirs['stop_resume_us']['p50']:.0f} us."))
    return goals


def throughput_goals(throughput):
    """Rate of one daemon, and whether it depends on the number of VMs."""
    rounds = sorted(throughput["rounds"], key=lambda r: r["vms"]) if throughput else []
    evidence = ", ".join(f"{r['per_second']:.0f}/s with {r['vms']} VMs" for r in rounds)
    rates = [r["per_second"] for r in rounds]
    shares = "; ".join(
        f"with {r['vms']} VMs the daemon {r['daemon_user_ms'] + r['daemon_system_ms']:.0f}, the VMMs "
        f"that it started {r['vmms_ms']:.0f}, the clients {r['clients_ms']:.0f}, of "
        f"{r['busy_ms']:.0f} ms that all cores were busy" for r in rounds)
    profile = f" CPU time of each migration: {shares}; benchmarks.md says on what." if rounds else ""
    spans = bool(rounds) and rounds[0]["vms"] <= 10 and rounds[-1]["vms"] >= 1000
    last = rounds[-1] if rounds else None
    return [goal("migrations per second, one daemon, simulated kernel, the lowest",
                 min(rates) if rates else None, THROUGHPUT_GOAL, "/s", last,
                 evidence and f"{evidence}.{profile}", at_least=True),
            goal("rate with 1000 registered VMs / with 10 (flat)",
                 rates[-1] / rates[0] if spans else None, FLAT_SHARE, "x", last,
                 f"{evidence}." if spans else evidence and "it needs rounds with 10 and 1000 VMs",
                 at_least=True)]


def all_goals(results):
    """Every row of the page."""
    rows = results["blackout"]
    return without_kvm(
        blackout_goals(rows) + [touch_goal(results["refill"]), total_goal(results["total_time"])]
        + peer_goals(rows, results["peers"]), results["kvm_error"]
    ) + throughput_goals(results["throughput"])


def miss_text(row):
    """By how much a goal was missed."""
    by = (1 - row["value"] / row["goal"] if row["at_least"] else row["value"] / row["goal"] - 1)
    return f"Missed by {by * 100:.0f} %."


def refusal(old, kvm_error, quick):
    """Why results that are there must not be replaced by those of such a run; None if they may."""
    if old is None:
        return None
    if kvm_error is not None and old.get("kvm_error") is None and old.get("blackout"):
        return f"the figures there were taken with KVM, and {kvm_error}"
    if quick and not old.get("quick"):
        return "the figures there are no trial's"
    return None
