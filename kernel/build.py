#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Builds the kernel under test from Debian's source package, this room's patches and `config`.

Prints the path of the bzImage. An image is kept under a key of all that goes into it, so that a
second call does nothing. The stock kernel and the patched one share a source tree and a build
directory: going from one to the other touches only the files that differ, and recompiles what
depends on those.
"""

import argparse
import contextlib
import dataclasses
import fcntl
import filecmp
import hashlib
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

ROOM = pathlib.Path(__file__).resolve().parent
# The release is pinned to the series; Debian's stable updates of it differ in what they mend. The
# patches were written on TRIED_VERSION; on another one they apply without fuzz or not at all.
TRIED_VERSION = "6.12.117-1~deb12u1"
SOURCE_PACKAGE = "linux-source-6.12"
SOURCE_ARCHIVE = pathlib.Path("/usr/src/linux-source-6.12.tar.xz")
# Changes when this program builds the same inputs to something else.
RECIPE = "1"


class BuildError(Exception):
    """Why there is no image, for a person."""


@dataclasses.dataclass(frozen=True)
class Flavour:
    """Which kernel is wanted."""

    stock: bool = False
    debug: bool = False

    @property
    def suffix(self):
        """What `uname -r` ends in."""
        return ("-stock" if self.stock else "-rehome") + ("-debug" if self.debug else "")

    @property
    def fragments(self):
        """Kconfig fragments, later ones win."""
        return [ROOM / "config"] + ([ROOM / "debug.config"] if self.debug else [])

    @property
    def patches(self):
        """Patches in order."""
        return [] if self.stock else sorted((ROOM / "patches").glob("*.patch"))


def cache_directory():
    """Where trees and images are, as tools/dev/common.sh has it."""
    base = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(base) / "rehome" / "kernel"


def output_of(*command):
    """A command's standard output."""
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def source_version():
    """The version of the installed source package."""
    try:
        return output_of("dpkg-query", "-W", "-f", "${Version}", SOURCE_PACKAGE)
    except (OSError, subprocess.CalledProcessError) as error:
        raise BuildError(f"{SOURCE_PACKAGE} is not installed") from error


def image_key(flavour, version, compiler):
    """Equal for equal inputs."""
    digest = hashlib.sha256()
    for part in [RECIPE, version, compiler, flavour.suffix]:
        digest.update(part.encode() + b"\0")
    for path in flavour.fragments + flavour.patches:
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def patched_files(patch):
    """The paths that a patch names, relative to the source tree."""
    names = re.findall(r"^(?:---|\+\+\+) [ab]/(\S+)", patch, flags=re.MULTILINE)
    return sorted(set(names))


class SourceTree:
    """The unpacked source, with any patches on top, and what was built from it."""

    def __init__(self, cache, version):
        self.path = cache / "tree" / SOURCE_PACKAGE
        self._version = version
        self._stamp = cache / "tree" / "version"
        # The files that have ever been patched, as they were.
        self._pristine = cache / "tree" / "pristine"
        self._builds = cache / "build"

    def unpack(self):
        """Unless it is there: unpacks Debian's archive. Other versions are of no use any more."""
        if self._stamp.exists() and self._stamp.read_text() == self._version:
            return
        # The objects as well: the files of an archive are old, so that make sees nothing to do.
        for outdated in [self.path.parent, self._builds]:
            shutil.rmtree(outdated, ignore_errors=True)
        self._pristine.mkdir(parents=True)
        print(f"unpacking {SOURCE_ARCHIVE}", flush=True)
        run(["tar", "-C", self.path.parent, "-xf", SOURCE_ARCHIVE])
        self._stamp.write_text(self._version)

    def build_directory(self, flavour):
        """For objects; the same for the stock kernel and the patched one."""
        path = self._builds / ("debug" if flavour.debug else "release")
        path.mkdir(parents=True, exist_ok=True)
        return path

    def apply(self, patches):
        """Makes the tree the pristine one plus `patches`; leaves what is right already alone."""
        wanted = {name for patch in patches for name in patched_files(patch.read_text())}
        for name in wanted:
            self._keep(name)
        with tempfile.TemporaryDirectory() as scratch:
            staged = pathlib.Path(scratch) / "tree"
            shutil.copytree(self._pristine, staged)
            for patch in patches:
                run(["patch", "-p1", "--fuzz=0", "--no-backup-if-mismatch", "-s",
                     "-d", staged, "-i", patch])
            for name in wanted | self._kept():
                self._install(name, staged / name)

    def _kept(self):
        return {
            str(path.relative_to(self._pristine)).removesuffix(".absent")
            for path in self._pristine.rglob("*")
            if path.is_file()
        }

    def _keep(self, name):
        """Remembers a file before it is touched for the first time, or that there was none."""
        if name in self._kept():
            return
        original, copy = self.path / name, self._pristine / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        if original.exists():
            # By a rename, so that what is there is whole.
            partial = copy.with_name(copy.name + ".partial")
            shutil.copy2(original, partial)
            partial.rename(copy)
        else:
            copy.with_name(copy.name + ".absent").touch()

    def _install(self, name, staged):
        target = self.path / name
        if not staged.exists():
            target.unlink(missing_ok=True)
        elif not target.exists() or not filecmp.cmp(staged, target, shallow=False):
            target.parent.mkdir(parents=True, exist_ok=True)
            # copyfile(), not copy2(): make has to see that the file is new.
            shutil.copyfile(staged, target)


