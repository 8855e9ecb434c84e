import FlashAttention
import XCTest

final class AttentionTests: XCTestCase {
    private func assertClose(
        _ result: [Float], _ expected: [Float], _ tolerance: Float = 1e-5, line: UInt = #line
    ) {
        for (got, want) in zip(KnownValues.probe(result), expected) {
            XCTAssertEqual(got, want, accuracy: tolerance, line: line)
        }
    }

    private func assertRefused(_ part: String, line: UInt = #line, _ body: () throws -> Void) {
        XCTAssertThrowsError(try body(), line: line) { error in
            XCTAssertTrue("\(error)".contains(part), "\(error)", line: line)
        }
    }

    private func forward(_ pattern: SparsityPattern) throws -> [Float] {
        var output = [Float](repeating: .nan, count: KnownValues.count)
        try KnownValues.descriptor(pattern).forward(
            Context(), query: KnownValues.query, key: KnownValues.key, value: KnownValues.value, output: &output)
        return output
    }

    func testForward() throws {
        assertClose(try forward(.none), KnownValues.forward)
    }

    func testSlidingWindow() throws {
        assertClose(try forward(.slidingWindow(windowSize: 3)), KnownValues.window)
    }

    func testBlocks() throws {
        let seen = [true, true, false, false, true, false, true, true]
        assertClose(try forward(.custom(blockMask: seen, blockSize: (4, 2))), KnownValues.blocks)
    }

    func testBackward() throws {
        let context = try Context()
        let descriptor = KnownValues.descriptor(.causal)
        var output = [Float](repeating: .nan, count: KnownValues.count)
        var logsumexp = [Float](repeating: .nan, count: 2 * KnownValues.rows)
        var (dq, dk, dv) = (output, output, output)
        try descriptor.forward(
            context, query: KnownValues.query, key: KnownValues.key, value: KnownValues.value, output: &output,
            logsumexp: &logsumexp)
        try descriptor.backward(
            context, query: KnownValues.query, key: KnownValues.key, value: KnownValues.value, output: output,
            logsumexp: logsumexp, outputGradient: KnownValues.outputGradient, queryGradient: &dq, keyGradient: &dk,
            valueGradient: &dv)
        assertClose(dq, KnownValues.queryGradient)
        assertClose(dk, KnownValues.keyGradient)
        assertClose(dv, KnownValues.valueGradient)
    }

    /// Over buffers, each backward kernel by itself, and transposed keys.
    func testKernels() throws {
        let context = try Context()
        var descriptor = KnownValues.descriptor(.causal)
        descriptor.transposeState = (Q: false, K: true, V: false, O: false)
        let (rows, head) = (KnownValues.rows, KnownValues.head)
        let transposedKey = (0..<KnownValues.count).map { index -> Float in
            let (h, column, row) = (index / (rows * head), index / rows % head, index % rows)
            return KnownValues.key[(h * rows + row) * head + column]
        }
        let bytes = 4 * KnownValues.count
        let output = try Buffer(context, byteCount: bytes)
        let logsumexp = try Buffer(context, byteCount: 4 * 2 * rows)
        var operands = AttentionOperands(
            query: Operand(try Buffer(context, KnownValues.query)), key: Operand(try Buffer(context, transposedKey)),
            value: Operand(try Buffer(context, KnownValues.value)), output: Operand(output),
            logsumexp: Operand(logsumexp))
        let (dq, dv) = (try Buffer(context, byteCount: bytes), try Buffer(context, byteCount: bytes))
        operands.outputGradient = Operand(try Buffer(context, KnownValues.outputGradient))
        operands.queryGradient = Operand(dq)
        operands.keyGradient = Operand(try Buffer(context, byteCount: bytes))
        operands.valueGradient = Operand(dv)
        for type in [AttentionKernelType.forward, .backwardQuery, .backwardKeyValue] {
            try AttentionKernel(descriptor: descriptor.kernelDescriptor(type: type)).run(operands, in: context)
        }
        assertClose(dq.array(), KnownValues.queryGradient)
        assertClose(dv.array(), KnownValues.valueGradient)
    }

