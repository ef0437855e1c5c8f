# SPDX-License-Identifier: Apache-2.0
"""The source tree is exactly what was asked for, and make sees what changed and nothing else."""

import os
import pathlib
import sys
import tempfile
import unittest
import unittest.mock

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "tools"))

import build  # pylint: disable=wrong-import-position
import run  # pylint: disable=wrong-import-position
from junit_main import junit_main  # pylint: disable=wrong-import-position

CHANGE_A = "--- a/a.c\n+++ b/a.c\n@@ -1 +1 @@\n-one\n+two\n"
ADD_B = "--- /dev/null\n+++ b/dir/b.c\n@@ -0,0 +1 @@\n+new\n"
CHANGE_A_AGAIN = "--- a/a.c\n+++ b/a.c\n@@ -1 +1 @@\n-two\n+three\n"
OLD = 1_000_000_000


class Tree(unittest.TestCase):
    """A source tree of two files, and patches to it."""

    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.root = pathlib.Path(directory.name)
        self.tree = build.SourceTree(self.root, "1.0")
        (self.root / "tree/pristine").mkdir(parents=True)
        self.tree.path.mkdir()
        for name in ["a.c", "other.c"]:
            (self.tree.path / name).write_text("one\n")
        self.age()

    def age(self):
        for path in self.tree.path.rglob("*.c"):
            os.utime(path, (OLD, OLD))

    def apply(self, *texts):
        patches = []
        for number, text in enumerate(texts):
            patches.append(self.root / f"{number}.patch")
            patches[-1].write_text(text)
        self.tree.apply(patches)

    def content(self):
        return {str(path.relative_to(self.tree.path)): path.read_text()
                for path in self.tree.path.rglob("*.c")}

    def touched(self):
        return {path.name for path in self.tree.path.rglob("*.c") if path.stat().st_mtime > OLD}

    def test_series_is_applied_in_order(self):
        self.apply(CHANGE_A, ADD_B, CHANGE_A_AGAIN)
        self.assertEqual(self.content(),
                         {"a.c": "three\n", "dir/b.c": "new\n", "other.c": "one\n"})
        self.assertEqual(self.touched(), {"a.c", "b.c"})

    def test_stock_tree_comes_back(self):
        self.apply(CHANGE_A, ADD_B)
        self.apply()
        self.assertEqual(self.content(), {"a.c": "one\n", "other.c": "one\n"})

    def test_what_is_right_already_is_left_alone(self):
        self.apply(CHANGE_A, ADD_B)
        self.age()
        self.apply(CHANGE_A, ADD_B)
        self.assertEqual(self.touched(), set())

    def test_patch_that_does_not_fit_is_an_error_and_changes_nothing(self):
        with self.assertRaises(build.BuildError):
            self.apply(CHANGE_A_AGAIN)
        self.assertEqual(self.content(), {"a.c": "one\n", "other.c": "one\n"})

    def test_option_that_kconfig_dropped_is_named(self):
        wanted = "CONFIG_A=y\nCONFIG_B=n\nCONFIG_C=8\n"
        self.assertEqual(build.refused_options("CONFIG_A=y\nCONFIG_C=8\n", wanted), [])
        self.assertEqual(build.refused_options("CONFIG_B=y\nCONFIG_C=4\n", wanted),
                         ["CONFIG_A=y", "CONFIG_B=n", "CONFIG_C=8"])

    def test_each_input_changes_the_key(self):
        keys = {build.image_key(build.Flavour(stock, debug), version, compiler)
                for stock in (False, True) for debug in (False, True)
                for version in ("1", "2") for compiler in ("gcc 1", "gcc 2")}
        self.assertEqual(len(keys), 16)


class Plan(unittest.TestCase):
    """What is run in the machine."""

    LIST = ("# a remark\n\nfirst patched 10 512 nested //a:x --flag\n"
            "manual_second both 20 1024 nested //b:y {//c/d:z}\n"
            "third both 30 512 shadow //a:t --kernel={kernel}\n"
            "fourth stock 30 512 nested //a:t\n")

    def chosen(self, wanted, stock=False):
        programs = run.choose(run.read_programs(self.LIST), wanted, build.Flavour(stock=stock))
        return [program.name for program in programs]

    def test_manual_programs_run_only_when_named(self):
        self.assertEqual(self.chosen(""), ["first", "third"])
        self.assertEqual(self.chosen("second"), ["manual_second"])
        self.assertEqual(self.chosen("fifth"), [])

    def test_each_kernel_gets_what_is_for_it(self):
        self.assertEqual(self.chosen("", stock=True), ["third", "fourth"])
        self.assertEqual(self.chosen("first", stock=True), [])

    def test_plan_names_programs_that_bazel_built(self):
        first, second, *_ = run.read_programs(self.LIST)
        bazel_bin = pathlib.Path("/bin-dir")
        self.assertEqual(run.plan_line(first, bazel_bin, "", build.Flavour(debug=True)),
                         f"first {10 * run.DEBUG_FACTOR} /bin-dir/a/x --flag\n")
        self.assertEqual(run.plan_line(second, bazel_bin, "second:S.A*", build.Flavour()),
                         "manual_second 20 GTEST_FILTER='S.A*' /bin-dir/b/y /bin-dir/c/d/z\n")
        self.assertEqual(second.targets(), ["//b:y", "//c/d:z"])

    def test_program_is_told_which_kernel_it_runs_on(self):
        _, _, third, _ = run.read_programs(self.LIST)
        for stock, name in [(False, "patched"), (True, "stock")]:
            line = run.plan_line(third, pathlib.Path("/b"), "", build.Flavour(stock=stock))
            self.assertEqual(line, f"third 30 /b/a/t --kernel={name}\n")

    def test_there_is_a_machine_for_each_kind_of_paging(self):
        machines = run.by_machine(run.read_programs(self.LIST))
        self.assertEqual([[program.name for program in machine] for machine in machines],
                         [["first", "manual_second", "fourth"], ["third"]])

    def test_guest_gets_the_stock_kernel_whatever_the_machine_runs(self):
        with unittest.mock.patch.object(build, "image_of", lambda flavour: f"/img{flavour.suffix}"):
            self.assertEqual(run.filled_in("--image={guest-image}", pathlib.Path("/b"),
                                           build.Flavour()), "--image=/img-stock")


if __name__ == "__main__":
    junit_main()
