"""One attention call: arrays and checked keywords become a descriptor, which is run or planned."""

import ml_dtypes
import numpy

from libc.stdint cimport int64_t, uintptr_t

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

from mfa._numpy import empty_like_kind
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

# Where a plan pretends that memory lies which only the call itself would allocate: addresses that no process has,
# far enough apart that none of it overlaps. A call that allocates has 0 instead.
cdef uintptr_t NOWHERE = (<uintptr_t> 1) << 63
cdef uintptr_t APART = (<uintptr_t> 1) << 59


cdef class AttentionCall:
    """The descriptor of a call, with everything it points to.

    Parameters
    ----------
    query, key, value, mask, bias, out : arrays, or None for those from `mask` on
    heads_first : bool
        Axes are (batch, heads, rows, dim) rather than (batch, rows, heads, dim).
    loose : bool
        Inputs may lack leading axes, and a batch of 1 goes with any, as heads do unless `grouped`.
    grouped : bool
        Keys and values may have fewer heads than queries.
    alibi_slopes, sinks : 2-D float32 ndarray or None
    out_precision, alignment, intermediate_precision : int
        As in ``mfa.h``; an `out_precision` of ``MFA_PRECISION_DEFAULT`` follows `out`, else `query`.
    softmax_scale : float or None
    planning : bool
        Only plan() will be called: nothing is copied or allocated.
    names : tuple of str
        What the caller knows query, key, value and mask by.

    Attributes
    ----------
    shape : tuple
        That of `out`.
    out, logsumexp
        The results, of the kind of array that `query` is; None when planning.
    """

    cdef readonly tuple shape
    cdef readonly object out
    cdef readonly object logsumexp
    cdef bint owns_out
    cdef bint planning
    cdef str query_name, key_name, value_name
    cdef Operand query_operand, key_operand, value_operand, out_operand
    cdef Operand logsumexp_operand, mask_operand, bias_operand
    cdef const float[:, :] alibi_rows
    cdef const float[:, :] sink_rows
    cdef mfa_tensor_t alibi_tensor, sink_tensor
    cdef mfa_attention_desc_t desc

    def __cinit__(
            self, object query, object key, object value, *, bint heads_first, bint loose=False,
            bint grouped=True, bint causal=False, int alignment, int64_t window_left=-1,
            int64_t window_right=-1, object softmax_scale=None, float softcap=0, object mask=None,
            object bias=None, object alibi_slopes=None, object sinks=None,
            int intermediate_precision=MFA_PRECISION_DEFAULT, object out=None,
            int out_precision=MFA_PRECISION_DEFAULT, bint want_logsumexp=False, bint planning=False,
            tuple names=("query", "key", "value", "mask")):
        cdef int min_ndim = 2 if loose else 4
        cdef str mask_name
        self.planning = planning
        self.query_name, self.key_name, self.value_name, mask_name = names
        self.query_operand = load_operand(query, self.query_name, FLOATS, min_ndim, 4, False, self.stand_in(0))
        self.key_operand = load_operand(key, self.key_name, FLOATS, min_ndim, 4, False, self.stand_in(1))
        self.value_operand = load_operand(value, self.value_name, FLOATS, min_ndim, 4, False, self.stand_in(2))
        if not heads_first:
            swap_rows_and_heads(self.query_operand)
            swap_rows_and_heads(self.key_operand)
            swap_rows_and_heads(self.value_operand)
        if loose:
            self.broadcast_axis(0)
            if not grouped:
                self.broadcast_axis(1)
        self.require_operands_that_fit(heads_first, grouped)

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
            self.mask_operand = load_operand(mask, mask_name, FLOATS_OR_BOOL, 0, 4, False, self.stand_in(3))
            self.require_score_shape(self.mask_operand, mask_name)
            if self.mask_operand.tensor.precision == MFA_PRECISION_BOOL:
                self.desc.bool_mask = &self.mask_operand.tensor
            else:
                self.desc.additive_mask = &self.mask_operand.tensor
        if bias is not None:
            if self.desc.additive_mask != NULL:
                raise ValueError("bias: given beside a floating mask, expected at most one additive array")
            self.bias_operand = load_operand(bias, "bias", FLOATS, 0, 4, False, self.stand_in(4))
            self.require_score_shape(self.bias_operand, "bias")
            self.desc.additive_mask = &self.bias_operand.tensor
        if alibi_slopes is not None:
            self.require_head_shape(alibi_slopes, "alibi_slopes", True)
            self.alibi_rows = alibi_slopes
            self.alibi_tensor = rows_tensor(self.alibi_rows)
            self.desc.alibi_slopes = &self.alibi_tensor
        if sinks is not None:
            self.require_head_shape(sinks, "sinks", False)
            self.sink_rows = sinks
            self.sink_tensor = rows_tensor(self.sink_rows)
            self.desc.sinks = &self.sink_tensor
        self.attach_results(query, heads_first, out, out_precision, want_logsumexp)

    cdef uintptr_t stand_in(self, int slot) noexcept:
        return NOWHERE + slot * APART if self.planning else 0

    cdef int broadcast_axis(self, int axis) except -1:
        cdef int64_t extent = 1
        cdef Operand operand
        for operand in (self.query_operand, self.key_operand, self.value_operand):
            if extent == 1:
                extent = operand.tensor.shape[axis]
        for operand in (self.query_operand, self.key_operand, self.value_operand):
            if operand.tensor.shape[axis] == 1:
                operand.tensor.shape[axis] = extent
                operand.tensor.stride[axis] = 0
        return 0

    # The library knows arrays by other names and orders of axes than callers do, so sizes are checked here.

    cdef int require_operands_that_fit(self, bint heads_first, bint grouped) except -1:
        cdef mfa_tensor_t *query = &self.query_operand.tensor
        cdef mfa_tensor_t *key = &self.key_operand.tensor
        cdef mfa_tensor_t *value = &self.value_operand.tensor
        cdef int64_t heads = query.shape[1]
        for name, operand in ((self.key_name, self.key_operand), (self.value_name, self.value_operand)):
            if (<Operand> operand).tensor.precision != query.precision:
                raise ValueError(
                    f"{name}: dtype {DTYPE_NAMES[(<Operand> operand).tensor.precision]}, "
                    f"expected {DTYPE_NAMES[query.precision]} as {self.query_name} has")
        for name, operand in ((self.query_name, self.query_operand), (self.value_name, self.value_operand)):
            if (<Operand> operand).tensor.shape[3] == 0:
                raise ValueError(f"{name}: head dimension 0, expected 1 or more")
        if heads == 0:
            raise ValueError(f"{self.query_name}: 0 heads, expected 1 or more")
        for name, operand in ((self.key_name, self.key_operand), (self.value_name, self.value_operand)):
            kv_heads = (<Operand> operand).tensor.shape[1]
            if not grouped and kv_heads != heads:
                raise ValueError(
                    f"{name}: {kv_heads} heads, expected {heads} as {self.query_name} has, or enable_gqa=True")
            if kv_heads == 0 or heads % kv_heads != 0:
                raise ValueError(
                    f"{name}: {kv_heads} heads, expected a divisor of the {heads} of {self.query_name}")
        self.require_shape(
            self.key_operand, self.key_name, query.shape[0], key.shape[1], key.shape[2], query.shape[3],
            heads_first)
        self.require_shape(
            self.value_operand, self.value_name, query.shape[0], key.shape[1], key.shape[2], value.shape[3],
            heads_first)
        return 0

    cdef int require_shape(
            self, Operand operand, str name, int64_t batch, int64_t heads, int64_t rows, int64_t dim,
            bint heads_first) except -1:
        cdef int64_t *extent = operand.tensor.shape
        if extent[0] != batch or extent[1] != heads or extent[2] != rows or extent[3] != dim:
            actual = caller_shape(extent[0], extent[1], extent[2], extent[3], heads_first, operand.ndim)
            expected = caller_shape(batch, heads, rows, dim, heads_first, operand.ndim)
            raise ValueError(f"{name}: shape {actual}, expected {expected}")
        return 0

    cdef int require_head_shape(self, object rows, str name, bint batches) except -1:
        cdef int64_t batch = self.query_operand.tensor.shape[0]
        cdef int64_t heads = self.query_operand.tensor.shape[1]
        if rows.shape[1] == heads and (rows.shape[0] == 1 or (batches and rows.shape[0] == batch)):
            return 0
        actual = rows.shape if rows.shape[0] != 1 else rows.shape[1:]
        expected = f"({heads},)" + (f" or {(batch, heads)}" if batches else "")
        raise ValueError(f"{name}: shape {actual}, expected {expected}")

    cdef int require_score_shape(self, Operand operand, str name) except -1:
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
        cdef tuple shape = caller_shape(batch, heads, rows, dim, heads_first, ndim)
        self.shape = shape
        self.owns_out = out is None
        if self.owns_out:
            if out_precision == MFA_PRECISION_DEFAULT:
                out_precision = self.query_operand.tensor.precision
            if self.planning:
                self.out_operand = absent_operand(shape, out_precision, self.stand_in(5))
            else:
                self.out = new_array(query, shape, out_precision)
                self.out_operand = load_operand(self.out, "out", FLOATS, ndim, ndim, True, 0)
        else:
            self.out = out
            self.out_operand = load_operand(out, "out", FLOATS, ndim, ndim, True, 0)
        if not heads_first:
            swap_rows_and_heads(self.out_operand)
        self.require_shape(self.out_operand, "out", batch, heads, rows, dim, heads_first)
        if out_precision != MFA_PRECISION_DEFAULT and self.out_operand.tensor.precision != out_precision:
            raise ValueError(
                f"out_dtype: {DTYPE_NAMES[out_precision]}, "
                f"expected {DTYPE_NAMES[self.out_operand.tensor.precision]} as out has")
        self.desc.out = &self.out_operand.tensor
        if want_logsumexp:
            shape = (batch, heads, rows)
            if self.planning:
                self.logsumexp_operand = absent_operand(shape, MFA_PRECISION_FP32, self.stand_in(6))
            else:
                self.logsumexp = new_array(query, shape, MFA_PRECISION_FP32)
                self.logsumexp_operand = load_operand(self.logsumexp, "logsumexp", FLOATS, 3, 3, True, 0)
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
        if not self.owns_out:
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


cdef Operand absent_operand(tuple shape, int precision, uintptr_t stand_in):
    cdef Operand operand = Operand.__new__(Operand)
    operand.describe_absent(shape, precision, stand_in)
    return operand


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
    dtype = NUMPY_DTYPES[precision]
    return empty(shape, dtype) if type(like) is numpy.ndarray else empty_like_kind(like, shape, dtype)


cdef int note_write(object out) except -1:
    """Let autograd know that a tensor changed, so that a backward that saved it fails rather than lies."""
    if type(out) is not numpy.ndarray:
        torch = loaded_torch()
        if torch is not None and isinstance(out, torch.Tensor) and not out.is_inference():
            torch.autograd.graph.increment_version(out)
    return 0