    func testCodes() throws {
        let context = try Context()
        let parameters = [Float(0.125), 0.25].map { QuantizationParameters(scale: $0, precision: .INT8) }
        let shape = [1, 2, KnownValues.rows, KnownValues.head]
        let output = try Buffer(context, byteCount: 4 * KnownValues.count)
        try QuantizedAttention(context: context).forward(
            query: QuantizedTensor(context, data: KnownValues.query, shape: shape, precision: .FP32),
            key: QuantizedTensor(context, codes: KnownValues.codes(7, 3), shape: shape, parameters: parameters),
            value: QuantizedTensor(context, codes: KnownValues.codes(11, 5), shape: shape, parameters: parameters),
            output: output, descriptor: AttentionDescriptor())
        assertClose(output.array(), KnownValues.quantized)
    }

    /// As the project's first README has it: keys of 8 bits and values of 4, quantised here.
    func testQuantized() throws {
        let quantizedAttention = QuantizedAttention(context: try Context())
        var config = QuantizedAttention.Configuration()
        config.queryPrecision = .FP16
        config.keyPrecision = .INT8
        config.valuePrecision = .INT4
        let shape = [1, 2, KnownValues.rows, KnownValues.head]
        for parameters in [nil, QuantizationParameters(scale: 1 / 7, zeroPoint: 8, precision: .INT4)] {
            config.valueQuantization = parameters
            let tensors = try quantizedAttention.createQuantizedTensors(
                queryData: KnownValues.query, keyData: KnownValues.key, valueData: KnownValues.value,
                queryShape: shape, keyShape: shape, valueShape: shape, config: config)
            XCTAssertEqual(tensors.value.data.byteCount, KnownValues.count / 2)
            let outputBuffer = try Buffer(quantizedAttention.context, byteCount: 4 * KnownValues.count)
            let results = try quantizedAttention.forward(
                query: tensors.query, key: tensors.key, value: tensors.value, output: outputBuffer,
                descriptor: KnownValues.descriptor())
            assertClose(results.array(), KnownValues.forward, 0.1)
        }
    }

    /// FP16 and BF16 queries hold these numbers exactly, so that what is lost is what keys and values lose.
    func testHalves() throws {
        let quantizedAttention = QuantizedAttention(context: try Context())
        let shape = [1, 2, KnownValues.rows, KnownValues.head]
        for precision in [GEMMOperandPrecision.FP16, .BF16] {
            var config = QuantizedAttention.Configuration()
            (config.queryPrecision, config.keyPrecision, config.valuePrecision) = (precision, precision, precision)
            let tensors = try quantizedAttention.createQuantizedTensors(
                queryData: KnownValues.query, keyData: KnownValues.key, valueData: KnownValues.value,
                queryShape: shape, keyShape: shape, valueShape: shape, config: config)
            let output = try Buffer(quantizedAttention.context, byteCount: 4 * KnownValues.count)
            try quantizedAttention.forward(
                query: tensors.query, key: tensors.key, value: tensors.value, output: output,
                descriptor: KnownValues.descriptor())
            assertClose(output.array(), KnownValues.forward, precision == .FP16 ? 1e-3 : 1e-2)
        }
    }

