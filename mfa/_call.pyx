"""One attention call: arrays and checked keywords become a descriptor, which is run or planned."""

import ml_dtypes
import numpy

from libc.stdint cimport int64_t

from mfa._arrays cimport FLOATS, FLOATS_OR_BOOL, Operand, load_operand, loaded_torch
from mfa._context cimport Context
from mfa._status cimport check
from mfa.c_mfa cimport (
    MFA_ATTENTION_CAUSAL,
    MFA_ATTENTION_LITERAL_SCALE,
    MFA_BACKEND_METAL,
    MFA_PRECISION_BF16,
    MFA_PRECISION_BOOL,
    MFA_PRECISION_DEFAULT,
    MFA_PRECISION_FP16,
    MFA_PRECISION_FP32,
    mfa_attention_desc_init,
    mfa_attention_desc_t,
    mfa_attention_forward_desc,
    mfa_attention_forward_plan,
    mfa_context_t,
    mfa_plan_init,
    mfa_plan_t,
    mfa_status_t,
    mfa_tensor_init,
    mfa_tensor_t,
)

from mfa.reports import Plan

cdef object empty = numpy.empty
cdef dict NUMPY_DTYPES = {
    MFA_PRECISION_FP32: numpy.dtype(numpy.float32),
    MFA_PRECISION_FP16: numpy.dtype(numpy.float16),
    MFA_PRECISION_BF16: numpy.dtype(ml_dtypes.bfloat16),
}
cdef dict DTYPE_NAMES = {
    MFA_PRECISION_FP32: "float32",
    MFA_PRECISION_FP16: "float16",
    MFA_PRECISION_BF16: "bfloat16",
}


