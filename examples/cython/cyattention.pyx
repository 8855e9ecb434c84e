"""Attention through the C ABI of libmfa: float32 arrays (batch, heads, rows, head_dim), read and written in place.

What has been released says so, statuses become exceptions with libmfa's message, and calls run without the GIL.
"""

cimport cython
from libc.stdint cimport int64_t
from mfa cimport capi
from mfa.c_mfa cimport (
    MFA_ALIGN_TOP_LEFT,
    MFA_ATTENTION_CAUSAL,
    MFA_PRECISION_FP32,
    MFA_PRECISION_INT8,
    MFA_PRECISION_INT32,
    MFA_SUCCESS,
    MFA_VERSION_MAJOR,
    MFA_VERSION_MINOR,
    MFA_VERSION_PATCH,
    mfa_attention_backward_desc_init,
    mfa_attention_backward_desc_t,
    mfa_attention_desc_init,
    mfa_attention_desc_t,
    mfa_blocks_init,
    mfa_blocks_t,
    mfa_context_options_init,
    mfa_context_options_t,
    mfa_context_t,
    mfa_quantization_init,
    mfa_quantization_t,
    mfa_status_t,
    mfa_tensor_init,
    mfa_tensor_t,
)

ctypedef fused element:
    float
    signed char
    int


@cython.boundscheck(False)  # of an empty array, too, the address is taken and not followed
cdef mfa_tensor_t described(const element[:, :, :, :] array) noexcept nogil:
    cdef mfa_tensor_t tensor = mfa_tensor_init()
    cdef int axis
    if element is float:
        tensor.precision = MFA_PRECISION_FP32
    elif element is int:
        tensor.precision = MFA_PRECISION_INT32
    else:
        tensor.precision = MFA_PRECISION_INT8
    tensor.data = <void *> &array[0, 0, 0, 0]
    for axis in range(4):
        tensor.shape[axis] = array.shape[axis]
        tensor.stride[axis] = array.strides[axis] // <Py_ssize_t> sizeof(element)
    return tensor


cdef class Context:
    """Threads and scratch memory for calls, from any number of threads at once. Closes itself as a `with` block ends."""

    cdef mfa_context_t handle
    cdef int calls

    def __cinit__(self, int threads=0):
        cdef mfa_context_options_t options = mfa_context_options_init()
        options.num_threads = threads
        capi.check(capi.mfa_create_context_with_options(&options, &self.handle))

    def __dealloc__(self):
        capi.mfa_destroy_context(self.handle)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()

    def close(self):
        """Release the handle. Closing twice is allowed; closing while a call runs is an error."""
        if self.calls:
            raise RuntimeError(f"context: {self.calls} calls are running, expected none when it is closed")
        capi.mfa_destroy_context(self.handle)
        self.handle = NULL

    # Both are called with the GIL, which is what guards the count.

    cdef mfa_context_t acquire(self) except NULL:
        if self.handle == NULL:
            raise ValueError("context: is closed, expected an open one")
        self.calls += 1
        return self.handle

    cdef void release(self) noexcept:
        self.calls -= 1


@cython.final
cdef class Quantised:
    """Keys or values as int8 codes with one scale for each head."""

    cdef const signed char[:, :, :, :] codes
    cdef const float[:, :, :, :] scales
    cdef mfa_tensor_t codes_tensor, scales_tensor
    cdef mfa_quantization_t quantization

    def __cinit__(self, const signed char[:, :, :, :] codes not None, const float[:] scales not None):
        if scales.shape[0] != codes.shape[1]:
            raise ValueError(f"scales: {scales.shape[0]}, expected one for each of the {codes.shape[1]} heads")
        self.codes = codes
        self.scales = scales[None, :, None, None]
        self.codes_tensor = described(self.codes)
        self.scales_tensor = described(self.scales)
        self.quantization = mfa_quantization_init()  # a scale for all rows and columns
        self.quantization.scales = &self.scales_tensor


