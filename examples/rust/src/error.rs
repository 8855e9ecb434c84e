//! What can go wrong, and how a status of libmfa's becomes that.
use std::ffi::CStr;
use std::fmt;
use std::ptr::null_mut;

use crate::sys;

pub type Result<T> = std::result::Result<T, Error>;

/// A call that was refused or failed. Its message names the argument, what it was and what was expected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    kind: ErrorKind,
    message: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    InvalidArgument,
    MemoryAllocation,
    DeviceNotSupported,
    KernelCompilation,
    ExecutionFailed,
    Unsupported,
    /// libmfa is older than the header that this crate was written against.
    LibraryTooOld,
    /// A status that only a newer libmfa knows.
    Other(sys::mfa_status_t),
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, message: String) -> Self {
        Error { kind, message }
    }

    pub fn kind(&self) -> ErrorKind {
        self.kind
    }
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

/// The error that this thread's last call, which returned `status`, has left.
pub(crate) fn check(status: sys::mfa_status_t) -> Result<()> {
    let kind = match status {
        sys::MFA_SUCCESS => return Ok(()),
        sys::MFA_ERROR_INVALID_ARGS => ErrorKind::InvalidArgument,
        sys::MFA_ERROR_MEMORY_ALLOCATION => ErrorKind::MemoryAllocation,
        sys::MFA_ERROR_DEVICE_NOT_SUPPORTED => ErrorKind::DeviceNotSupported,
        sys::MFA_ERROR_KERNEL_COMPILATION => ErrorKind::KernelCompilation,
        sys::MFA_ERROR_EXECUTION_FAILED => ErrorKind::ExecutionFailed,
        sys::MFA_ERROR_UNSUPPORTED => ErrorKind::Unsupported,
        other => ErrorKind::Other(other),
    };
    // SAFETY: never NULL, valid until this thread's next failure, and the context may be NULL.
    let message = unsafe { CStr::from_ptr(sys::mfa_last_error_message(null_mut())) };
    Err(Error::new(kind, message.to_string_lossy().into_owned()))
}
