#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The rules of this house that a compiler does not know, checked over the tracked files.

Prints `file:line: what is wrong; what to do instead`. `./dev test` runs this and counts each rule
as a test. To add a rule: a function here, an entry in RULES, and in house_rules_test.py a tree that
breaks it and one that keeps it.
"""

import argparse
import dataclasses
import os
import pathlib
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

MAX_LINES = 400
SPDX_WITHIN_LINES = 5

# The rooms that may speak to the kernel's KVM interface; everyone else goes through kvmglue.
KVM_ROOMS = ("kvmglue/", "kernel/", "bench/floor")

CXX = (".cc", ".h", ".c")
SOURCE = CXX + (".S", ".bzl", ".bazel", ".ld", ".proto", ".py", ".sh")
SOURCE_NAMES = ("BUILD", "WORKSPACE", ".bazelrc", "dev", ".ci/run")


@dataclasses.dataclass(frozen=True)
class Violation:
    """One place that breaks a rule."""

    path: str
    line: int
    message: str

    def __str__(self):
        return f"{self.path}:{self.line}: {self.message}"


def is_source(path):
    """Whether the file is code of ours (and not a document, a patch or data)."""
    return path.endswith(SOURCE) or os.path.basename(path) in SOURCE_NAMES or path in SOURCE_NAMES


def blank(match):
    """A replacement that keeps line numbers."""
    return "\n" * match.group(0).count("\n")


def without_comments(text):
    """C++ text without comments; strings stay."""
    token = r'"(?:\\.|[^"\\\n])*"|(?<![0-9a-fA-F])\'(?:\\.|[^\'\\\n])*\'|//[^\n]*|/\*.*?\*/'
    return re.sub(
        token,
        lambda m: blank(m) if m.group(0).startswith("/") else m.group(0),
        text,
        flags=re.DOTALL,
    )


def code_only(text):
    """C++ text without comments and without the contents of strings."""
    text = re.sub(r'R"(\w*)\(.*?\)\1"', blank, text, flags=re.DOTALL)
    return re.sub(r'"(?:\\.|[^"\\\n])*"', '""', without_comments(text))


def matches(path, text, pattern, message):
    """A violation for each line that the pattern is found on."""
    return [
        Violation(path, number, message.format(found=found.group(0).strip()))
        for number, line in enumerate(text.split("\n"), 1)
        for found in [re.search(pattern, line)]
        if found
    ]


def scan(tree, wanted, pattern, message, view=code_only):
    """matches() over all files whose path is wanted."""
    found = []
    for path, text in tree.items():
        if wanted(path):
            found += matches(path, view(text), pattern, message)
    return found


def spdx_line(tree):
    """Every source file names its licence."""
    tag = "SPDX-License-Identifier: Apache-2.0"
    return [
        Violation(path, 1, f"no licence; put `{tag}` into the first {SPDX_WITHIN_LINES} lines")
        for path, text in tree.items()
        if is_source(path) and tag not in "\n".join(text.split("\n")[:SPDX_WITHIN_LINES])
    ]


def no_absl_mutex(tree):
    """ThreadSanitizer does not understand the distribution's absl::Mutex: false races."""
    return scan(
        tree,
        lambda path: path.endswith(CXX),
        r"absl::\w*(?:Mutex|CondVar)\w*|absl/synchronization/",
        "{found}; use std::mutex and std::condition_variable",
        view=without_comments,
    )


def no_sleep_in_tests(tree):
    """A sleep is either too short on a busy machine or too long on every other."""
    return scan(
        tree,
        lambda path: path.endswith("_test.cc"),
        r"\b(?:sleep_for|sleep_until|usleep|nanosleep|SleepFor|sleep)\s*\(",
        "{found} in a test; wait for the event itself, with a bound (condition_variable::wait_for,"
        " poll, a fake clock)",
    )


def outside_kvm_rooms(path):
    """Whether a C or C++ file has no business with KVM's own interface."""
    return path.endswith(CXX) and not path.startswith(KVM_ROOMS)


def ioctl_in_kvmglue_only(tree):
    """One room speaks to the kernel, so that the simulated kernel can stand in for it. A test's
    preloaded library may define the function: that calls nothing."""
    return scan(
        tree,
        outside_kvm_rooms,
        r"(?<!^int )\bioctl\s*\(",
        "ioctl() outside kvmglue/; add the call to kvmglue/ and use it from there",
    )


def kvm_header_in_kvmglue_only(tree):
    """As above, for the types."""
    return scan(
        tree,
        outside_kvm_rooms,
        r"#\s*include\s*[<\"]linux/kvm\.h",
        "<linux/kvm.h> outside kvmglue/; use kvmglue's own types",
        view=without_comments,
    )


def exhaustive_machine(tree):
    """A new state must not compile until every switch of the machine says what it means."""
    return scan(
        tree,
        lambda path: re.fullmatch(r"daemon/machine\w*\.(cc|h)", path)
        and not path.endswith("_test.cc"),
        r"\bdefault\s*:",
        "`default:` in the state machine; name every enumerator, so that a new one does not compile"
        " unnoticed",
    )


def no_bare_fd(tree):
    """An int does not say who closes it."""
    return scan(
        tree,
        lambda path: path.startswith(("daemon/", "kvmglue/", "client/"))
        and path.endswith(".h")
        and path != "kvmglue/fd.h",
        r"\bint\b>?\s+(?!num_|max_|min_)(?:\w*_)?fds?_?\b(?!\s*\()",
        "`{found}` in a header; use UniqueFd (owns it) or BorrowedFd (does not), kvmglue/fd.h",
    )


