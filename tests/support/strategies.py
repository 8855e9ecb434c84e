"""Hypothesis strategies for attention calls: what is drawn must reach every fast path of every kernel.

Kernels work on tiles of 12 to 48 query rows, blocks of 32 to 256 keys, panels of 16 or 32 head dimensions and
chunks of 64 to 512 queries, and split the keys when there are few rows and many keys; backward, they take
blocks of up to 96 query rows and 384 keys. Lengths are therefore drawn around those edges. A budget on
B * H * Nq * Nkv keeps one example to milliseconds.
"""

import itertools
import math
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import strategies as st
from support.checks import BFLOAT16, DTYPES, FLOAT16, FLOAT32, heads_first, oracle_features
from support.oracle import visible_keys

SCORE_BUDGET = 200_000
BACKWARD_ROW_BUDGET = 400  # B * H * Nq: the oracle takes rows one by one
ELEMENT_BUDGET = 300_000


def around(*edges):
    return sorted({max(edge + step, 0) for edge in edges for step in (-1, 0, 1)})


ROW_EDGES = around(12, 16, 24, 32, 48, 64, 72, 84, 96, 128, 192, 256, 288, 384)
KEY_EDGES = around(12, 16, 24, 32, 48, 64, 72, 84, 96, 128, 192, 256, 288, 384, 512)
DIM_EDGES = around(8, 16, 32, 48, 64, 80, 96, 128, 160, 192, 256)

dtypes = st.sampled_from(DTYPES)
seeds = st.integers(0, 2**32 - 1)
head_dims = st.one_of(st.integers(1, 24), st.sampled_from(DIM_EDGES))


def each_dim(*more):
    """Head dimensions to go through. A Metal kernel serves 8 of them: the emulated device is asked for 2."""

    def param(dim):
        return pytest.param(dim, marks=[] if dim % 8 in (0, 1) else pytest.mark.hardware)

    return [param(dim) for dim in (1, 2, 3, 5, *DIM_EDGES, *more)]


def each_type_and_value_dim(backend, head_dim):
    """Each pair has kernels of its own, slow to make on the emulated device, which has each of both once."""
    pairs = list(itertools.product(DTYPES, (head_dim, 1, 72)))
    return pairs[::4] if backend.is_emulated else pairs


@dataclass(frozen=True)
class Shape:
    batch: int
    heads: int
    kv_heads: int
    query_length: int
    key_length: int
    head_dim: int
    value_dim: int

    @property
    def scores(self):
        return (self.batch, self.heads, self.query_length, self.key_length)


@st.composite
def lengths(draw):
    """(Nq, Nkv): small and empty ones, tiled ones, and few rows against many keys."""
    regime = draw(st.sampled_from(("small", "tiled", "split")))
    if regime == "small":
        return draw(st.integers(0, 20)), draw(st.integers(0, 20))
    if regime == "tiled":
        return draw(st.sampled_from(ROW_EDGES)), draw(st.sampled_from(KEY_EDGES))
    return (
        draw(st.sampled_from([1, 2, 3, 4, 5, 8, 9, 16, 17, 63, 64])),
        draw(st.one_of(st.sampled_from(around(1024, 2048)), st.integers(1024, 2500))),
    )


