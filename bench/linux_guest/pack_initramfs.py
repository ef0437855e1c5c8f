#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Packs one program as /init into an initramfs: cpio's newc format, the same bytes for the same
program. The archive has /dev/console as well, which the kernel opens before /init can mount."""

import argparse
import pathlib
import stat

MAGIC = "070701"
ALIGNMENT = 4
# The kernel reads whole sectors from a disk; QEMU and others load any length.
BLOCK = 512
TRAILER = "TRAILER!!!"

# name, mode, (major, minor) of a device.
NODES = (
    ("dev", stat.S_IFDIR | 0o755, (0, 0)),
    ("dev/console", stat.S_IFCHR | 0o600, (5, 1)),
    ("dev/null", stat.S_IFCHR | 0o666, (1, 3)),
    ("proc", stat.S_IFDIR | 0o755, (0, 0)),
    ("sys", stat.S_IFDIR | 0o755, (0, 0)),
)


def padded(data):
    """Up to the next place where something may begin."""
    return data + b"\0" * (-len(data) % ALIGNMENT)


def entry(number, name, mode, device=(0, 0), data=b""):
    """One file: header, name, contents. Documentation/driver-api/early-userspace/buffer-format."""
    encoded = name.encode() + b"\0"
    fields = (
        number, mode, 0, 0,  # inode, mode, uid, gid
        2 if stat.S_ISDIR(mode) else 1, 0, len(data),  # links, time, size
        0, 0, *device, len(encoded), 0,  # its own device, the device it is, name, checksum
    )
    header = MAGIC + "".join(f"{field:08x}" for field in fields)
    return padded(header.encode() + encoded) + padded(data)


def archive(program):
    """The whole archive with `program` as /init."""
    parts = [entry(number, name, mode, device)
             for number, (name, mode, device) in enumerate(NODES, 1)]
    parts.append(entry(len(NODES) + 1, "init", stat.S_IFREG | 0o755, data=program))
    parts.append(entry(0, TRAILER, 0))
    whole = b"".join(parts)
    return whole + b"\0" * (-len(whole) % BLOCK)


def main():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("program", type=pathlib.Path)
    parser.add_argument("archive", type=pathlib.Path)
    arguments = parser.parse_args()
    arguments.archive.write_bytes(archive(arguments.program.read_bytes()))


if __name__ == "__main__":
    main()
