# SPDX-License-Identifier: Apache-2.0
"""The plots of the performance page, as PNG."""

import matplotlib

matplotlib.use("agg")
from matplotlib import pyplot  # pylint: disable=wrong-import-position

SMALL_MIB = 64
SIDES = (("floor", "floor"), ("rehome", "Rehome"))
# Above the highest point, for what stands there.
HEADROOM = 1.15
LEGEND_ROOM = 1.3
# Of 8 by 4 inches: sharp on a page, and some 30 KiB.
DOTS_PER_INCH = 110
# Of every plot that there may be, so that a page leaves none of an older one's.
NAMES = ("phases.png", "vcpus.png", "memory.png", "vms.png", "touch.png", "second.png",
         "steps.png", "peers.png", "throughput.png")
# The phases in the order of the blackout, as both sides name them.
PHASES = ("stop_vcpus", "save_state", "claim", "move", "restore_state", "fence", "resume")


def from_zero(axes, values, headroom=HEADROOM):
    """The y axis, so that lengths can be compared."""
    axes.set_ylim(0, max(values) * headroom)


def phases(axes, rows):
    """One bar of stacked phase medians for each side of each row."""
    bars = [(f"{title}\n{row['vcpus']} vCPU", row[f"{side}_phases_p50_us"])
            for row in rows for side, title in SIDES]
    base = [0.0] * len(bars)
    for index, phase in enumerate(PHASES):
        heights = [bar.get(phase, 0) for _, bar in bars]
        if any(heights):
            axes.bar(range(len(bars)), heights, bottom=base, label=phase.replace("_", " "),
                     color=f"C{index}")
        base = [low + high for low, high in zip(base, heights)]
    for place, top in enumerate(base):
        axes.annotate(f"{top:.0f}", (place, top), ha="center", va="bottom", fontsize=8)
    from_zero(axes, base)
    axes.set_xticks(range(len(bars)), [label for label, _ in bars], fontsize=8)
    axes.set_ylabel("median of each phase, us")
    axes.legend(fontsize=8)


def lines(axes, rows, key, label):
    """The medians of both sides against a size of the guest."""
    for side, title in SIDES:
        axes.plot([r[key] for r in rows], [r[f"{side}_us"]["p50"] for r in rows], "o-", label=title)
    axes.set_xscale("log", base=2)
    axes.set_xticks([r[key] for r in rows], [str(r[key]) for r in rows])
    from_zero(axes, [r[f"{side}_us"]["p50"] for r in rows for side, _ in SIDES])
    axes.set_xlabel(label)
    axes.set_ylabel("blackout p50, us")
    axes.legend(loc="best")


def vms(axes, rows):
    """Median and tail against the number of registered VMs."""
    counts = [row["registered_vms"] for row in rows]
    for name in ("p50", "p99"):
        axes.plot(counts, [row["rehome_us"][name] for row in rows], "o-", label=f"Rehome, {name}")
    axes.set_xscale("log")
    axes.set_xticks(counts, [str(count) for count in counts])
    axes.minorticks_off()
    from_zero(axes, [row["rehome_us"]["p99"] for row in rows])
    axes.set_xlabel("registered VMs")
    axes.set_ylabel("blackout, us")
    axes.legend(loc="best")


def touch(axes, refill):
    """The ways differ by orders of magnitude: the number stands at each bar."""
    bars = axes.barh([way["name"] for way in refill["ways"]],
                     [way["touch_ms"]["p50"] for way in refill["ways"]])
    axes.bar_label(bars, fmt="%.1f ms", padding=3)
    axes.margins(x=0.2)
    axes.set_xlabel(f"time to touch {refill['memory_mib']} MiB after the move, p50, ms")


def second(axes, seconds):
    """p99 before and after, logarithmic: orders of magnitude lie between them."""
    labels = [f"{row['name']}, {row['vcpus']} vCPU" for row in seconds]
    for offset, side, label in ((0.2, "before_us", "second before"),
                                (-0.2, "after_us", "first second after")):
        bars = axes.barh([place + offset for place in range(len(labels))],
                         [row[side]["p99"] for row in seconds], height=0.4, label=label)
        axes.bar_label(bars, fmt="%.2f", padding=3, fontsize=8)
    axes.set_xscale("log")
    axes.margins(x=0.2)
    axes.set_yticks(range(len(labels)), labels, fontsize=8)
    axes.set_xlabel("p99 of a round of the guest, us")
    axes.legend(fontsize=8)


def steps(axes, results):
    """The blackout without each step, and a line where it is with all."""
    places, labels = 0, []
    for index, result in enumerate(results):
        color, start = f"C{index}", places
        for step in result["steps"]:
            kind = "without" if step["taken"] else "and"
            labels.append(f"{kind} {step['name']}, {result['vcpus']} vCPU")
            bars = axes.barh(places, step["changed"]["blackout_us"]["p50"], color=color)
            axes.bar_label(bars, fmt="%.0f", padding=3, fontsize=8)
            places += 1
        both = result["all_steps"]["blackout_us"]["p50"]
        axes.plot([both, both], [start - 0.5, places - 0.5], "k--", lw=1)
        axes.annotate(f"as it is: {both:.0f}", (both, start - 0.5), fontsize=8, ha="right",
                      va="bottom", color="k")
    axes.set_yticks(range(places), labels, fontsize=7)
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.set_xlabel("blackout p50, us; dashed: as the product is")


