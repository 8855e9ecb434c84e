import CMFA

/// A device and what it keeps between calls. Any number of threads may use one at once.
public final class Context: @unchecked Sendable {
    public enum Backend: Sendable {
        /// Metal where there is a device that can be used, else the CPU; the variable MFA_BACKEND wins over both.
        case automatic
        case cpu
        case metal

        var code: Int32 {
            switch self {
            case .automatic: return MFA_BACKEND_AUTO
            case .cpu: return MFA_BACKEND_CPU
            case .metal: return MFA_BACKEND_METAL
            }
        }
    }

    let handle: mfa_context_t

    /// - Parameters:
    ///   - device: number of the Metal device; 0 is the system's default
    ///   - threads: the most that a call may use on the CPU; 0 is all that the process may run on
    ///   - allowsCPUFallback: whether the CPU runs what Metal cannot, instead of an error
    /// - Throws: `AttentionError`, if the backend or device is absent, or the library is older than this code
    public init(
        backend: Backend = .automatic, device: Int = 0, threads: Int = 0, allowsCPUFallback: Bool = false
    ) throws {
        try Context.checkVersion()
        var options = mfa_context_options_t()
        options.struct_size = UInt32(MemoryLayout<mfa_context_options_t>.size)
        options.backend = backend.code
        options.device = try exactly(device, "device")
        options.num_threads = try exactly(threads, "threads")
        options.flags = allowsCPUFallback ? MFA_CONTEXT_ALLOW_CPU_FALLBACK : 0
        var created: mfa_context_t?
        try check(mfa_create_context_with_options(&options, &created))
        handle = created!
    }

    deinit {
        mfa_destroy_context(handle)
    }

    /// The backend that was chosen.
    public var backend: Backend {
        var info = mfa_context_info_t()
        info.struct_size = UInt32(MemoryLayout<mfa_context_info_t>.size)
        let status = mfa_context_describe(handle, &info)
        precondition(status == MFA_SUCCESS, "a live context describes itself")
        return info.backend == MFA_BACKEND_METAL ? .metal : .cpu
    }

    /// Seconds that this thread's last call took: on the GPU with Metal, else on the wall clock.
    public static var latency: Double {
        mfa_get_gpu_latency(nil)
    }

    /// Frees the memory that is kept between calls.
    public func trim() throws {
        try check(mfa_context_trim(handle))
    }

    private static func checkVersion() throws {
        var (major, minor, patch): (Int32, Int32, Int32) = (0, 0, 0)
        mfa_get_version(&major, &minor, &patch)
        if (major, minor, patch) < (MFA_VERSION_MAJOR, MFA_VERSION_MINOR, MFA_VERSION_PATCH) {
            let written = "\(MFA_VERSION_MAJOR).\(MFA_VERSION_MINOR).\(MFA_VERSION_PATCH)"
            throw AttentionError(
                status: .unsupported,
                message: "libmfa is \(major).\(minor).\(patch), expected at least \(written), whose header this was built with"
            )
        }
    }
}