cdef class AttentionCall:
    """The descriptor of a call, with everything it points to.

    Parameters
    ----------
    query, key, value, out, mask, bias : arrays, or None for those from `out` on
    heads_first : bool
        Axes are (batch, heads, rows, dim) rather than (batch, rows, heads, dim).
    loose : bool
        Inputs may lack leading axes, and a batch of 1 goes with any.
    grouped : bool
        Keys and values may have fewer heads than queries.
    alibi_slopes, sinks : 2-D float32 ndarray or None
    out_precision, alignment, intermediate_precision : int
        As in ``mfa.h``; an `out_precision` of ``MFA_PRECISION_DEFAULT`` follows `out`, else `query`.
    softmax_scale : float or None
    mask_name : str
        What the caller knows `mask` by.

    Attributes
    ----------
    out, logsumexp
        The results, of the kind of array that `query` is.
    """

    cdef readonly object out
    cdef readonly object logsumexp
    cdef Operand query_operand, key_operand, value_operand, out_operand
    cdef Operand logsumexp_operand, mask_operand, bias_operand
    cdef const float[:, :] alibi_rows
    cdef const float[:, :] sink_rows
    cdef mfa_tensor_t alibi_tensor, sink_tensor
    cdef mfa_attention_desc_t desc

    def __cinit__(
            self, object query, object key, object value, bint heads_first, bint loose, bint grouped,
            bint causal, int alignment, int64_t window_left, int64_t window_right, object softmax_scale,
            float softcap, str mask_name, object mask, object bias, object alibi_slopes, object sinks,
            int intermediate_precision, object out, int out_precision, bint want_logsumexp):
        cdef int min_ndim = 2 if loose else 4
        self.query_operand = load_operand(query, "query", FLOATS, min_ndim, 4, False)
        self.key_operand = load_operand(key, "key", FLOATS, min_ndim, 4, False)
        self.value_operand = load_operand(value, "value", FLOATS, min_ndim, 4, False)
        if not heads_first:
            swap_rows_and_heads(self.query_operand)
            swap_rows_and_heads(self.key_operand)
            swap_rows_and_heads(self.value_operand)
        if loose:
            self.broadcast_batch()
        if not grouped:
            self.require_equal_heads()

        self.desc = mfa_attention_desc_init()
        self.desc.query = &self.query_operand.tensor
        self.desc.key = &self.key_operand.tensor
        self.desc.value = &self.value_operand.tensor
        self.desc.alignment = alignment
        self.desc.window_left = window_left
        self.desc.window_right = window_right
        self.desc.softcap = softcap
        self.desc.intermediate_precision = intermediate_precision
        if causal:
            self.desc.flags |= MFA_ATTENTION_CAUSAL
        if softmax_scale is not None:
            self.desc.flags |= MFA_ATTENTION_LITERAL_SCALE
            self.desc.softmax_scale = softmax_scale
        if mask is not None:
            self.mask_operand = load_operand(mask, mask_name, FLOATS_OR_BOOL, 0, 4, False)
            self.require_score_shape(self.mask_operand, mask_name)
            if self.mask_operand.tensor.precision == MFA_PRECISION_BOOL:
                self.desc.bool_mask = &self.mask_operand.tensor
            else:
                self.desc.additive_mask = &self.mask_operand.tensor
        if bias is not None:
            if self.desc.additive_mask != NULL:
                raise ValueError("bias: given beside a floating mask, expected at most one additive array")
            self.bias_operand = load_operand(bias, "bias", FLOATS, 0, 4, False)
            self.require_score_shape(self.bias_operand, "bias")
            self.desc.additive_mask = &self.bias_operand.tensor
        if alibi_slopes is not None:
            self.alibi_rows = alibi_slopes
            self.alibi_tensor = rows_tensor(self.alibi_rows)
            self.desc.alibi_slopes = &self.alibi_tensor
        if sinks is not None:
            self.sink_rows = sinks
            self.sink_tensor = rows_tensor(self.sink_rows)
            self.desc.sinks = &self.sink_tensor
        self.attach_results(query, heads_first, out, out_precision, want_logsumexp)

    cdef int broadcast_batch(self) except -1:
        cdef int64_t batch = self.query_operand.tensor.shape[0]
        cdef Operand operand
        for operand in (self.key_operand, self.value_operand):
            if batch == 1:
                batch = operand.tensor.shape[0]
        for operand in (self.query_operand, self.key_operand, self.value_operand):
            if operand.tensor.shape[0] == 1:
                operand.tensor.shape[0] = batch
                operand.tensor.stride[0] = 0
        return 0

    cdef int require_equal_heads(self) except -1:
        cdef int64_t heads = self.query_operand.tensor.shape[1]
        for name, operand in (("key", self.key_operand), ("value", self.value_operand)):
            if (<Operand> operand).tensor.shape[1] != heads:
                raise ValueError(
                    f"{name}: {(<Operand> operand).tensor.shape[1]} heads, expected {heads} as query has, "
                    "or enable_gqa=True")
        return 0

    cdef int require_score_shape(self, Operand operand, str name) except -1:
        """The library knows masks by other names than callers do, so their sizes are checked here."""
        cdef mfa_tensor_t *query = &self.query_operand.tensor
        cdef int64_t *extent = operand.tensor.shape
        cdef int64_t keys = self.key_operand.tensor.shape[2]
        cdef int64_t *scores = [query.shape[0], query.shape[1], query.shape[2], keys]
        cdef int axis
        for axis in range(4):
            if extent[axis] != 1 and extent[axis] != scores[axis]:
                actual = caller_shape(extent[0], extent[1], extent[2], extent[3], True, operand.ndim)
                expected = caller_shape(scores[0], scores[1], scores[2], scores[3], True, 4)
                raise ValueError(f"{name}: shape {actual}, expected one that broadcasts to {expected}")
        return 0

    cdef int attach_results(
            self, object query, bint heads_first, object out, int out_precision,
            bint want_logsumexp) except -1:
        cdef int64_t batch = self.query_operand.tensor.shape[0]
        cdef int64_t heads = self.query_operand.tensor.shape[1]
        cdef int64_t rows = self.query_operand.tensor.shape[2]
        cdef int64_t dim = self.value_operand.tensor.shape[3]
        cdef int ndim = max(self.query_operand.ndim, self.key_operand.ndim, self.value_operand.ndim)
        cdef mfa_tensor_t *tensor
        cdef tuple shape = caller_shape(batch, heads, rows, dim, heads_first, ndim)
        if out is None:
            if out_precision == MFA_PRECISION_DEFAULT:
                out_precision = self.query_operand.tensor.precision
            out = new_array(query, shape, out_precision)
        self.out = out
        self.out_operand = load_operand(out, "out", FLOATS, ndim, ndim, True)
        if not heads_first:
            swap_rows_and_heads(self.out_operand)
        tensor = &self.out_operand.tensor
        if (tensor.shape[0] != batch or tensor.shape[1] != heads or tensor.shape[2] != rows
                or tensor.shape[3] != dim):
            actual = caller_shape(
                tensor.shape[0], tensor.shape[1], tensor.shape[2], tensor.shape[3], heads_first, ndim)
            raise ValueError(f"out: shape {actual}, expected {shape}")
        if out_precision != MFA_PRECISION_DEFAULT and tensor.precision != out_precision:
            raise ValueError(
                f"out_dtype: {DTYPE_NAMES[out_precision]}, "
                f"expected {DTYPE_NAMES[tensor.precision]} as out has")
        self.desc.out = tensor
        if want_logsumexp:
            self.logsumexp = new_array(query, (batch, heads, rows), MFA_PRECISION_FP32)
            self.logsumexp_operand = load_operand(self.logsumexp, "logsumexp", FLOATS, 3, 3, True)
            append_unit_axis(self.logsumexp_operand)
            self.desc.logsumexp = &self.logsumexp_operand.tensor
        return 0

    def run(self, Context context not None):
        """Compute; `out` and `logsumexp` hold the results afterwards."""
        cdef mfa_context_t handle = context.acquire()
        cdef mfa_status_t status
        with nogil:
            status = mfa_attention_forward_desc(handle, &self.desc)
        context.release()
        check(status)
        note_write(self.out)

    def plan(self, Context context not None):
        """Say how run() would go."""
        cdef mfa_plan_t plan = mfa_plan_init()
        cdef mfa_context_t handle = context.acquire()
        cdef mfa_status_t status
        with nogil:
            status = mfa_attention_forward_plan(handle, &self.desc, &plan)
        context.release()
        check(status)
        return Plan(
            status=plan.status,
            backend="metal" if plan.backend == MFA_BACKEND_METAL else "cpu",
            fallback=bool(plan.fallback),
            kernel=plan.kernel.decode(),
            isa=plan.isa.decode(),
            tile_queries=plan.tile_queries,
            tile_keys=plan.tile_keys,
            key_splits=plan.key_splits,
            num_threads=plan.num_threads,
            workspace_bytes=plan.workspace_bytes,
            reason=plan.reason.decode("utf-8", "replace"),
        )


