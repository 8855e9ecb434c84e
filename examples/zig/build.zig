//! zig build run: what compares with known values; zig build run -- bench: time; zig build test: what is refused.
//!
//! libmfa is the installed one, which pkg-config finds, unless -Dsource=CLONE has it built from there, for any -Dtarget.
const std = @import("std");

pub fn build(b: *std.Build) void {
    const target = b.standardTargetOptions(.{});
    const optimize = b.standardOptimizeOption(.{});
    const source = b.option([]const u8, "source", "Compile libmfa too, from this clone of mfa, instead of linking the installed one");

    // What @cImport was: mfa.h as Zig has it.
    const header = b.addTranslateC(.{ .root_source_file = b.path("src/c.h"), .target = target, .optimize = optimize });
    const main = b.createModule(.{
        .root_source_file = b.path("src/main.zig"),
        .target = target,
        .optimize = optimize,
        .link_libc = true,
    });
    if (source) |clone| {
        header.addIncludePath(.{ .cwd_relative = b.pathJoin(&.{ clone, "include" }) });
        addLibrary(b, main, clone);
    } else {
        header.linkSystemLibrary("mfa", .{});
        main.linkSystemLibrary("mfa", .{});
    }
    main.addImport("c", header.createModule());

    const program = b.addExecutable(.{ .name = "known_values", .root_module = main });
    b.installArtifact(program);
    const run = b.addRunArtifact(program);
    run.addPassthruArgs();
    b.step("run", "Compare with known values, or time: -- bench").dependOn(&run.step);

    const tests = b.addTest(.{ .root_module = main });
    b.step("test", "Have wrong calls refused").dependOn(&b.addRunArtifact(tests).step);
}

/// The CPU backend. It needs no flag per file: instruction sets are chosen inside the sources.
fn addLibrary(b: *std.Build, module: *std.Build.Module, clone: []const u8) void {
    const io = b.graph.io;
    for ([_][]const u8{ "include", "src", "metal" }) |folder| {
        module.addIncludePath(.{ .cwd_relative = b.pathJoin(&.{ clone, folder }) });
    }
    var files: std.ArrayList([]const u8) = .empty;
    for ([_][]const u8{ "src/core", "src/attn", "src/cpu" }) |name| {
        const path = b.pathJoin(&.{ clone, name });
        var folder = std.Io.Dir.cwd().openDir(io, path, .{ .iterate = true }) catch |reason|
            std.debug.panic("-Dsource={s} is no clone of mfa: {s}: {t}", .{ clone, path, reason });
        defer folder.close(io);
        var entries = folder.iterate();
        while (entries.next(io) catch @panic("a folder cannot be read")) |entry| {
            if (std.mem.endsWith(u8, entry.name, ".c")) {
                files.append(b.graph.arena, b.pathJoin(&.{ name, entry.name })) catch @panic("OOM");
            }
        }
    }
    files.append(b.graph.arena, "src/metal/metal_stub.c") catch @panic("OOM");
    module.addCSourceFiles(.{
        .root = .{ .cwd_relative = clone },
        .files = files.items,
        .flags = &.{ "-std=gnu11", "-fvisibility=hidden", "-pthread", "-fno-sanitize=all" },
    });
}
