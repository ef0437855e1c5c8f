#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes compile_commands.json for clangd and clang-tidy from `bazel aquery`, offline."""

import json
import pathlib
import subprocess
import sys

# clang does not know these; it would report each as an error of every file.
GCC_ONLY = {"-fno-canonical-system-headers", "-Wno-free-nonheap-object"}

# What is an error is for .clang-tidy to say: clang warns where GCC does not.
DROPPED = GCC_ONLY | {"-Werror"}


def compile_actions(targets):
    """Bazel's C and C++ compile actions for the targets, as parsed JSON."""
    query = 'mnemonic("CppCompile", set(%s))' % " ".join(targets)
    output = subprocess.run(
        ["bazel", "aquery", "--output=jsonproto", query],
        check=True,
        stdout=subprocess.PIPE,
    ).stdout
    return json.loads(output).get("actions", [])


def entry(arguments, root):
    """One entry of the database, or None for an action that compiles no source of ours."""
    if "-c" not in arguments:
        return None
    source = arguments[arguments.index("-c") + 1]
    if source.startswith(("external/", "bazel-out/")):
        return None
    kept = [argument for argument in arguments if argument not in DROPPED]
    # The checkout, not Bazel's execution root: names then match what an editor has open, and
    # bazel-out is a link there too.
    return {"directory": str(root), "file": source, "arguments": kept}


def main():
    root = pathlib.Path.cwd()
    entries = {}
    for action in compile_actions(sys.argv[1:] or ["//..."]):
        found = entry(action["arguments"], root)
        if found:
            entries[found["file"]] = found
    database = root / "compile_commands.json"
    database.write_text(json.dumps(list(entries.values()), indent=1) + "\n")
    print(f"{len(entries)} entries")


if __name__ == "__main__":
    main()
