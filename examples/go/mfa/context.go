// Package mfa is flash attention through libmfa: softmax(scale * query key^T) value without the matrix in the middle.
//
// A Context runs calls on one backend. What a call is about is an Attention, whose Tensors are views of slices: nothing
// is copied, and C keeps no pointer to Go's memory when a call has returned. What a slice and its shape disagree about,
// this package says; the rest libmfa does, in an Error's message.
package mfa

// #cgo pkg-config: mfa
// #include "calls.h"
import "C"

import (
	"fmt"
	"runtime"
	"sync"
)

// A Backend is what calls run on.
type Backend int32

const (
	// Auto is what the variable MFA_BACKEND says, else Metal where there is a device, else the CPU.
	Auto  Backend = C.MFA_BACKEND_AUTO
	CPU   Backend = C.MFA_BACKEND_CPU
	Metal Backend = C.MFA_BACKEND_METAL
)

// Options of a Context, whose zero values are defaults.
type Options struct {
	Backend Backend
	// Threads of the CPU that a call may use; 0: all that the process may run on, or MFA_NUM_THREADS.
	Threads uint16
}

// A Context runs calls, several at once if several goroutines ask for it. Close it; one that is forgotten is closed when
// it is collected. It may not be copied.
type Context struct {
	// Held by calls for reading, so that Close waits for those that run.
	lock   sync.RWMutex
	handle C.mfa_context_t
}

// NewContext fails if libmfa is older than its header was, or has not the backend that is asked for.
func NewContext(options Options) (*Context, error) {
	var found, expected version
	var major, minor, patch C.int
	C.mfa_get_version(&major, &minor, &patch)
	found = version{int(major), int(minor), int(patch)}
	expected = version{C.MFA_VERSION_MAJOR, C.MFA_VERSION_MINOR, C.MFA_VERSION_PATCH}
	if found.olderThan(expected) {
		return nil, fmt.Errorf("%w: it is version %v, expected %v or newer, which this program was compiled with",
			ErrTooOld, found, expected)
	}
	context := &Context{}
	err := checked(func() C.mfa_status_t {
		return C.mfago_create(C.int32_t(options.Backend), C.int32_t(options.Threads), &context.handle)
	})
	if err != nil {
		return nil, err
	}
	runtime.SetFinalizer(context, func(forgotten *Context) { forgotten.Close() })
	return context, nil
}

// Close waits for calls that run, and releases the context. Afterwards all that is asked of it is ErrClosed.
func (c *Context) Close() error {
	c.lock.Lock()
	defer c.lock.Unlock()
	if c.handle == nil {
		return ErrClosed
	}
	runtime.SetFinalizer(c, nil)
	C.mfa_destroy_context(c.handle)
	c.handle = nil
	return nil
}

// run makes a call of C's with the handle, which cannot go away meanwhile.
func (c *Context) run(call func(C.mfa_context_t) C.mfa_status_t) error {
	c.lock.RLock()
	defer c.lock.RUnlock()
	if c.handle == nil {
		return ErrClosed
	}
	return checked(func() C.mfa_status_t { return call(c.handle) })
}

// checked turns a status into an error. The message is the thread's, on which the goroutine has to stay for that long.
func checked(call func() C.mfa_status_t) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	status := call()
	if status == C.MFA_SUCCESS {
		return nil
	}
	return &Error{Status(status), C.GoString(C.mfa_last_error_message(nil))}
}

type version [3]int

func (v version) olderThan(other version) bool {
	for part := range v {
		if v[part] != other[part] {
			return v[part] < other[part]
		}
	}
	return false
}

func (v version) String() string { return fmt.Sprintf("%d.%d.%d", v[0], v[1], v[2]) }
