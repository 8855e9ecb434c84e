import CMFA

/// Memory that a context's device works on where it lies.
public final class Buffer {
    /// It lives as long as its buffers.
    public let context: Context
    let handle: mfa_buffer_t

    init(_ context: Context, _ create: (UnsafeMutablePointer<mfa_buffer_t?>) -> mfa_status_t) throws {
        var created: mfa_buffer_t?
        try check(create(&created))
        self.context = context
        handle = created!
    }

    /// Zeroed memory of the library's.
    public convenience init(_ context: Context, byteCount: Int) throws {
        guard byteCount >= 0 else {
            throw AttentionError.invalid("byteCount: \(byteCount), expected 0 or more")
        }
        try self.init(context) { mfa_create_buffer(context.handle, byteCount, $0) }
    }

    /// A copy of numbers, or of what else holds no references.
    public convenience init<Element>(_ context: Context, _ elements: [Element]) throws {
        try self.init(context, byteCount: elements.count * MemoryLayout<Element>.stride)
        elements.withUnsafeBytes { source in
            withUnsafeMutableBytes { $0.copyMemory(from: source) }
        }
    }

    /// The caller's memory, without a copy. It must stay valid for as long as this buffer, and is never freed here.
    public convenience init(_ context: Context, wrapping memory: UnsafeMutableRawBufferPointer) throws {
        try self.init(context) { mfa_buffer_from_ptr(context.handle, memory.baseAddress, memory.count, $0) }
    }

    deinit {
        mfa_destroy_buffer(handle)
    }

    public var byteCount: Int {
        mfa_buffer_size(handle)
    }

    /// Whether the device works on the memory itself; if not, each call copies what it uses of it.
    public var isZeroCopy: Bool {
        mfa_buffer_is_zero_copy(handle)
    }

    /// The bytes, valid in `body`; none where the CPU cannot reach them, as in a Metal buffer in private storage.
    public func withUnsafeMutableBytes<Result>(
        _ body: (UnsafeMutableRawBufferPointer) throws -> Result
    ) rethrows -> Result {
        let contents = mfa_buffer_contents(handle)
        let bytes = UnsafeMutableRawBufferPointer(start: contents, count: contents == nil ? 0 : byteCount)
        return try withExtendedLifetime(self) { try body(bytes) }
    }

    /// A copy of the contents, as so many elements as fit.
    public func array<Element>(of type: Element.Type = Element.self) -> [Element] {
        withUnsafeMutableBytes { Array($0.bindMemory(to: type)) }
    }
}
