#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""QEMU's migration between two QEMUs on one host, as a peer to hold the blackout against.

Two ways: `ignore-shared`, where the memory is a shared file and is not copied (x-ignore-shared),
and `copying`. From QEMU's STOP event to its RESUME event, both by the host's wall clock: it sends
the first when its vCPUs have stopped and the second before they run, so what it takes to stop and
to enter a vCPU is not in it, but in Rehome's blackout. docs/benchmarks.md.
"""

import argparse
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time

import page_figures as figures
import page_host
import qmp
import qemu_vm

MODES = ("ignore-shared", "copying")
# The host's CPU, then what works where KVM cannot give a guest all of it.
KVM_CPUS = ("host", "host,-arch-capabilities", "qemu64")
TCG_CPU = "max"
# Firmware, all of memory touched and the other vCPUs started: under a second with KVM; where KVM
# interprets the guest, or in emulation on a busy machine, more.
READY_SECONDS = 120
# Of the copying one at 1 GiB in emulation; the other takes milliseconds.
MIGRATE_SECONDS = 120
# Until the guest has looked at all of its memory once more.
SWEEP_SECONDS = 120
# The guest runs so long before it moves, as in the other benchmarks (bench/floor_side.h).
DWELL_SECONDS = 0.02
# Between two looks at a migration that is under way.
POLL_SECONDS = 0.002
# QEMU's own default limits a copy to 128 MiB/s, which is for networks.
BANDWIDTH = 1 << 40


def capabilities(mode):
    """QMP's list for both sides."""
    names = ["events"] + ["x-ignore-shared"] * (mode == "ignore-shared")
    return [{"capability": name, "state": True} for name in names]


def await_completed(source):
    """What query-migrate says in the end. QEMU shows `completed` before its times are filled in."""
    deadline = time.monotonic() + MIGRATE_SECONDS
    while True:
        state = source.command("query-migrate")
        status = state.get("status")
        if status in ("failed", "cancelled"):
            raise qmp.QmpError(f"the migration {status}: {state.get('error-desc', 'no reason')}")
        if status == "completed" and state.get("total-time", 0) > 0:
            return state
        if time.monotonic() > deadline:
            raise qmp.QmpError(f"the migration is {status} after {MIGRATE_SECONDS} s")
        time.sleep(POLL_SECONDS)


def migrate(source, target, mode):
    """Moves the guest; a sample. The target runs it then."""
    for side in (source, target):
        side.command("migrate-set-capabilities", capabilities=capabilities(mode))
        side.command("migrate-set-parameters", max_bandwidth=BANDWIDTH)
        side.qmp.drop_events()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        target.lend("channel", theirs)
        source.lend("channel", ours)
    target.command("migrate-incoming", uri="fd:channel")
    time.sleep(DWELL_SECONDS)
    source.command("migrate", uri="fd:channel")
    stop = source.qmp.event("STOP", MIGRATE_SECONDS)
    resume = target.qmp.event("RESUME", MIGRATE_SECONDS)
    state = await_completed(source)
    return {"stop_resume_us": qmp.microseconds(resume) - qmp.microseconds(stop),
            "total_ms": state["total-time"], "downtime_ms": state["downtime"],
            "moved_mib": state["ram"]["transferred"] / (1 << 20)}


def check_guest(vm, before):
    """The guest beats on every vCPU, and finds each page as it was."""
    moved = vm.report()
    after = vm.await_report(
        lambda report: report.sweeps >= moved.sweeps + 2 and
        all(new != old for new, old in zip(report.beats, moved.beats)),
        "beats and looks at its memory", SWEEP_SECONDS)
    if not after.ready or after.errors or after.sweeps < before.sweeps:
        raise qmp.QmpError(f"the guest is not what it was: before {before}, after {after}")


def await_ready(vm):
    """The guest has touched all of its memory, and beats on every vCPU."""
    vm.await_report(lambda report: report.ready and report.vcpus == vm.shape.vcpus,
                    "is ready", READY_SECONDS)


def hop(source, mode):
    """Moves the guest into a fresh QEMU and ends the old one; (target, sample)."""
    target = qemu_vm.QemuVm(source.shape, incoming=True)
    try:
        before = source.report()
        sample = migrate(source, target, mode)
        check_guest(target, before)
    except BaseException:
        target.close()
        raise
    source.quit()
    return target, sample


def samples_of(shape, mode, runs):
    """So many hops of one guest."""
    samples = []
    vm = qemu_vm.QemuVm(shape)
    try:
        await_ready(vm)
        while len(samples) < runs:
            vm, sample = hop(vm, mode)
            samples.append(sample)
    finally:
        vm.close()
    return samples


def row(accelerator, cpu, options, mode):
    """The figures of one way."""
    fd = None
    if mode == "ignore-shared":
        fd = qemu_vm.unnamed_shared_file(options.memory)
    try:
        shape = qemu_vm.Shape(accelerator, cpu, options.vcpus, options.memory, options.guest, fd)
        samples = samples_of(shape, mode, options.runs)
    finally:
        if fd is not None:
            os.close(fd)
    values = {key: [sample[key] for sample in samples] for key in samples[0]}
    return figures.peer_row(mode, options.vcpus, options.memory, values, os.getloadavg()[0])


def accelerator_here(guest):
    """(accelerator, CPU, why not KVM): KVM if QEMU runs this guest with it, which is tried."""
    why = page_host.kvm_error()
    if why is None:
        for cpu in KVM_CPUS:
            try:
                with qemu_vm.QemuVm(qemu_vm.Shape("kvm", cpu, 1, figures.SMALL_MIB, guest)) as vm:
                    await_ready(vm)
                return "kvm", cpu, None
            except qmp.QmpError as error:
                why = f"QEMU with -cpu {cpu}: {error}"
    return "tcg", TCG_CPU, why


def version():
    """"7.2.22"."""
    text = subprocess.run([qemu_vm.QEMU, "--version"], stdout=subprocess.PIPE, text=True,
                          check=True, timeout=READY_SECONDS).stdout
    return re.search(r"version (\S+)", text).group(1)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--guest", required=True, help="peer-guest.elf")
    parser.add_argument("--vcpus", type=int, default=1)
    parser.add_argument("--memory", type=int, default=figures.SMALL_MIB, help="MiB, at most 2048")
    parser.add_argument("--runs", type=int, default=10, help="hops of each way")
    parser.add_argument("--modes", default=",".join(MODES))
    parser.add_argument("--accel", choices=("kvm", "tcg"), help="instead of what works here")
    parser.add_argument("--cpu", help="with --accel")
    options = parser.parse_args()
    # An exception ends the QEMUs on its way out, the default of this signal would not.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        accelerator, cpu, why = options.accel, options.cpu, None
        if accelerator is None:
            accelerator, cpu, why = accelerator_here(options.guest)
        cpu = cpu or (TCG_CPU if accelerator == "tcg" else KVM_CPUS[0])
        rows = [row(accelerator, cpu, options, mode) for mode in options.modes.split(",")]
    except (qmp.QmpError, OSError) as error:
        print(f"qemu_peer: {error}", file=sys.stderr)
        return 1
    print(json.dumps({"qemu": version(), "accelerator": accelerator, "cpu": cpu,
                      "why_not_kvm": why, "rows": rows}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
