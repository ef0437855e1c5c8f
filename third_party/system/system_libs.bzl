# SPDX-License-Identifier: Apache-2.0
"""The distribution's C and C++ libraries as cc_library targets of the repository @system.

A target carries the linker flags and -D flags that pkg-config names, and no headers: /usr/include
is a built-in directory of the compiler, and adding it again with -isystem breaks libstdc++'s
#include_next.

Bazel does not look into /usr/include, so it would not see a library or compiler upgrade and would
go on using cached objects. `versions.bzl` holds a fingerprint of the packages' versions, and
//tools:house.bzl puts it on every command line.
"""

# target -> pkg-config modules
_PKG_CONFIG = {
    "absl_hash_map": ["absl_flat_hash_map", "absl_flat_hash_set"],
    "absl_span": ["absl_span"],
    "absl_status": ["absl_status", "absl_statusor"],
    "absl_strings": ["absl_strings", "absl_str_format"],
    "absl_time": ["absl_time"],
    "cli11": ["CLI11"],
    "gmock": ["gmock"],
    "gmock_main": ["gmock_main"],
    "grpc++": ["grpc++"],
    "gtest": ["gtest"],
    "gtest_main": ["gtest_main"],
    "libsystemd": ["libsystemd"],
    "nlohmann_json": ["nlohmann_json"],
    "prometheus": ["prometheus-cpp-core", "prometheus-cpp-pull"],
    "protobuf": ["protobuf"],
    "spdlog": ["spdlog"],
    "sqlite3": ["sqlite3"],
    "tomlplusplus": ["tomlplusplus"],
}

# target -> (linker flags, targets of this repository): libraries without a .pc file.
_PLAIN = {
    # A static initialiser in this library registers the service: it has no symbol that we call.
    "grpc++_reflection": (
        ["-Wl,--no-as-needed", "-lgrpc++_reflection", "-Wl,--as-needed"],
        ["grpc++"],
    ),
    "rt": (["-lrt"], []),
    "threads": (["-pthread"], []),
}

_FINGERPRINTED = [
    "g++-12",
    "gcc-12",
    "libabsl-dev",
    "libc6-dev",
    "libcli11-dev",
    "libfmt-dev",
    "libgmock-dev",
    "libgrpc++-dev",
    "libgtest-dev",
    "libprotobuf-dev",
    "libspdlog-dev",
    "libsqlite3-dev",
    "libstdc++-12-dev",
    "libsystemd-dev",
    "libtomlplusplus-dev",
    "linux-libc-dev",
    "nlohmann-json3-dev",
    "prometheus-cpp-dev",
    "protobuf-compiler",
    "protobuf-compiler-grpc",
]

def _unique(items):
    return {item: None for item in items}.keys()

def _words(rctx, flag, modules):
    result = rctx.execute(["pkg-config", flag] + modules)
    if result.return_code != 0:
        fail("pkg-config %s %s: %s" % (flag, " ".join(modules), result.stderr))
    return [word for word in result.stdout.strip().split(" ") if word]

def _cc_library(name, linkopts, defines = [], deps = []):
    return """cc_library(
    name = {name},
    defines = {defines},
    linkopts = {linkopts},
    deps = {deps},
)
""".format(
        name = repr(name),
        defines = repr(defines),
        linkopts = repr(linkopts),
        deps = repr([":" + dep for dep in deps]),
    )

def _pkg_config_library(rctx, name, modules):
    if rctx.execute(["pkg-config", "--exists"] + modules).return_code != 0:
        # Only a build that needs the library fails, and the missing label says what to do.
        return _cc_library(name, [], deps = [name + "_is_not_installed__run_dev_setup"])

    # A static-library list repeats names to resolve cycles; these are shared libraries.
    libs = _unique(_words(rctx, "--libs", modules))
    defines = [f[2:] for f in _words(rctx, "--cflags", modules) if f.startswith("-D")]
    return _cc_library(name, libs, defines = defines)

def _fingerprint(rctx):
    # A package that is not installed is an error of dpkg-query and part of the answer all the same.
    query = "dpkg-query -W -f '${Package}=${Version}\\n' %s 2>/dev/null | sha256sum"
    return rctx.execute(["sh", "-c", query % " ".join(_FINGERPRINTED)]).stdout[:16]

def _impl(rctx):
    if not rctx.which("pkg-config"):
        fail("pkg-config is not installed: run ./dev setup")
    build = ["package(default_visibility = [\"//visibility:public\"])\n"]
    for name, modules in _PKG_CONFIG.items():
        build.append(_pkg_config_library(rctx, name, modules))
    for name, (linkopts, deps) in _PLAIN.items():
        build.append(_cc_library(name, linkopts, deps = deps))
    rctx.file("BUILD.bazel", "\n".join(build))
    rctx.file("versions.bzl", "FINGERPRINT = %s\n" % repr(_fingerprint(rctx)))

system_libs = repository_rule(
    implementation = _impl,
    configure = True,
    environ = ["PKG_CONFIG_PATH"],
    # Run again at each server start: the packages are not inputs that Bazel can watch.
    local = True,
)
