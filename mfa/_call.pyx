"""Attention calls: inputs and results become a descriptor, which is run or planned."""

import ml_dtypes
import numpy

from libc.stdint cimport int64_t

from mfa._arrays cimport FLOATS, ONLY_FLOAT32, Operand, dtype_name, load_operand, loaded_torch
from mfa._context cimport Context
from mfa._inputs cimport (
    DBIAS,
    DKEY,
    DOUT,
    DQUERY,
    DSINKS,
    DVALUE,
    LOGSUMEXP,
    OUT,
    Inputs,
    Slot,
    swap_rows_and_heads,
)
from mfa._status cimport check
from mfa.c_mfa cimport (
    MFA_BACKEND_METAL,
    MFA_PRECISION_BF16,
    MFA_PRECISION_DEFAULT,
    MFA_PRECISION_FP16,
    MFA_PRECISION_FP32,
    mfa_attention_backward_desc,
    mfa_attention_backward_desc_init,
    mfa_attention_backward_desc_t,
    mfa_attention_backward_plan,
    mfa_attention_desc_t,
    mfa_attention_forward_desc,
    mfa_attention_forward_plan,
    mfa_context_t,
    mfa_plan_init,
    mfa_plan_t,
    mfa_status_t,
    mfa_tensor_t,
)

from mfa._gradients import Gradients
from mfa._numpy import empty_like_kind
from mfa.reports import Plan

cdef object empty = numpy.empty
cdef dict NUMPY_DTYPES = {
    MFA_PRECISION_FP32: numpy.dtype(numpy.float32),
    MFA_PRECISION_FP16: numpy.dtype(numpy.float16),
    MFA_PRECISION_BF16: numpy.dtype(ml_dtypes.bfloat16),
}


cdef class Call:
    """What forward and backward calls have in common. Subclasses keep alive what the descriptors point to."""

    cdef Inputs inputs
    cdef mfa_attention_desc_t desc
    cdef mfa_attention_backward_desc_t backward  # its `forward` is NULL unless this is a backward call

    cdef Operand new_result(self, object like, tuple shape, int precision, Slot slot):
        """A new array of the kind of `like`; only its description when planning."""
        cdef Operand operand
        cdef int ndim = len(shape)
        if self.inputs.planning:
            operand = Operand.__new__(Operand)
            operand.describe_absent(shape, precision, self.inputs.stand_in(slot))
            return operand
        dtype = NUMPY_DTYPES[precision]
        # empty_like_kind() would do for both, but most calls are NumPy's and this is faster.
        array = empty(shape, dtype) if type(like) is numpy.ndarray else empty_like_kind(like, shape, dtype)
        return load_operand(array, "result", FLOATS, ndim, ndim, True, 0)

    cdef Operand new_rows(self, object like, tuple shape, int precision, Slot slot):
        """new_result() for a shape whose axes are in the caller's order, as (batch, heads, rows, dim)."""
        cdef Operand operand = self.new_result(like, shape, precision, slot)
        if not self.inputs.heads_first:
            swap_rows_and_heads(operand)
        return operand

    cdef int compute(self, Context context) except -1:
        cdef mfa_context_t handle = context.acquire()
        cdef mfa_status_t status
        with nogil:
            if self.backward.forward != NULL:
                status = mfa_attention_backward_desc(handle, &self.backward)
            else:
                status = mfa_attention_forward_desc(handle, &self.desc)
        context.release()
        return check(status)

    def plan(self, Context context not None):
        """Say how run() would go."""
        cdef mfa_plan_t plan = mfa_plan_init()
        cdef mfa_context_t handle = context.acquire()
        cdef mfa_status_t status
        with nogil:
            if self.backward.forward != NULL:
                status = mfa_attention_backward_plan(handle, &self.backward, &plan)
            else:
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


