import FlashAttention

/// What differs from the numbers known beforehand.
struct Difference: Error, CustomStringConvertible {
    let description: String
}

/// Every result of one small problem of 2 heads, 8 rows and 8 columns.
struct KnownValues {
    private static let count = 2 * 8 * 8

    private let context: Context
    private let query = numbers(5, 0)
    private let key = numbers(7, 3)
    private let value = numbers(11, 5)
    private let outputGradient = numbers(3, 1)

    init(_ context: Context) {
        self.context = context
    }

    private static func codes(_ step: Int, _ shift: Int) -> [Int8] {
        (0..<count).map { Int8((step * $0 + shift) % 17 - 8) }
    }

    private static func numbers(_ step: Int, _ shift: Int) -> [Float] {
        codes(step, shift).map { Float($0) / 8 }
    }

    private func descriptor(_ pattern: SparsityPattern) -> AttentionDescriptor {
        var descriptor = AttentionDescriptor()
        descriptor.matrixDimensions = (row: 8, column: 8, head: 8)
        descriptor.headCount = 2
        descriptor.sparsityPattern = pattern
        return descriptor
    }

    func check() throws {
        try expect("forward", forward(.none), [0.222707, -0.012910, -0.264847, 0.097707])
        try checkGradients()
        try expect("window", forward(.slidingWindow(windowSize: 3)), [-0.101362, -0.108237, 0.523638, -0.226362])
        let seen = [
            true, true, false, false,
            true, false, true, true,
        ]
        let blocks = try forward(.custom(blockMask: seen, blockSize: (row: 4, col: 2)))
        try expect("blocks", blocks, [0.510920, -0.239080, -0.331950, 0.385920])
        try expect("quantised", quantised(), [0.509885, -0.074666, -0.655668, 0.259885])
    }

    private func forward(_ pattern: SparsityPattern) throws -> [Float] {
        var output = [Float](repeating: .nan, count: KnownValues.count)
        try descriptor(pattern).forward(context, query: query, key: key, value: value, output: &output)
        return output
    }

    private func checkGradients() throws {
        var output = [Float](repeating: .nan, count: KnownValues.count)
        var logsumexp = [Float](repeating: .nan, count: 2 * 8)
        var (dq, dk, dv) = (output, output, output)
        let causal = descriptor(.causal)
        try causal.forward(
            context, query: query, key: key, value: value, output: &output, logsumexp: &logsumexp)
        try causal.backward(
            context, query: query, key: key, value: value, output: output, logsumexp: logsumexp,
            outputGradient: outputGradient, queryGradient: &dq, keyGradient: &dk, valueGradient: &dv)
        try expect("dq", dq, [0.034121, -0.116048, 0.024352, -0.027352])
        try expect("dk", dk, [0.044962, 0.017408, -0.049931, 0.036372])
        try expect("dv", dv, [-0.047868, -0.027844, 0.124267, 0.276377])
    }

    /// Keys and values are codes of 8 bits, with a scale for each head.
    private func quantised() throws -> [Float] {
        let scales: [Float] = [0.125, 0.25]
        let parameters = scales.map { QuantizationParameters(scale: $0, precision: .INT8) }
        let shape = [1, 2, 8, 8]
        let output = try Buffer(context, byteCount: 4 * KnownValues.count)
        try QuantizedAttention(context: context).forward(
            query: QuantizedTensor(context, data: query, shape: shape, precision: .FP32),
            key: QuantizedTensor(context, codes: KnownValues.codes(7, 3), shape: shape, parameters: parameters),
            value: QuantizedTensor(context, codes: KnownValues.codes(11, 5), shape: shape, parameters: parameters),
            output: output, descriptor: descriptor(.none))
        return output.array()
    }

    /// Prints head 1, row 5, columns 0 to 3, and compares them.
    private func expect(_ name: String, _ result: [Float], _ expected: [Float]) throws {
        let got = Array(result[(8 + 5) * 8 ..< (8 + 5) * 8 + 4])
        print(name, got.map { fixed(Double($0), 6) }.joined(separator: " "))
        for (number, known) in zip(got, expected) where !((number - known).magnitude <= 1e-5) {
            throw Difference(description: "\(name): \(got), expected \(expected)")
        }
    }
}
