# SPDX-License-Identifier: Apache-2.0
"""What the performance page says, computed from what the benchmarks measured. No I/O."""

RATIO_GOAL = 1.15
BLACKOUT_GOAL_US = 300
TAIL_GOAL = 3
TAIL_RUNS = 500
MEMORY_GOAL = 1.1
TOUCH_GOAL_MS = 10
FENCE_GOAL_US = 1000
THROUGHPUT_GOAL = 200
SMALL_MIB = 64
FENCE_MIB = 4096
LARGE_MIB = 8192
TOUCH_MIB = 1024
# Least share of the rate with the fewest VMs that still counts as flat.
FLAT_SHARE = 0.9
# The way of bench/refill.cc that the product takes by default.
WARM_WAY = "populated and warm"


def slope(points):
    """Least-squares slope of (x, y) pairs; None with fewer than two different x."""
    xs = [x for x, _ in points]
    if len(set(xs)) < 2:
        return None
    mean_x = sum(xs) / len(xs)
    mean_y = sum(y for _, y in points) / len(points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / sum((x - mean_x) ** 2 for x in xs)


def goal(name, value, limit, unit, evidence="", at_least=False):
    """One row. A value of None was not taken, and is neither met nor missed."""
    row = {"name": name, "value": value, "goal": limit, "unit": unit, "at_least": at_least}
    if value is None:
        return {**row, "verdict": "not taken", "evidence": evidence}
    met = value >= limit if at_least else value <= limit
    return {**row, "verdict": "met" if met else "missed", "evidence": "" if met else evidence}


def phases_text(row):
    """The medians of both sides' phases in one sentence."""
    def side(name):
        phases = row[f"{name}_phases_p50_us"].items()
        return ", ".join(f"{phase} {us:.0f}" for phase, us in phases if us)
    return f"Phase medians in us: Rehome {side('rehome')}; floor {side('floor')}."


def find(rows, vcpus, memory_mib):
    for row in rows:
        if (row["vcpus"], row["memory_mib"]) == (vcpus, memory_mib):
            return row
    return None


def blackout_goals(rows):
    goals = []
    for vcpus in (1, 2, 4, 8):
        row = find(rows, vcpus, SMALL_MIB)
        goals.append(goal(f"blackout p50 / the floor's p50, {vcpus} vCPU",
                          row and row["ratio_p50"], RATIO_GOAL, "x", row and phases_text(row)))
    one = find(rows, 1, SMALL_MIB)
    goals.append(goal("blackout p50, 1 vCPU, 64 MiB, quiet machine", one and one["rehome_us"]["p50"],
                      BLACKOUT_GOAL_US, "us", one and phases_text(one)))
    enough = one is not None and one["runs"] >= TAIL_RUNS
    goals.append(goal("blackout p99 / p50 over 500 hops, quiet machine",
                      one["rehome_us"]["p99"] / one["rehome_us"]["p50"] if enough else None,
                      TAIL_GOAL, "x",
                      f"The floor's own: {one['floor_us']['p99'] / one['floor_us']['p50']:.1f} x."
                      if enough else f"Needs {TAIL_RUNS} hops."))
    large = find(rows, 1, LARGE_MIB)
    goals.append(goal("blackout p50 with 8 GiB touched / with 64 MiB",
                      large["rehome_us"]["p50"] / one["rehome_us"]["p50"]
                      if large and one else None, MEMORY_GOAL, "x", large and phases_text(large)))
    slopes = {side: slope([(row["vcpus"], row[side]["p50"]) for row in rows
                           if row["memory_mib"] == SMALL_MIB]) for side in ("rehome_us", "floor_us")}
    # A slope that is not positive is noise, and no ratio of it means anything.
    usable = all(value is not None and value > 0 for value in slopes.values())
    goals.append(goal("blackout per added vCPU / the floor's",
                      slopes["rehome_us"] / slopes["floor_us"] if usable else None, RATIO_GOAL, "x",
                      f"Rehome {slopes['rehome_us']:.0f} us, floor {slopes['floor_us']:.0f} us "
                      "for each vCPU." if usable else "A slope is not positive."))
    fence = find(rows, 1, FENCE_MIB)
    goals.append(goal("FENCE_BEFORE_RESUME, added to the blackout p50, 4 GiB mapped",
                      fence and fence["rehome_fence_before_resume_us"]["p50"]
                      - fence["rehome_us"]["p50"], FENCE_GOAL_US, "us", fence and phases_text(fence)))
    return goals


def touch_goal(refill):
    ways = {way["name"]: way["touch_ms"]["p50"] for way in refill["ways"]} if refill else {}
    taken = bool(refill) and refill["memory_mib"] == TOUCH_MIB
    return goal("touch all of 1 GiB after the switch, p50", ways.get(WARM_WAY) if taken else None,
                TOUCH_GOAL_MS, "ms", "; ".join(f"{name} {ms:.1f} ms" for name, ms in ways.items()))


def throughput_goals(throughput):
    rounds = sorted(throughput["rounds"], key=lambda r: r["vms"]) if throughput else []
    evidence = "; ".join(f"{r['vms']} VMs: {r['per_second']:.0f}" for r in rounds)
    rates = [r["per_second"] for r in rounds]
    spans = bool(rounds) and rounds[0]["vms"] <= 10 and rounds[-1]["vms"] >= 1000
    return [goal("migrations per second, one daemon, simulated kernel, the lowest",
                 min(rates) if rates else None, THROUGHPUT_GOAL, "/s", evidence, at_least=True),
            goal("rate with most registered VMs / with fewest (flat)",
                 rates[-1] / rates[0] if spans else None, FLAT_SHARE, "x", evidence, at_least=True)]


def not_taken():
    """Goals that this program has no measurement for."""
    why = "No measurement of this program covers it yet."
    return [goal("migration from CLI start to done, without the VMM's own start, p50",
                 None, 100, "ms", why),
            goal("blackout / QEMU x-ignore-shared, STOP to RESUME", None, 0.5, "x", why),
            goal("blackout / QEMU's copying migration, STOP to RESUME", None, 0.01, "x", why)]


def miss_text(row):
    """By how much a goal was missed."""
    by = (1 - row["value"] / row["goal"] if row["at_least"] else row["value"] / row["goal"] - 1)
    return f"Missed by {by * 100:.0f} %."
