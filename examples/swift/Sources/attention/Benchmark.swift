import FlashAttention

/// Times calls over buffers of the library's, each made ready once.
struct Benchmark {
    let heads: Int
    let rows: Int
    let head: Int
    private let call: AttentionCall

    init(_ context: Context, heads: Int, rows: Int, head: Int) throws {
        (self.heads, self.rows, self.head) = (heads, rows, head)
        var descriptor = AttentionDescriptor()
        descriptor.matrixDimensions = (row: UInt32(rows), column: UInt32(rows), head: UInt16(head))
        descriptor.headCount = UInt32(heads)
        let numbers = (0..<heads * rows * head).map { Float($0 % 17 - 8) / 8 }
        func operand() throws -> Operand {
            Operand(try Buffer(context, numbers))
        }
        let operands = AttentionOperands(
            query: try operand(), key: try operand(), value: try operand(), output: try operand())
        call = try AttentionKernel(descriptor: descriptor.kernelDescriptor(type: .forward)).call(operands, in: context)
    }

    /// Seconds that the fastest of some calls took.
    func best(of count: Int) throws -> Double {
        let clock = ContinuousClock()
        let times = try (0..<count).map { _ in try clock.measure { try call.run() } }
        return seconds(times.min()!)
    }

    /// Seconds that a call took in the mean.
    func mean(of count: Int) throws -> Double {
        try call.run()
        let time = try ContinuousClock().measure {
            for _ in 0..<count {
                try call.run()
            }
        }
        return seconds(time) / Double(count)
    }

    /// Instructions of one call, as the project counts them.
    var instructions: Double {
        Double((2 * head + 5) * heads * rows * rows)
    }
}

private func seconds(_ duration: Duration) -> Double {
    Double(duration.components.seconds) + Double(duration.components.attoseconds) * 1e-18
}

/// With so many digits behind the point.
func fixed(_ number: Double, _ digits: Int) -> String {
    let sign = number < 0 ? "-" : ""
    var power = 1
    for _ in 0..<digits {
        power *= 10
    }
    let scaled = Int((number.magnitude * Double(power)).rounded())
    let fraction = String(scaled % power)
    return "\(sign)\(scaled / power).\(String(repeating: "0", count: digits - fraction.count))\(fraction)"
}
