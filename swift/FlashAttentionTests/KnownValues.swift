import FlashAttention

/// A problem of 2 heads, 8 rows and 8 columns whose inputs follow a rule, and what comes of it in float64.
enum KnownValues {
    static let rows = 8
    static let head = 8
    static let count = 2 * rows * head

    static func codes(_ step: Int, _ shift: Int) -> [Int8] {
        (0..<count).map { Int8((step * $0 + shift) % 17 - 8) }
    }

    static func numbers(_ step: Int, _ shift: Int) -> [Float] {
        codes(step, shift).map { Float($0) / 8 }
    }

    static let query = numbers(5, 0)
    static let key = numbers(7, 3)
    static let value = numbers(11, 5)
    static let outputGradient = numbers(3, 1)

    static let forward: [Float] = [0.222707, -0.012910, -0.264847, 0.097707]
    static let queryGradient: [Float] = [0.034121, -0.116048, 0.024352, -0.027352]
    static let keyGradient: [Float] = [0.044962, 0.017408, -0.049931, 0.036372]
    static let valueGradient: [Float] = [-0.047868, -0.027844, 0.124267, 0.276377]
    static let window: [Float] = [-0.101362, -0.108237, 0.523638, -0.226362]
    static let blocks: [Float] = [0.510920, -0.239080, -0.331950, 0.385920]
    static let quantized: [Float] = [0.509885, -0.074666, -0.655668, 0.259885]

    static func descriptor(_ pattern: SparsityPattern = .none) -> AttentionDescriptor {
        var descriptor = AttentionDescriptor()
        descriptor.matrixDimensions = (row: UInt32(rows), column: UInt32(rows), head: UInt16(head))
        descriptor.headCount = 2
        descriptor.sparsityPattern = pattern
        return descriptor
    }

    /// Head 1, row 5, columns 0 to 3.
    static func probe(_ result: [Float]) -> [Float] {
        let first = (rows + 5) * head
        return Array(result[first..<first + 4])
    }
}
