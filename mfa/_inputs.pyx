"""What every attention call is given: arrays and keywords become a descriptor without results."""

from libc.stdint cimport int64_t, uint64_t, uintptr_t

from mfa._arrays cimport (
    AS_FLOAT32,
    FLOATS,
    FLOATS_OR_BOOL,
    ONLY_BOOL,
    ONLY_FLOAT32,
    ONLY_INT32,
    Elements,
    Operand,
    dtype_name,
    load_operand,
)
from mfa._codes cimport CODES_AND_SCALES, NOTHING, ONLY_CODES, Codes, Written, load_codes
from mfa._given cimport bits_of, given_of
from mfa.c_mfa cimport (
    MFA_APPEND_INTERLEAVED,
    MFA_ALIGN_BOTTOM_RIGHT,
    MFA_ATTENTION_CAUSAL,
    MFA_ATTENTION_LITERAL_SCALE,
    MFA_COMPUTE_EXACT,
    MFA_PRECISION_BOOL,
    MFA_PRECISION_FP32,
    mfa_append_init,
    mfa_attention_desc_init,
    mfa_blocks_init,
    mfa_pages_init,
    mfa_scales_init,
    mfa_sequences_init,
    mfa_tensor_t,
)

from mfa._block_mask import blocks_of_call
from mfa._keywords import (
    causal_alignment,
    compute_mode,
    count,
    dropout_p,
    flag,
    heads_first,
    intermediate_precision,
    real,
    softcap,
    window,
    word,
)
from mfa._attention_keywords import DEFAULTS
from mfa._quantized_tensor import QuantizedTensor
from mfa._sparsity import with_sparsity

# Where a plan pretends that memory lies which only the call itself would allocate: addresses that no process
# has, far enough apart that none of it overlaps. A call that allocates has 0 instead.
cdef uintptr_t NOWHERE = (<uintptr_t> 1) << 63
cdef uintptr_t APART = (<uintptr_t> 1) << 57

cdef dict NO_NAMES = {}
# What axes are called where there are four, and where sequences are packed.
cdef tuple ROWS_FIRST = ("(batch, sequence, heads, head_dim)", "(rows of all sequences, heads, head_dim)")
cdef tuple HEADS_FIRST = ("(batch, heads, sequence, head_dim)", "(heads, rows of all sequences, head_dim)")
# Without them a call is one of its batches, each with all rows that are there.
cdef tuple LISTS = (
    "cu_seqlens_q", "cu_seqlens_k", "seqused_q", "seqused_k", "leftpad_k", "cache_batch_idx", "max_seqlen_q",
    "max_seqlen_k")
cdef tuple APPENDED = ("k_new", "v_new", "cu_seqlens_k_new", "rotary_cos", "rotary_sin", "rotary_positions")
cdef tuple DESCALES = ("q_descale", "k_descale", "v_descale")
cdef tuple FORWARD_ONLY = ("qv", *DESCALES, *APPENDED)

# Where keywords are among those that a call gives.
cdef uint64_t LAYOUT = bits_of(("layout",)), CAUSAL = bits_of(("causal", "alignment")), WINDOW = bits_of(("window",))
cdef uint64_t SCALE = bits_of(("softmax_scale",)), SPARSITY = bits_of(("sparsity",))
cdef uint64_t RARE_OPTIONS = bits_of((
    "softcap", "dropout_p", "dropout_seed", "dropout_offset", "intermediate_precision", "attention_chunk",
    "compute_mode"))
cdef uint64_t OPTIONS = LAYOUT | CAUSAL | WINDOW | SCALE
cdef uint64_t LISTS_GIVEN = bits_of(LISTS), PAGES = bits_of(("page_table",))
cdef uint64_t FORWARD_ONLY_GIVEN = bits_of(FORWARD_ONLY)


