import CMFA

/// How an operand lies: packed, (batch, heads, rows, columns) or, transposed, (batch, heads, columns, rows).
struct Layout: CustomStringConvertible {
    let batch: Int
    let heads: Int
    let rows: Int
    let columns: Int
    let precision: GEMMOperandPrecision
    let transposed: Bool
    let byteCount: Int

    init(
        _ batch: Int, _ heads: Int, _ rows: Int, _ columns: Int, _ precision: GEMMOperandPrecision,
        transposed: Bool = false
    ) throws {
        let sizes = [batch, heads, rows, precision.stride(columns: columns)]
        var bytes = 4
        for size in sizes {
            let (product, overflow) = bytes.multipliedReportingOverflow(by: size)
            guard size >= 0, !overflow else {
                throw AttentionError.invalid("sizes (\(batch), \(heads), \(rows), \(columns)) are not those of an operand")
            }
            bytes = product
        }
        (self.batch, self.heads, self.rows, self.columns) = (batch, heads, rows, columns)
        (self.precision, self.transposed) = (precision, transposed)
        byteCount = precision.byteCount(elements: bytes / 4)
    }

    /// The same sizes in another precision.
    func stored(as other: GEMMOperandPrecision) throws -> Layout {
        try Layout(batch, heads, rows, columns, other, transposed: transposed)
    }

    var description: String {
        "(\(batch), \(heads), \(transposed ? columns : rows), \(transposed ? rows : columns)) \(precision)"
    }

    /// The operand without its memory.
    func tensor() -> mfa_tensor_t {
        var tensor = mfa_tensor_t()
        tensor.struct_size = UInt32(MemoryLayout<mfa_tensor_t>.size)
        tensor.precision = precision.code
        tensor.shape = (Int64(batch), Int64(heads), Int64(rows), Int64(columns))
        let row = Int64(precision.stride(columns: columns))
        let head = Int64(rows) * row
        let within: (Int64, Int64) = transposed ? (1, Int64(rows)) : (row, 1)
        tensor.stride = (Int64(heads) * head, head, within.0, within.1)
        return tensor
    }
}
