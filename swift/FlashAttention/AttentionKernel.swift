/// One pass of attention over one problem.
public struct AttentionKernel {
    public let descriptor: AttentionKernelDescriptor

    public init(descriptor: AttentionKernelDescriptor) {
        self.descriptor = descriptor
    }

    /// The kernel over these operands, to be run later, and more than once.
    ///
    /// - Throws: `AttentionError`, for an operand in memory of the caller's that has another size than the problem
    ///   says. All else is checked when the call runs.
    public func call(_ operands: AttentionOperands, in context: Context) throws -> AttentionCall {
        try AttentionCall(context, descriptor, operands)
    }

    /// Runs over these operands and waits.
    public func run(_ operands: AttentionOperands, in context: Context) throws {
        try call(operands, in: context).run()
    }
}
