package mfa

// #include <mfa.h>
import "C"

import (
	"errors"
	"fmt"
)

// A Status says in what way a call failed.
type Status int32

const (
	InvalidArgument    Status = C.MFA_ERROR_INVALID_ARGS
	MemoryAllocation   Status = C.MFA_ERROR_MEMORY_ALLOCATION
	DeviceNotSupported Status = C.MFA_ERROR_DEVICE_NOT_SUPPORTED
	KernelCompilation  Status = C.MFA_ERROR_KERNEL_COMPILATION
	ExecutionFailed    Status = C.MFA_ERROR_EXECUTION_FAILED
	Unsupported        Status = C.MFA_ERROR_UNSUPPORTED
)

// An Error is a call that was refused or failed. Message names the argument, what it was and what was expected.
type Error struct {
	Status  Status
	Message string
}

func (e *Error) Error() string { return e.Message }

// ErrClosed is the error of a call on a Context that was closed, and of closing it again.
var ErrClosed = errors.New("mfa: the context is closed")

// ErrTooOld is wrapped by the error of a program whose libmfa is older than the header that it was compiled with.
var ErrTooOld = errors.New("libmfa is too old")

func invalid(format string, arguments ...any) error {
	return &Error{InvalidArgument, fmt.Sprintf(format, arguments...)}
}