cdef void swap_rows_and_heads(Operand operand) noexcept:
    cdef mfa_tensor_t *tensor = &operand.tensor
    tensor.shape[1], tensor.shape[2] = tensor.shape[2], tensor.shape[1]
    tensor.stride[1], tensor.stride[2] = tensor.stride[2], tensor.stride[1]


cdef tuple caller_shape(
        int64_t batch, int64_t heads, int64_t rows, int64_t dim, bint heads_first, int ndim):
    """The shape in the caller's order of axes, without the leading ones that the caller's arrays lack."""
    shape = (batch, heads, rows, dim) if heads_first else (batch, rows, heads, dim)
    return shape if ndim == 4 else shape[4 - ndim:]


cdef void append_unit_axis(Operand operand) noexcept:
    cdef mfa_tensor_t *tensor = &operand.tensor
    cdef int axis
    for axis in range(3):
        tensor.shape[axis] = tensor.shape[axis + 1]
        tensor.stride[axis] = tensor.stride[axis + 1]
    tensor.shape[3] = 1
    tensor.stride[3] = 0


cdef mfa_tensor_t rows_tensor(const float[:, :] rows) noexcept:
    """Per-head numbers (batch or 1, heads) as (batch or 1, heads, 1, 1)."""
    cdef mfa_tensor_t tensor = mfa_tensor_init()
    cdef int axis
    # Inputs are const; the C tensor has one type of pointer for inputs and outputs.
    tensor.data = <void *> &rows[0, 0] if rows.shape[0] and rows.shape[1] else NULL
    for axis in range(4):
        tensor.shape[axis] = rows.shape[axis] if axis < 2 else 1
        tensor.stride[axis] = rows.strides[axis] // <Py_ssize_t> sizeof(float) if axis < 2 else 0
    return tensor


cdef object new_array(object like, tuple shape, int precision):
    """Uninitialised memory: a tensor if `like` is one, else an ndarray."""
    if type(like) is not numpy.ndarray:
        torch = loaded_torch()
        if torch is not None and isinstance(like, torch.Tensor):
            return torch.empty(shape, dtype=getattr(torch, DTYPE_NAMES[precision]))
    return empty(shape, NUMPY_DTYPES[precision])


cdef int note_write(object out) except -1:
    """Let autograd know that a tensor changed, so that a backward that saved it fails rather than lies."""
    if type(out) is not numpy.ndarray:
        torch = loaded_torch()
        if torch is not None and isinstance(out, torch.Tensor) and not out.is_inference():
            torch.autograd.graph.increment_version(out)
    return 0
