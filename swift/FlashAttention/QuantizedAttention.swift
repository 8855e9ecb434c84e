/// Attention over quantised keys and values.
public final class QuantizedAttention {
    /// How operands are stored.
    public struct Configuration: Sendable {
        /// FP16, BF16 or FP32.
        public var queryPrecision = GEMMOperandPrecision.FP16
        public var keyPrecision = GEMMOperandPrecision.INT8
        public var valuePrecision = GEMMOperandPrecision.INT8
        /// nil: each batch and head has a scale of its own, from its largest magnitude.
        public var keyQuantization: QuantizationParameters?
        public var valueQuantization: QuantizationParameters?

        public init() {}
    }

    /// A problem with the configuration of its operands.
    public struct QuantizedAttentionDescriptor {
        public var baseDescriptor: AttentionDescriptor
        public var quantizationConfig: Configuration

        public init(baseDescriptor: AttentionDescriptor, quantizationConfig: Configuration) {
            self.baseDescriptor = baseDescriptor
            self.quantizationConfig = quantizationConfig
        }
    }

    public let context: Context

    public init(context: Context) {
        self.context = context
    }

    /// Operands of this object's context.
    public func createQuantizedTensors(
        queryData: [Float], keyData: [Float], valueData: [Float], queryShape: [Int], keyShape: [Int],
        valueShape: [Int], config: Configuration
    ) throws -> (query: QuantizedTensor, key: QuantizedTensor, value: QuantizedTensor) {
        try QuantizedTensor.createBatch(
            context: context, queryData: queryData, keyData: keyData, valueData: valueData,
            shapes: (query: queryShape, key: keyShape, value: valueShape), config: config)
    }

    /// Runs the call and waits for it.
    ///
    /// - Parameters:
    ///   - output: in the descriptor's `outputPrecision`, as large as queries
    ///   - descriptor: sizes, where it has any, are those of the tensors; its `inputPrecision` is not looked at
    /// - Returns: `output`
    @discardableResult
    public func forward(
        query: QuantizedTensor, key: QuantizedTensor, value: QuantizedTensor, output: Buffer,
        descriptor: AttentionDescriptor
    ) throws -> Buffer {
        try call(query: query, key: key, value: value, output: output, descriptor: descriptor).run()
        return output
    }

    @discardableResult
    public func forward(
        query: QuantizedTensor, key: QuantizedTensor, value: QuantizedTensor, output: Buffer,
        descriptor: QuantizedAttentionDescriptor
    ) throws -> Buffer {
        try forward(query: query, key: key, value: value, output: output, descriptor: descriptor.baseDescriptor)
    }

    func call(
        query: QuantizedTensor, key: QuantizedTensor, value: QuantizedTensor, output: Buffer,
        descriptor: AttentionDescriptor
    ) throws -> AttentionCall {
        let problem = try descriptor.fitted(query: query, key: key, value: value)
        // Keys and values stand in as they lie; what their codes are comes next.
        let operands = AttentionOperands(
            query: Operand(query.data), key: Operand(key.data), value: Operand(value.data), output: Operand(output))
        let call = try AttentionCall(context, problem.kernelDescriptor(type: .forward), operands)
        try call.quantize(key: key, value: value)
        return call
    }
}

extension QuantizedTensor {
    /// Queries, keys and values, as `config` has them.
    public static func createBatch(
        context: Context, queryData: [Float], keyData: [Float], valueData: [Float],
        shapes: (query: [Int], key: [Int], value: [Int]), config: QuantizedAttention.Configuration
    ) throws -> (query: QuantizedTensor, key: QuantizedTensor, value: QuantizedTensor) {
        (
            query: try QuantizedTensor(
                context, data: queryData, shape: shapes.query, precision: config.queryPrecision),
            key: try QuantizedTensor(
                context, data: keyData, shape: shapes.key, precision: config.keyPrecision,
                parameters: config.keyQuantization),
            value: try QuantizedTensor(
                context, data: valueData, shape: shapes.value, precision: config.valuePrecision,
                parameters: config.valueQuantization)
        )
    }
}

extension AttentionDescriptor {
    /// With the sizes of tensors, which those that are set already have to agree with.
    func fitted(query: QuantizedTensor, key: QuantizedTensor, value: QuantizedTensor) throws -> AttentionDescriptor {
        let (queries, keys) = (query.layout, key.layout)
        guard keys.rows == value.layout.rows, keys.columns == value.layout.columns, keys.heads == value.layout.heads,
            keys.columns == queries.columns, keys.batch == queries.batch, keys.batch == value.layout.batch
        else {
            throw AttentionError.invalid("shapes \(query.shape), \(key.shape) and \(value.shape) are not of one problem")
        }
        let sizes: (UInt32, UInt32, UInt16) = (
            try exactly(queries.rows, "rows of query"), try exactly(keys.rows, "rows of key"),
            try exactly(queries.columns, "columns of query")
        )
        if let given = matrixDimensions, given != sizes {
            throw AttentionError.invalid("matrixDimensions: \(given), expected \(sizes) as the tensors have")
        }
        if let transposed = transposeState, transposed.Q || transposed.K || transposed.V {
            throw AttentionError.invalid("transposeState: \(transposed), expected quantised tensors as they lie")
        }
        var problem = self
        problem.matrixDimensions = (row: sizes.0, column: sizes.1, head: sizes.2)
        problem.batchCount = try exactly(queries.batch, "batches of query")
        problem.headCount = try exactly(queries.heads, "heads of query")
        problem.keyValueHeadCount = try exactly(keys.heads, "heads of key")
        problem.inputPrecision = query.precision
        return problem
    }
}
