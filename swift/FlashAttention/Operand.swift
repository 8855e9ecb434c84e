import CMFA

/// Where an operand lies.
public struct Operand {
    let buffer: Buffer?
    let bytes: UnsafeMutableRawBufferPointer?
    let byteOffset: Int

    /// In a buffer of the call's context, from `byteOffset` on.
    public init(_ buffer: Buffer, byteOffset: Int = 0) {
        self.buffer = buffer
        self.bytes = nil
        self.byteOffset = byteOffset
    }

    /// In memory of the caller's, which has to stay valid until the call has run. It has the operand's size exactly.
    public init(_ bytes: UnsafeMutableRawBufferPointer) {
        self.buffer = nil
        self.bytes = bytes
        self.byteOffset = 0
    }

    /// Likewise, for operands that are only read.
    public init(_ bytes: UnsafeRawBufferPointer) {
        self.init(UnsafeMutableRawBufferPointer(mutating: bytes))
    }

    func tensor(_ name: String, _ layout: Layout) throws -> mfa_tensor_t {
        var tensor = layout.tensor()
        if let buffer {
            tensor.buffer = buffer.handle
            tensor.byte_offset = try exactly(byteOffset, "\(name): byteOffset")
        } else if let bytes {
            guard bytes.count == layout.byteCount else {
                throw AttentionError.invalid("\(name): \(bytes.count) bytes, expected \(layout.byteCount) for \(layout)")
            }
            tensor.data = bytes.baseAddress
        }
        return tensor
    }
}