@st.composite
def shapes(draw, row_budget=math.inf):
    """`row_budget` bounds B * H * Nq, but for one head of one batch."""
    query_length, key_length = draw(lengths())
    head_dim = draw(head_dims)
    value_dim = draw(st.one_of(st.just(head_dim), head_dims))
    rows = query_length * key_length
    elements = (query_length + key_length) * (head_dim + value_dim)
    room = min(SCORE_BUDGET // max(rows, 1), ELEMENT_BUDGET // max(elements, 1))
    room = max(1, min(room, row_budget // max(query_length, 1)))
    batch = draw(st.integers(0 if draw(st.integers(0, 19)) == 0 else 1, min(room, 3)))
    kv_heads = draw(st.integers(1, max(1, min(room // max(batch, 1), 3))))
    group = draw(st.integers(1, max(1, min(room // max(batch * kv_heads, 1), 6))))
    return Shape(batch, kv_heads * group, kv_heads, query_length, key_length, head_dim, value_dim)


@dataclass(frozen=True)
class Memory:
    """How an array lies in memory."""

    order: tuple  # axes, slowest first
    gaps: tuple = ()  # elements skipped after each element, an axis
    flipped: frozenset = frozenset()  # axes with a negative stride
    constant: frozenset = frozenset()  # axes with stride zero: their first entry counts for all

    def place(self, array):
        """A view with this layout; equal to `array` but along constant axes."""
        kept = array
        for axis in self.constant:
            kept = kept.take([0], axis=axis) if kept.shape[axis] else kept
        gaps = self.gaps or (0,) * array.ndim
        spread = [size * (gap + 1) for size, gap in zip(kept.shape, gaps, strict=True)]
        # NaN in the gaps: whoever reads them shows it.
        buffer = np.full(
            [spread[axis] for axis in self.order], np.nan if array.dtype != bool else True, array.dtype
        )
        view = buffer.transpose(np.argsort(self.order))
        view = view[(..., *(slice(None, None, gap + 1) for gap in gaps))]
        view = view[
            (..., *(slice(None, None, -1 if axis in self.flipped else 1) for axis in range(array.ndim)))
        ]
        view[...] = kept
        return np.broadcast_to(view, array.shape) if self.constant else view


@st.composite
def memories(draw, axes, *, constant=True):
    """Layouts of an input (or, with constant=False, of an output) with that many axes."""
    some_axes = st.frozensets(st.integers(0, axes - 1), max_size=axes) if axes else st.just(frozenset())
    plain = tuple(range(axes))
    if draw(st.booleans()):
        return Memory(plain)
    return Memory(
        order=tuple(draw(st.permutations(plain))),
        gaps=tuple(draw(st.sampled_from((0, 0, 0, 1, 3))) for _ in plain),
        flipped=draw(some_axes),
        constant=draw(some_axes) if constant and draw(st.booleans()) else frozenset(),
    )


@dataclass(frozen=True)
class Call:
    """Arguments of one mfa.attention call."""

    query: np.ndarray
    key: np.ndarray
    value: np.ndarray
    options: dict = field(default_factory=dict)

    def _repr_pretty_(self, printer, cycle):
        """What Hypothesis shows of a failure: shapes and strides, not numbers."""

        def described(x):
            return f"<{x.dtype} {x.shape} strides {x.strides}>" if isinstance(x, np.ndarray) else repr(x)

        arguments = {"query": self.query, "key": self.key, "value": self.value, **self.options}
        printer.text(f"Call({', '.join(f'{name}={described(x)}' for name, x in arguments.items())})")

    @property
    def operands(self):
        return self.query, self.key, self.value

    def contiguous(self):
        """The same numbers in new arrays in C order."""
        options = {
            name: x.copy(order="C") if isinstance(x, np.ndarray) else x for name, x in self.options.items()
        }
        return Call(*(x.copy(order="C") for x in self.operands), options)


# Spread of query and key entries: ordinary, scores beyond float16's range, and float16's subnormal numbers.
SPREADS = {"ordinary": 1.0, "large": 20.0, "subnormal": 2e-6}


@st.composite
def windows(draw, query_length, key_length):
    bound = st.one_of(
        st.just(-1),
        st.just(0),
        st.integers(0, 20),
        st.sampled_from(KEY_EDGES),
        st.just(query_length + key_length),
    )
    return draw(bound), draw(bound)


@st.composite
def alignments(draw):
    """(causal, alignment) that do not contradict each other."""
    causal = draw(st.sampled_from((None, False, True, "top-left", "bottom-right")))
    if not causal:
        return causal, draw(st.sampled_from((None, "top-left", "bottom-right")))
    return causal, draw(st.sampled_from((None, "bottom-right" if causal is True else causal)))


@st.composite
def masked_shapes(draw, scores):
    """A shape that broadcasts to `scores`: each size full or 1, leading sizes of 1 perhaps left out."""
    sizes = tuple(size if draw(st.booleans()) else 1 for size in scores)
    while sizes and sizes[0] == 1 and draw(st.booleans()):
        sizes = sizes[1:]
    return sizes


@st.composite
def hidden_patterns(draw, rng, sizes):
    """Bool array, true = hidden: scattered, whole runs of keys (hidden tiles), whole rows, all or none."""
    hidden = np.zeros(sizes, bool)
    kind = draw(st.sampled_from(("none", "scattered", "runs", "rows", "all")))
    if kind == "scattered":
        hidden |= rng.random(sizes) < draw(st.sampled_from((0.02, 0.5, 0.98)))
    elif kind == "runs" and sizes:
        edges = np.sort(rng.integers(0, sizes[-1] + 1, (*sizes[:-1], 2)), axis=-1)
        keys = np.arange(sizes[-1])
        inside = (keys >= edges[..., :1]) & (keys < edges[..., 1:])
        hidden |= inside ^ draw(st.booleans())
    elif kind == "rows" and len(sizes) >= 2:
        hidden |= rng.random((*sizes[:-1], 1)) < 0.5
    elif kind == "all":
        hidden[...] = True
    return hidden


@st.composite
def masks(draw, rng, scores):
    """The keywords mask and bias."""
    kind = draw(st.sampled_from(("none", "bool", "additive", "both")))
    options = {}
    if kind in ("bool", "both"):
        sizes = draw(masked_shapes(scores))
        options["mask"] = draw(memories(len(sizes))).place(~draw(hidden_patterns(rng, sizes)))
    if kind in ("additive", "both"):
        sizes = draw(masked_shapes(scores))
        additive = np.asarray(2 * rng.standard_normal(sizes)).astype(draw(dtypes))
        additive[draw(hidden_patterns(rng, sizes))] = -np.inf
        options["bias" if kind == "both" or draw(st.booleans()) else "mask"] = draw(
            memories(len(sizes))
        ).place(additive)
    return options


@st.composite
def dropouts(draw):
    """The keywords of dropout."""
    word = st.one_of(st.integers(0, 3), st.integers(0, 2**64 - 1))
    return {
        "dropout_p": draw(st.sampled_from((0.0, 1e-6, 0.1, 0.5, 0.9))),
        "dropout_seed": draw(word),
        "dropout_offset": draw(word),
    }


@st.composite
def features(draw, rng, shape):
    """Keywords of mfa.attention that change its result, each present in a fair share of the examples."""
    options = {}
    causal, alignment = draw(alignments())
    if causal is not None:
        options["causal"] = causal
    if alignment is not None:
        options["alignment"] = alignment
    if draw(st.booleans()):
        options["window"] = draw(windows(shape.query_length, shape.key_length))
    if draw(st.booleans()):
        options["softmax_scale"] = draw(st.sampled_from((0.0, 0.3, 1.0, -0.5)))
    if draw(st.booleans()):
        options["softcap"] = draw(st.sampled_from((0.5, 5.0, 50.0)))
    if draw(st.booleans()):
        options |= draw(masks(rng, shape.scores))
    if draw(st.booleans()):
        sizes = (shape.batch, shape.heads) if draw(st.booleans()) else (shape.heads,)
        options["alibi_slopes"] = rng.uniform(-0.1, 0.5, sizes).astype(np.float32)
    if draw(st.booleans()):
        options["sinks"] = (3 * rng.standard_normal(shape.heads)).astype(
            draw(st.sampled_from((FLOAT32, FLOAT16, BFLOAT16)))
        )
    if draw(st.booleans()):
        options |= draw(dropouts())
    return options


def _placed(draw, layout, values, **memory):
    return draw(memories(4, **memory)).place(heads_first(values, layout))


# Spread of the entries of values and of the output's gradient.
FACTORS = st.sampled_from((1.0, 1.0, 100.0, 2e-6))


@st.composite
def calls(draw, row_budget=math.inf):
    """A call of mfa.attention, with finite operands but for what nothing may read: queries that see no key,
    keys that no row sees, and values after the last one that a row sees."""
    shape = draw(shapes(row_budget))
    rng = np.random.default_rng(draw(seeds))
    dtype = draw(dtypes)
    layout = draw(st.sampled_from(("bshd", "bhsd")))
    spread = SPREADS[draw(st.sampled_from(("ordinary", "ordinary", "large", "subnormal")))]
    options = draw(features(rng, shape))
    poison = draw(st.booleans())

    def operand(heads, length, dim, scale):
        values = (scale * rng.standard_normal((shape.batch, heads, length, dim))).astype(dtype)
        return _placed(draw, layout, values, constant=not poison)

    query = operand(shape.heads, shape.query_length, shape.head_dim, spread)
    key = operand(shape.kv_heads, shape.key_length, shape.head_dim, spread)
    value = operand(shape.kv_heads, shape.key_length, shape.value_dim, draw(FACTORS))
    if poison:
        visible = _visible(shape, options)
        heads_first(query, layout)[~visible.any(axis=3)] = np.nan
        heads_first(key, layout)[~_seen_keys(shape, visible)] = np.nan
        heads_first(value, layout)[_padding_keys(shape, visible)] = np.nan
    options["layout"] = layout
    if draw(st.booleans()):
        options["intermediate_precision"] = "float32"
    if draw(st.booleans()):
        options["out_dtype"] = draw(dtypes)
    elif draw(st.booleans()):
        sizes = (*shape.scores[:3], shape.value_dim)
        options["out"] = _placed(draw, layout, np.full(sizes, np.nan, draw(dtypes)), constant=False)
    return Call(query, key, value, options)


def _visible(shape, options):
    rules = oracle_features(shape.query_length, shape.key_length, **options)
    return visible_keys(
        shape.scores,
        **{name: rules[name] for name in ("causal", "offset", "window", "bool_mask", "additive_mask")},
    )


def _seen_keys(shape, visible):
    """Bool (B, Hkv, Nkv): keys that a row of any head sees."""
    group = shape.heads // shape.kv_heads
    grouped = visible.reshape(shape.batch, shape.kv_heads, group, shape.query_length, shape.key_length)
    return grouped.any(axis=(2, 3))


def _padding_keys(shape, visible):
    """Bool (B, Hkv, Nkv): the keys at the end that no row sees."""
    seen = _seen_keys(shape, visible)
    return ~np.logical_or.accumulate(seen[..., ::-1], axis=-1)[..., ::-1]


@dataclass(frozen=True)
class BackwardCall:
    """Arguments of one mfa.attention_backward call, but for what the forward call returns."""

    dout: np.ndarray
    forward: Call
    forward_dtype: np.dtype | None  # of the forward call's output
    dlse: np.ndarray | None

    def _repr_pretty_(self, printer, cycle):
        dlse = None if self.dlse is None else self.dlse.strides
        printer.text(f"forward_dtype={self.forward_dtype}, dout <{self.dout.dtype} {self.dout.strides}>, ")
        printer.text(f"dlse strides {dlse} of ")
        self.forward._repr_pretty_(printer, cycle)

    @property
    def operands(self):
        return self.dout, *self.forward.operands

    @property
    def options(self):
        return {**self.forward.options, "forward_dtype": self.forward_dtype, "dlse": self.dlse}

    @property
    def layout(self):
        return self.forward.options["layout"]

    def contiguous(self):
        """The same numbers in new arrays in C order."""
        dlse = None if self.dlse is None else self.dlse.copy(order="C")
        return BackwardCall(self.dout.copy(order="C"), self.forward.contiguous(), self.forward_dtype, dlse)


@st.composite
def backward_calls(draw):
    """A call of mfa.attention_backward, with finite operands but for what nothing may read, as in calls()."""
    call = draw(calls(row_budget=BACKWARD_ROW_BUDGET))
    call.options.pop("out", None)
    layout = call.options["layout"]
    query, value = heads_first(call.query, layout), heads_first(call.value, layout)
    rng = np.random.default_rng(draw(seeds))
    values = draw(FACTORS) * rng.standard_normal((*query.shape[:3], value.shape[3]))
    dtype = draw(st.one_of(st.just(query.dtype), dtypes))
    dout = _placed(draw, layout, values.astype(dtype))
    return BackwardCall(dout, call, draw(st.one_of(st.none(), dtypes)), draw(_dlses(rng, call)))


@st.composite
def _dlses(draw, rng, call):
    """The logsumexp's gradient, NaN in rows that see no key and have no sink; or None."""
    if draw(st.booleans()):
        return None
    query, key, value = (heads_first(x, call.options["layout"]) for x in call.operands)
    rows, keys = query.shape[2], key.shape[2]
    shape = Shape(*query.shape[:2], key.shape[1], rows, keys, query.shape[3], value.shape[3])
    dlse = (draw(FACTORS) * rng.standard_normal(shape.scores[:3])).astype(np.float32)
    if call.options.get("sinks") is None:
        no_rules = ("layout", "intermediate_precision", "out_dtype")
        rules = {name: x for name, x in call.options.items() if name not in no_rules}
        dlse[~_visible(shape, rules).any(axis=3)] = np.nan
    return draw(memories(3, constant=False)).place(dlse)
