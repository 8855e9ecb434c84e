//! mfa.h for Zig: a context to `defer` the release of, slices as tensors, whose sizes are held to their shapes, quantised
//! tensors that own their codes, and errors for statuses. `message` says what the last error of this thread was about.
const std = @import("std");
const c = @import("c");

pub const Error = error{
    InvalidArgs,
    MemoryAllocation,
    DeviceNotSupported,
    KernelCompilation,
    ExecutionFailed,
    Unsupported,
    /// A status that this binding does not know, of a newer library.
    UnknownStatus,
    /// A slice has not as many elements as its shape.
    SizeMismatch,
    /// The handle has been given up by `deinit`.
    Released,
    /// The library found at run time is older than the header.
    LibraryTooOld,
};

threadlocal var text: [160]u8 = undefined;
/// What this binding refused itself; null if the library was the last to refuse something.
threadlocal var refusal: ?[]const u8 = null;

/// What this thread's last error was about; valid until its next one.
pub fn message() []const u8 {
    return refusal orelse std.mem.span(c.mfa_last_error_message(null));
}

fn refuse(reason: Error, comptime format: []const u8, arguments: anytype) Error {
    refusal = std.fmt.bufPrint(&text, format, arguments) catch text[0..];
    return reason;
}

fn check(status: c.mfa_status_t) Error!void {
    if (status == c.MFA_SUCCESS) return;
    refusal = null;
    return switch (status) {
        c.MFA_ERROR_INVALID_ARGS => error.InvalidArgs,
        c.MFA_ERROR_MEMORY_ALLOCATION => error.MemoryAllocation,
        c.MFA_ERROR_DEVICE_NOT_SUPPORTED => error.DeviceNotSupported,
        c.MFA_ERROR_KERNEL_COMPILATION => error.KernelCompilation,
        c.MFA_ERROR_EXECUTION_FAILED => error.ExecutionFailed,
        c.MFA_ERROR_UNSUPPORTED => error.Unsupported,
        else => error.UnknownStatus,
    };
}

const header: std.SemanticVersion = .{
    .major = c.MFA_VERSION_MAJOR,
    .minor = c.MFA_VERSION_MINOR,
    .patch = c.MFA_VERSION_PATCH,
};

fn checkLibrary(wanted: std.SemanticVersion) Error!void {
    var found: [3]c_int = undefined;
    c.mfa_get_version(&found[0], &found[1], &found[2]);
    const library: std.SemanticVersion = .{
        .major = @intCast(found[0]),
        .minor = @intCast(found[1]),
        .patch = @intCast(found[2]),
    };
    if (library.order(wanted) == .lt) {
        return refuse(error.LibraryTooOld, "libmfa is version {f}, older than the mfa.h of {f} that this was compiled with", .{ library, wanted });
    }
}

/// Owns a context. Several threads may use it at once; a copy of the struct shares the handle, so pass pointers.
pub const Context = struct {
    handle: c.mfa_context_t,

    pub const Options = struct {
        /// 0: as many as there are processors.
        threads: u31 = 0,
    };

    pub fn init(options: Options) Error!Context {
        try checkLibrary(header);
        const given: c.mfa_context_options_t = .{
            .struct_size = @sizeOf(c.mfa_context_options_t),
            .num_threads = options.threads,
        };
        var handle: c.mfa_context_t = null;
        try check(c.mfa_create_context_with_options(&given, &handle));
        return .{ .handle = handle };
    }

    /// Twice does no harm.
    pub fn deinit(self: *Context) void {
        c.mfa_destroy_context(self.handle);
        self.handle = null;
    }

    fn get(self: *const Context) Error!c.mfa_context_t {
        if (self.handle == null) return refuse(error.Released, "context is used after its deinit", .{});
        return self.handle;
    }

    pub fn forward(self: *const Context, attention: *const Attention) Error!void {
        var described: Described = .{};
        try check(c.mfa_attention_forward_desc(try self.get(), described.of(attention)));
    }

    /// After `forward` of the same attention, whose `logsumexp` is then needed.
    pub fn backward(self: *const Context, attention: *const Attention, gradients: *const Gradients) Error!void {
        var described: Described = .{};
        const desc: c.mfa_attention_backward_desc_t = .{
            .struct_size = @sizeOf(c.mfa_attention_backward_desc_t),
            .forward = described.of(attention),
            .dout = &gradients.dout.tensor,
            .dquery = &gradients.dquery.tensor,
            .dkey = &gradients.dkey.tensor,
            .dvalue = &gradients.dvalue.tensor,
        };
        try check(c.mfa_attention_backward_desc(try self.get(), &desc));
    }
};

/// (batch, heads, rows, columns)
pub const Shape = [4]usize;

