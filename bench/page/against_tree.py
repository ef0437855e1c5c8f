# SPDX-License-Identifier: Apache-2.0
"""A commit checked out and built beside the user's checkout, which is only read."""

import fcntl
import os
import pathlib
import shutil
import signal
import subprocess
import sys

import bench_run

# Below the checkout's .cache. One tree for all commits, so that the next needs a new build of what
# differs only.
PLACE = pathlib.Path(".cache/against")
# A build from nothing on a busy machine.
BUILD_TIMEOUT_S = 3600
# Git, and ending a Bazel server.
COMMAND_TIMEOUT_S = 300


class Refusal(Exception):
    """Nothing can be compared; the text says in one line why, and what to do."""


def environment():
    """Without what would send git to another repository than the one it stands in."""
    return {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}


def git(directory, *arguments):
    """Its output, or None if it failed; the reason is on stderr unless git was told not to."""
    # No hook of the user's runs for a checkout that is not the user's.
    done = subprocess.run(["git", "-c", "core.hooksPath=/dev/null", *arguments], cwd=directory,
                          env=environment(), stdout=subprocess.PIPE, text=True, check=False,
                          timeout=COMMAND_TIMEOUT_S)
    return done.stdout.strip() if done.returncode == 0 else None


def resolve(root, rev):
    """The commit that REV names."""
    commit = git(root, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{rev}^{{commit}}")
    if not commit:
        raise Refusal(f"{rev} names no commit here; `git log` lists those there are")
    return commit


def require_source(root, rev, commit, path):
    """Refuses a commit from before the program was there."""
    if git(root, "ls-tree", "--name-only", commit, "--", path) != path:
        added = git(root, "log", "--diff-filter=A", "--format=%h", "--", path)
        since = f", which is there since {added.splitlines()[-1]}" if added else ""
        raise Refusal(f"{rev} has no {path}; give a commit that has it{since}")


def short(root, commit):
    """A commit as people read it."""
    return git(root, "rev-parse", "--short", commit)


def working_tree(root):
    """(commit, whether files differ from it)."""
    return short(root, "HEAD"), bool(git(root, "status", "--porcelain"))


class Lock:
    """One run at a time for each checkout: they would share the tree. Held until the exit."""

    def __init__(self, root):
        place = root / PLACE
        place.mkdir(parents=True, exist_ok=True)
        self._file = open(place / "lock", "w", encoding="utf-8")

    def __enter__(self):
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._file.close()
            raise Refusal("another `./dev bench against` of this checkout is under way; "
                          "wait for its end") from error
        return self

    def __exit__(self, *_):
        self._file.close()


def is_own(tree):
    """Whether `tree` is a work tree itself. In one that is none, git would find the user's."""
    if not (tree / ".git").exists():
        return False
    top = git(tree, "rev-parse", "--show-toplevel")
    return top is not None and pathlib.Path(top) == tree.resolve()


def check_out(root, commit):
    """The tree, with exactly the commit in it."""
    tree = root / PLACE / "tree"
    if is_own(tree):
        done = git(tree, "checkout", "--quiet", "--force", "--detach", commit)
        done = done if done is None else git(tree, "clean", "-ffdq")
    else:
        shutil.rmtree(tree, ignore_errors=True)
        git(root, "worktree", "prune")
        done = git(root, "worktree", "add", "--quiet", "--force", "--detach", str(tree), commit)
    if done is None:
        raise Refusal(f"git cannot check {commit} out into {tree}; remove that directory and try "
                      "again")
    return tree


def dev(tree, *arguments, timeout, **streams):
    """Exit code of a command of the tree's own ./dev, which knows how to build it. Whatever ends
    the wait for it, what it started is ended with it."""
    process = subprocess.Popen([tree / "dev", *arguments], cwd=tree, env=environment(),
                               stdin=subprocess.DEVNULL, start_new_session=True, **streams)
    try:
        return process.wait(timeout)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)  # on which Bazel's client cancels the build
            try:
                process.wait(bench_run.END_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def build(tree, program, name, what_to_do):
    """The built program's path."""
    try:
        done = dev(tree, "build", f"//bench:{program}", stdout=sys.stderr,
                   timeout=BUILD_TIMEOUT_S) == 0
    except (OSError, subprocess.TimeoutExpired):
        done = False
    path = tree / "bazel-bin/bench" / program
    if not done or not path.exists():
        raise Refusal(f"//bench:{program} of {name} cannot be built; {what_to_do}")
    return path


def leave(tree):
    """Ends the tree's Bazel server, which would hold a GiB beside what is measured."""
    try:
        dev(tree, "bazel", "shutdown", timeout=COMMAND_TIMEOUT_S, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired):
        pass  # it goes by itself when it has been idle
