"""What every attention call is given: arrays and keywords become a descriptor without results."""

from libc.stdint cimport int64_t, uintptr_t

from mfa._arrays cimport (
    AS_FLOAT32,
    FLOATS,
    FLOATS_OR_BOOL,
    ONLY_FLOAT32,
    Elements,
    Operand,
    dtype_name,
    load_operand,
)
from mfa.c_mfa cimport (
    MFA_ATTENTION_CAUSAL,
    MFA_ATTENTION_LITERAL_SCALE,
    MFA_PRECISION_BOOL,
    mfa_attention_desc_init,
    mfa_tensor_t,
)

from mfa._keywords import (
    causal_alignment,
    dropout_p,
    heads_first,
    intermediate_precision,
    real,
    softcap,
    window,
    word,
)

# Where a plan pretends that memory lies which only the call itself would allocate: addresses that no process
# has, far enough apart that none of it overlaps. A call that allocates has 0 instead.
cdef uintptr_t NOWHERE = (<uintptr_t> 1) << 63
cdef uintptr_t APART = (<uintptr_t> 1) << 57

cdef dict NO_NAMES = {}


cdef class Inputs:
    """The descriptor of a call without its results, with everything it points to.

    Parameters
    ----------
    query, key, value
        As for `mfa.attention`.
    keywords : dict
        As for `mfa.attention`, all of `Keywords`.
    names : dict
        What the caller knows them by, where that is another name.
    loose : bool
        Inputs may lack leading axes, and a batch of 1 goes with any, as heads do unless `grouped`.
    grouped : bool
        Keys and values may have fewer heads than queries.
    planning : bool
        Calls with these inputs will only be planned: nothing is copied or allocated.

    Attributes
    ----------
    shape : tuple
        That of the result.
    """

    def __cinit__(
            self, object query, object key, object value, dict keywords not None, *, dict names=NO_NAMES,
            bint loose=False, bint grouped=True, bint planning=False):
        cdef int min_ndim = 2 if loose else 4
        cdef Operand slopes
        self.names = names
        self.planning = planning
        self.kept = []
        self.desc = mfa_attention_desc_init()
        is_causal, self.desc.alignment = causal_alignment(keywords["causal"], keywords["alignment"])
        if is_causal:
            self.desc.flags |= MFA_ATTENTION_CAUSAL
        left, right = window(keywords["window"], self.name_of("window"))
        self.desc.window_left, self.desc.window_right = left, right
        self.heads_first = heads_first(keywords["layout"])
        if keywords["softmax_scale"] is not None:
            self.desc.flags |= MFA_ATTENTION_LITERAL_SCALE
            self.desc.softmax_scale = real(keywords["softmax_scale"], self.name_of("softmax_scale"))
        self.desc.softcap = softcap(keywords["softcap"])
        self.desc.dropout_p = dropout_p(keywords["dropout_p"])
        self.desc.dropout_seed = word(keywords["dropout_seed"], "dropout_seed")
        self.desc.dropout_offset = word(keywords["dropout_offset"], "dropout_offset")
        self.desc.intermediate_precision = intermediate_precision(keywords["intermediate_precision"])

        self.query = self.load_rows(query, "query", min_ndim, 4)
        self.key = self.load_rows(key, "key", min_ndim, 4)
        self.value = self.load_rows(value, "value", min_ndim, 4)
        if loose:
            self.broadcast_axis(0)
            if not grouped:
                self.broadcast_axis(1)
        self.require_operands_that_fit(grouped)
        self.desc.query = &self.query.tensor
        self.desc.key = &self.key.tensor
        self.desc.value = &self.value.tensor
        self.add_masks(keywords["mask"], keywords["bias"])
        if keywords["alibi_slopes"] is not None:
            slopes = self.load_heads(keywords["alibi_slopes"], "alibi_slopes", ONLY_FLOAT32, 2)
            self.desc.alibi_slopes = &slopes.tensor
        if keywords["sinks"] is not None:
            self.sinks = self.load_heads(keywords["sinks"], "sinks", AS_FLOAT32, 1)
            self.desc.sinks = &self.sinks.tensor
        self.shape = self.caller_shape(
            self.query.tensor.shape[0], self.query.tensor.shape[1], self.query.tensor.shape[2],
            self.value.tensor.shape[3], max(self.query.ndim, self.key.ndim, self.value.ndim))

    cdef int add_masks(self, object mask, object bias) except -1:
        cdef Operand operand
        if mask is not None:
            operand = self.load_scores(mask, "mask", FLOATS_OR_BOOL)
            if operand.precision == MFA_PRECISION_BOOL:
                self.desc.bool_mask = &operand.tensor
            else:
                self.additive_mask = operand
        if bias is not None:
            if self.additive_mask is not None:
                raise ValueError("bias: given beside a floating mask, expected at most one additive array")
            self.additive_mask = self.load_scores(bias, "bias", FLOATS)
        if self.additive_mask is not None:
            self.desc.additive_mask = &self.additive_mask.tensor
        return 0

    cdef str name_of(self, str argument):
        return self.names.get(argument, argument)

    cdef uintptr_t stand_in(self) noexcept:
        """An address for the next operand, if nothing is to be copied or allocated."""
        if self.planning:
            self.nowhere = self.nowhere + APART if self.nowhere else NOWHERE
        return self.nowhere

    cdef Operand load(
            self, object array, str argument, Elements accepted, int min_ndim, int max_ndim,
            bint writable=False):
        cdef Operand operand = load_operand(
            array, self.name_of(argument), accepted, min_ndim, max_ndim, writable, self.stand_in())
        self.kept.append(operand)
        return operand

    cdef Operand load_rows(
            self, object array, str argument, int min_ndim, int max_ndim, bint writable=False):
        """An array whose axes are in the caller's order, as (batch, heads, rows, dim)."""
        cdef Operand operand = self.load(array, argument, FLOATS, min_ndim, max_ndim, writable)
        if not self.heads_first:
            operand.swap_rows_and_heads()
        return operand

    cdef Operand load_scores(self, object array, str argument, Elements accepted):
        """An array that broadcasts to (batch, heads, rows, keys)."""
        cdef Operand operand = self.load(array, argument, accepted, 0, 4)
        cdef int64_t *extent = operand.tensor.shape
        cdef int64_t *query = self.query.tensor.shape
        cdef int64_t *scores = [query[0], query[1], query[2], self.key.tensor.shape[2]]
        cdef int axis
        for axis in range(4):
            if extent[axis] != 1 and extent[axis] != scores[axis]:
                expected = (scores[0], scores[1], scores[2], scores[3])
                raise ValueError(
                    f"{operand.name}: shape {operand.given_shape()}, "
                    f"expected one that broadcasts to {expected}")
        return operand

    cdef Operand load_heads(self, object array, str argument, Elements accepted, int max_ndim):
        """Numbers (heads), or (batch or 1, heads) if `max_ndim` is 2, as (batch or 1, heads, 1, 1)."""
        cdef Operand operand = self.load(array, argument, accepted, 1, max_ndim)
        cdef int64_t *extent = operand.tensor.shape
        cdef int64_t batch = self.query.tensor.shape[0]
        cdef int64_t heads = self.query.tensor.shape[1]
        if extent[3] != heads or (extent[2] != 1 and extent[2] != batch):
            expected = f"({heads},)" + (f" or {(batch, heads)}" if max_ndim > 1 else "")
            raise ValueError(f"{operand.name}: shape {operand.given_shape()}, expected {expected}")
        operand.append_unit_axes(2)
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
        cdef Operand query = self.query, operand
        cdef int64_t *extent = query.tensor.shape
        cdef int64_t heads = extent[1], kv_heads = self.key.tensor.shape[1], keys = self.key.tensor.shape[2]
        for operand in (self.key, self.value):
            if operand.precision != query.precision:
                raise ValueError(
                    f"{operand.name}: dtype {dtype_name(operand.precision)}, "
                    f"expected {dtype_name(query.precision)} as {query.name} has")
        for operand in (query, self.value):
            if operand.tensor.shape[3] == 0:
                raise ValueError(f"{operand.name}: head dimension 0, expected 1 or more")
        if heads == 0:
            raise ValueError(f"{query.name}: 0 heads, expected 1 or more")
        for operand in (self.key, self.value):
            count = operand.tensor.shape[1]
            if not grouped and count != heads:
                raise ValueError(
                    f"{operand.name}: {count} heads, "
                    f"expected {heads} as {query.name} has, or enable_gqa=True")
            if count == 0 or heads % count != 0:
                raise ValueError(
                    f"{operand.name}: {count} heads, expected a divisor of the {heads} of {query.name}")
        self.require_rows(self.key, extent[0], kv_heads, keys, extent[3])
        self.require_rows(self.value, extent[0], kv_heads, keys, self.value.tensor.shape[3])
        return 0

    cdef int require_rows(
            self, Operand operand, int64_t batch, int64_t heads, int64_t rows, int64_t dim) except -1:
        cdef int64_t *extent = operand.tensor.shape
        if extent[0] != batch or extent[1] != heads or extent[2] != rows or extent[3] != dim:
            actual = self.caller_shape(extent[0], extent[1], extent[2], extent[3], operand.ndim)
            expected = self.caller_shape(batch, heads, rows, dim, operand.ndim)
            raise ValueError(f"{operand.name}: shape {actual}, expected {expected}")
        return 0

    cdef int require_shape_of_out(self, Operand operand) except -1:
        cdef int64_t *query = self.query.tensor.shape
        return self.require_rows(operand, query[0], query[1], query[2], self.value.tensor.shape[3])

    cdef tuple caller_shape(self, int64_t batch, int64_t heads, int64_t rows, int64_t dim, int ndim):
        """The shape in the caller's order of axes, without the leading ones that the caller's arrays lack."""
        shape = (batch, heads, rows, dim) if self.heads_first else (batch, rows, heads, dim)
        return shape if ndim == 4 else shape[4 - ndim:]
