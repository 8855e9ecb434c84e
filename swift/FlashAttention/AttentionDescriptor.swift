/// Which keys a row sees.
public enum SparsityPattern {
    /// All of them.
    case none
    /// Those up to its own.
    case causal
    /// Its own and those before it, `windowSize` in all, as in Mistral.
    case slidingWindow(windowSize: UInt32)
    /// Those in blocks of scores that count: `blockMask` has a row of flags for each row of blocks. The last block of
    /// either axis may be ragged.
    case custom(blockMask: [Bool], blockSize: (row: UInt16, col: UInt16))
}

/// One problem: sizes, layout and which keys count.
///
/// Operands are packed, (batch, heads, rows, head); a transposed one is (batch, heads, head, rows).
public struct AttentionDescriptor {
    /// Where row i stands among the keys.
    public enum Alignment: Sendable {
        /// At key i.
        case topLeft
        /// At key i + column - row, so that the last row stands at the last key.
        case bottomRight
    }

    /// Rows of queries, rows of keys and values, and the size of a row. Needed.
    public var matrixDimensions: (row: UInt32, column: UInt32, head: UInt16)?

    /// Of queries, keys, values and output, and of their gradients.
    public var transposeState: (Q: Bool, K: Bool, V: Bool, O: Bool)? = (Q: false, K: false, V: false, O: false)

    public var sparsityPattern: SparsityPattern = .none
    public var alignment: Alignment = .topLeft

    public var batchCount: UInt32 = 1
    public var headCount: UInt32 = 1
    /// A divisor of `headCount`; nil is `headCount`. Query head h reads head h / (headCount / keyValueHeadCount).
    public var keyValueHeadCount: UInt32?

    /// nil is 1 / sqrt(head).
    public var softmaxScale: Float?

    /// Of queries, keys and values: FP32, FP16 or BF16.
    public var inputPrecision: GEMMOperandPrecision = .FP32
    /// Of output and gradients, likewise. The logsumexp is FP32.
    public var outputPrecision: GEMMOperandPrecision = .FP32

    public init() {}

    /// What an `AttentionKernel` computes of this problem.
    public func kernelDescriptor(type: AttentionKernelType) -> AttentionKernelDescriptor {
        AttentionKernelDescriptor(type: type, attention: self)
    }
}

/// What a kernel computes.
public enum AttentionKernelType: Sendable {
    case forward
    /// The gradient of queries.
    case backwardQuery
    /// The gradients of keys and values.
    case backwardKeyValue
    /// All three gradients in one call.
    case backward
}

/// A problem, and what is computed of it.
public struct AttentionKernelDescriptor {
    public var type: AttentionKernelType
    public var attention: AttentionDescriptor

    public init(type: AttentionKernelType, attention: AttentionDescriptor) {
        self.type = type
        self.attention = attention
    }
}
