#if canImport(Metal)
import CMFA
import Foundation
import Metal

extension Context {
    /// The context that everything made from this device shares.
    public static func shared(for device: MTLDevice) throws -> Context {
        try sharedLock.withLock {
            if let context = sharedContexts[device.registryID] {
                return context
            }
            let context = try Context(backend: .metal, device: number(of: device))
            sharedContexts[device.registryID] = context
            return context
        }
    }

    private static let sharedLock = NSLock()
    // Guarded by the lock.
    private nonisolated(unsafe) static var sharedContexts: [UInt64: Context] = [:]

    private static func number(of device: MTLDevice) -> Int {
        #if os(macOS)
        if device.registryID != MTLCreateSystemDefaultDevice()?.registryID {
            return MTLCopyAllDevices().firstIndex { $0.registryID == device.registryID } ?? 0
        }
        #endif
        return 0
    }
}

extension Buffer {
    /// A Metal buffer of the context's device, without a copy. It is retained.
    public convenience init(_ context: Context, _ buffer: MTLBuffer) throws {
        let object = Unmanaged.passUnretained(buffer as AnyObject).toOpaque()
        try self.init(context) { mfa_buffer_from_mtl_buffer(context.handle, object, $0) }
    }
}

extension AttentionCall {
    /// Puts the call into a command buffer, or at the end of an open encoder's work, and returns. All operands lie in
    /// buffers that the device works on without a copy. What fails while it runs is in the command buffer's error.
    public func encode(into commandBuffer: MTLCommandBuffer) throws {
        try encode(target: commandBuffer as AnyObject)
    }

    public func encode(into encoder: MTLComputeCommandEncoder) throws {
        try encode(target: encoder as AnyObject)
    }

    private func encode(target: AnyObject) throws {
        let object = Unmanaged.passUnretained(target).toOpaque()
        try withExtendedLifetime(target) {
            if let backward {
                try check(mfa_attention_backward_encode(context.handle, backward, object))
            } else {
                try check(mfa_attention_forward_encode(context.handle, forward, object))
            }
        }
    }
}

extension AttentionKernel {
    /// Puts the kernel into a command buffer and returns.
    public func encode(_ operands: AttentionOperands, in context: Context, into commandBuffer: MTLCommandBuffer) throws {
        try call(operands, in: context).encode(into: commandBuffer)
    }
}

extension QuantizedAttention {
    /// Works in the context that this device shares with all that is made from it.
    public convenience init(device: MTLDevice) throws {
        self.init(context: try Context.shared(for: device))
    }

    /// A command buffer of a queue of its own that the caller commits, with the call in it.
    public func forward(
        query: QuantizedTensor, key: QuantizedTensor, value: QuantizedTensor, output: MTLBuffer,
        descriptor: AttentionDescriptor
    ) throws -> MTLCommandBuffer {
        guard let commandBuffer = output.device.makeCommandQueue()?.makeCommandBuffer() else {
            throw AttentionError(status: .executionFailed, message: "the Metal device gave no command buffer")
        }
        let target = try Buffer(context, output)
        try call(query: query, key: key, value: value, output: target, descriptor: descriptor)
            .encode(into: commandBuffer)
        return commandBuffer
    }

    public func forward(
        query: QuantizedTensor, key: QuantizedTensor, value: QuantizedTensor, output: MTLBuffer,
        descriptor: QuantizedAttentionDescriptor
    ) throws -> MTLCommandBuffer {
        try forward(query: query, key: key, value: value, output: output, descriptor: descriptor.baseDescriptor)
    }
}

extension QuantizedTensor {
    /// In the context that this device shares with all that is made from it.
    public static func createBatch(
        device: MTLDevice, queryData: [Float], keyData: [Float], valueData: [Float],
        shapes: (query: [Int], key: [Int], value: [Int]), config: QuantizedAttention.Configuration
    ) throws -> (query: QuantizedTensor, key: QuantizedTensor, value: QuantizedTensor) {
        try createBatch(
            context: Context.shared(for: device), queryData: queryData, keyData: keyData, valueData: valueData,
            shapes: shapes, config: config)
    }
}
#endif