def run(command, **kwargs):
    """A command whose output is the log, and whose failure is the build's."""
    command = [str(part) for part in command]
    if subprocess.run(command, stdin=subprocess.DEVNULL, check=False, **kwargs).returncode != 0:
        raise BuildError(f"{' '.join(command)} failed")


def configure(tree, build, flavour):
    """tinyconfig plus the fragments; an error if Kconfig did not take a line of them."""
    make = ["make", "-s", "-C", tree, f"O={build}"]
    run(make + ["tinyconfig"])
    run([tree / "scripts/kconfig/merge_config.sh", "-m", "-Q", "-O", build, build / ".config"]
        + flavour.fragments, cwd=tree)
    run(make + ["olddefconfig"])
    refused = refused_options((build / ".config").read_text(),
                              "\n".join(path.read_text() for path in flavour.fragments))
    if refused:
        raise BuildError("the configuration has no place for " + ", ".join(refused))


def refused_options(config, wanted):
    """The lines of `wanted` that `config` does not have."""
    values = dict(re.findall(r"^(CONFIG_\w+)=(.*)$", config, flags=re.MULTILINE))
    asked = dict(re.findall(r"^(CONFIG_\w+)=(.*)$", wanted, flags=re.MULTILINE))
    return [f"{name}={value}" for name, value in asked.items() if values.get(name, "n") != value]


def build_image(cache, flavour, version):
    """Builds; returns the path of the bzImage in the build directory."""
    tree = SourceTree(cache, version)
    tree.unpack()
    try:
        tree.apply(flavour.patches)
    except BuildError as error:
        raise BuildError(f"{error}: the patches are known to fit {TRIED_VERSION}, "
                         f"the source is {version}") from error
    build = tree.build_directory(flavour)
    configure(tree.path, build, flavour)
    # No names and times of this machine in the image.
    stamp = ["KBUILD_BUILD_USER=rehome", "KBUILD_BUILD_HOST=rehome",
             "KBUILD_BUILD_TIMESTAMP=1970-01-01"]
    run(["make", "-s", "-C", tree.path, f"O={build}", f"-j{os.cpu_count()}",
         f"LOCALVERSION={flavour.suffix}", *stamp, "bzImage"])
    return build / "arch/x86/boot/bzImage"


@contextlib.contextmanager
def lock(cache):
    """One build at a time: the tree is shared."""
    cache.mkdir(parents=True, exist_ok=True)
    with open(cache / "lock", "w", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def image_of(flavour):
    """The path of the image, whether it is there or not."""
    version = source_version()
    compiler = output_of("gcc", "--version").splitlines()[0]
    return cache_directory() / "images" / image_key(flavour, version, compiler) / "bzImage"


def ensure_image(flavour):
    """The path of the image; builds it if need be."""
    image = image_of(flavour)
    if image.exists():
        return image
    cache = cache_directory()
    with lock(cache):
        if not image.exists():
            built = build_image(cache, flavour, source_version())
            image.parent.mkdir(parents=True, exist_ok=True)
            partial = image.with_suffix(".partial")
            shutil.copyfile(built, partial)
            partial.rename(image)
    return image


def main():
    """The command line."""
    parser = argparse.ArgumentParser(prog="./dev kernel build", description=__doc__.split("\n\n")[0])
    parser.add_argument("--stock", action="store_true", help="without the patches")
    parser.add_argument("--debug", action="store_true", help="with lockdep, KASAN, KVM_PROVE_MMU")
    parser.add_argument("--where", action="store_true",
                        help="only print the path; status 1 if the image has to be built")
    args = parser.parse_args()
    flavour = Flavour(args.stock, args.debug)
    try:
        image = image_of(flavour) if args.where else ensure_image(flavour)
    except BuildError as error:
        print(f"kernel: {error}", file=sys.stderr)
        return 1
    print(image)
    return 0 if image.exists() else 1


if __name__ == "__main__":
    sys.exit(main())
