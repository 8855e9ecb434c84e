/// Attention over arrays, which are read and written where they lie. Precisions are FP32.
extension AttentionDescriptor {
    /// - Parameters:
    ///   - output: of its size already; it is overwritten
    ///   - logsumexp: likewise, a number for each row, for a backward pass; nil is not wanted
    public func forward(
        _ context: Context, query: [Float], key: [Float], value: [Float], output: inout [Float]
    ) throws {
        try withOperands([query, key, value]) { inputs in
            try output.withUnsafeMutableBytes { output in
                let operands = AttentionOperands(
                    query: inputs[0], key: inputs[1], value: inputs[2], output: Operand(output))
                try AttentionKernel(descriptor: kernelDescriptor(type: .forward)).run(operands, in: context)
            }
        }
    }

    /// As above; writes the logsumexp of each row too, which `backward` needs.
    public func forward(
        _ context: Context, query: [Float], key: [Float], value: [Float], output: inout [Float],
        logsumexp: inout [Float]
    ) throws {
        try withOperands([query, key, value]) { inputs in
            try output.withUnsafeMutableBytes { output in
                try logsumexp.withUnsafeMutableBytes { logsumexp in
                    let operands = AttentionOperands(
                        query: inputs[0], key: inputs[1], value: inputs[2], output: Operand(output),
                        logsumexp: Operand(logsumexp))
                    try AttentionKernel(descriptor: kernelDescriptor(type: .forward)).run(operands, in: context)
                }
            }
        }
    }

    /// The gradients, from what `forward` has written.
    public func backward(
        _ context: Context, query: [Float], key: [Float], value: [Float], output: [Float], logsumexp: [Float],
        outputGradient: [Float], queryGradient: inout [Float], keyGradient: inout [Float],
        valueGradient: inout [Float]
    ) throws {
        try withOperands([query, key, value, output, logsumexp, outputGradient]) { inputs in
            try queryGradient.withUnsafeMutableBytes { queryGradient in
                try keyGradient.withUnsafeMutableBytes { keyGradient in
                    try valueGradient.withUnsafeMutableBytes { valueGradient in
                        var operands = AttentionOperands(
                            query: inputs[0], key: inputs[1], value: inputs[2], output: inputs[3],
                            logsumexp: inputs[4])
                        operands.outputGradient = inputs[5]
                        operands.queryGradient = Operand(queryGradient)
                        operands.keyGradient = Operand(keyGradient)
                        operands.valueGradient = Operand(valueGradient)
                        try AttentionKernel(descriptor: kernelDescriptor(type: .backward)).run(operands, in: context)
                    }
                }
            }
        }
    }
}

/// Operands over arrays that are only read, valid in `body`.
private func withOperands<Result>(
    _ arrays: [[Float]], _ found: [Operand] = [], _ body: ([Operand]) throws -> Result
) rethrows -> Result {
    guard found.count < arrays.count else {
        return try body(found)
    }
    return try arrays[found.count].withUnsafeBytes { bytes in
        try withOperands(arrays, found + [Operand(bytes)], body)
    }
}
