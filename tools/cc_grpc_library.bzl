# SPDX-License-Identifier: Apache-2.0
"""cc_grpc_library: C++ from .proto files with the distribution's protoc and gRPC plugin.

Imports are relative to `import_root` ("proto" unless told otherwise), in .proto files and in C++
alike: proto/rehome/v1/vm.proto is imported as "rehome/v1/vm.proto" and included as
"rehome/v1/vm.pb.h", whichever package its target is in.
"""

load("@system//:versions.bzl", "FINGERPRINT")

_ProtoInfo = provider(
    doc = "The .proto files that an importer needs.",
    fields = {"srcs": "depset of File", "roots": "depset of import roots"},
)

def _generate(ctx, src, protos, roots, out_dir):
    """Runs protoc on one file; returns (headers, sources)."""
    if not src.basename.endswith(".proto"):
        fail("%s is not a .proto file" % src.short_path)
    package = ctx.label.package + "/" if ctx.label.package else ""
    stem = src.short_path[len(package):-len(".proto")]
    hdrs = [ctx.actions.declare_file(stem + ".pb.h")]
    srcs = [ctx.actions.declare_file(stem + ".pb.cc")]

    args = ctx.actions.args()
    args.add_all(roots, format_each = "-I%s")
    args.add("-I/usr/include")
    args.add(out_dir, format = "--cpp_out=%s")
    if ctx.attr.grpc:
        hdrs.append(ctx.actions.declare_file(stem + ".grpc.pb.h"))
        srcs.append(ctx.actions.declare_file(stem + ".grpc.pb.cc"))
        args.add("--plugin=protoc-gen-grpc=/usr/bin/grpc_cpp_plugin")
        if ctx.attr.mock:
            hdrs.append(ctx.actions.declare_file(stem + "_mock.grpc.pb.h"))
            args.add("--grpc_opt=generate_mock_code=true")
        args.add(out_dir, format = "--grpc_out=%s")
    args.add(src)

    ctx.actions.run(
        executable = "/usr/bin/protoc",
        arguments = [args],
        env = {"REHOME_SYSTEM_FINGERPRINT": FINGERPRINT},
        inputs = protos,
        mnemonic = "Protoc",
        outputs = hdrs + srcs,
        progress_message = "Generating C++ from %s" % src.short_path,
    )
    return hdrs, srcs

def _impl(ctx):
    root = ctx.attr.import_root or "."
    out_dir = ctx.bin_dir.path + ("/" + ctx.attr.import_root if ctx.attr.import_root else "")
    for src in ctx.files.srcs:
        if ctx.attr.import_root and not src.short_path.startswith(ctx.attr.import_root + "/"):
            fail("%s is not under import_root %s" % (src.short_path, ctx.attr.import_root))
    infos = [dep[_ProtoInfo] for dep in ctx.attr.deps]
    protos = depset(ctx.files.srcs, transitive = [info.srcs for info in infos])
    roots = depset([root], transitive = [info.roots for info in infos])

    hdrs, srcs = [], []
    for src in ctx.files.srcs:
        src_hdrs, src_srcs = _generate(ctx, src, protos, roots, out_dir)
        hdrs += src_hdrs
        srcs += src_srcs

    # A system include directory: generated code does not answer to our warnings.
    compilation_context = cc_common.create_compilation_context(
        headers = depset(hdrs),
        system_includes = depset([out_dir]),
    )
    return [
        DefaultInfo(files = depset(hdrs + srcs)),
        OutputGroupInfo(hdrs = depset(hdrs), srcs = depset(srcs)),
        CcInfo(compilation_context = compilation_context),
        _ProtoInfo(srcs = protos, roots = roots),
    ]

_proto_gen = rule(
    implementation = _impl,
    attrs = {
        "deps": attr.label_list(providers = [_ProtoInfo]),
        "grpc": attr.bool(),
        "import_root": attr.string(),
        "mock": attr.bool(),
        "srcs": attr.label_list(allow_files = [".proto"], mandatory = True),
    },
)

def _gen_label(label):
    """The generator behind a cc_grpc_library label: //a/b is short for //a/b:b."""
    package, colon, target = label.rpartition(":")
    if colon:
        return package + ":" + target + "_gen"
    if label.startswith("//") or label.startswith("@"):
        return label + ":" + label.rpartition("/")[2] + "_gen"
    return label + "_gen"

def cc_grpc_library(
        name,
        srcs,
        deps = [],
        grpc = True,
        mock = False,
        import_root = "proto",
        visibility = None,
        **kwargs):
    """A C++ library of messages and, with grpc, of service stubs.

    Args:
      name: the target.
      srcs: .proto files of this package (sub-directories without a BUILD file included).
      deps: cc_grpc_library targets whose files are imported. Google's well-known types need none.
      grpc: also generate service code (x.grpc.pb.h).
      mock: also generate googlemock stubs (x_mock.grpc.pb.h); users add @system//:gmock.
      import_root: directory, from the top of the repository, that imports are relative to.
      visibility: as usual.
      **kwargs: passed to cc_library.
    """
    gen = name + "_gen"
    _proto_gen(
        name = gen,
        srcs = srcs,
        grpc = grpc,
        import_root = import_root,
        mock = mock and grpc,
        visibility = visibility,
        deps = [_gen_label(dep) for dep in deps],
    )
    for group in ["hdrs", "srcs"]:
        native.filegroup(
            name = name + "_" + group,
            srcs = [":" + gen],
            output_group = group,
            visibility = ["//visibility:private"],
        )
    native.cc_library(
        name = name,
        srcs = [":" + name + "_srcs"],
        hdrs = [":" + name + "_hdrs"],
        copts = ["-DREHOME_SYSTEM_FINGERPRINT=" + FINGERPRINT, "-w"],
        visibility = visibility,
        deps = deps + [":" + gen, "@system//:protobuf"] + (["@system//:grpc++"] if grpc else []),
        **kwargs
    )
