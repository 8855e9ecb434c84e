import CMFA

/// What codes stand for: real = scale * (code - zeroPoint).
public struct QuantizationParameters: Sendable {
    public var scale: Float
    /// INT8 codes are signed bytes for -128 to 127 and unsigned ones for 128 to 255; INT4 codes are signed for -8 to 7
    /// and unsigned for 8 to 15.
    public var zeroPoint: Int32
    public var precision: GEMMOperandPrecision

    public init(scale: Float, zeroPoint: Int32 = 0, precision: GEMMOperandPrecision) {
        self.scale = scale
        self.zeroPoint = zeroPoint
        self.precision = precision
    }

    /// The library's precision of the codes.
    var code: Int32 {
        switch precision {
        case .INT8: return zeroPoint > 127 ? MFA_PRECISION_UINT8 : MFA_PRECISION_INT8
        case .INT4: return zeroPoint > 7 ? MFA_PRECISION_UINT4 : MFA_PRECISION_INT4
        default: return precision.code
        }
    }
}

/// An operand in a buffer of its own, as numbers or as codes. Shapes are (batch, heads, rows, head), (batch, rows, head)
/// or (rows, head); sizes that are left out are 1.
public struct QuantizedTensor {
    public let shape: [Int]
    public let precision: GEMMOperandPrecision
    /// Numbers or codes, packed.
    public let data: Buffer
    let layout: Layout
    /// Of codes: FP32, one for each batch and head, or one for all.
    private let scales: Buffer?
    /// INT32, as scales; nil: 0.
    private let zeroPoints: Buffer?
    private let code: Int32

    /// Numbers, rounded to `precision`, or quantised to codes.
    ///
    /// - Parameter parameters: of codes; nil: each batch and head has a scale of its own, from its largest magnitude
    /// - Throws: `AttentionError`, for sizes that disagree, numbers that are not finite, parameters that are refused
    public init(
        _ context: Context, data: [Float], shape: [Int], precision: GEMMOperandPrecision,
        parameters: QuantizationParameters? = nil
    ) throws {
        let layout = try QuantizedTensor.layout(shape, precision)
        let numbers = try layout.stored(as: .FP32)
        guard data.count * 4 == numbers.byteCount else {
            throw AttentionError.invalid("data: \(data.count) numbers, expected those of \(numbers)")
        }
        switch precision {
        case .FP32:
            self.init(shape, layout, try Buffer(context, data))
        case .FP16:
            self.init(shape, layout, try Buffer(context, data.map(halfBits)))
        case .BF16:
            self.init(shape, layout, try Buffer(context, data.map(brainBits)))
        case .INT8, .INT4:
            let parameters = parameters.map { [$0] }
            let count = parameters == nil ? layout.batch * layout.heads : 1
            self.init(
                shape, layout, try Buffer(context, byteCount: layout.byteCount),
                scales: try parameters.map { try Buffer(context, $0.map(\.scale)) }
                    ?? Buffer(context, byteCount: 4 * count),
                zeroPoints: try QuantizedTensor.zeroPoints(context, parameters), code: parameters?[0].code)
            try quantize(context, data, numbers, isStatic: parameters != nil)
        }
    }

    /// Codes of eight bits that are there already.
    ///
    /// - Parameter parameters: one for each batch and head, or one for all
    public init(
        _ context: Context, codes: [Int8], shape: [Int], parameters: [QuantizationParameters]
    ) throws {
        let layout = try QuantizedTensor.layout(shape, .INT8)
        guard codes.count == layout.byteCount else {
            throw AttentionError.invalid("codes: \(codes.count) bytes, expected those of \(layout)")
        }
        guard parameters.count == 1 || parameters.count == layout.batch * layout.heads else {
            throw AttentionError.invalid(
                "parameters: \(parameters.count), expected 1 or \(layout.batch) x \(layout.heads) of batches and heads")
        }
        guard let code = parameters.first?.code, parameters.allSatisfy({ $0.precision == .INT8 && $0.code == code }) else {
            throw AttentionError.invalid("parameters: expected INT8 for all, and codes that are all signed or all unsigned")
        }
        self.init(
            shape, layout, try Buffer(context, codes), scales: try Buffer(context, parameters.map(\.scale)),
            zeroPoints: try QuantizedTensor.zeroPoints(context, parameters), code: code)
    }

    private init(
        _ shape: [Int], _ layout: Layout, _ data: Buffer, scales: Buffer? = nil, zeroPoints: Buffer? = nil,
        code: Int32? = nil
    ) {
        self.shape = shape
        self.precision = layout.precision
        self.data = data
        self.layout = layout
        self.scales = scales
        self.zeroPoints = zeroPoints
        self.code = code ?? layout.precision.code
    }

    /// Scales of codes, as many as there are.
    public var quantizationScales: [Float] {
        scales?.array() ?? []
    }

    func tensor() throws -> mfa_tensor_t {
        var tensor = try Operand(data).tensor("data", layout)
        tensor.precision = code
        return tensor
    }

    /// Of codes. What it points to is in the arena, with references to the buffers.
    func quantization(_ arena: Arena) throws -> mfa_quantization_t {
        var quantization = mfa_quantization_t()
        quantization.struct_size = UInt32(MemoryLayout<mfa_quantization_t>.size)
        arena.own(data)
        if let scales {
            let shared = scales.byteCount == 4
            let each = try Layout(shared ? 1 : layout.batch, shared ? 1 : layout.heads, 1, 1, .FP32)
            quantization.scales = UnsafePointer(arena.keep(try Operand(scales).tensor("scales", each)))
            arena.own(scales)
            if let zeroPoints {
                var tensor = try Operand(zeroPoints).tensor("zeroPoints", each)
                tensor.precision = MFA_PRECISION_INT32
                quantization.zero_points = UnsafePointer(arena.keep(tensor))
                arena.own(zeroPoints)
            }
        }
        return quantization
    }

    private func quantize(_ context: Context, _ data: [Float], _ numbers: Layout, isStatic: Bool) throws {
        let arena = Arena()
        try data.withUnsafeBytes { bytes in
            var descriptor = mfa_quantize_desc_t()
            descriptor.struct_size = UInt32(MemoryLayout<mfa_quantize_desc_t>.size)
            descriptor.flags = isStatic ? MFA_QUANTIZE_STATIC : 0
            descriptor.input = UnsafePointer(arena.keep(try Operand(bytes).tensor("data", numbers)))
            descriptor.codes = UnsafePointer(arena.keep(try tensor()))
            descriptor.quantization = UnsafePointer(arena.keep(try quantization(arena)))
            try withExtendedLifetime(arena) {
                try check(mfa_quantize(context.handle, &descriptor))
            }
        }
    }

    private static func zeroPoints(_ context: Context, _ parameters: [QuantizationParameters]?) throws -> Buffer? {
        guard let parameters, parameters.contains(where: { $0.zeroPoint != 0 }) else {
            return nil
        }
        return try Buffer(context, parameters.map(\.zeroPoint))
    }

    private static func layout(_ shape: [Int], _ precision: GEMMOperandPrecision) throws -> Layout {
        guard (2...4).contains(shape.count) else {
            throw AttentionError.invalid("shape: \(shape.count) sizes, expected 2 to 4")
        }
        let heads = shape.count == 4 ? shape[1] : 1
        let batch = shape.count == 2 ? 1 : shape[0]
        return try Layout(batch, heads, shape[shape.count - 2], shape[shape.count - 1], precision)
    }
}
