# SPDX-License-Identifier: Apache-2.0
"""The performance page's text, made of the results. No I/O."""

import statistics

import against_figures
import page_figures as figures


def table(heads, rows):
    """A Markdown table; a head that ends in ':' is one of numbers."""
    lines = ["", "| " + " | ".join(head.rstrip(":") for head in heads) + " |",
             "|" + "|".join("---:" if head.endswith(":") else "---" for head in heads) + "|"]
    return lines + ["| " + " | ".join(row) + " |" for row in rows]


def number(value):
    """Three digits that mean something."""
    if value is None:
        return "-"
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2 if abs(value) >= 0.1 else 4
    return f"{value:.{digits}f}"


def p50(summary):
    """The median, or a dash where a side was left out."""
    return number(summary["p50"]) if summary else "-"


def goals_table(goals, quick):
    """Each goal with what was measured; one that was not taken says why."""
    def verdict(row):
        if row["verdict"] in ("not taken", "not comparable"):
            return f"{row['verdict']}: {row['evidence']}"
        return row["verdict"] + " (trial)" * quick
    rows = []
    for row in goals:
        value = "-" if row["value"] is None else f"{number(row['value'])} {row['unit']}"
        sign = ">=" if row["at_least"] else "<="
        load = "-" if row["load"] is None else f"{row['load']:.1f}"
        rows.append([row["name"], value, f"{sign} {row['goal']} {row['unit']}", verdict(row), load])
    return table(["what", "measured:", "goal:", "", "load:"], rows)


def misses(goals):
    """A paragraph for each goal that was missed."""
    lines = []
    for row in goals:
        if row["verdict"] == "missed":
            lines += ["", f"**{row['name']}**: {figures.miss_text(row)} {row['evidence']}"]
    return lines


def peers_part(results):
    """QEMU's migrations, as they were measured."""
    peers = results["peers"]
    if not peers:
        return []
    with_kvm = peers["accelerator"] == "kvm"
    lines = ["", "## QEMU's same-host migration", "",
             f"QEMU {peers['qemu']}, accelerator {peers['accelerator']} (-cpu {peers['cpu']}), "
             "machine q35. STOP to RESUME, in ms."]
    if not with_kvm:
        lines += ["", "**Not comparable with anything above, information only: emulated, because "
                      f"{peers['why_not_kvm']}.**"]
    rows = []
    for row in peers["rows"]:
        ours = figures.find(results["blackout"], row["vcpus"], row["memory_mib"])
        rows.append([figures.PEER_GOALS[row["mode"]][0], str(row["vcpus"]), str(row["memory_mib"]),
                     str(row["runs"]), number(row["stop_resume_us"]["p50"] / 1000),
                     number(row["stop_resume_us"]["p99"] / 1000), number(row["total_ms"]["p50"]),
                     number(row["moved_mib"]["p50"]),
                     number(ours["rehome_us"]["p50"] / 1000) if ours and with_kvm else "-",
                     f"{row['load']:.1f}"])
    return lines + table(["", "vCPUs:", "MiB:", "runs:", "p50:", "p99:", "whole migration p50:",
                          "MiB sent:", "Rehome's blackout p50:", "load:"], rows)


def vms_part(results):
    """The blackout beside many registered VMs."""
    if not results["vms"]:
        return []
    rows = [[str(row["registered_vms"]), str(row["runs"]), number(row["rehome_us"]["p50"]),
             number(row["rehome_us"]["p99"]), f"{row['load']:.1f}"] for row in results["vms"]]
    return ["", "## Blackout with many registered VMs", "",
            "1 vCPU, 64 MiB, fence after the resume, in us. All VMs but one are idle."] + table(
                ["VMs:", "runs:", "p50:", "p99:", "load:"], rows)


def refill_part(results):
    """What page tables cost after the move, and what it costs to make them before."""
    refill = results["refill"]
    if not refill:
        return []
    rows = [[way["name"], number(way["touch_ms"]["p50"]), number(way["touch_ms"]["max"]),
             number(way["migration_ms_p50"])] for way in refill["ways"]]
    return ["", "## After the move", "",
            f"The guest reads all of {refill['memory_mib']} MiB; {refill['runs']} runs, load "
            f"{refill['load']:.1f}, in ms. The last way is the product's default."] + table(
                ["page tables:", "touch all p50:", "max:", "whole migration p50:"], rows)


