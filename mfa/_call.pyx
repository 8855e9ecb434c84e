"""Attention calls: inputs and results become a descriptor, which is run or planned."""

import numpy

from libc.stdint cimport int64_t, uint64_t, uintptr_t

from mfa._arrays cimport ONLY_FLOAT32, Operand, dtype_name, load_new
from mfa._codes cimport Codes
from mfa._context cimport Context, default_context, known_context
from mfa._given cimport OWN, RECORDED, Concern, concern, given_of
from mfa._inputs cimport Inputs
from mfa._status cimport check
from mfa.c_mfa cimport (
    MFA_BACKEND_METAL,
    MFA_BACKWARD_ZERO_CLIPPED,
    MFA_PRECISION_DEFAULT,
    MFA_PRECISION_FP32,
    mfa_attention_backward_desc,
    mfa_attention_backward_desc_init,
    mfa_attention_backward_desc_t,
    mfa_attention_backward_encode,
    mfa_attention_backward_plan,
    mfa_attention_desc_t,
    mfa_attention_forward_desc,
    mfa_attention_forward_encode,
    mfa_attention_forward_plan,
    mfa_context_t,
    mfa_plan_init,
    mfa_plan_t,
    mfa_status_t,
)

from mfa import _keywords
from mfa._gradients import Gradients
from mfa._tensors import note_write
from mfa.reports import Plan

cdef object ndarray = numpy.ndarray
TO_RECORD = object()


ctypedef void *(*CommandBuffer)() noexcept nogil
ctypedef void *(*Queue)() noexcept nogil
ctypedef void (*Dispatch)(void *queue, void *argument, void (*function)(void *) noexcept nogil) noexcept nogil

cdef struct Work:
    mfa_context_t context
    const mfa_attention_desc_t *forward
    const mfa_attention_backward_desc_t *backward  # of a forward call, one that points to none
    CommandBuffer get_command_buffer  # NULL: compute, and wait
    mfa_status_t status


cdef void compute_work(void *argument) noexcept nogil:
    """What runs where PyTorch encodes, one at a time."""
    cdef Work *work = <Work *> argument
    cdef bint is_forward = work.backward.forward == NULL
    if work.get_command_buffer == NULL and is_forward:
        work.status = mfa_attention_forward_desc(work.context, work.forward)
    elif work.get_command_buffer == NULL:
        work.status = mfa_attention_backward_desc(work.context, work.backward)
    elif is_forward:
        work.status = mfa_attention_forward_encode(work.context, work.forward, work.get_command_buffer())
    else:
        work.status = mfa_attention_backward_encode(work.context, work.backward, work.get_command_buffer())


