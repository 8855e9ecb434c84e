//! Forward, backward, a sliding window, a block mask and quantised keys and values, each compared with known values: of
//! head 1, row 5, columns 0 to 3. With the argument `bench`, how long calls take.
const std = @import("std");
const mfa = @import("mfa.zig");

const heads = 2;
const rows = 8;
const head_dim = 8;
const shape: mfa.Shape = .{ 1, heads, rows, head_dim };
const Elements = [heads * rows * head_dim]f32;

fn codes(comptime step: i32, comptime shift: i32) [heads * rows * head_dim]i8 {
    var made: [heads * rows * head_dim]i8 = undefined;
    for (&made, 0..) |*code, i| code.* = @intCast(@mod(step * @as(i32, @intCast(i)) + shift, 17) - 8);
    return made;
}

fn eighths(comptime step: i32, comptime shift: i32) Elements {
    var made: Elements = undefined;
    for (&made, codes(step, shift)) |*element, code| element.* = @as(f32, code) / 8;
    return made;
}

fn known(writer: *std.Io.Writer, name: []const u8, result: *const Elements, expected: [4]f32) !void {
    const row = result[(1 * rows + 5) * head_dim ..][0..4];
    try writer.print("{s} {d:.6} {d:.6} {d:.6} {d:.6}\n", .{ name, row[0], row[1], row[2], row[3] });
    for (row, expected, 0..) |got, want, column| {
        if (@abs(got - want) < 1e-5) continue;
        std.log.err("{s} is {d:.6} in column {d}, expected {d:.6}", .{ name, got, column, want });
        return error.NotTheKnownValues;
    }
}

fn compare(gpa: std.mem.Allocator, writer: *std.Io.Writer) !void {
    var context = try mfa.Context.init(.{});
    defer context.deinit();
    const query, const key, const value = .{ eighths(5, 0), eighths(7, 3), eighths(11, 5) };
    const dout = eighths(3, 1);
    var out: Elements = undefined;
    const full: mfa.Attention = .{
        .query = try .init(f32, &query, shape),
        .key = try .init(f32, &key, shape),
        .value = try .init(f32, &value, shape),
        .out = try .init(f32, &out, shape),
    };
    try context.forward(&full);
    try known(writer, "forward", &out, .{ 0.222707, -0.012910, -0.264847, 0.097707 });

    var logsumexp: [heads * rows]f32 = undefined;
    var dq: Elements = undefined;
    var dk: Elements = undefined;
    var dv: Elements = undefined;
    var causal = full;
    causal.causal = true;
    causal.logsumexp = try .init(f32, &logsumexp, .{ 1, heads, rows, 1 });
    try context.forward(&causal);
    try context.backward(&causal, &.{
        .dout = try .init(f32, &dout, shape),
        .dquery = try .init(f32, &dq, shape),
        .dkey = try .init(f32, &dk, shape),
        .dvalue = try .init(f32, &dv, shape),
    });
    try known(writer, "dq", &dq, .{ 0.034121, -0.116048, 0.024352, -0.027352 });
    try known(writer, "dk", &dk, .{ 0.044962, 0.017408, -0.049931, 0.036372 });
    try known(writer, "dv", &dv, .{ -0.047868, -0.027844, 0.124267, 0.276377 });

    var near = full;
    near.window = .{ .left = 2, .right = 0 };
    try context.forward(&near);
    try known(writer, "window", &out, .{ -0.101362, -0.108237, 0.523638, -0.226362 });

    const seen = [_]bool{ true, true, false, false, true, false, true, true };
    var sparse = full;
    sparse.blocks = .{ .rows = 4, .keys = 2, .mask = try .init(bool, &seen, .{ 1, 1, 2, 4 }) };
    try context.forward(&sparse);
    try known(writer, "blocks", &out, .{ 0.510920, -0.239080, -0.331950, 0.385920 });

    var small_key = try mfa.Quantised.of(gpa, &codes(7, 3), &.{ 0.125, 0.25 }, shape);
    defer small_key.deinit(gpa);
    var small_value = try mfa.Quantised.of(gpa, &codes(11, 5), &.{ 0.125, 0.25 }, shape);
    defer small_value.deinit(gpa);
    var small = full;
    small.key = try small_key.operand();
    small.value = try small_value.operand();
    try context.forward(&small);
    try known(writer, "quantised", &out, .{ 0.509885, -0.074666, -0.655668, 0.259885 });
}

/// The seconds that each of `calls` calls took at the best of `rounds`.
fn bestOf(gpa: std.mem.Allocator, io: std.Io, context: *const mfa.Context, rounds: usize, calls: usize, sizes: mfa.Shape) !f64 {
    const count = sizes[0] * sizes[1] * sizes[2] * sizes[3];
    const memory = try gpa.alloc(f32, 4 * count);
    defer gpa.free(memory);
    for (memory, 0..) |*element, i| element.* = @as(f32, @floatFromInt(7 * i % 17)) / 8 - 1;
    const attention: mfa.Attention = .{
        .query = try .init(f32, memory[0..count], sizes),
        .key = try .init(f32, memory[count .. 2 * count], sizes),
        .value = try .init(f32, memory[2 * count .. 3 * count], sizes),
        .out = try .init(f32, memory[3 * count ..], sizes),
    };
    var best = std.math.inf(f64);
    for (0..rounds) |_| {
        const start = std.Io.Clock.awake.now(io);
        for (0..calls) |_| try context.forward(&attention);
        const took = start.untilNow(io, .awake).toNanoseconds();
        best = @min(best, @as(f64, @floatFromInt(took)) / 1e9 / @as(f64, @floatFromInt(calls)));
    }
    return best;
}

fn bench(gpa: std.mem.Allocator, io: std.Io, writer: *std.Io.Writer) !void {
    var context = try mfa.Context.init(.{});
    defer context.deinit();
    const large = try bestOf(gpa, io, &context, 10, 1, .{ 1, 8, 1024, 64 });
    const instructions = (2.0 * 64 + 5) * 8 * 1024 * 1024;
    try writer.print("forward 1x8x1024x64 float32: {d:.2} ms, {d:.1} GINSTRS/s\n", .{ 1e3 * large, instructions / large / 1e9 });
    var single = try mfa.Context.init(.{ .threads = 1 });
    defer single.deinit();
    const small = try bestOf(gpa, io, &single, 1, 5000, .{ 1, 1, 16, 64 });
    try writer.print("call 1x1x16x64 float32: {d:.2} us\n", .{1e6 * small});
}

pub fn main(init: std.process.Init) !u8 {
    const arguments = try init.minimal.args.toSlice(init.arena.allocator());
    var buffer: [1024]u8 = undefined;
    var stdout: std.Io.File.Writer = .init(.stdout(), init.io, &buffer);
    const writer = &stdout.interface;
    const timing = arguments.len > 1 and std.mem.eql(u8, arguments[1], "bench");
    const failed = if (timing) bench(init.gpa, init.io, writer) else compare(init.gpa, writer);
    try writer.flush();
    failed catch |reason| {
        std.log.err("{t}: {s}", .{ reason, mfa.message() });
        return 1;
    };
    return 0;
}

test {
    _ = mfa;
}
