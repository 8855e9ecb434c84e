"""What every attention call is given: arrays and checked keywords become a descriptor without results."""

from libc.stdint cimport int64_t, uint64_t, uintptr_t

from mfa._arrays cimport FLOATS, FLOATS_OR_BOOL, Operand, dtype_name, load_operand
from mfa.c_mfa cimport (
    MFA_ATTENTION_CAUSAL,
    MFA_ATTENTION_LITERAL_SCALE,
    MFA_PRECISION_BOOL,
    MFA_PRECISION_DEFAULT,
    mfa_attention_desc_init,
    mfa_tensor_init,
    mfa_tensor_t,
)

from mfa import _keywords

# Where a plan pretends that memory lies which only the call itself would allocate: addresses that no process
# has, far enough apart that none of it overlaps. A call that allocates has 0 instead.
cdef uintptr_t NOWHERE = (<uintptr_t> 1) << 63
cdef uintptr_t APART = (<uintptr_t> 1) << 59


cdef class Inputs:
    """The descriptor of a call without its results, with everything it points to.

    Parameters
    ----------
    query, key, value, mask, bias, alibi_slopes, sinks : arrays, or None for those from `mask` on
    heads_first : bool
        Axes are (batch, heads, rows, dim) rather than (batch, rows, heads, dim).
    loose : bool
        Inputs may lack leading axes, and a batch of 1 goes with any, as heads do unless `grouped`.
    grouped : bool
        Keys and values may have fewer heads than queries.
    alignment, intermediate_precision : int
        As in ``mfa.h``.
    softmax_scale : float or None
    planning : bool
        Calls with these inputs will only be planned: nothing is copied or allocated.
    names : tuple of str
        What the caller knows query, key, value and mask by.

    Attributes
    ----------
    shape : tuple
        That of the result.
    """

    def __cinit__(
            self, object query, object key, object value, *, bint heads_first, bint loose=False,
            bint grouped=True, bint causal=False, int alignment, int64_t window_left=-1,
            int64_t window_right=-1, object softmax_scale=None, float softcap=0, object mask=None,
            object bias=None, object alibi_slopes=None, object sinks=None, float dropout_p=0,
            uint64_t dropout_seed=0, uint64_t dropout_offset=0,
            int intermediate_precision=MFA_PRECISION_DEFAULT, bint planning=False,
            tuple names=("query", "key", "value", "mask")):
        cdef int min_ndim = 2 if loose else 4
        cdef str mask_name
        self.heads_first = heads_first
        self.planning = planning
        self.query_name, self.key_name, self.value_name, mask_name = names
        self.query = self.load_rows(query, self.query_name, min_ndim, 4, False, QUERY)
        self.key = self.load_rows(key, self.key_name, min_ndim, 4, False, KEY)
        self.value = self.load_rows(value, self.value_name, min_ndim, 4, False, VALUE)
        if loose:
            self.broadcast_axis(0)
            if not grouped:
                self.broadcast_axis(1)
        self.require_operands_that_fit(grouped)

        self.desc = mfa_attention_desc_init()
        self.desc.query = &self.query.tensor
        self.desc.key = &self.key.tensor
        self.desc.value = &self.value.tensor
        self.desc.alignment = alignment
        self.desc.window_left = window_left
        self.desc.window_right = window_right
        self.desc.softcap = softcap
        self.desc.intermediate_precision = intermediate_precision
        self.desc.dropout_p = dropout_p
        self.desc.dropout_seed = dropout_seed
        self.desc.dropout_offset = dropout_offset
        if causal:
            self.desc.flags |= MFA_ATTENTION_CAUSAL
        if softmax_scale is not None:
            self.desc.flags |= MFA_ATTENTION_LITERAL_SCALE
            self.desc.softmax_scale = softmax_scale
        if mask is not None:
            self.mask = load_operand(mask, mask_name, FLOATS_OR_BOOL, 0, 4, False, self.stand_in(MASK))
            self.require_score_shape(self.mask, mask_name)
            if self.mask.tensor.precision == MFA_PRECISION_BOOL:
                self.desc.bool_mask = &self.mask.tensor
            else:
                self.additive_mask = self.mask
        if bias is not None:
            if self.additive_mask is not None:
                raise ValueError("bias: given beside a floating mask, expected at most one additive array")
            self.bias = load_operand(bias, "bias", FLOATS, 0, 4, False, self.stand_in(BIAS))
            self.require_score_shape(self.bias, "bias")
            self.additive_mask = self.bias
        if self.additive_mask is not None:
            self.desc.additive_mask = &self.additive_mask.tensor
        if alibi_slopes is not None:
            rows = _keywords.alibi_slopes(alibi_slopes)
            self.require_head_shape(rows, "alibi_slopes", True)
            self.alibi_rows = rows
            self.alibi_tensor = rows_tensor(self.alibi_rows)
            self.desc.alibi_slopes = &self.alibi_tensor
        if sinks is not None:
            rows = _keywords.sinks(sinks)
            self.require_head_shape(rows, "sinks", False)
            self.sinks = sinks
            self.sink_rows = rows
            self.sink_tensor = rows_tensor(self.sink_rows)
            self.desc.sinks = &self.sink_tensor
        self.shape = self.caller_shape(
            self.query.tensor.shape[0], self.query.tensor.shape[1], self.query.tensor.shape[2],
            self.value.tensor.shape[3], max(self.query.ndim, self.key.ndim, self.value.ndim))

    cdef uintptr_t stand_in(self, Slot slot) noexcept:
        return NOWHERE + slot * APART if self.planning else 0

    cdef Operand load_rows(
            self, object array, str name, int min_ndim, int max_ndim, bint writable, Slot slot):
        """An array whose axes are in the caller's order, as (batch, heads, rows, dim)."""
        cdef Operand operand = load_operand(
            array, name, FLOATS, min_ndim, max_ndim, writable, self.stand_in(slot))
        if not self.heads_first:
            swap_rows_and_heads(operand)
        return operand

    cdef int broadcast_axis(self, int axis) except -1:
        cdef int64_t extent = 1
        cdef Operand operand
        for operand in (self.query, self.key, self.value):
            if extent == 1:
                extent = operand.tensor.shape[axis]
        for operand in (self.query, self.key, self.value):
            if operand.tensor.shape[axis] == 1:
                operand.tensor.shape[axis] = extent
                operand.tensor.stride[axis] = 0
        return 0

    # The library knows arrays by other names and orders of axes than callers do, so sizes are checked here.

    cdef int require_operands_that_fit(self, bint grouped) except -1:
        cdef mfa_tensor_t *query = &self.query.tensor
        cdef mfa_tensor_t *key = &self.key.tensor
        cdef mfa_tensor_t *value = &self.value.tensor
        cdef int64_t heads = query.shape[1]
        for name, operand in ((self.key_name, self.key), (self.value_name, self.value)):
            if (<Operand> operand).tensor.precision != query.precision:
                raise ValueError(
                    f"{name}: dtype {dtype_name((<Operand> operand).tensor.precision)}, "
                    f"expected {dtype_name(query.precision)} as {self.query_name} has")
        for name, operand in ((self.query_name, self.query), (self.value_name, self.value)):
            if (<Operand> operand).tensor.shape[3] == 0:
                raise ValueError(f"{name}: head dimension 0, expected 1 or more")
        if heads == 0:
            raise ValueError(f"{self.query_name}: 0 heads, expected 1 or more")
        for name, operand in ((self.key_name, self.key), (self.value_name, self.value)):
            kv_heads = (<Operand> operand).tensor.shape[1]
            if not grouped and kv_heads != heads:
                raise ValueError(
                    f"{name}: {kv_heads} heads, "
                    f"expected {heads} as {self.query_name} has, or enable_gqa=True")
            if kv_heads == 0 or heads % kv_heads != 0:
                raise ValueError(
                    f"{name}: {kv_heads} heads, expected a divisor of the {heads} of {self.query_name}")
        self.require_rows(
            self.key, self.key_name, query.shape[0], key.shape[1], key.shape[2], query.shape[3])
        self.require_rows(
            self.value, self.value_name, query.shape[0], key.shape[1], key.shape[2], value.shape[3])
        return 0

    cdef int require_rows(
            self, Operand operand, str name, int64_t batch, int64_t heads, int64_t rows,
            int64_t dim) except -1:
        cdef int64_t *extent = operand.tensor.shape
        if extent[0] != batch or extent[1] != heads or extent[2] != rows or extent[3] != dim:
            actual = self.caller_shape(extent[0], extent[1], extent[2], extent[3], operand.ndim)
            expected = self.caller_shape(batch, heads, rows, dim, operand.ndim)
            raise ValueError(f"{name}: shape {actual}, expected {expected}")
        return 0

    cdef int require_shape_of_out(self, Operand operand, str name) except -1:
        cdef int64_t *query = self.query.tensor.shape
        return self.require_rows(operand, name, query[0], query[1], query[2], self.value.tensor.shape[3])

    cdef int require_head_shape(self, object rows, str name, bint batches) except -1:
        cdef int64_t batch = self.query.tensor.shape[0]
        cdef int64_t heads = self.query.tensor.shape[1]
        if rows.shape[1] == heads and (rows.shape[0] == 1 or (batches and rows.shape[0] == batch)):
            return 0
        actual = rows.shape if rows.shape[0] != 1 else rows.shape[1:]
        expected = f"({heads},)" + (f" or {(batch, heads)}" if batches else "")
        raise ValueError(f"{name}: shape {actual}, expected {expected}")

    cdef int require_score_shape(self, Operand operand, str name) except -1:
        cdef mfa_tensor_t *query = &self.query.tensor
        cdef int64_t *extent = operand.tensor.shape
        cdef int64_t keys = self.key.tensor.shape[2]
        cdef int64_t *scores = [query.shape[0], query.shape[1], query.shape[2], keys]
        cdef int axis
        for axis in range(4):
            if extent[axis] != 1 and extent[axis] != scores[axis]:
                actual = tuple([extent[i] for i in range(4 - operand.ndim, 4)])
                expected = tuple([scores[i] for i in range(4)])
                raise ValueError(f"{name}: shape {actual}, expected one that broadcasts to {expected}")
        return 0

    cdef tuple caller_shape(self, int64_t batch, int64_t heads, int64_t rows, int64_t dim, int ndim):
        """The shape in the caller's order of axes, without the leading ones that the caller's arrays lack."""
        shape = (batch, heads, rows, dim) if self.heads_first else (batch, rows, heads, dim)
        return shape if ndim == 4 else shape[4 - ndim:]


cdef void swap_rows_and_heads(Operand operand) noexcept:
    cdef mfa_tensor_t *tensor = &operand.tensor
    tensor.shape[1], tensor.shape[2] = tensor.shape[2], tensor.shape[1]
    tensor.stride[1], tensor.stride[2] = tensor.stride[2], tensor.stride[1]


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
