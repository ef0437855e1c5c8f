# SPDX-License-Identifier: Apache-2.0
"""Old against new from the commit to the exit code, in a repository whose benchmark is a script."""

import contextlib
import io
import json
import os
import pathlib
import select
import subprocess
import sys
import tempfile
import unittest

_HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(_HERE), str(_HERE.parent.parent / "tools")]

import against  # pylint: disable=wrong-import-position
import against_tree  # pylint: disable=wrong-import-position
from junit_main import junit_main  # pylint: disable=wrong-import-position

# For a process that was killed to be gone, on a machine that does much else.
END_BOUND_S = 60
# A build is given up after the first of these in which it has got so far that there is something
# to be left.
GIVE_UP_S = (0.3, 3, 30)
# "Builds" bench/demo.cc, which is the program already, unless it says that it is broken.
DEV = """#!/bin/bash
[[ $1 == build ]] || exit 0
if grep -q BROKEN bench/demo.cc; then echo 'bench/demo.cc: error'; exit 1; fi
mkdir -p bazel-bin/bench
cp bench/demo.cc bazel-bin/bench/demo
chmod +x bazel-bin/bench/demo
"""
# Writes down its turn beside the repository.
DEMO = """#!/bin/bash
if [[ $1 == --help ]]; then
  echo 'Options: {options}'
  exit
fi
echo '{us}' >>"$TURNS"
echo 'hop 5 of 5'
echo '{{"hops": 5, "blackout_us": {{"p50": {us}, {p99} "phases": {{"claim": 9}}}}}}'
exit {status}
"""
OPTIONS = "--backend TEXT --vm-type TEXT --fence TEXT --vcpus INT --memory INT --hops INT --json"


def demo(us, options=OPTIONS, p99='"p99": 400,', status=0):
    return DEMO.format(us=us, options=options, p99=p99, status=status)