fn packed_tensor(comptime T: type, elements: []const T, shape: Shape) Error!c.mfa_tensor_t {
    var tensor: c.mfa_tensor_t = .{
        .struct_size = @sizeOf(c.mfa_tensor_t),
        .precision = switch (T) {
            f16 => c.MFA_PRECISION_FP16,
            f32 => c.MFA_PRECISION_FP32,
            i8 => c.MFA_PRECISION_INT8,
            i32 => c.MFA_PRECISION_INT32,
            bool => c.MFA_PRECISION_BOOL,
            else => @compileError("elements are f16, f32, i8, i32 or bool, not " ++ @typeName(T)),
        },
        .data = @ptrCast(@constCast(elements.ptr)),
    };
    var count: i64 = 1;
    var axis: usize = 4;
    while (axis > 0) {
        axis -= 1;
        const size = std.math.cast(i64, shape[axis]) orelse return tooLarge(shape);
        tensor.shape[axis] = size;
        tensor.stride[axis] = count;
        count = std.math.mul(i64, count, size) catch return tooLarge(shape);
    }
    if (count != elements.len) {
        return refuse(error.SizeMismatch, "a slice has {d} elements, expected the {d} of shape {any}", .{ elements.len, count, shape });
    }
    return tensor;
}

fn tooLarge(shape: Shape) Error {
    return refuse(error.SizeMismatch, "a slice has fewer elements than shape {any}", .{shape});
}

/// An operand that is read: packed, over a slice that has to stay until the call has returned.
pub const Input = struct {
    tensor: c.mfa_tensor_t,

    pub fn init(comptime T: type, elements: []const T, shape: Shape) Error!Input {
        return .{ .tensor = try packed_tensor(T, elements, shape) };
    }
};

/// One that is written.
pub const Output = struct {
    tensor: c.mfa_tensor_t,

    pub fn init(comptime T: type, elements: []T, shape: Shape) Error!Output {
        return .{ .tensor = try packed_tensor(T, elements, shape) };
    }
};

/// Owns codes of 8 bits and their scales, one for each head.
pub const Quantised = struct {
    codes: []i8,
    scales: []f32,
    shape: Shape,

    /// Quantises float32 elements, symmetrically.
    pub fn init(gpa: std.mem.Allocator, context: *const Context, elements: []const f32, shape: Shape) !Quantised {
        const input = try Input.init(f32, elements, shape);
        var made = try empty(gpa, elements.len, shape);
        errdefer made.deinit(gpa);
        const codes = try Output.init(i8, made.codes, shape);
        const scales = try Output.init(f32, made.scales, perHead(shape));
        const quantization: c.mfa_quantization_t = .{
            .struct_size = @sizeOf(c.mfa_quantization_t),
            .scales = &scales.tensor,
        };
        const desc: c.mfa_quantize_desc_t = .{
            .struct_size = @sizeOf(c.mfa_quantize_desc_t),
            .input = &input.tensor,
            .codes = &codes.tensor,
            .quantization = &quantization,
        };
        try check(c.mfa_quantize(try context.get(), &desc));
        return made;
    }

    /// Of codes that somebody else has made, which are copied.
    pub fn of(gpa: std.mem.Allocator, codes: []const i8, scales: []const f32, shape: Shape) !Quantised {
        _ = try Input.init(i8, codes, shape);
        _ = try Input.init(f32, scales, perHead(shape));
        const made = try empty(gpa, codes.len, shape);
        @memcpy(made.codes, codes);
        @memcpy(made.scales, scales);
        return made;
    }

    /// Twice does no harm.
    pub fn deinit(self: *Quantised, gpa: std.mem.Allocator) void {
        gpa.free(self.codes);
        gpa.free(self.scales);
        self.codes = &.{};
        self.scales = &.{};
    }

    pub fn operand(self: *const Quantised) Error!Operand {
        return .{
            .tensor = try packed_tensor(i8, self.codes, self.shape),
            .scales = try packed_tensor(f32, self.scales, perHead(self.shape)),
        };
    }

    fn empty(gpa: std.mem.Allocator, count: usize, shape: Shape) !Quantised {
        const codes = try gpa.alloc(i8, count);
        errdefer gpa.free(codes);
        return .{ .codes = codes, .scales = try gpa.alloc(f32, shape[0] * shape[1]), .shape = shape };
    }

    fn perHead(shape: Shape) Shape {
        return .{ shape[0], shape[1], 1, 1 };
    }
};

/// A key or a value: elements as they are, or codes and what they are scaled by.
pub const Operand = struct {
    tensor: c.mfa_tensor_t,
    scales: ?c.mfa_tensor_t = null,

    pub fn init(comptime T: type, elements: []const T, shape: Shape) Error!Operand {
        return .{ .tensor = try packed_tensor(T, elements, shape) };
    }
};

pub const Alignment = enum(i32) {
    top_left = c.MFA_ALIGN_TOP_LEFT,
    bottom_right = c.MFA_ALIGN_BOTTOM_RIGHT,
};

/// A sliding window, counted from a row's own key.
pub const Window = struct { left: u32, right: u32 };

/// Blocks of `rows` queries by `keys` keys; the mask says which of them count.
pub const Blocks = struct { rows: u32, keys: u32, mask: Input };

