# SPDX-License-Identifier: Apache-2.0
"""The machine that figures are taken on."""

import fcntl
import os
import pathlib
import platform

KVM = "/dev/kvm"
# <linux/kvm.h>
KVM_CREATE_VM = 0xAE01


def kvm_error():
    """Why no VM can be made here; None if one can."""
    if not os.path.exists(KVM):
        return f"this host has no {KVM}"
    try:
        fd = os.open(KVM, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        return f"{KVM}: {error.strerror}"
    try:
        os.close(fcntl.ioctl(fd, KVM_CREATE_VM, 0))
    except OSError as error:
        return f"{KVM} makes no VM: {error.strerror}"
    finally:
        os.close(fd)
    return None


def machine():
    """One line, as bench/host_info.h has it."""
    model = "unknown CPU"
    for line in pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            model = line.split(": ", 1)[1]
            break
    return f"{model}, {os.cpu_count()} CPUs, Linux {platform.release()}"