cdef class ForwardCall(Call):
    """One call of attention.

    Parameters
    ----------
    inputs : Inputs
    out : array or None
        None is a new array of the kind of query.
    out_precision : int
        As in ``mfa.h``; ``MFA_PRECISION_DEFAULT`` follows `out`, else query.
    want_logsumexp : bool
    """

    cdef bint owns_out
    cdef Operand out, logsumexp

    def __cinit__(
            self, Inputs inputs not None, *, object out=None, int out_precision=MFA_PRECISION_DEFAULT,
            bint want_logsumexp=False):
        cdef int64_t *query = inputs.query.tensor.shape
        cdef int ndim = len(inputs.shape)
        self.inputs = inputs
        self.desc = inputs.desc
        self.owns_out = out is None
        if self.owns_out:
            if out_precision == MFA_PRECISION_DEFAULT:
                out_precision = inputs.query.tensor.precision
            self.out = self.new_rows(inputs.query.array, inputs.shape, out_precision, OUT)
        else:
            self.out = inputs.load_rows(out, "out", ndim, ndim, True, OUT)
            inputs.require_shape_of_out(self.out, "out")
            if out_precision != MFA_PRECISION_DEFAULT and self.out.tensor.precision != out_precision:
                raise ValueError(
                    f"out_dtype: {dtype_name(out_precision)}, "
                    f"expected {dtype_name(self.out.tensor.precision)} as out has")
        self.desc.out = &self.out.tensor
        if want_logsumexp:
            self.logsumexp = self.new_result(
                inputs.query.array, (query[0], query[1], query[2]), MFA_PRECISION_FP32, LOGSUMEXP)
            append_unit_axes(self.logsumexp, 1)
            self.desc.logsumexp = &self.logsumexp.tensor

    def run(self, Context context not None):
        """Compute: `out`, or (`out`, logsumexp) if that is wanted."""
        self.compute(context)
        if not self.owns_out:
            note_write(self.out.array)
        return self.out.array if self.logsumexp is None else (self.out.array, self.logsumexp.array)