/// Plain data: may be copied, kept, and used for many calls.
pub const Attention = struct {
    query: Input,
    key: Operand,
    value: Operand,
    out: Output,
    logsumexp: ?Output = null,
    causal: bool = false,
    window: ?Window = null,
    alignment: Alignment = .top_left,
    blocks: ?Blocks = null,
    /// 0: 1 / sqrt(columns)
    softmax_scale: f32 = 0,
};

pub const Gradients = struct {
    dout: Input,
    dquery: Output,
    dkey: Output,
    dvalue: Output,
};

/// A descriptor with the structs that it points to, and points into the attention that it is of.
const Described = struct {
    desc: c.mfa_attention_desc_t = .{
        .struct_size = @sizeOf(c.mfa_attention_desc_t),
        // What MFA_ATTENTION_DESC_INIT has other than zeros.
        .intermediate_precision = c.MFA_PRECISION_DEFAULT,
        .window_left = -1,
        .window_right = -1,
    },
    blocks: c.mfa_blocks_t = .{ .struct_size = @sizeOf(c.mfa_blocks_t) },
    key: c.mfa_quantization_t = .{ .struct_size = @sizeOf(c.mfa_quantization_t) },
    value: c.mfa_quantization_t = .{ .struct_size = @sizeOf(c.mfa_quantization_t) },

    fn of(self: *Described, attention: *const Attention) *const c.mfa_attention_desc_t {
        const desc = &self.desc;
        desc.query = &attention.query.tensor;
        desc.key = &attention.key.tensor;
        desc.value = &attention.value.tensor;
        desc.out = &attention.out.tensor;
        desc.softmax_scale = attention.softmax_scale;
        if (attention.logsumexp) |*logsumexp| desc.logsumexp = &logsumexp.tensor;
        if (attention.causal) desc.flags = c.MFA_ATTENTION_CAUSAL;
        if (attention.causal or attention.window != null) desc.alignment = @backingInt(attention.alignment);
        if (attention.window) |window| {
            desc.window_left = window.left;
            desc.window_right = window.right;
        }
        if (attention.blocks) |*blocks| {
            self.blocks.block_rows = blocks.rows;
            self.blocks.block_keys = blocks.keys;
            self.blocks.block_mask = &blocks.mask.tensor;
            desc.blocks = &self.blocks;
        }
        if (attention.key.scales) |*scales| {
            self.key.scales = scales;
            desc.key_quantization = &self.key;
        }
        if (attention.value.scales) |*scales| {
            self.value.scales = scales;
            desc.value_quantization = &self.value;
        }
        return desc;
    }
};

// ------------------------------------------------------------------ what is refused

const testing = std.testing;

fn expectRefused(expected: anyerror, said: []const u8, result: anytype) !void {
    try testing.expectError(expected, result);
    try testing.expectEqualStrings(said, message());
}

test "sizes are held to shapes" {
    const elements: [12]f32 = @splat(0);
    try expectRefused(error.SizeMismatch, "a slice has 12 elements, expected the 15 of shape { 1, 1, 3, 5 }", Input.init(f32, &elements, .{ 1, 1, 3, 5 }));
    const huge = std.math.maxInt(usize);
    try testing.expectError(error.SizeMismatch, Input.init(f32, &elements, .{ huge, 2, 3, 5 }));
    try testing.expectError(error.SizeMismatch, Input.init(f32, &elements, .{ 1 << 40, 1 << 40, 3, 5 }));
}

test "what the library refuses has its message" {
    var context = try Context.init(.{ .threads = 1 });
    defer context.deinit();
    var elements: [12]f32 = @splat(0);
    var out: [12]f32 = undefined;
    const shape: Shape = .{ 1, 1, 3, 4 };
    const attention: Attention = .{
        .query = try .init(f32, &elements, shape),
        .key = try .init(f32, &elements, .{ 1, 1, 4, 3 }),
        .value = try .init(f32, &elements, shape),
        .out = try .init(f32, &out, shape),
    };
    try expectRefused(error.InvalidArgs, "key has shape (1, 1, 4, 3), expected (1, 1, 4, 4)", context.forward(&attention));
    elements[5] = std.math.inf(f32);
    try expectRefused(error.InvalidArgs, "input[0, 0, 1, 1] is inf, expected a finite number", Quantised.init(testing.allocator, &context, &elements, shape));
}

test "released is released" {
    var context = try Context.init(.{ .threads = 1 });
    const elements: [12]f32 = .{ 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 127 };
    var made = try Quantised.init(testing.allocator, &context, &elements, .{ 1, 1, 3, 4 });
    try testing.expectEqualSlices(i8, &.{ 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 127 }, made.codes);
    made.deinit(testing.allocator);
    made.deinit(testing.allocator);
    try testing.expectError(error.SizeMismatch, made.operand());
    context.deinit();
    context.deinit();
    try expectRefused(error.Released, "context is used after its deinit", context.get());
}

test "a library older than the header is refused" {
    try checkLibrary(header);
    var next = header;
    next.patch += 1;
    try testing.expectError(error.LibraryTooOld, checkLibrary(next));
}