    func testBits() throws {
        let numbers: [Float] = [
            0, -0.0, 1, -2, 65504, 65519, 65520, 0x1p-14, 0x1p-24, 0x1p-25, 0x1.8p-24, 1.00048828125, 1.00146484375,
            0x1.ff8p-15, 0x1.ffcp-15, .infinity, 1e-30,
        ]
        let bits: [UInt16] = [
            0, 0x8000, 0x3c00, 0xc000, 0x7bff, 0x7bff, 0x7c00, 0x0400, 1, 0, 2, 0x3c00, 0x3c02, 0x03ff, 0x0400, 0x7c00, 0,
        ]
        let context = try Context()
        let half = try QuantizedTensor(context, data: numbers, shape: [1, numbers.count], precision: .FP16)
        XCTAssertEqual(half.data.array(of: UInt16.self), bits)
        let brain = try QuantizedTensor(
            context, data: [1, -2, 1.00390625, 1.01171875, .infinity], shape: [1, 5], precision: .BF16)
        XCTAssertEqual(brain.data.array(of: UInt16.self), [0x3f80, 0xc000, 0x3f80, 0x3f82, 0x7f80])
    }

    func testWrongSizesAreRefused() throws {
        let context = try Context()
        var output = [Float](repeating: 0, count: KnownValues.count)
        let (query, key, value) = (KnownValues.query, KnownValues.key, KnownValues.value)
        assertRefused("key: 508 bytes, expected 512 for (1, 2, 8, 8) FP32") {
            try KnownValues.descriptor().forward(
                context, query: query, key: Array(key.dropLast()), value: value, output: &output)
        }
        assertRefused("blockMask: 3 flags, expected 2 x 4 blocks of (4, 2)") {
            try KnownValues.descriptor(.custom(blockMask: [true, true, true], blockSize: (4, 2))).forward(
                context, query: query, key: key, value: value, output: &output)
        }
        assertRefused("windowSize: 0") {
            try KnownValues.descriptor(.slidingWindow(windowSize: 0)).forward(
                context, query: query, key: key, value: value, output: &output)
        }
        assertRefused("matrixDimensions") {
            try AttentionDescriptor().forward(context, query: query, key: key, value: value, output: &output)
        }
        var huge = KnownValues.descriptor()
        (huge.batchCount, huge.headCount) = (.max, .max)
        assertRefused("sizes (4294967295, 4294967295, 8, 8)") {
            try huge.forward(context, query: query, key: key, value: value, output: &output)
        }
    }

    /// What the library refuses is an error with its message.
    func testLibrarysRefusals() throws {
        let context = try Context()
        var descriptor = KnownValues.descriptor()
        descriptor.keyValueHeadCount = 3
        let key = [Float](repeating: 0, count: 3 * KnownValues.rows * KnownValues.head)
        var output = [Float](repeating: 0, count: KnownValues.count)
        XCTAssertThrowsError(
            try descriptor.forward(context, query: KnownValues.query, key: key, value: key, output: &output)
        ) { error in
            XCTAssertEqual((error as? AttentionError)?.status, .invalidArguments)
            XCTAssertTrue("\(error)".contains("3"), "\(error)")
        }
        assertRefused("scale") {
            let parameters = QuantizationParameters(scale: -1, precision: .INT8)
            _ = try QuantizedTensor(
                context, data: [1, 2], shape: [1, 2], precision: .INT8, parameters: parameters)
        }
        assertRefused("belongs to another context") {
            let other = try Buffer(Context(), KnownValues.query)
            let kernel = AttentionKernel(descriptor: KnownValues.descriptor().kernelDescriptor(type: .forward))
            let operand = Operand(other)
            try kernel.run(
                AttentionOperands(query: operand, key: operand, value: operand, output: operand), in: context)
        }
        #if !canImport(Metal)
        assertRefused("metal") { _ = try Context(backend: .metal) }
        #endif
    }

    func testMemoryOfTheCallers() throws {
        let memory = UnsafeMutableRawBufferPointer.allocate(byteCount: 64, alignment: 16)
        defer { memory.deallocate() }
        let buffer = try Buffer(Context(), wrapping: memory)
        buffer.withUnsafeMutableBytes { $0[63] = 7 }
        XCTAssertEqual(memory[63], 7)
        XCTAssertEqual(buffer.byteCount, 64)
        XCTAssertEqual(buffer.array(of: UInt8.self).last, 7)
    }
}