cdef class BackwardCall(Call):
    """One call for the gradients of attention.

    Parameters
    ----------
    inputs : Inputs
        Neither loose nor with names of its own.
    dout, out, lse : arrays
        When planning, None stands for one like the forward call's.
    out_precision : int
        Of the gradients, as in ``mfa.h``; ``MFA_PRECISION_DEFAULT`` follows the operand of each.
    wanted : frozenset of str or None
        Names of fields of `Gradients`; None is all that there are.
    """

    cdef Operand dout, out, logsumexp
    cdef Operand dq, dk, dv, dbias, dsinks

    def __cinit__(
            self, Inputs inputs not None, object dout, object out, object lse, *,
            int out_precision=MFA_PRECISION_DEFAULT, frozenset wanted=None):
        cdef Operand bias = inputs.additive_mask
        self.inputs = inputs
        self.desc = inputs.desc
        self.backward = mfa_attention_backward_desc_init()
        self.backward.forward = &self.desc
        self.dout = self.load_like_out(dout, "dout", out_precision, DOUT)
        self.backward.dout = &self.dout.tensor
        self.out = self.load_like_out(out, "out", out_precision, OUT)
        self.desc.out = &self.out.tensor
        self.logsumexp = self.load_logsumexp(lse)
        self.desc.logsumexp = &self.logsumexp.tensor
        if is_wanted(wanted, "dq", True):
            self.dq = self.new_gradient(inputs.query, out_precision, DQUERY)
            self.backward.dquery = &self.dq.tensor
        if is_wanted(wanted, "dk", True):
            self.dk = self.new_gradient(inputs.key, out_precision, DKEY)
            self.backward.dkey = &self.dk.tensor
        if is_wanted(wanted, "dv", True):
            self.dv = self.new_gradient(inputs.value, out_precision, DVALUE)
            self.backward.dvalue = &self.dv.tensor
        if is_wanted(wanted, "dbias", bias is not None):
            self.dbias = self.new_bias_gradient(bias, out_precision)
            self.backward.dbias = &self.dbias.tensor
        if is_wanted(wanted, "dsinks", inputs.sinks is not None):
            self.dsinks = self.new_result(
                inputs.sinks, (inputs.query.tensor.shape[1],), MFA_PRECISION_FP32, DSINKS)
            append_unit_axes(self.dsinks, 2)
            self.backward.dsinks = &self.dsinks.tensor

    cdef Operand load_like_out(self, object array, str name, int precision, Slot slot):
        cdef Inputs inputs = self.inputs
        cdef Operand operand
        if array is None and inputs.planning:
            if precision == MFA_PRECISION_DEFAULT:
                precision = inputs.query.tensor.precision
            return self.new_rows(inputs.query.array, inputs.shape, precision, slot)
        operand = inputs.load_rows(array, name, 4, 4, False, slot)
        inputs.require_shape_of_out(operand, name)
        return operand

    cdef Operand load_logsumexp(self, object array):
        cdef Inputs inputs = self.inputs
        cdef int64_t *query = inputs.query.tensor.shape
        cdef tuple expected = (query[0], query[1], query[2])
        cdef Operand operand
        cdef int64_t *extent
        if array is None and inputs.planning:
            operand = self.new_result(inputs.query.array, expected, MFA_PRECISION_FP32, LOGSUMEXP)
        else:
            operand = load_operand(array, "lse", ONLY_FLOAT32, 3, 3, False, inputs.stand_in(LOGSUMEXP))
        extent = operand.tensor.shape
        if extent[1] != query[0] or extent[2] != query[1] or extent[3] != query[2]:
            raise ValueError(f"lse: shape {(extent[1], extent[2], extent[3])}, expected {expected}")
        append_unit_axes(operand, 1)
        return operand

    cdef Operand new_gradient(self, Operand operand, int precision, Slot slot):
        cdef int64_t *extent = operand.tensor.shape
        if precision == MFA_PRECISION_DEFAULT:
            precision = operand.tensor.precision
        shape = self.inputs.caller_shape(extent[0], extent[1], extent[2], extent[3], 4)
        return self.new_rows(operand.array, shape, precision, slot)

    cdef Operand new_bias_gradient(self, Operand bias, int precision):
        cdef int64_t *extent = bias.tensor.shape
        cdef int axis
        shape = tuple([extent[axis] for axis in range(4 - bias.ndim, 4)])
        # An array wider than query keeps that precision in its gradient.
        if precision != MFA_PRECISION_FP32:
            precision = bias.tensor.precision
        return self.new_result(bias.array, shape, precision, DBIAS)

    def run(self, Context context not None):
        """Compute: `Gradients`, with None for those that are not wanted."""
        self.compute(context)
        return Gradients(*[
            None if operand is None else (<Operand> operand).array
            for operand in (self.dq, self.dk, self.dv, self.dbias, self.dsinks)
        ])


cdef bint is_wanted(frozenset wanted, str name, bint exists) except -1:
    if wanted is None:
        return exists
    if name in wanted and not exists:
        needed = "sinks" if name == "dsinks" else "bias or a floating mask"
        raise ValueError(f"wanted: {name!r}, expected {needed} to go with it")
    return name in wanted


cdef void append_unit_axes(Operand operand, int count) noexcept:
    """Moves the sizes of an array that has only 4 - count axes to the front."""
    cdef mfa_tensor_t *tensor = &operand.tensor
    cdef int axis
    for axis in range(4):
        tensor.shape[axis] = tensor.shape[axis + count] if axis + count < 4 else 1
        tensor.stride[axis] = tensor.stride[axis + count] if axis + count < 4 else 0


cdef int note_write(object out) except -1:
    """Let autograd know that a tensor changed, so that a backward that saved it fails rather than lies."""
    if type(out) is not numpy.ndarray:
        torch = loaded_torch()
        if torch is not None and isinstance(out, torch.Tensor) and not out.is_inference():
            torch.autograd.graph.increment_version(out)
    return 0