class Against(unittest.TestCase):
    def setUp(self):
        self.directory = tempfile.TemporaryDirectory()
        self.addCleanup(self.directory.cleanup)
        self.root = pathlib.Path(self.directory.name).resolve() / "checkout"
        self.root.mkdir()
        self.turns = self.root.parent / "turns"
        os.environ["TURNS"] = str(self.turns)
        (self.root / "bench").mkdir()
        self.git("init", "--quiet")
        self.write("dev", DEV).chmod(0o755)
        self.write(".gitignore", "bazel-*\n.cache/\n")
        self.commit("empty")
        self.add("old", demo(300))

    def write(self, path, text):
        file = self.root / path
        file.write_text(text, encoding="utf-8")
        return file

    def git(self, *arguments):
        who = ["-c", "user.name=T", "-c", "user.email=t@example.org"]
        return subprocess.run(["git", *who, *arguments], cwd=self.root, check=True, text=True,
                              env=against_tree.environment(), stdout=subprocess.PIPE).stdout

    def commit(self, tag):
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", tag)
        self.git("tag", tag)

    def add(self, tag, text):
        self.write("bench/demo.cc", text)
        self.commit(tag)

    def run_against(self, rev, *arguments):
        """(exit code, stdout, the program's own last line on stderr)."""
        out, err = io.StringIO(), tempfile.TemporaryFile("w+")
        with err, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                code = against.main([rev, "--backend", "sim", "--rounds", "6", "--hops", "5",
                                     *arguments], self.root)
            except SystemExit as error:
                code = error.code
            err.seek(0)
            said = err.read().strip().splitlines()
        return code, out.getvalue(), said[-1] if said else ""

    def refused(self, rev, *arguments):
        """The line that says why; nothing was measured."""
        code, out, said = self.run_against(rev, *arguments)
        self.assertEqual((code, out, self.turns.exists()), (2, "", False))
        return said

    # Verdicts.

    def test_the_working_tree_with_its_changes_is_the_new_side(self):
        self.write("bench/demo.cc", demo(360))
        code, out, _ = self.run_against("old", "--json")
        self.assertEqual(code, 1)
        result = json.loads(out.splitlines()[-1])
        self.assertEqual(result["answer"]["p50"]["ratio"]["median"], 1.2)
        self.assertIn("with changes", result["new"])
        self.assertEqual(result["backend"], "sim")
        self.assertIn("SIMULATED", out)

    def test_the_same_is_not_worse_and_a_faster_one_neither(self):
        self.assertEqual(self.run_against("old")[0], 0)
        self.write("bench/demo.cc", demo(200))
        code, out, _ = self.run_against("old")
        self.assertEqual(code, 0)
        self.assertIn("p50: faster", out)

    def test_who_is_first_changes_from_round_to_round(self):
        self.write("bench/demo.cc", demo(301))
        self.run_against("old")
        self.assertEqual(self.turns.read_text(encoding="utf-8").split(),
                         ["300", "301", "301", "300"] * 3)

    # The user's checkout, and the tree beside it.

    def test_the_checkout_is_as_it_was_whatever_commit_is_compared(self):
        self.add("newer", demo(310))
        self.write("bench/demo.cc", demo(320))
        self.write("note", "not tracked\n")
        before = self.git("status", "--porcelain"), self.git("rev-parse", "HEAD"), \
            self.git("branch", "--all")
        for rev, us in (("old", "300"), ("newer", "310"), ("old", "300")):
            self.turns.unlink(missing_ok=True)
            self.assertEqual(self.run_against(rev)[0], 1 if rev == "old" else 0)
            self.assertEqual(self.turns.read_text(encoding="utf-8").split()[0], us)
        self.assertEqual((self.git("status", "--porcelain"), self.git("rev-parse", "HEAD"),
                          self.git("branch", "--all")), before)
        self.assertEqual((self.root / "bench/demo.cc").read_text(encoding="utf-8"), demo(320))

    def test_the_other_tree_is_exactly_the_commit(self):
        self.run_against("old")
        tree = self.root / against_tree.PLACE / "tree"
        (tree / "bench/demo.cc").write_text(demo(500), encoding="utf-8")
        (tree / "bench/more.cc").write_text("left over", encoding="utf-8")
        self.turns.unlink()
        self.run_against("old")
        self.assertEqual(set(self.turns.read_text(encoding="utf-8").split()), {"300"})
        self.assertFalse((tree / "bench/more.cc").exists())

    def test_what_is_left_of_another_tree_never_leads_to_the_users_checkout(self):
        self.run_against("old")
        tree = self.root / against_tree.PLACE / "tree"
        (tree / ".git").unlink()  # git would look for a repository above it from now on
        self.write("bench/demo.cc", demo(320))
        self.assertEqual(self.run_against("old")[0], 1)
        self.assertEqual((self.root / "bench/demo.cc").read_text(encoding="utf-8"), demo(320))

    def test_variables_of_a_git_hook_lead_nowhere_else(self):
        os.environ["GIT_DIR"] = str(self.root.parent / "nothing")
        self.addCleanup(os.environ.pop, "GIT_DIR")
        self.assertEqual(self.run_against("old")[0], 0)

    # Refusals.

    def test_an_unknown_commit(self):
        self.assertIn("nope names no commit here", self.refused("nope"))

    def test_a_commit_from_before_the_benchmark(self):
        since = self.git("rev-parse", "--short", "old").strip()
        self.assertIn(f"empty has no bench/demo.cc; give a commit that has it, which is there "
                      f"since {since}", self.refused("empty"))

    def test_a_commit_that_cannot_be_built(self):
        self.add("broken", "BROKEN")
        self.add("mended", demo(300))
        said = self.refused("broken")
        self.assertIn("//bench:demo of broken (", said)
        self.assertIn("cannot be built; see ", said)

    def test_a_working_tree_that_cannot_be_built_is_to_be_mended(self):
        self.write("bench/demo.cc", "BROKEN")
        said = self.refused("old")
        self.assertIn("of the working tree (", said)
        self.assertIn("with changes) cannot be built; mend it first", said)

    def test_a_build_that_is_given_up_leaves_nothing_running(self):
        self.write("dev", "#!/bin/bash\nbash -c 'echo up; tail -f /dev/null'\ntrue\n")
        said = b""
        for seconds in GIVE_UP_S:
            said = self.what_a_given_up_build_said(seconds)
            if said:
                break
        self.assertEqual(said, b"up\n")

    def what_a_given_up_build_said(self, seconds):
        reader, writer = os.pipe()
        with open(reader, "rb", buffering=0) as output:
            with self.assertRaises(subprocess.TimeoutExpired):
                against_tree.dev(self.root, "build", timeout=seconds, stdout=writer)
            os.close(writer)
            said = b""
            while True:
                # The end of what it writes comes when none of its processes is left.
                self.assertTrue(select.select([output], [], [], END_BOUND_S)[0], "one still runs")
                part = output.read(100)
                if not part:
                    return said
                said += part

    def test_an_option_that_one_side_does_not_know(self):
        self.add("newer", demo(300, OPTIONS + " --memfd"))
        said = self.refused("old", "--memfd")
        self.assertIn("the demo of old (", said)
        self.assertIn(") knows no --memfd; leave it out", said)
        self.assertEqual(self.run_against("newer", "--memfd")[0], 0)

    def test_a_commit_that_lacks_what_every_run_needs(self):
        self.add("older", demo(300, OPTIONS.replace("--fence TEXT ", "")))
        self.add("newer", demo(300))
        self.assertIn("knows no --fence; give a commit that has it", self.refused("older"))

    def test_a_field_that_the_old_benchmark_does_not_say(self):
        self.add("older", demo(300, p99=""))
        self.add("newer", demo(300))
        code, out, said = self.run_against("older")
        self.assertEqual((code, out), (2, ""))
        self.assertIn("says no blackout_us.p99; give a commit that measures it", said)

    def test_a_benchmark_that_fails_gives_no_verdict(self):
        self.write("bench/demo.cc", demo(300, status=1))
        code, out, said = self.run_against("old")
        self.assertEqual((code, out), (2, ""))
        self.assertIn("gave no result; run `", said)

    def test_a_result_that_nobody_foresaw_is_no_verdict(self):
        self.write("bench/demo.cc", demo(300).replace('{"claim": 9}', "7"))
        code, out, said = self.run_against("old")
        self.assertEqual((code, out), (2, ""))
        self.assertIn("nothing is compared", said)

    def test_a_second_run_of_the_same_checkout(self):
        with against_tree.Lock(self.root):
            self.assertIn("is under way", self.refused("old"))

    def test_wrong_usage(self):
        for arguments, why in ((["--rounds", "7"], "even number"), (["--rounds", "4"], "even"),
                               (["--hops", "0"], "from 1"), (["--runs", "9"], "--runs is not"),
                               (["--hops", "x"], "--hops")):
            self.assertIn(why, self.refused("old", *arguments))
        self.assertIn("REV comes first", self.refused("--json"))


if __name__ == "__main__":
    junit_main()
