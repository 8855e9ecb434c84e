import CMFA

/// What a kernel reads and writes. The last five are for backward kernels, and of a forward one `logsumexp` may be nil.
public struct AttentionOperands {
    public var query: Operand
    public var key: Operand
    public var value: Operand
    public var output: Operand
    public var logsumexp: Operand?
    public var outputGradient: Operand?
    public var queryGradient: Operand?
    public var keyGradient: Operand?
    public var valueGradient: Operand?

    public init(query: Operand, key: Operand, value: Operand, output: Operand, logsumexp: Operand? = nil) {
        self.query = query
        self.key = key
        self.value = value
        self.output = output
        self.logsumexp = logsumexp
    }
}

/// A kernel with its operands, checked and ready to run, any number of times.
///
/// It holds on to the buffers of its operands. Memory of the caller's has to stay valid for as long as it is run.
public final class AttentionCall {
    let context: Context
    let forward: UnsafeMutablePointer<mfa_attention_desc_t>
    /// nil for a forward call.
    private(set) var backward: UnsafeMutablePointer<mfa_attention_backward_desc_t>?
    private let arena = Arena()

    init(_ context: Context, _ kernel: AttentionKernelDescriptor, _ operands: AttentionOperands) throws {
        self.context = context
        let problem = kernel.attention
        forward = arena.keep(mfa_attention_desc_t.initial)
        let layouts = try problem.layouts()
        forward.pointee.query = try add("query", operands.query, layouts.query)
        forward.pointee.key = try add("key", operands.key, layouts.key)
        forward.pointee.value = try add("value", operands.value, layouts.value)
        forward.pointee.out = try add("output", operands.output, layouts.output)
        forward.pointee.logsumexp = try add("logsumexp", operands.logsumexp, layouts.logsumexp)
        try describe(problem)
        if kernel.type != .forward {
            try differentiate(kernel.type, operands, problem, layouts)
        }
    }

    /// Runs the call and waits for it.
    public func run() throws {
        if let backward {
            try check(mfa_attention_backward_desc(context.handle, backward))
        } else {
            try check(mfa_attention_forward_desc(context.handle, forward))
        }
    }

    /// Keys and values whose codes stand for what `tensor` says.
    func quantize(key: QuantizedTensor, value: QuantizedTensor) throws {
        if key.precision.requiresQuantizationParameters {
            forward.pointee.key_quantization = UnsafePointer(arena.keep(try key.quantization(arena)))
        }
        if value.precision.requiresQuantizationParameters {
            forward.pointee.value_quantization = UnsafePointer(arena.keep(try value.quantization(arena)))
        }
        forward.pointee.key = UnsafePointer(arena.keep(try key.tensor()))
        forward.pointee.value = UnsafePointer(arena.keep(try value.tensor()))
    }

    private func add(_ name: String, _ operand: Operand?, _ layout: Layout) throws -> UnsafePointer<mfa_tensor_t>? {
        guard let operand else {
            return nil
        }
        if let buffer = operand.buffer {
            arena.own(buffer)
        }
        return UnsafePointer(arena.keep(try operand.tensor(name, layout)))
    }

    private func describe(_ problem: AttentionDescriptor) throws {
        if let scale = problem.softmaxScale {
            forward.pointee.softmax_scale = scale
            forward.pointee.flags |= MFA_ATTENTION_LITERAL_SCALE
        }
        forward.pointee.alignment = problem.alignment.code
        switch problem.sparsityPattern {
        case .none:
            break
        case .causal:
            forward.pointee.flags |= MFA_ATTENTION_CAUSAL
        case .slidingWindow(let windowSize):
            guard windowSize > 0 else {
                throw AttentionError.invalid("windowSize: 0, expected 1 or more")
            }
            forward.pointee.window_left = Int64(windowSize) - 1
            forward.pointee.window_right = 0
        case .custom(let blockMask, let blockSize):
            let blocks = try problem.blocks(blockMask, rows: Int(blockSize.row), keys: Int(blockSize.col), arena)
            forward.pointee.blocks = UnsafePointer(arena.keep(blocks))
        }
    }