def peers(axes, results):
    """Logarithmic: three orders of magnitude. Rehome only where both ran on KVM."""
    bars = []
    for row in results["peers"]["rows"]:
        shape = f"{row['vcpus']} vCPU, {row['memory_mib']} MiB"
        bars.append((f"QEMU {row['mode']}, {shape}", row["stop_resume_us"]["p50"] / 1000, "C1"))
    if results["peers"]["accelerator"] == "kvm":
        shapes = {(row["vcpus"], row["memory_mib"]) for row in results["peers"]["rows"]}
        bars += [(f"Rehome, {row['vcpus']} vCPU, {row['memory_mib']} MiB",
                  row["rehome_us"]["p50"] / 1000, "C0") for row in results["blackout"]
                 if (row["vcpus"], row["memory_mib"]) in shapes]
    drawn = axes.barh([name for name, _, _ in bars], [ms for _, ms, _ in bars],
                      color=[colour for _, _, colour in bars])
    axes.bar_label(drawn, fmt="%.2f ms", padding=3, fontsize=8)
    axes.set_xscale("log")
    lengths = [ms for _, ms, _ in bars]
    axes.set_xlim(min(lengths) / 4, max(lengths) * 4)
    axes.invert_yaxis()
    axes.tick_params(axis="y", labelsize=8)
    axes.set_xlabel(f"p50, ms (QEMU: STOP to RESUME, {results['peers']['accelerator']})")


def throughput(axes, rounds):
    """The rate, and the daemon's CPU time for each migration."""
    counts = [row["vms"] for row in rounds]
    places = range(len(counts))
    axes.plot(places, [row["per_second"] for row in rounds], "ko-", label="migrations per second")
    from_zero(axes, [row["per_second"] for row in rounds], LEGEND_ROOM)
    axes.set_ylabel("migrations per second")
    axes.set_xticks(places, [str(count) for count in counts])
    axes.set_xlabel("registered VMs")
    cpu = axes.twinx()
    user = [row["daemon_user_ms"] for row in rounds]
    cpu.bar(places, user, width=0.4, alpha=0.5, color="C0", label="daemon's CPU, user")
    cpu.bar(places, [row["daemon_system_ms"] for row in rounds], bottom=user, width=0.4, alpha=0.5,
            color="C1", label="daemon's CPU, system")
    from_zero(cpu, [row["daemon_user_ms"] + row["daemon_system_ms"] for row in rounds], LEGEND_ROOM)
    cpu.set_ylabel("CPU for each migration, ms")
    # The line in front of the bars.
    axes.set_zorder(cpu.get_zorder() + 1)
    axes.patch.set_visible(False)
    handles, labels = axes.get_legend_handles_labels()
    more = cpu.get_legend_handles_labels()
    axes.legend(handles + more[0], labels + more[1], fontsize=8, loc="upper center", ncols=3)


def wanted(results):
    """(file name, title, how to draw it) of each plot that the results suffice for."""
    both = [row for row in results["blackout"] if row["floor_us"]]
    small = sorted((r for r in both if r["memory_mib"] == SMALL_MIB), key=lambda r: r["vcpus"])
    one = sorted((r for r in both if r["vcpus"] == 1), key=lambda r: r["memory_mib"])
    if small:
        yield "phases.png", "Phases of the blackout, 64 MiB", lambda a: phases(a, small)
        yield ("vcpus.png", "Blackout against vCPUs, 64 MiB",
               lambda a: lines(a, small, "vcpus", "vCPUs"))
    if len(one) > 1:
        yield ("memory.png", "Blackout against memory, 1 vCPU",
               lambda a: lines(a, one, "memory_mib", "guest memory, MiB"))
    if len(results["vms"]) > 1:
        yield ("vms.png", "Blackout against registered VMs, 1 vCPU, 64 MiB",
               lambda a: vms(a, results["vms"]))
    if results["refill"]:
        yield ("touch.png", "What the guest pays after the move",
               lambda a: touch(a, results["refill"]))
    if results["refill"] and results["refill"].get("first_second"):
        yield ("second.png", "A round of the guest before and after the move",
               lambda a: second(a, results["refill"]["first_second"]))
    if results.get("steps"):
        yield ("steps.png", "Blackout without each step that keeps it short, 64 MiB",
               lambda a: steps(a, results["steps"]))
    if results["peers"]:
        yield "peers.png", "QEMU's same-host migration", lambda a: peers(a, results)
    if results["throughput"]:
        yield ("throughput.png", "Migrations per second, simulated kernel",
               lambda a: throughput(a, results["throughput"]["rounds"]))


def write(results, directory):
    """Writes the plots; (file name, title) of each."""
    written = []
    for name, title, draw in wanted(results):
        assert name in NAMES
        figure, axes = pyplot.subplots(figsize=(8, 4), layout="constrained")
        draw(axes)
        axes.set_title(title)
        figure.savefig(directory / name, dpi=DOTS_PER_INCH, metadata={"Software": None})
        pyplot.close(figure)
        written.append((name, title))
    return written
