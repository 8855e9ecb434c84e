//! The flat calls from Zig, declared by hand.
//!
//! Runs causal attention over two heads, compares it with the formula written out, and fails if they differ.
const std = @import("std");

const Context = ?*opaque {};
const Buffer = ?*opaque {};
const fp32: i32 = 2;

extern fn mfa_create_context(context: *Context) i32;
extern fn mfa_destroy_context(context: Context) void;
extern fn mfa_buffer_from_ptr(context: Context, data: ?*anyopaque, size_bytes: usize, buffer: *Buffer) i32;
extern fn mfa_destroy_buffer(buffer: Buffer) void;
extern fn mfa_last_error_message(context: Context) [*:0]const u8;
extern fn mfa_attention_forward(
    context: Context,
    q: Buffer,
    k: Buffer,
    v: Buffer,
    out: Buffer,
    batch_size: u32,
    seq_len_q: u32,
    seq_len_kv: u32,
    num_heads: u32,
    head_dim: u16,
    softmax_scale: f32,
    causal: bool,
    input_precision: i32,
    intermediate_precision: i32,
    output_precision: i32,
    transpose_q: bool,
    transpose_k: bool,
    transpose_v: bool,
    transpose_o: bool,
) i32;

const sequence = 5;
const heads = 2;
const head_dim = 8;
/// Packed [sequence, heads, head_dim].
const Operand = [sequence][heads][head_dim]f32;

fn check(status: i32) !void {
    if (status == 0) return;
    std.debug.print("status {d}: {s}\n", .{ status, mfa_last_error_message(null) });
    return error.MfaFailed;
}

fn wrap(context: Context, operand: *Operand) !Buffer {
    var buffer: Buffer = null;
    try check(mfa_buffer_from_ptr(context, operand, @sizeOf(Operand), &buffer));
    return buffer;
}

fn filled(step: f32, shift: f32) Operand {
    var operand: Operand = undefined;
    var angle = shift;
    for (&operand) |*row| for (row) |*head| for (head) |*element| {
        element.* = @sin(angle);
        angle += step;
    };
    return operand;
}

fn expectedRow(q: *const Operand, k: *const Operand, v: *const Operand, index: usize, head: usize) [head_dim]f64 {
    var weights: [sequence]f64 = undefined;
    var total: f64 = 0;
    for (0..index + 1) |j| {
        var dot: f64 = 0;
        for (0..head_dim) |d| dot += @as(f64, q[index][head][d]) * k[j][head][d];
        weights[j] = @exp(dot / @sqrt(@as(f64, head_dim)));
        total += weights[j];
    }
    var sum: [head_dim]f64 = @splat(0);
    for (0..index + 1) |j| {
        for (0..head_dim) |d| sum[d] += weights[j] / total * v[j][head][d];
    }
    return sum;
}

pub fn main() !void {
    var q = filled(0.7, 0);
    var k = filled(1.3, 2);
    var v = filled(0.3, 1);
    var out: Operand = undefined;

    var context: Context = null;
    try check(mfa_create_context(&context));
    defer mfa_destroy_context(context);
    const q_buffer = try wrap(context, &q);
    defer mfa_destroy_buffer(q_buffer);
    const k_buffer = try wrap(context, &k);
    defer mfa_destroy_buffer(k_buffer);
    const v_buffer = try wrap(context, &v);
    defer mfa_destroy_buffer(v_buffer);
    const out_buffer = try wrap(context, &out);
    defer mfa_destroy_buffer(out_buffer);
    const scale = 1.0 / @sqrt(@as(f32, head_dim));
    try check(mfa_attention_forward(context, q_buffer, k_buffer, v_buffer, out_buffer, 1, sequence, sequence, heads, head_dim, scale, true, fp32, fp32, fp32, false, false, false, false));

    var largest: f64 = 0;
    for (0..sequence) |index| for (0..heads) |head| {
        for (expectedRow(&q, &k, &v, index, head), out[index][head]) |want, got| {
            const difference = @abs(want - got);
            if (!(difference < 1e-6)) return error.DiffersFromTheFormula;
            largest = @max(largest, difference);
        }
    };
    std.debug.print("largest difference from the formula: {e}\n", .{largest});
}