cdef class Call:
    """What forward and backward calls have in common. Subclasses keep alive what the descriptors point to."""

    cdef Inputs inputs
    cdef mfa_attention_desc_t desc
    cdef mfa_attention_backward_desc_t backward  # its `forward` is NULL unless this is a backward call
    cdef list results  # new ones on Metal

    cdef Operand new_result(self, object like, tuple shape, int precision, bint heads_inside=False):
        """A new array of the kind of `like`; only its description when planning."""
        cdef Operand operand
        if self.inputs.planning:
            operand = Operand.__new__(Operand)
            operand.describe_absent(shape, precision, self.inputs.stand_in())
            return operand
        operand = load_new(like, shape, precision, heads_inside, self.inputs.on_metal)
        if self.inputs.on_metal:
            self.results = self.results or []
            self.results.append(operand)
        return operand

    cdef Operand new_rows(self, object like, tuple shape, int precision):
        """new_result() for a shape whose axes are in the caller's order, as (batch, heads, rows, dim).

        Of tensors with heads first, results lie in memory as queries do, which may be rows first.
        """
        cdef int64_t *stride = self.inputs.query.tensor.stride
        cdef bint heads_inside = self.inputs.heads_first and stride[1] < stride[2]
        cdef Operand operand = self.new_result(like, shape, precision, heads_inside)
        if not self.inputs.heads_first:
            operand.swap_rows_and_heads()
        return operand

    cdef int compute(self, Context context) except -1:
        self.require_prepared()
        cdef mfa_context_t handle
        cdef mfa_status_t status
        if self.inputs.on_metal:
            return self.compute_on_metal(context_of_metal(context))
        if context is None:
            context = default_context()
        handle = context.acquire()
        with nogil:
            if self.backward.forward != NULL:
                status = mfa_attention_backward_desc(handle, &self.backward)
            else:
                status = mfa_attention_forward_desc(handle, &self.desc)
        context.release()
        return self.check_status(status)

    cdef int require_prepared(self) except -1:
        if self.inputs is None:
            raise TypeError("call: not initialised, expected one with inputs")
        return 0

    cdef int compute_on_metal(self, Context context) except -1:
        """As compute(), in PyTorch's own stream where it lets others in, else between two stops of it."""
        cdef Work work
        cdef uintptr_t dispatch, queue, get_command_buffer
        from mfa.torch import _mps  # the tensors are torch's

        stream = _mps.stream()
        if stream is None or self.inputs.reads_lists:  # which the library looks at now, not when all this runs
            _mps.synchronize()
        work.context = context.acquire()
        try:
            self.wrap_operands(work.context)
            work.forward = &self.desc
            work.backward = &self.backward
            if stream is None:
                work.get_command_buffer = NULL
                with nogil:
                    compute_work(&work)
            else:
                dispatch, queue, get_command_buffer = stream
                work.get_command_buffer = <CommandBuffer> get_command_buffer
                with nogil:
                    (<Dispatch> dispatch)((<Queue> queue)(), &work, compute_work)
            self.check_status(work.status)
        finally:
            context.release()
        return 0

    cdef int wrap_operands(self, mfa_context_t context) except -1:
        """Have all that is on Metal known to the context, and refuse what is not."""
        cdef Operand operand
        for argument in self.inputs.kept:
            operand = (<Codes> argument).codes if isinstance(argument, Codes) else argument
            if operand.tensor.data != NULL:
                raise BufferError(f"{operand.name}: on the CPU, expected a tensor on mps as others are")
            operand.wrap(context)
        for operand in self.results or ():
            operand.wrap(context)
        return 0

    cdef int check_status(self, mfa_status_t status) except -1:
        cdef Inputs inputs = self.inputs
        return check(status, inputs.names, "bhsd" if inputs.heads_first else "bshd", inputs.key.ndim)

    def plan(self, object context=None):
        """Say how run() would go."""
        cdef Context running = known_context(context)
        cdef mfa_plan_t plan = mfa_plan_init()
        cdef mfa_context_t handle
        cdef mfa_status_t status
        self.require_prepared()
        if self.inputs.on_metal:
            running = context_of_metal(running)
        elif running is None:
            running = default_context()
        handle = running.acquire()
        try:
            if self.inputs.on_metal:
                self.wrap_operands(handle)
            with nogil:
                if self.backward.forward != NULL:
                    status = mfa_attention_backward_plan(handle, &self.backward, &plan)
                else:
                    status = mfa_attention_forward_plan(handle, &self.desc, &plan)
        finally:
            running.release()
        self.check_status(status)
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


cdef Context context_of_metal(Context context):
    """The one that tensors on Metal are computed on; None is one for all calls."""
    if context is None:
        from mfa.torch import _mps

        return _mps.context()
    backend = context.describe().backend
    if backend != "metal":
        raise ValueError(f"context: of backend {backend!r}, expected 'metal' for tensors on mps")
    return context