def short_files(tree):
    """A file fits into one head. A BUILD file is a list of targets, looked up by name."""
    return [
        Violation(path, MAX_LINES + 1, f"{lines} lines, at most {MAX_LINES}; split it by subject")
        for path, text in tree.items()
        for lines in [text.count("\n")]
        if is_source(path) and not path.endswith("BUILD.bazel") and lines > MAX_LINES
    ]


def no_machine_paths(tree):
    """Nothing in the tree knows whose machine it was written on."""
    return scan(
        tree,
        lambda path: not path.endswith(".patch"),
        r"(?<![\w.~$}*)])/(?:home/\w|root/\w|Users/\w|work/\w|workspace/\w)",
        "path of one machine ({found}...); use a relative path, $HOME or a temporary directory",
        view=lambda text: text,
    )


def nothing_unfinished(tree):
    """Half-built things are not committed; what is missing belongs into the documents."""
    return scan(
        tree,
        lambda path: is_source(path) and not path.startswith("tools/house_rules"),
        r"\b(TODO|FIXME|XXX|HACK)\b",
        "{found}; finish it, or say in docs/ what is missing",
        view=lambda text: text,
    )


def declared_reasons(tree):
    """(path, line, reason) of each reason: constants of *reason*.h, literals of MakeStatus()."""
    for path, text in tree.items():
        if not path.startswith(("client/", "daemon/", "kvmglue/", "vmm/")):
            continue
        if path.endswith("_test.cc") or not path.endswith((".cc", ".h")):
            continue
        patterns = [r'\bMakeStatus\(\s*[\w:]+,\s*"([A-Z][A-Z0-9_]+)"']
        if path.endswith(".h") and "reason" in os.path.basename(path):
            patterns.append(r'(?:=|\{|\()\s*"([A-Z][A-Z0-9_]+)"')
        plain = without_comments(text)
        for pattern in patterns:
            for found in re.finditer(pattern, plain):
                yield path, plain.count("\n", 0, found.start(1)) + 1, found.group(1)


def reasons_documented(tree):
    """A caller can look up every reason that an error may carry."""
    document = "docs/reasons.md"
    if document not in tree:
        return []
    documented = set(re.findall(r"\b[A-Z][A-Z0-9_]+\b", tree[document]))
    return [
        Violation(path, line, f"reason {reason} is not in {document}; describe it there")
        for path, line, reason in declared_reasons(tree)
        if reason not in documented
    ]


# Sections of docs/reasons.md whose entries are what a migration can end with.
ENDINGS = ("Hand-over", "After the hand-over", "Stopped from outside")
# Of these it never is; it is what waits inside the daemon say.
NO_ENDING = ("INTERRUPTED",)


def endings_have_a_way_out(tree):
    """An operator finds for each reason that ends a migration what becomes of the guest."""
    document = "docs/reasons.md"
    answers = "".join(
        text
        for path, text in tree.items()
        if path == "docs/failure-matrix.md" or path.startswith("docs/runbooks/")
    )
    named = set(re.findall(r"\b[A-Z][A-Z0-9_]+\b", answers))
    found, section = [], ""
    for number, line in enumerate(tree.get(document, "").split("\n"), 1):
        section = line[3:] if line.startswith("## ") else section
        reason = line[4:] if line.startswith("### ") else ""
        if reason and section in ENDINGS and reason not in named and reason not in NO_ENDING:
            message = f"{reason} ends migrations; give it a row in docs/failure-matrix.md"
            found.append(Violation(document, number, message))
    return found


RULES = (
    spdx_line,
    no_absl_mutex,
    no_sleep_in_tests,
    ioctl_in_kvmglue_only,
    kvm_header_in_kvmglue_only,
    exhaustive_machine,
    no_bare_fd,
    short_files,
    no_machine_paths,
    nothing_unfinished,
    reasons_documented,
    endings_have_a_way_out,
)


def tracked_files(root):
    """Paths of the tracked files; of all files where there is no repository (a source archive)."""
    command = ["git", "-C", str(root), "ls-files", "-z"]
    listed = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False)
    if listed.returncode == 0:
        return [path for path in listed.stdout.decode().split("\0") if path]
    found = []
    for directory, names, files in os.walk(root):
        names[:] = [n for n in names if not n.startswith("bazel-") and n not in (".git", ".cache")]
        found += [os.path.relpath(os.path.join(directory, name), root) for name in files]
    return found


def read_tree(root):
    """Text of each tracked file, by path; binary files and files deleted but not yet committed
    are left out."""
    tree = {}
    for path in tracked_files(root):
        file = root / path
        if file.is_file() and not file.is_symlink():
            try:
                tree[path] = file.read_text(encoding="utf-8")
            except UnicodeDecodeError:
                continue
    return tree


def write_xml(path, results):
    """The results as JUnit XML, one case for each rule."""
    suite = ElementTree.Element("testsuite", name="house_rules")
    for rule, violations in results.items():
        case = ElementTree.SubElement(
            suite, "testcase", classname="house_rules", name=rule.__name__
        )
        if violations:
            message = "\n".join(map(str, violations))
            ElementTree.SubElement(case, "failure", message=message)
    ElementTree.ElementTree(suite).write(path, encoding="utf-8", xml_declaration=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--xml", help="also write the results there, as JUnit XML")
    parser.add_argument("--root", type=pathlib.Path, default=pathlib.Path.cwd())
    options = parser.parse_args()

    tree = read_tree(options.root)
    results = {rule: rule(tree) for rule in RULES}
    if options.xml:
        write_xml(options.xml, results)
    for violation in sum(results.values(), []):
        print(violation)
    return 1 if any(results.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