def second_part(results):
    """What a round of the guest takes just after the move."""
    refill = results["refill"]
    seconds = refill.get("first_second") if refill else None
    if not seconds:
        return not_taken(results, "The first second after the move")
    rows = [[row["name"], str(row["vcpus"]),
             *(number(row[side][key]) for side in ("before_us", "after_us")
               for key in ("p50", "p99", "p999", "max"))] for row in seconds]
    return ["", "## The first second after the move", "",
            f"How long one round of the guest's loop takes, in us, in the second before the move "
            f"and in the first second after it, without the round that the blackout was in; "
            f"{refill['memory_mib']} MiB, all of which the guest works on as fast as it goes; all "
            f"rounds of {refill['second_runs']} moves, load {refill['load']:.1f}."] + table(
                ["page tables", "vCPUs:", *(f"{key} {when}:" for when in ("before", "after")
                                            for key in ("p50", "p99", "p99.9", "max"))], rows)


def not_taken(results, title):
    """A section without figures, with the reason."""
    return ["", f"## {title}", "",
            f"Not taken: {results['kvm_error'] or figures.NO_RESULT}."]


def ratio_text(ratios):
    """The median ratio of the rounds, and where it lies with 95 % confidence."""
    text = f"{statistics.median(ratios):.2f}"
    if len(ratios) < against_figures.MIN_ROUNDS:
        return text
    low, high, _ = against_figures.interval(ratios)
    return f"{text} ({low:.2f} to {high:.2f})"


def steps_part(results):
    """The blackout with and without each step that keeps it short."""
    title = "Each step of the blackout, with and without"
    if not results.get("steps"):
        return not_taken(results, title)
    lines = ["", f"## {title}", "",
             "p50 in us, fence after the resume; what the product does is *with*. The ratio is the "
             "median over the rounds, in brackets where it lies with at least 95 % confidence (with "
             "6 rounds or more). An interval around 1 means that no difference can be seen. The "
             "phase is the one whose median differs most. Page tables that are not there cost the "
             "guest time after the move, see the two sections above."]
    for result in results["steps"]:
        both = result["all_steps"]
        rows = []
        for step in result["steps"]:
            changed = step["changed"]
            sides = (both, changed) if step["taken"] else (changed, both)
            rows.append([step["title"] + ("" if step["taken"] else " (not taken)"),
                         *(number(side[key]["p50"]) for key in ("blackout_us", "guest_gap_us")
                           for side in sides),
                         ratio_text(step["round_ratios"] if step["taken"]
                                    else [1 / ratio for ratio in step["round_ratios"]]),
                         f"{step['phase']} {step['phase_us'] * (1 if step['taken'] else -1):+.0f}"])
        lines += ["", f"{result['vcpus']} vCPU, {result['memory_mib']} MiB, {result['rounds']} "
                      f"rounds of {result['hops_in_a_round']} hops, load {result['load']:.1f}:"]
        lines += table(["step", "blackout with:", "without:", "guest gap with:", "without:",
                        "without / with:", "phase, without - with:"], rows)
    return lines


def fences_part(results):
    """The ways to fence."""
    title = "Ways to fence"
    if not results.get("fences"):
        return not_taken(results, title)
    lines = ["", f"## {title}", "",
             "From the order until it is seen to be carried out, in us, at load "
             f"{results['fences']['load']:.1f}. [blackout.md](../blackout.md) says which is used, "
             "and why."]
    for result in results["fences"]["rows"]:
        vcpu = "in the guest" if result["vcpu_runs"] else "stopped"
        rows = []
        for way in result["ways"]:
            us = way.get("us")
            rows.append([way["title"], way["proof"], str(way["runs"]),
                         number(us["p50"]) if us else f"not taken: {way['not_taken']}",
                         number(us["max"]) if us else "-"])
        lines += ["", f"{result['memory_mib']} MiB, vCPU {vcpu}:"]
        lines += table(["way", "a proof?", "runs:", "p50:", "max:"], rows)
    return lines