cdef class ForwardCall(Call):
    """One call of attention.

    Parameters
    ----------
    inputs : Inputs
    out : array or None
        None is a new array of the kind of query.
    out_dtype, return_lse
        As for `mfa.attention`.
    like : array or None
        What results are of the kind of; None is query.
    """

    cdef bint owns_out
    cdef Operand out, logsumexp

    def __init__(
            self, Inputs inputs not None, *, object out=None, object out_dtype=None, object return_lse=False,
            object like=None):
        self.prepare(inputs, out, out_dtype, return_lse, like)

    cdef int prepare(self, Inputs inputs, object out, object out_dtype, object return_lse, object like) except -1:
        cdef int out_precision = MFA_PRECISION_DEFAULT if out_dtype is None else _keywords.out_dtype(out_dtype)
        cdef bint want_logsumexp = return_lse is not False and _keywords.flag(return_lse, "return_lse")
        cdef int ndim
        require_filled(inputs)
        if self.inputs is not None:
            raise TypeError("call: initialised twice, expected once")
        ndim = len(inputs.shape)
        self.inputs = inputs
        self.desc = inputs.desc
        if like is None:
            like = inputs.query.array
        self.owns_out = out is None
        if self.owns_out:
            if out_precision == MFA_PRECISION_DEFAULT:
                out_precision = inputs.query.tensor.precision
            self.out = self.new_rows(like, inputs.shape, out_precision)
        else:
            self.out = inputs.load_rows(out, "out", ndim, ndim, True)
            inputs.require_shape_of_out(self.out)
            if out_precision != MFA_PRECISION_DEFAULT and self.out.tensor.precision != out_precision:
                raise ValueError(
                    f"out_dtype: {dtype_name(out_precision)}, "
                    f"expected {dtype_name(self.out.tensor.precision)} as out has")
        self.desc.out = &self.out.tensor
        if want_logsumexp:
            self.logsumexp = self.new_result(like, inputs.logsumexp_shape(), MFA_PRECISION_FP32)
            self.logsumexp.append_unit_axes(1)
            self.desc.logsumexp = &self.logsumexp.tensor
        return 0

    def run(self, object context=None):
        """Compute: `out`, or (`out`, logsumexp) if that is wanted."""
        self.compute(known_context(context))
        if not self.owns_out:
            note_write(self.out.array)
        if self.inputs.appends:
            note_write(self.inputs.key.array)
            note_write(self.inputs.value.array)
        return self.out.array if self.logsumexp is None else (self.out.array, self.logsumexp.array)


def attend(
        object query, object key, object value, dict keywords not None, dict names not None, bint loose, bint grouped,
        object out, object out_dtype, object return_lse, object context, bint does_torch_know=False):
    """What the call returns, computed, unless torch is to know of it and does not.

    TO_RECORD then, if that is what its gradients are and nothing else; None if `mfa._tensors` is to be asked.
    """
    cdef Inputs inputs = Inputs.__new__(Inputs)
    cdef ForwardCall call = ForwardCall.__new__(ForwardCall)
    cdef uint64_t given = given_of(keywords)
    cdef Concern torch = OWN
    if does_torch_know:
        inputs.torch.asked = inputs.torch.plain = True
    elif type(query) is not ndarray:
        torch = concern(query, key, value, keywords, given, &inputs.torch)
    if torch != OWN:
        return TO_RECORD if torch == RECORDED else None
    inputs.fill(query, key, value, keywords, given, names, loose, grouped, False)
    call.prepare(inputs, out, out_dtype, return_lse, None)
    return call.run(context)


