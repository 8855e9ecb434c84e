from mfa._dlpack cimport DLTensor


cdef struct TorchState:
    # What torch does on this thread; zeros until somebody asks.
    bint asked
    bint plain  # it transforms nothing of what happens here, makes no program of it nor forward-mode gradients
    bint records  # grad mode is on
    bint casts  # autocast is on, of whatever device


cdef bint is_plain_type(object kind) except -1
cdef int ask(TorchState *state) except -1
cdef bint read_tensor(object array, TorchState *state, DLTensor *out) except -1
cdef object new_tensor(object like, tuple shape, int precision, bint heads_inside)
cdef int describe_new(object tensor, DLTensor *out) except -1
