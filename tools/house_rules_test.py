#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Each house rule finds what it forbids, and lets pass what it is not about."""

import pathlib
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

import house_rules  # pylint: disable=wrong-import-position
from junit_main import junit_main  # pylint: disable=wrong-import-position

SPDX = "// SPDX-License-Identifier: Apache-2.0\n"

# Put together at run time, or this file would break the rules it tests.
HOME_PATH = "/" + "home/someone/rehome"
UNFINISHED = "TO" + "DO"

# rule -> (tree that breaks it, words that the message must have: what to use instead)
BROKEN = [
    (house_rules.spdx_line, {"daemon/a.cc": "int a;\n"}, "SPDX-License-Identifier"),
    (house_rules.spdx_line, {"tools/a.py": "\n" * 5 + "# " + SPDX}, "first 5 lines"),
    (house_rules.spdx_line, {"vmm/BUILD.bazel": "\n"}, "SPDX-License-Identifier"),
    (house_rules.no_absl_mutex, {"daemon/a.h": "absl::Mutex mutex_;\n"}, "std::mutex"),
    (house_rules.no_absl_mutex, {"daemon/a.cc": "absl::MutexLock l(&m);\n"}, "std::mutex"),
    (
        house_rules.no_absl_mutex,
        {"daemon/a.h": '#include "absl/synchronization/notification.h"\n'},
        "std::condition_variable",
    ),
    (
        house_rules.no_sleep_in_tests,
        {"vmm/a_test.cc": "  std::this_thread::sleep_for(1s);\n"},
        "wait for the event",
    ),
    (house_rules.no_sleep_in_tests, {"vmm/a_test.cc": "  usleep (10);\n"}, "wait_for"),
    (house_rules.no_sleep_in_tests, {"a_test.cc": "absl::SleepFor(x);\n"}, "wait for the event"),
    (house_rules.ioctl_in_kvmglue_only, {"vmm/vm.cc": "::ioctl(fd, 1);\n"}, "kvmglue/"),
    (house_rules.ioctl_in_kvmglue_only, {"bench/blackout.cc": "ioctl (fd, 1);\n"}, "kvmglue/"),
    (
        house_rules.kvm_header_in_kvmglue_only,
        {"vmm/vm.h": "#  include <linux/kvm.h>\n"},
        "kvmglue's own types",
    ),
    (
        house_rules.exhaustive_machine,
        {"daemon/machine.cc": "switch (s) {\n  default:\n}\n"},
        "name every enumerator",
    ),
    (house_rules.exhaustive_machine, {"daemon/machine_table.cc": "default :"}, "enumerator"),
    (house_rules.no_bare_fd, {"daemon/a.h": "void Send(int fd);\n"}, "UniqueFd"),
    (house_rules.no_bare_fd, {"kvmglue/a.h": "void Send(const int vm_fd, int n);\n"}, "BorrowedFd"),
    (house_rules.no_bare_fd, {"client/a.h": "  int fd_ = -1;\n"}, "kvmglue/fd.h"),
    (house_rules.no_bare_fd, {"daemon/a.h": "std::vector<int> fds;\n"}, "UniqueFd"),
    (house_rules.short_files, {"daemon/a.cc": "\n" * 401}, "split it"),
    (house_rules.no_machine_paths, {"docs/a.md": f"cd {HOME_PATH}\n"}, "relative path"),
    (house_rules.no_machine_paths, {"a.json": f'"{HOME_PATH}"\n'}, "temporary directory"),
    (house_rules.nothing_unfinished, {"daemon/a.cc": f"// {UNFINISHED}: later\n"}, "finish it"),
    (
        house_rules.reasons_documented,
        {"docs/reasons.md": "`A_B`", "daemon/reasons.h": 'constexpr char kX[] = "A_C";\n'},
        "A_C is not in docs/reasons.md",
    ),
    (
        house_rules.reasons_documented,
        {
            "docs/reasons.md": "",
            "kvmglue/a.cc": 'return MakeStatus(absl::StatusCode::kAborted,\n    "BUSY", "x");\n',
        },
        "BUSY is not in docs/reasons.md",
    ),
    (
        house_rules.endings_have_a_way_out,
        {
            "docs/reasons.md": "## Hand-over\n\n### A_B\n\n### A_C\n",
            "docs/failure-matrix.md": "| `A_B` |",
            "docs/design.md": "A_C",
        },
        "A_C ends migrations",
    ),
]