cdef class BackwardCall(Call):
    """One call for the gradients of attention.

    Parameters
    ----------
    inputs : Inputs
        Neither loose nor with names of its own.
    dout, out, lse : arrays
        When planning, None stands for one like the forward call's.
    delta, dlse, zero_clipped, out_dtype, wanted
        As for `mfa.attention_backward`.
    """

    cdef Operand dout, out, logsumexp, delta, dlogsumexp
    cdef Operand dq, dk, dv, dbias, dsinks

    def __cinit__(
            self, Inputs inputs not None, object dout, object out, object lse, *, object delta=None,
            object dlse=None, object zero_clipped=False, object out_dtype=None, object wanted=None):
        cdef int out_precision = _keywords.out_dtype(out_dtype)
        cdef frozenset names = _keywords.wanted(wanted)
        cdef Operand bias = inputs.additive_mask
        if inputs.forward_only is not None:
            raise ValueError(
                f"{inputs.forward_only}: given, expected None, as there are no gradients of calls with it")
        require_filled(inputs)
        self.inputs = inputs
        self.desc = inputs.desc
        self.backward = mfa_attention_backward_desc_init()
        self.backward.forward = &self.desc
        self.dout = self.load_like_out(dout, "dout", out_precision)
        self.backward.dout = &self.dout.tensor
        if out is not None or delta is None:
            self.out = self.load_like_out(out, "out", out_precision)
            self.desc.out = &self.out.tensor
        self.logsumexp = self.load_row_numbers(lse, "lse")
        self.desc.logsumexp = &self.logsumexp.tensor
        if delta is not None:
            self.delta = self.load_row_numbers(delta, "delta", out is not None)
            self.backward.delta = &self.delta.tensor
        if dlse is not None:
            self.dlogsumexp = self.load_row_numbers(dlse, "dlse")
            self.backward.dlogsumexp = &self.dlogsumexp.tensor
        if _keywords.flag(zero_clipped, "zero_clipped"):
            if inputs.key_codes is inputs.value_codes is None:
                raise ValueError("zero_clipped: True, expected False, or a QuantizedTensor as key or value")
            self.backward.flags |= MFA_BACKWARD_ZERO_CLIPPED
        if is_wanted(names, "dq", True):
            self.dq = self.new_gradient(inputs.query, out_precision)
            self.backward.dquery = &self.dq.tensor
        if is_wanted(names, "dk", True):
            self.dk = self.new_gradient(inputs.key, out_precision, inputs.key_codes is not None)
            self.backward.dkey = &self.dk.tensor
        if is_wanted(names, "dv", True):
            self.dv = self.new_gradient(inputs.value, out_precision, inputs.value_codes is not None)
            self.backward.dvalue = &self.dv.tensor
        if is_wanted(names, "dbias", bias is not None):
            self.dbias = self.new_bias_gradient(bias, out_precision)
            self.backward.dbias = &self.dbias.tensor
        if is_wanted(names, "dsinks", inputs.sinks is not None):
            self.dsinks = self.new_result(
                inputs.sinks.array, (inputs.query.tensor.shape[1],), MFA_PRECISION_FP32)
            self.dsinks.append_unit_axes(2)
            self.backward.dsinks = &self.dsinks.tensor

    cdef Operand load_like_out(self, object array, str name, int precision):
        cdef Inputs inputs = self.inputs
        cdef Operand operand
        if array is None and inputs.planning:
            if precision == MFA_PRECISION_DEFAULT:
                precision = inputs.query.tensor.precision
            return self.new_rows(inputs.query.array, inputs.shape, precision)
        operand = inputs.load_rows(array, name, inputs.query.ndim, inputs.query.ndim)
        inputs.require_shape_of_out(operand)
        return operand

    cdef Operand load_row_numbers(self, object array, str name, bint writable=False):
        """float32 of each query row; when planning, None stands for what the forward call's lse would be."""
        cdef Inputs inputs = self.inputs
        cdef tuple expected = inputs.logsumexp_shape()
        cdef int ndim = len(expected)
        cdef Operand operand
        if array is None and inputs.planning:
            operand = self.new_result(inputs.query.array, expected, MFA_PRECISION_FP32)
        else:
            operand = inputs.load(
                array, name, ONLY_FLOAT32, ndim, ndim, writable,
                "(batch, heads, sequence)" if ndim == 3 else "(heads, rows of all sequences)")
        if operand.given_shape() != expected:
            raise ValueError(f"{name}: shape {operand.given_shape()}, expected {expected}")
        operand.append_unit_axes(1)
        return operand

    cdef Operand new_gradient(self, Operand operand, int precision, bint is_of_codes=False):
        """One like the operand, or like query where that has codes."""
        cdef int64_t *extent = operand.tensor.shape
        cdef Operand like = self.inputs.query if is_of_codes else operand
        if precision == MFA_PRECISION_DEFAULT:
            precision = like.tensor.precision
        shape = self.inputs.caller_shape(extent[0], extent[1], extent[2], extent[3], operand.ndim)
        return self.new_rows(like.array, shape, precision)

    cdef Operand new_bias_gradient(self, Operand bias, int precision):
        # An array wider than query keeps that precision in its gradient.
        if precision != MFA_PRECISION_FP32:
            precision = bias.tensor.precision
        return self.new_result(bias.array, bias.given_shape(), precision)

    def run(self, object context=None):
        """Compute: `Gradients`, with None for those that are not wanted."""
        self.compute(known_context(context))
        if self.delta is not None and self.out is not None:
            note_write(self.delta.array)
        return Gradients(
            array_of(self.dq), array_of(self.dk), array_of(self.dv), array_of(self.dbias),
            array_of(self.dsinks))


cdef int require_filled(Inputs inputs) except -1:
    if inputs.shape is None:
        raise TypeError("inputs: not initialised, expected those of a call")
    return 0


cdef object array_of(Operand operand):
    return None if operand is None else operand.array


cdef bint is_wanted(frozenset wanted, str name, bint exists) except -1:
    if wanted is None:
        return exists
    if name in wanted and not exists:
        needed = "sinks" if name == "dsinks" else "bias or a floating mask"
        raise ValueError(f"wanted: {name!r}, expected {needed} to go with it")
    return name in wanted