cdef class Inputs:
    """The descriptor of a call without its results, with everything it points to.

    Parameters
    ----------
    query, key, value
        As for `mfa.attention`.
    keywords : dict
        As for `mfa.attention`, all of `Keywords`; DEFAULTS itself is known to ask for nothing.
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

    def __init__(
            self, object query, object key, object value, dict keywords not None, *, dict names not None=NO_NAMES,
            bint loose=False, bint grouped=True, bint planning=False):
        self.fill(query, key, value, keywords, given_of(keywords), names, loose, grouped, planning)

    cdef int fill(
            self, object query, object key, object value, dict keywords, uint64_t given, dict names, bint loose,
            bint grouped, bint planning) except -1:
        """What __init__ does, with what given_of() says of the keywords. Calls have pointers into a filled one."""
        cdef int min_ndim = 2 if loose else 4, query_ndim, key_ndim
        if self.names is not None:
            raise TypeError("inputs: initialised twice, expected once")
        self.names = names
        self.planning = planning
        self.kept = []
        self.desc = mfa_attention_desc_init()
        self.desc.alignment = MFA_ALIGN_BOTTOM_RIGHT
        if given & SPARSITY and keywords["sparsity"] is not None:
            keywords = with_sparsity(keywords)
            given = given_of(keywords)
        if given:
            self.read_options(keywords, given)
        query_ndim = 4 if self.query_starts is None else 3
        key_ndim = 4 if self.key_starts is None else 3
        self.query = self.load_rows(query, "query", min(min_ndim, query_ndim), query_ndim)
        if type(key) is QuantizedTensor:
            self.key_codes = self.load_codes(key, "key", min(min_ndim, key_ndim), key_ndim)
            self.key, self.desc.key_quantization = self.key_codes.codes, &self.key_codes.quantization
        else:
            self.key = self.load_rows(key, "key", min(min_ndim, key_ndim), key_ndim, self.appends)
        if type(value) is QuantizedTensor:
            self.value_codes = self.load_codes(value, "value", min(min_ndim, key_ndim), key_ndim)
            self.value, self.desc.value_quantization = self.value_codes.codes, &self.value_codes.quantization
        else:
            self.value = self.load_rows(value, "value", min(min_ndim, key_ndim), key_ndim, self.appends)
        if loose:
            self.broadcast_axis(0)
            if not grouped:
                self.broadcast_axis(1)
        self.batch = self.query.tensor.shape[0]
        self.key_batch = self.query.tensor.shape[0]
        if given & (LISTS_GIVEN | PAGES):
            self.add_sequences(keywords)
        self.require_operands_that_fit(grouped)
        self.desc.query = &self.query.tensor
        self.desc.key = &self.key.tensor
        self.desc.value = &self.value.tensor
        if given & ~OPTIONS:
            self.add_operands(keywords)
        self.shape = self.caller_shape(
            self.query.tensor.shape[0], self.query.tensor.shape[1], self.query.tensor.shape[2],
            self.value.tensor.shape[3],
            max(self.query.ndim, self.key.ndim, self.value.ndim) if loose else query_ndim)
        return 0

    cdef int read_options(self, dict keywords, uint64_t given) except -1:
        """What can be said before there are arrays, and how many axes these have."""
        if given & CAUSAL:
            is_causal, self.desc.alignment = causal_alignment(keywords["causal"], keywords["alignment"])
            if is_causal:
                self.desc.flags |= MFA_ATTENTION_CAUSAL
        if given & WINDOW:
            left, right = window(keywords["window"], self.name_of("window"))
            self.desc.window_left, self.desc.window_right = left, right
        if given & LAYOUT:
            self.heads_first = heads_first(keywords["layout"])
        if given & SCALE and keywords["softmax_scale"] is not None:
            self.desc.flags |= MFA_ATTENTION_LITERAL_SCALE
            self.desc.softmax_scale = real(keywords["softmax_scale"], self.name_of("softmax_scale"))
        if given & RARE_OPTIONS:
            self.desc.softcap = softcap(keywords["softcap"])
            self.desc.dropout_p = dropout_p(keywords["dropout_p"])
            self.desc.dropout_seed = word(keywords["dropout_seed"], "dropout_seed")
            self.desc.dropout_offset = word(keywords["dropout_offset"], "dropout_offset")
            self.desc.intermediate_precision = intermediate_precision(keywords["intermediate_precision"])
            self.desc.chunk = count(keywords["attention_chunk"], self.name_of("attention_chunk"))
            self.desc.compute_mode = compute_mode(keywords["compute_mode"])
        if given & FORWARD_ONLY_GIVEN:
            self.forward_only = first_given(keywords, FORWARD_ONLY)
            self.appends = self.forward_only is not None and first_given(keywords, APPENDED) is not None
        if given & LISTS_GIVEN:
            self.query_starts = self.load_starts(keywords, "cu_seqlens_q")
            self.key_starts = self.load_starts(keywords, "cu_seqlens_k")
        return 0

    cdef int add_operands(self, dict keywords) except -1:
        """All arrays but query, key, value and lists."""
        cdef Operand slopes
        if self.desc.compute_mode != MFA_COMPUTE_EXACT:
            self.require_compute_mode(keywords)
        if self.forward_only is not None:
            self.add_forward_only(keywords)
        self.add_masks(keywords["mask"], keywords["bias"])
        if keywords["block_mask"] is not None:
            self.add_blocks(keywords["block_mask"])
        if keywords["alibi_slopes"] is not None:
            slopes = self.load_heads(keywords["alibi_slopes"], "alibi_slopes", ONLY_FLOAT32, 2)
            self.desc.alibi_slopes = &slopes.tensor
        if keywords["sinks"] is not None:
            self.sinks = self.load_heads(keywords["sinks"], "sinks", AS_FLOAT32, 1)
            self.desc.sinks = &self.sinks.tensor
        return 0

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

    cdef int add_sequences(self, dict keywords) except -1:
        """Lists of lengths and places. Those of the queries say how many sequences there are."""
        cdef bint is_paged = keywords["page_table"] is not None
        if not is_paged and first_given(keywords, LISTS) is None:
            return 0
        self.has_lists = True
        self.sequences = mfa_sequences_init()
        self.desc.sequences = &self.sequences
        require_one_of(self, keywords, "cu_seqlens_k", "page_table")
        require_one_of(self, keywords, "cu_seqlens_k", "cache_batch_idx")
        require_one_of(self, keywords, "page_table", "cache_batch_idx")
        if self.query_starts is not None:
            self.batch = self.query_starts.tensor.shape[3] - 1
            self.sequences.query_starts = &self.query_starts.tensor
        if self.key_starts is not None:
            require_length(self.key_starts, self.batch + 1)
            self.sequences.key_starts = &self.key_starts.tensor
        self.sequences.query_lengths = self.list_of(keywords, "seqused_q", self.batch)
        self.sequences.key_lengths = self.list_of(keywords, "seqused_k", self.batch)
        self.sequences.left_padding = self.list_of(keywords, "leftpad_k", self.batch)
        self.sequences.key_batches = self.list_of(keywords, "cache_batch_idx", self.batch)
        if keywords["max_seqlen_q"] is not None:
            self.sequences.most_queries = count(keywords["max_seqlen_q"], self.name_of("max_seqlen_q"))
        if keywords["max_seqlen_k"] is not None:
            self.sequences.most_keys = count(keywords["max_seqlen_k"], self.name_of("max_seqlen_k"))
        if is_paged:
            self.add_pages(keywords["page_table"])
        if keywords["cu_seqlens_k"] is not None:
            self.key_batch = 1
        elif is_paged or keywords["cache_batch_idx"] is not None:
            self.key_batch = self.key.tensor.shape[0]
        else:
            self.key_batch = self.batch
        return 0

    cdef int add_pages(self, object page_table) except -1:
        cdef Operand table = self.load(page_table, "page_table", ONLY_INT32, 2, 2, False, "(batch, pages of a sequence)")
        if table.tensor.shape[2] != self.batch:
            raise ValueError(
                f"{table.name}: shape {table.given_shape()}, expected ({self.batch}, pages of a sequence)")
        if self.key.tensor.shape[2] == 0:
            raise ValueError(f"{self.key.name}: pages of 0 rows, expected 1 or more")
        self.pages = mfa_pages_init()
        self.pages.page_table = &table.tensor
        self.desc.pages = &self.pages
        return 0

    cdef int add_blocks(self, object block_mask) except -1:
        cdef int64_t *query = self.query.tensor.shape
        lengths = None if self.has_lists else (query[2], self.key.tensor.shape[2])
        # A bool mask is not looked at in full blocks.
        lists = blocks_of_call(block_mask, self.batch, query[1], lengths, self.desc.bool_mask == NULL)
        if lists is None:
            return 0
        self.blocks = mfa_blocks_init()
        self.blocks.block_rows, self.blocks.block_keys = lists.block_size
        self.blocks.kv_num_blocks = self.blocks_of(lists.kv_num_blocks, "kv_num_blocks", ONLY_INT32)
        self.blocks.kv_indices = self.blocks_of(lists.kv_indices, "kv_indices", ONLY_INT32)
        self.blocks.full_kv_num_blocks = self.blocks_of(lists.full_kv_num_blocks, "full_kv_num_blocks", ONLY_INT32)
        self.blocks.full_kv_indices = self.blocks_of(lists.full_kv_indices, "full_kv_indices", ONLY_INT32)
        self.blocks.block_mask = self.blocks_of(lists.block_mask, "block_mask", ONLY_BOOL)
        self.blocks.masks = self.blocks_of(lists.masks, "masks", ONLY_BOOL)
        self.blocks.mask_indices = self.blocks_of(lists.mask_indices, "mask_indices", ONLY_INT32)
        self.desc.blocks = &self.blocks
        return 0

    cdef const mfa_tensor_t *blocks_of(self, object array, str name, Elements accepted) except? NULL:
        """The tensor of what a block mask has for each batch, head and row of blocks; NULL without it."""
        cdef Operand operand
        if array is None:
            return NULL
        operand = load_operand(array, name, accepted, 3, 4, False, 0, &self.torch)
        self.keep(operand)
        if operand.ndim == 3:
            operand.append_unit_axes(1)
        return &operand.tensor

    cdef const mfa_tensor_t *list_of(self, dict keywords, str argument, int64_t length) except? NULL:
        """The tensor of a list of that many integers; NULL without one."""
        cdef Operand entries
        if keywords[argument] is None:
            return NULL
        entries = self.load(keywords[argument], argument, ONLY_INT32, 1, 1)
        require_length(entries, length)
        return &entries.tensor

    cdef Operand load_starts(self, dict keywords, str argument):
        """Where the sequences begin, and the last one ends; None without it."""
        cdef Operand starts
        if keywords[argument] is None:
            return None
        starts = self.load(keywords[argument], argument, ONLY_INT32, 1, 1)
        if starts.tensor.shape[3] == 0:
            raise ValueError(f"{starts.name}: is empty, expected one entry more than there are sequences")
        return starts

    cdef int add_forward_only(self, dict keywords) except -1:
        cdef Operand query_value
        if keywords["qv"] is not None:
            query_value = self.load_rows(keywords["qv"], "qv", self.query.ndim, self.query.ndim)
            self.require_dtype_of_query(query_value)
            self.require_shape_of_out(query_value)
            self.desc.query_value = &query_value.tensor
        if first_given(keywords, DESCALES) is not None:
            self.scales = mfa_scales_init()
            self.scales.query = self.scale_of(keywords, "q_descale")
            self.scales.key = self.scale_of(keywords, "k_descale")
            self.scales.value = self.scale_of(keywords, "v_descale")
            self.desc.scales = &self.scales
        if self.appends:
            self.add_append(keywords)
        return 0

    cdef const mfa_tensor_t *scale_of(self, dict keywords, str argument) except? NULL:
        """The tensor of a factor for each sequence and key/value head; NULL without one."""
        cdef Operand factors
        cdef int64_t heads = self.key.tensor.shape[1]
        if keywords[argument] is None:
            return NULL
        factors = self.load(keywords[argument], argument, ONLY_FLOAT32, 2, 2, False, "(batch, heads of keys)")
        if factors.tensor.shape[2] not in (1, self.batch) or factors.tensor.shape[3] not in (1, heads):
            raise ValueError(
                f"{factors.name}: shape {factors.given_shape()}, "
                f"expected {(self.batch, heads)} or 1 in any place")
        factors.append_unit_axes(2)
        return &factors.tensor

    cdef int add_append(self, dict keywords) except -1:
        cdef Operand key, value
        cdef int ndim = 4 if keywords["cu_seqlens_k_new"] is None else 3
        cdef int64_t *extent
        for argument in ("k_new", "v_new", "seqused_k"):
            if keywords[argument] is None:
                raise ValueError(
                    f"{self.name_of(argument)}: None, expected an array beside "
                    f"{self.name_of(first_given(keywords, APPENDED))}")
        key = self.load_rows(keywords["k_new"], "k_new", ndim, ndim)
        value = self.load_rows(keywords["v_new"], "v_new", ndim, ndim)
        extent = key.tensor.shape
        self.append = mfa_append_init()
        self.append.starts = self.list_of(keywords, "cu_seqlens_k_new", self.batch + 1)
        self.append.key = &key.tensor
        self.append.value = &value.tensor
        for operand, dim in ((key, self.key.tensor.shape[3]), (value, self.value.tensor.shape[3])):
            self.require_dtype_of_query(operand)
            self.require_rows(
                operand, self.batch if ndim == 4 else 1, self.key.tensor.shape[1], extent[2], dim)
        self.add_rotary(keywords)
        self.desc.append = &self.append
        return 0

    cdef int add_rotary(self, dict keywords) except -1:
        cdef Operand cosines, sines
        cdef int64_t columns
        if flag(keywords["rotary_interleaved"], "rotary_interleaved"):
            self.append.flags |= MFA_APPEND_INTERLEAVED
        for argument, other in (("rotary_cos", "rotary_sin"), ("rotary_sin", "rotary_cos"),
                                ("rotary_cos", "rotary_positions")):
            if keywords[argument] is None and keywords[other] is not None:
                raise ValueError(
                    f"{self.name_of(argument)}: None, expected an array beside {self.name_of(other)}")
        if keywords["rotary_cos"] is None:
            return 0
        cosines = self.load(keywords["rotary_cos"], "rotary_cos", FLOATS, 2, 2)
        sines = self.load(keywords["rotary_sin"], "rotary_sin", FLOATS, 2, 2)
        columns = cosines.tensor.shape[3]
        if cosines.precision != MFA_PRECISION_FP32:
            self.require_dtype_of_query(cosines)
        if sines.precision != cosines.precision:
            raise ValueError(
                f"{sines.name}: dtype {dtype_name(sines.precision)}, "
                f"expected {dtype_name(cosines.precision)} as {cosines.name} has")
        if columns == 0 or columns > self.query.tensor.shape[3] // 2:
            raise ValueError(
                f"{cosines.name}: {columns} columns, expected 1 to {self.query.tensor.shape[3] // 2}, "
                f"half of the head dimension of {self.query.name}")
        if sines.given_shape() != cosines.given_shape():
            raise ValueError(f"{sines.name}: shape {sines.given_shape()}, expected {cosines.given_shape()}")
        self.append.rotary_cos = &cosines.tensor
        self.append.rotary_sin = &sines.tensor
        self.append.rotary_positions = self.list_of(keywords, "rotary_positions", self.batch)
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
            bint writable=False, str axes=None):
        # Lists are read even for a plan.
        cdef Operand operand = load_operand(
            array, self.name_of(argument), accepted, min_ndim, max_ndim, writable,
            0 if accepted == ONLY_INT32 else self.stand_in(), &self.torch, axes)
        self.reads_lists |= accepted == ONLY_INT32
        self.keep(operand)
        return operand

    cdef int keep(self, Operand operand) except -1:
        self.on_metal |= operand.on_metal
        self.kept.append(operand)
        return 0

    cdef Operand load_rows(
            self, object array, str argument, int min_ndim, int max_ndim, bint writable=False):
        """An array whose axes are in the caller's order, as (batch, heads, rows, dim)."""
        cdef Operand operand = self.load(
            array, argument, FLOATS, min_ndim, max_ndim, writable,
            (HEADS_FIRST if self.heads_first else ROWS_FIRST)[max_ndim == 3])
        if not self.heads_first:
            operand.swap_rows_and_heads()
        return operand

    cdef Codes load_codes(self, object tensor, str argument, int min_ndim, int max_ndim):
        cdef str name = self.name_of(argument), layout = "bhsd" if self.heads_first else "bshd"
        cdef int ndim = len(tensor.shape)
        cdef Written written = NOTHING
        cdef Codes codes
        if tensor.layout != layout:
            raise ValueError(f"{name}: layout {tensor.layout!r}, expected {layout!r} as the call has")
        if not min_ndim <= ndim <= max_ndim:
            expected = f"{min_ndim}" if min_ndim == max_ndim else f"{min_ndim} to {max_ndim}"
            raise ValueError(f"{name}: {ndim} dimensions, expected {expected}")
        if tensor.mean is not None and argument != "key":
            raise ValueError(f"{name}.mean: given, expected None: only keys have one")
        if self.appends:
            written = CODES_AND_SCALES if tensor.rows == 1 else ONLY_CODES
            if written == CODES_AND_SCALES and tensor.scales.shape[:-1] != tensor.shape[:-1]:
                expected = (*tensor.shape[:-1], tensor.scales.shape[-1])
                raise ValueError(
                    f"{name}.scales: shape {tensor.scales.shape}, expected {expected}, as new rows have their own")
        codes = load_codes(tensor, name, written, self.stand_in())
        self.kept.append(codes)
        return codes

    cdef int require_compute_mode(self, dict keywords) except -1:
        """What the library says of it, in the words of callers."""
        for argument, codes in (("key", self.key_codes), ("value", self.value_codes)):
            if codes is None:
                raise ValueError(
                    "compute_mode: 'int8', expected 'exact', "
                    f"or a QuantizedTensor as {self.name_of(argument)}")
        for argument in ("qv", "intermediate_precision"):
            if keywords[argument] is not None:
                raise ValueError(
                    f"compute_mode: 'int8', expected 'exact' beside {self.name_of(argument)}")
        return 0

    cdef Operand load_scores(self, object array, str argument, Elements accepted):
        """An array that broadcasts to (batch, heads, rows, keys)."""
        cdef Operand operand = self.load(array, argument, accepted, 0, 4)
        cdef int64_t *extent = operand.tensor.shape
        cdef int64_t *query = self.query.tensor.shape
        cdef int64_t *scores = [self.batch, query[1], query[2], self.key.tensor.shape[2]]
        cdef int axis
        # The most rows and keys that a sequence has are known to the library, which reads lists.
        for axis in range(2 if self.has_lists else 4):
            if extent[axis] != 1 and extent[axis] != scores[axis]:
                expected = (
                    f"({scores[0]}, {scores[1]}, most rows, most keys)" if self.has_lists
                    else (scores[0], scores[1], scores[2], scores[3]))
                hint = ""
                if operand.given_shape() == (scores[0], scores[3]):
                    hint = f", as {operand.name}[:, None, None, :] does if it says which keys are padding"
                raise ValueError(
                    f"{operand.name}: shape {operand.given_shape()}, "
                    f"expected one that broadcasts to {expected}{hint}")
        return operand

    cdef Operand load_heads(self, object array, str argument, Elements accepted, int max_ndim):
        """Numbers (heads), or (batch or 1, heads) if `max_ndim` is 2, as (batch or 1, heads, 1, 1)."""
        cdef Operand operand = self.load(array, argument, accepted, 1, max_ndim)
        cdef int64_t *extent = operand.tensor.shape
        cdef int64_t batch = self.batch
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
        if self.key_codes is None:
            self.require_dtype_of_query(self.key)
        elif self.key_codes.mean is not None:
            self.require_mean_of_sequences(self.key_codes.mean)
        if self.value_codes is None:
            self.require_dtype_of_query(self.value)
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
                    f"{operand.name}: {count} heads, expected a divisor of the {heads} of {query.name}"
                    f"{self.hint_of_layout()}")
        self.require_rows(self.key, self.key_batch, kv_heads, keys, extent[3])
        self.require_rows(self.value, self.key_batch, kv_heads, keys, self.value.tensor.shape[3])
        return 0

    cdef str hint_of_layout(self):
        """Which layout the shapes fit, where they do not fit the call's, and the caller could have said so."""
        cdef int64_t *query = self.query.tensor.shape
        cdef int64_t *key = self.key.tensor.shape
        cdef int64_t *value = self.value.tensor.shape
        cdef bint is_plain = self.query.ndim == self.key.ndim == self.value.ndim == 4
        axis, layout = (1, "bshd") if self.heads_first else (2, "bhsd")
        if self.names or not is_plain or key[2] == 0 or key[1] != value[1]:
            return ""
        if key[2] != value[2] or query[2] % key[2] != 0 or query[0] != key[0]:
            return f" (heads are axis {axis})"
        return f" (heads are axis {axis}; these shapes fit layout='{layout}')"

    cdef int require_dtype_of_query(self, Operand operand) except -1:
        if operand.precision != self.query.precision:
            raise ValueError(
                f"{operand.name}: dtype {dtype_name(operand.precision)}, "
                f"expected {dtype_name(self.query.precision)} as {self.query.name} has")
        return 0

    cdef int require_mean_of_sequences(self, Operand mean) except -1:
        cdef int64_t count = mean.tensor.shape[0]
        if count != 1 and count != self.batch:
            expected = "1" if self.batch == 1 else f"1 or {self.batch}"
            raise ValueError(f"{mean.name}: of {count} sequences, expected {expected}")
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

    cdef tuple logsumexp_shape(self):
        cdef int64_t *query = self.query.tensor.shape
        shape = (query[0], query[1], query[2])
        return shape[1:] if self.query.ndim == 3 else shape

    cdef tuple caller_shape(self, int64_t batch, int64_t heads, int64_t rows, int64_t dim, int ndim):
        """The shape in the caller's order of axes, without the leading ones that the caller's arrays lack."""
        shape = (batch, heads, rows, dim) if self.heads_first else (batch, rows, heads, dim)
        return shape if ndim == 4 else shape[4 - ndim:]


cdef str first_given(dict keywords, tuple arguments):
    """The first of them that is not None; None without one."""
    for argument in arguments:
        if keywords[argument] is not None:
            return argument
    return None


cdef int require_length(Operand entries, int64_t length) except -1:
    if entries.tensor.shape[3] != length:
        raise ValueError(f"{entries.name}: shape {entries.given_shape()}, expected ({length},)")
    return 0


cdef int require_one_of(Inputs inputs, dict keywords, str first, str second) except -1:
    if keywords[first] is not None and keywords[second] is not None:
        raise ValueError(
            f"{inputs.name_of(second)}: given beside {inputs.name_of(first)}, expected one of them")
    return 0
