import CMFA

/// How the elements of an operand are stored.
public enum GEMMOperandPrecision: Sendable {
    case FP32
    case FP16
    case BF16
    case INT8
    /// Two in a byte, the first in its low half. A row is padded to whole bytes.
    case INT4

    var code: Int32 {
        switch self {
        case .FP32: return MFA_PRECISION_FP32
        case .FP16: return MFA_PRECISION_FP16
        case .BF16: return MFA_PRECISION_BF16
        case .INT8: return MFA_PRECISION_INT8
        case .INT4: return MFA_PRECISION_INT4
        }
    }

    /// Elements from one row to the next.
    func stride(columns: Int) -> Int {
        self == .INT4 ? columns + columns % 2 : columns
    }

    func byteCount(elements: Int) -> Int {
        switch self {
        case .FP32: return 4 * elements
        case .FP16, .BF16: return 2 * elements
        case .INT8: return elements
        case .INT4: return elements / 2
        }
    }

    /// Whether elements are codes, which stand for numbers only with `QuantizationParameters`.
    public var requiresQuantizationParameters: Bool {
        self == .INT8 || self == .INT4
    }
}