cdef class Attention:
    """What is to be computed: a descriptor, and the arrays that it points to, which this keeps.

    Parameters
    ----------
    query : float32 (B, H, Nq, D)
    key, value : float32 (B, H, Nkv, D), or Quantised
    causal : bool
        Row i sees keys up to i.
    window : (int, int)
        Row i sees keys from i - left to i + right; -1 is no bound.
    blocks : (rows, keys, counts, indices) or None
        Row r of blocks of `rows` rows sees the blocks of `keys` keys that the first counts[r] of indices[r] name;
        int32 (B or 1, H or 1, R, 1) and (B or 1, H or 1, R, n).
    """

    cdef mfa_attention_desc_t desc
    cdef mfa_blocks_t blocks
    cdef const float[:, :, :, :] query, key, value
    cdef const int[:, :, :, :] counts, indices
    cdef Quantised key_codes, value_codes
    cdef mfa_tensor_t tensors[5]

    # Not __init__, which may be called again while a call reads what is here.
    def __cinit__(
            self, const float[:, :, :, :] query not None, key not None, value not None, *, bint causal=False,
            window=(-1, -1), blocks=None):
        self.desc = mfa_attention_desc_init()
        self.desc.alignment = MFA_ALIGN_TOP_LEFT
        self.desc.window_left, self.desc.window_right = window
        if causal:
            self.desc.flags |= MFA_ATTENTION_CAUSAL
        self.query = query
        self.tensors[0] = described(self.query)
        self.desc.query = &self.tensors[0]
        if isinstance(key, Quantised):
            self.key_codes = key
            self.desc.key, self.desc.key_quantization = &self.key_codes.codes_tensor, &self.key_codes.quantization
        else:
            self.key = key
            self.tensors[1] = described(self.key)
            self.desc.key = &self.tensors[1]
        if isinstance(value, Quantised):
            self.value_codes = value
            self.desc.value = &self.value_codes.codes_tensor
            self.desc.value_quantization = &self.value_codes.quantization
        else:
            self.value = value
            self.tensors[2] = described(self.value)
            self.desc.value = &self.tensors[2]
        if blocks is not None:
            self.blocks = mfa_blocks_init()
            self.blocks.block_rows, self.blocks.block_keys, self.counts, self.indices = blocks
            self.tensors[3], self.tensors[4] = described(self.counts), described(self.indices)
            self.blocks.kv_num_blocks, self.blocks.kv_indices = &self.tensors[3], &self.tensors[4]
            self.desc.blocks = &self.blocks

    def forward(self, Context context not None, float[:, :, :, :] out not None, float[:, :, :, :] logsumexp=None):
        """Write the result, and the logsumexp (B, H, Nq, 1) if that is given."""
        cdef mfa_attention_desc_t desc = self.desc
        cdef mfa_tensor_t result = described[float](out), sums
        cdef mfa_context_t handle = context.acquire()
        cdef mfa_status_t status
        desc.out = &result
        if logsumexp is not None:
            sums = described[float](logsumexp)
            desc.logsumexp = &sums
        with nogil:
            status = capi.mfa_attention_forward_desc(handle, &desc)
        context.release()
        capi.check(status)  # on the thread that made the call: messages are per thread

    def forward_each(
            self, Context context not None, const float[:, :, :, :, :] queries not None,
            float[:, :, :, :, :] outs not None):
        """Query after query to the same keys and values, in one loop without the GIL: outs[i] of queries[i]."""
        cdef mfa_attention_desc_t desc = self.desc
        cdef mfa_context_t handle
        cdef mfa_status_t status = MFA_SUCCESS
        cdef mfa_tensor_t query, result
        cdef Py_ssize_t index
        cdef int axis
        if outs.shape[0] != queries.shape[0]:
            raise ValueError(f"outs: {outs.shape[0]} results, expected {queries.shape[0]} as there are queries")
        handle = context.acquire()
        desc.query, desc.out = &query, &result
        with nogil:
            for index in range(queries.shape[0]):
                query = described[float](queries[index])
                result = described[float](outs[index])
                status = capi.mfa_attention_forward_desc(handle, &desc)
                if status != MFA_SUCCESS:
                    break
        context.release()
        capi.check(status)

    def backward(
            self, Context context not None, const float[:, :, :, :] dout not None,
            const float[:, :, :, :] out not None, const float[:, :, :, :] logsumexp not None,
            float[:, :, :, :] dquery not None, float[:, :, :, :] dkey not None, float[:, :, :, :] dvalue not None):
        """Write the gradients for `dout`, from what forward() wrote."""
        cdef mfa_attention_desc_t desc = self.desc
        cdef mfa_attention_backward_desc_t gradients = mfa_attention_backward_desc_init()
        cdef mfa_tensor_t result = described(out), sums = described(logsumexp), upstream = described(dout)
        cdef mfa_tensor_t dq = described[float](dquery)
        cdef mfa_tensor_t dk = described[float](dkey)
        cdef mfa_tensor_t dv = described[float](dvalue)
        cdef mfa_context_t handle = context.acquire()
        cdef mfa_status_t status
        desc.out, desc.logsumexp = &result, &sums
        gradients.forward, gradients.dout = &desc, &upstream
        gradients.dquery, gradients.dkey, gradients.dvalue = &dq, &dk, &dv
        with nogil:
            status = capi.mfa_attention_backward_desc(handle, &gradients)
        context.release()
        capi.check(status)


cdef int require_version() except -1:
    """The library that was loaded is at least the one that this module was compiled for."""
    cdef int major = 0, minor = 0, patch = 0
    capi.mfa_get_version(&major, &minor, &patch)
    loaded, needed = (major, minor, patch), (MFA_VERSION_MAJOR, MFA_VERSION_MINOR, MFA_VERSION_PATCH)
    if loaded < needed:
        raise ImportError(f"libmfa is version {'.'.join(map(str, loaded))}, expected {'.'.join(map(str, needed))} or later")
    return 0


require_version()