    private func differentiate(
        _ type: AttentionKernelType, _ operands: AttentionOperands, _ problem: AttentionDescriptor,
        _ layouts: AttentionDescriptor.Layouts
    ) throws {
        let descriptor = arena.keep(mfa_attention_backward_desc_t.initial)
        descriptor.pointee.forward = UnsafePointer(forward)
        descriptor.pointee.dout = try add("outputGradient", operands.outputGradient, layouts.output)
        if type != .backwardKeyValue {
            let layout = try layouts.query.stored(as: problem.outputPrecision)
            descriptor.pointee.dquery = try add("queryGradient", operands.queryGradient, layout)
        }
        if type != .backwardQuery {
            let keys = try layouts.key.stored(as: problem.outputPrecision)
            let values = try layouts.value.stored(as: problem.outputPrecision)
            descriptor.pointee.dkey = try add("keyGradient", operands.keyGradient, keys)
            descriptor.pointee.dvalue = try add("valueGradient", operands.valueGradient, values)
        }
        backward = descriptor
    }
}

extension AttentionDescriptor {
    struct Layouts {
        let query: Layout
        let key: Layout
        let value: Layout
        let output: Layout
        let logsumexp: Layout
    }

    func layouts() throws -> Layouts {
        guard let (row, column, head) = matrixDimensions, let transposed = transposeState else {
            throw AttentionError.invalid("matrixDimensions and transposeState are nil, expected sizes and a layout")
        }
        let (batch, heads, keyHeads) = (Int(batchCount), Int(headCount), Int(keyValueHeadCount ?? headCount))
        let (rows, keys, columns) = (Int(row), Int(column), Int(head))
        return Layouts(
            query: try Layout(batch, heads, rows, columns, inputPrecision, transposed: transposed.Q),
            key: try Layout(batch, keyHeads, keys, columns, inputPrecision, transposed: transposed.K),
            value: try Layout(batch, keyHeads, keys, columns, inputPrecision, transposed: transposed.V),
            output: try Layout(batch, heads, rows, columns, outputPrecision, transposed: transposed.O),
            logsumexp: try Layout(batch, heads, rows, 1, .FP32)
        )
    }

    /// One mask for all batches and heads.
    func blocks(_ mask: [Bool], rows: Int, keys: Int, _ arena: Arena) throws -> mfa_blocks_t {
        guard rows > 0, keys > 0, let dimensions = matrixDimensions else {
            throw AttentionError.invalid("blockSize: (\(rows), \(keys)), expected 1 or more of each")
        }
        let rowBlocks = (Int(dimensions.row) + rows - 1) / rows
        let keyBlocks = (Int(dimensions.column) + keys - 1) / keys
        guard mask.count == rowBlocks * keyBlocks else {
            throw AttentionError.invalid(
                "blockMask: \(mask.count) flags, expected \(rowBlocks) x \(keyBlocks) blocks of (\(rows), \(keys))")
        }
        var tensor = mfa_tensor_t()
        tensor.struct_size = UInt32(MemoryLayout<mfa_tensor_t>.size)
        tensor.precision = MFA_PRECISION_BOOL
        tensor.data = UnsafeMutableRawPointer(arena.keep(mask.map { $0 ? UInt8(1) : 0 }))
        tensor.shape = (1, 1, Int64(rowBlocks), Int64(keyBlocks))
        tensor.stride = (0, 0, Int64(keyBlocks), 1)
        var blocks = mfa_blocks_t()
        blocks.struct_size = UInt32(MemoryLayout<mfa_blocks_t>.size)
        blocks.block_rows = Int64(rows)
        blocks.block_keys = Int64(keys)
        blocks.block_mask = UnsafePointer(arena.keep(tensor))
        return blocks
    }
}

extension AttentionDescriptor.Alignment {
    var code: Int32 {
        switch self {
        case .topLeft: return MFA_ALIGN_TOP_LEFT
        case .bottomRight: return MFA_ALIGN_BOTTOM_RIGHT
        }
    }
}

extension mfa_attention_desc_t {
    /// MFA_ATTENTION_DESC_INIT, which Swift does not import.
    static var initial: mfa_attention_desc_t {
        var descriptor = mfa_attention_desc_t()
        descriptor.struct_size = UInt32(MemoryLayout<mfa_attention_desc_t>.size)
        descriptor.intermediate_precision = MFA_PRECISION_DEFAULT
        descriptor.window_left = -1
        descriptor.window_right = -1
        return descriptor
    }
}

extension mfa_attention_backward_desc_t {
    /// MFA_ATTENTION_BACKWARD_DESC_INIT.
    static var initial: mfa_attention_backward_desc_t {
        var descriptor = mfa_attention_backward_desc_t()
        descriptor.struct_size = UInt32(MemoryLayout<mfa_attention_backward_desc_t>.size)
        return descriptor
    }
}