def total_part(results):
    """A whole migration."""
    total = results["total_time"]
    if not total:
        return []
    lines = ["", "## A whole migration", "",
             f"`rehome migrate --wait` from exec to exit, {total['vcpus']} vCPU, "
             f"{total['memory_mib']} MiB, {total['runs']} runs, load {total['load']:.1f}, in ms."]
    if total["kernel"] == "sim":
        lines += ["", "**On the simulated kernel, information only: no VM is built and no page "
                      "table made, so this is the share of command line, daemon and journal.**"]
    rows = [[name, number(total[key]["p50"]), number(total[key]["p99"]), number(total[key]["max"])]
            for name, key in (("all", "total_ms"), ("the target VMM's start", "target_start_ms"),
                              ("without that", "without_start_ms"))]
    steps = ", ".join(f"{name} {number(ms)}" for name, ms in total["steps_p50_ms"].items())
    return lines + table(["", "p50:", "p99:", "max:"], rows) + [
        "", f"Medians of the daemon's steps: {steps}."]


def throughput_part(results):
    """Rate, and what of the daemon each migration takes."""
    throughput = results["throughput"]
    if not throughput:
        return []
    rows = [[str(row["vms"]), number(row["per_second"]), number(row["daemon_user_ms"]),
             number(row["daemon_system_ms"]), number(row["latency_ms"]["p50"]),
             number(row["latency_ms"]["p99"]), f"{row['load']:.1f}"]
            for row in throughput["rounds"]]
    return ["", "## Migrations per second", "",
            f"One daemon, simulated kernel, {throughput['movers']} guests move at once. CPU time "
            "is the daemon's, for each migration."] + table(
                ["VMs registered:", "per second:", "user, ms:", "system, ms:", "took p50, ms:",
                 "p99, ms:", "load:"], rows)


COMPARED = """
## What is compared, and what is not comparable

- **The floor and Rehome** move the same guest with the same state, in turns, in one run, under one
  KVM. The floor has no daemon, no agent and no fence, and creates everything beforehand; so Rehome
  is compared with its fence after the resume, and the fence's price is a row of its own.
- **QEMU** moves a guest of the same number of vCPUs and the same memory, which writes all of it and
  then as large a working set; half of its hops before Rehome's of that shape and half after. Its
  STOP is sent when its vCPUs have stopped, its RESUME before they run: the time to stop and to
  enter a vCPU counts for Rehome and not for QEMU.
- **Not the same:** QEMU's q35 has more devices (HPET, RTC, AHCI, PCI) than the reference VMM, and
  its state grows with them; the guests are different programs; QEMU proves nothing about its old
  process. The copying migration stops when it expects the rest within its default of 300 ms, with
  no limit of bandwidth.
- **Accelerators must be the same.** Rehome on KVM beside an emulated QEMU gets no verdict.
- **The simulated kernel** has no KVM in it: migrations per second are the daemon's, no VMM's.
- A load above the number of CPUs is other work, from which tails suffer much more than ratios.
""".rstrip()


def page(results, goals, plots):
    """The whole page."""
    lines = ["# Performance", "",
             "Written by `./dev bench page`; do not edit. Numbers: results.json. How each is",
             "taken: [benchmarks.md](../benchmarks.md).", "",
             f"{results['taken']}, {results['machine']}; load average {results['load_before']:.1f} "
             f"before, {results['load_after']:.1f} after."]
    if results["quick"]:
        lines += ["", "**A trial with few runs: no figure here is a result.**"]
    if results["memfd"]:
        lines += ["", "Guest memory is a memfd, on both sides."]
    if results["kvm_error"]:
        lines += ["", f"**Without KVM: {results['kvm_error']}. Nothing that needs it was taken.**"]
    lines += goals_table(goals, results["quick"]) + misses(goals)
    for name, title in plots:
        lines += ["", f"![{title}]({name})"]
    lines += vms_part(results) + refill_part(results) + second_part(results) + steps_part(results)
    lines += fences_part(results) + total_part(results) + peers_part(results)
    lines += throughput_part(results) + COMPARED.split("\n")
    return "\n".join(lines) + "\n"