# rule -> tree that keeps it, though it looks close to breaking it
KEPT = [
    (house_rules.spdx_line, {"a.sh": "#!/bin/bash\n# " + SPDX, "docs/a.md": "", "a.patch": ""}),
    (house_rules.no_absl_mutex, {"daemon/a.cc": "// not absl::Mutex\nstd::mutex mutex_;\n"}),
    (house_rules.no_sleep_in_tests, {"vmm/a.cc": "usleep(1);\n"}),
    (house_rules.no_sleep_in_tests, {"vmm/a_test.cc": "/* usleep(1) */ f(\"sleep(1)\");\n"}),
    (house_rules.ioctl_in_kvmglue_only, {"kvmglue/raw.cc": "ioctl(fd, 1);\n"}),
    (house_rules.ioctl_in_kvmglue_only, {"tests/a.cc": "int ioctl(int f, ...) {\n"}),
    (house_rules.ioctl_in_kvmglue_only, {"bench/floor/main.c": "ioctl(fd, 1);\n"}),
    (house_rules.ioctl_in_kvmglue_only, {"vmm/a.cc": "// what ioctl() does\nVmIoctl(x);\n"}),
    (house_rules.kvm_header_in_kvmglue_only, {"kernel/t.c": "#include <linux/kvm.h>\n"}),
    (house_rules.exhaustive_machine, {"daemon/driver.cc": "default:\n"}),
    (house_rules.exhaustive_machine, {"daemon/machine.cc": "A(A&&) = default;  // default:\n"}),
    (house_rules.no_bare_fd, {"kvmglue/fd.h": "explicit UniqueFd(int fd);\n"}),
    (house_rules.no_bare_fd, {"vmm/agent/agent.h": "int rehome_send(int fd);\n"}),
    (house_rules.no_bare_fd, {"daemon/a.h": "int fd() const;\nint num_fds;\nint max_fds_;\n"}),
    (house_rules.no_bare_fd, {"daemon/a.cc": "int fd = 1;\n"}),
    (house_rules.short_files, {"daemon/a.cc": "\n" * 400, "docs/a.md": "\n" * 900}),
    (house_rules.no_machine_paths, {"a.cc": '"/proc/1/root/x" "~/workspace/x" "https://a/workspace/x"\n'}),
    (house_rules.nothing_unfinished, {"a.cc": 'mkdtemp("/tmp/a.XXXXXX");\n'}),
    (
        house_rules.reasons_documented,
        {"docs/reasons.md": "| `A_B` |", "daemon/reasons.h": 'constexpr char kX[] = "A_B";\n'},
    ),
    (house_rules.reasons_documented, {"daemon/reasons.h": 'constexpr char kX[] = "A_B";\n'}),
    (
        house_rules.endings_have_a_way_out,
        {
            "docs/reasons.md": "## Preflight\n### A_A\n## Hand-over\n### A_B\n### A_C\n",
            "docs/failure-matrix.md": "| `A_B` |",
            "docs/runbooks/a.md": "A_C",
        },
    ),
]


class Rules(unittest.TestCase):
    """The rules one by one."""

    def test_each_finds_what_it_forbids(self):
        for rule, tree, words in BROKEN:
            with self.subTest(rule=rule.__name__, tree=tree):
                violations = rule(tree)
                self.assertEqual(len(violations), 1, violations)
                self.assertIn(words, violations[0].message)

    def test_each_lets_pass_what_it_is_not_about(self):
        for rule, tree in KEPT:
            with self.subTest(rule=rule.__name__, tree=tree):
                self.assertEqual(rule(tree), [])

    def test_each_rule_has_both_kinds_of_example(self):
        self.assertEqual({rule for rule, _, _ in BROKEN}, set(house_rules.RULES))
        self.assertEqual({rule for rule, _ in KEPT}, set(house_rules.RULES))

    def test_line_is_that_of_the_violation(self):
        text = 'R"(\nioctl(\n)";\n/* ioctl(\n */\n  ioctl(fd);\n'
        violations = house_rules.ioctl_in_kvmglue_only({"vmm/a.cc": text})
        self.assertEqual([violation.line for violation in violations], [6])

    def test_digit_separator_opens_no_character(self):
        text = "int n = 1'000; // don't\nioctl(fd);\n"
        self.assertEqual(house_rules.code_only(text), "int n = 1'000; \nioctl(fd);\n")


class Program(unittest.TestCase):
    """The program around them, on a repository of its own."""

    def setUp(self):
        self.directory = tempfile.TemporaryDirectory()
        self.addCleanup(self.directory.cleanup)
        self.root = pathlib.Path(self.directory.name)

    def run_program(self):
        program = pathlib.Path(house_rules.__file__).resolve()
        return subprocess.run(
            [sys.executable, program, "--root", self.root, "--xml", self.root / "out.xml"],
            stdout=subprocess.PIPE,
            check=False,
            text=True,
        )

    def git(self, *arguments):
        subprocess.run(["git", "-C", self.root, *arguments], check=True, stdout=subprocess.DEVNULL)

    def test_only_tracked_files_count(self):
        self.git("init", "-q")
        (self.root / "good.cc").write_text(SPDX)
        (self.root / "untracked.cc").write_text("no licence\n")
        self.git("add", "good.cc")
        result = self.run_program()
        self.assertEqual((result.returncode, result.stdout), (0, ""))

    def test_without_a_repository_all_files_count(self):
        (self.root / "bad.cc").write_text("no licence\n")
        result = self.run_program()
        self.assertEqual(result.returncode, 1)
        self.assertIn("bad.cc:1: no licence", result.stdout)

    def test_xml_has_a_case_for_each_rule(self):
        (self.root / "bad.cc").write_text("no licence\n")
        self.run_program()
        xml = (self.root / "out.xml").read_text()
        self.assertEqual(xml.count("<testcase "), len(house_rules.RULES))
        self.assertEqual(xml.count("<failure "), 1)


if __name__ == "__main__":
    junit_main()
