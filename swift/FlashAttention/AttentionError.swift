import CMFA

/// Why a call was refused or failed.
public struct AttentionError: Error, Equatable, CustomStringConvertible {
    /// The library's status codes.
    public struct Status: RawRepresentable, Hashable, Sendable {
        public let rawValue: Int32

        public init(rawValue: Int32) {
            self.rawValue = rawValue
        }

        public static let invalidArguments = Status(rawValue: MFA_ERROR_INVALID_ARGS)
        public static let memoryAllocation = Status(rawValue: MFA_ERROR_MEMORY_ALLOCATION)
        public static let deviceNotSupported = Status(rawValue: MFA_ERROR_DEVICE_NOT_SUPPORTED)
        public static let kernelCompilation = Status(rawValue: MFA_ERROR_KERNEL_COMPILATION)
        public static let executionFailed = Status(rawValue: MFA_ERROR_EXECUTION_FAILED)
        public static let unsupported = Status(rawValue: MFA_ERROR_UNSUPPORTED)
    }

    public let status: Status
    /// Which argument was wrong, what it was and what was expected.
    public let message: String

    public var description: String {
        "\(String(cString: mfa_error_string(status.rawValue))): \(message)"
    }

    static func invalid(_ message: String) -> AttentionError {
        AttentionError(status: .invalidArguments, message: message)
    }
}

/// Throws what the library says of a call that has just failed on this thread.
func check(_ status: mfa_status_t) throws {
    if status != MFA_SUCCESS {
        let message = String(cString: mfa_last_error_message(nil))
        throw AttentionError(status: AttentionError.Status(rawValue: status), message: message)
    }
}

/// A number as the library takes it.
func exactly<Number: FixedWidthInteger>(_ value: Int, _ name: String) throws -> Number {
    guard let number = Number(exactly: value) else {
        throw AttentionError.invalid("\(name): \(value), expected \(Number.min) to \(Number.max)")
    }
    return number
}
