# SPDX-License-Identifier: Apache-2.0
"""The plots of the performance page, as SVG."""

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot  # pylint: disable=wrong-import-position

SMALL_MIB = 64
SIDES = (("floor", "floor"), ("rehome", "Rehome"))


def small_rows(rows):
    return sorted((r for r in rows if r["memory_mib"] == SMALL_MIB), key=lambda r: r["vcpus"])


def phases(axes, rows):
    """One bar of stacked phase medians for each side of each row."""
    bars = [(f"{title}\n{row['vcpus']} vCPU", row[f"{side}_phases_p50_us"])
            for row in rows for side, title in SIDES]
    base = [0.0] * len(bars)
    for phase in dict.fromkeys(name for _, bar in bars for name in bar):
        heights = [bar.get(phase, 0) for _, bar in bars]
        if any(heights):
            axes.bar(range(len(bars)), heights, bottom=base, label=phase.replace("_", " "))
        base = [low + high for low, high in zip(base, heights)]
    axes.set_xticks(range(len(bars)), [label for label, _ in bars], fontsize=8)
    axes.set_ylabel("median of each phase, us")
    axes.legend(fontsize=8)


def lines(axes, rows, key, label):
    for side, title in SIDES:
        axes.plot([r[key] for r in rows], [r[f"{side}_us"]["p50"] for r in rows], "o-", label=title)
    axes.set_xscale("log", base=2)
    axes.set_xticks([r[key] for r in rows], [str(r[key]) for r in rows])
    axes.set_ylim(bottom=0)
    axes.set_xlabel(label)
    axes.set_ylabel("blackout p50, us")
    axes.legend(loc="lower right")


def touch(axes, refill):
    """The ways differ by orders of magnitude: the number stands at each bar."""
    bars = axes.barh([way["name"] for way in refill["ways"]],
                     [way["touch_ms"]["p50"] for way in refill["ways"]])
    axes.bar_label(bars, fmt="%.1f ms", padding=3)
    axes.margins(x=0.15)
    axes.set_xlabel(f"time to touch {refill['memory_mib']} MiB after the move, p50, ms")


def write(results, directory):
    """Writes the plots that the results suffice for; (file name, title) of each."""
    small = small_rows(results["blackout"])
    one = sorted((r for r in results["blackout"] if r["vcpus"] == 1), key=lambda r: r["memory_mib"])
    wanted = []
    if small:
        wanted.append(("phases.svg", "Phases of the blackout", lambda a: phases(a, small)))
        wanted.append(("vcpus.svg", "Blackout against vCPUs, 64 MiB",
                       lambda a: lines(a, small, "vcpus", "vCPUs")))
    if len(one) > 1:
        wanted.append(("memory.svg", "Blackout against memory, 1 vCPU",
                       lambda a: lines(a, one, "memory_mib", "guest memory, MiB")))
    if results["refill"]:
        wanted.append(("touch.svg", "What the guest pays after the move",
                       lambda a: touch(a, results["refill"])))
    for name, title, draw in wanted:
        figure, axes = pyplot.subplots(figsize=(8, 4), layout="constrained")
        draw(axes)
        axes.set_title(title)
        figure.savefig(directory / name, metadata={"Date": None})
        pyplot.close(figure)
    return [(name, title) for name, title, _ in wanted]
