"""What FlashAttention-3's functions refuse, by argument, position and value, before anything is written."""

import re

import numpy as np
import pytest
import torch
from support.views import shifted

import mfa

ROWS, PAGES, PAGE = 10, 6, 4


def int32(*numbers):
    return np.array(numbers, np.int32)


def ones(*shape, dtype=np.float32):
    return np.ones(shape, dtype)


def frozen(array):
    array.flags.writeable = False
    return array


def kvcache(**changes):
    """Two sequences, each of whose caches has room for ROWS; the caches come first in what it returns."""
    arguments = {
        "q": ones(2, 1, 4, 8),
        "k_cache": ones(2, ROWS, 2, 8),
        "v_cache": ones(2, ROWS, 2, 8),
        "k": ones(2, 1, 2, 8),
        "v": ones(2, 1, 2, 8),
        "cache_seqlens": int32(3, 9),
        **changes,
    }
    return mfa.flash_attn_with_kvcache, arguments


def paged(**changes):
    changes = {"page_table": int32([0, 1, 2], [3, 4, 5]), **changes}
    return kvcache(**{"k_cache": ones(PAGES, PAGE, 2, 8), "v_cache": ones(PAGES, PAGE, 2, 8), **changes})


def varlen(**changes):
    arguments = {
        "q": ones(7, 4, 8),
        "k": ones(9, 2, 8),
        "v": ones(9, 2, 8),
        "cu_seqlens_q": int32(0, 3, 7),
        "cu_seqlens_k": int32(0, 5, 9),
        "max_seqlen_q": 4,
        "max_seqlen_k": 5,
        **changes,
    }
    return mfa.flash_attn_varlen_func, arguments


def whole(**changes):
    return mfa.flash_attn_func, {
        "q": ones(2, 3, 4, 8),
        "k": ones(2, 5, 2, 8),
        "v": ones(2, 5, 2, 8),
        **changes,
    }


def packed(**changes):
    return mfa.flash_attn_qkvpacked_func, {"qkv": ones(2, 3, 3, 4, 8), **changes}


def combined(**changes):
    partial = {"out_partial": ones(3, 2, 5, 4, 8), "lse_partial": ones(3, 2, 5, 4)}
    return mfa.flash_attn_combine, {**partial, **changes}


def metadata(**changes):
    names = ["batch_size", "max_seqlen_q", "max_seqlen_k", "num_heads_q", "num_heads_kv", "headdim"]
    arguments = dict(zip(names, (2, 1, 10, 4, 2, 8), strict=True))
    return mfa.get_scheduler_metadata, {**arguments, "cache_seqlens": int32(3, 9), **changes}


ROTARY = {"rotary_cos": ones(20, 4), "rotary_sin": ones(20, 4)}
NO_NEW = {"k": None, "v": None}

CASES = [
    # lengths of the cache
    (kvcache, {"cache_seqlens": int32(3, -1)}, ValueError, "cache_seqlens[1]: -1, expected 0 to 10"),
    (kvcache, {"cache_seqlens": int32(3, 11)}, ValueError, "cache_seqlens[1]: 11, expected 0 to 10"),
    (
        kvcache,
        {"cache_seqlens": int32(3, 10)},
        ValueError,
        "k: 1 rows for sequence 1, whose cache has room for 0",
    ),
    (
        paged,
        {"cache_seqlens": int32(12, 3)},
        ValueError,
        "k: 1 rows for sequence 0, whose cache has room for 0",
    ),
    (kvcache, {"cache_seqlens": -1}, ValueError, "cache_seqlens: -1, expected 0 or more"),
    (
        kvcache,
        {"cache_seqlens": 2**31},
        ValueError,
        "cache_seqlens: 2147483648, expected 0 or more, and at most",
    ),
    (kvcache, {"cache_seqlens": 11}, ValueError, "cache_seqlens[0]: 11, expected 0 to 10"),
    (
        kvcache,
        {"cache_seqlens": True},
        TypeError,
        "cache_seqlens: True, expected an integer or an array of int32",
    ),
    (kvcache, {"cache_seqlens": 3.0}, TypeError, "cache_seqlens: float, expected an array"),
    (kvcache, {"cache_seqlens": None}, ValueError, "cache_seqlens: None, expected an array beside k"),
    (kvcache, {"cache_seqlens": int32(3, 9, 1)}, ValueError, "cache_seqlens: shape (3,), expected (2,)"),
    (kvcache, {"cache_seqlens": int32([3, 9])}, ValueError, "cache_seqlens: 2 dimensions, expected 1"),
    (kvcache, {"cache_seqlens": np.array([3, 9])}, TypeError, "cache_seqlens: dtype int64, expected int32"),
    (
        kvcache,
        {"cache_seqlens": int32(3, 9).view(np.uint32)},
        TypeError,
        "cache_seqlens: dtype uint32, expected",
    ),
    (
        kvcache,
        {"cache_seqlens": int32(3, 9).astype(">i4")},
        TypeError,
        "cache_seqlens: dtype >i4, expected int32",
    ),
    (kvcache, {"cache_seqlens": ones(2)}, TypeError, "cache_seqlens: dtype float32, expected int32"),
    (
        kvcache,
        {"cache_seqlens": torch.tensor([3, 9])},
        TypeError,
        "cache_seqlens: dtype int64, expected int32",
    ),
    (
        kvcache,
        {"cache_seqlens": torch.empty(2, dtype=torch.int32, device="meta")},
        BufferError,
        "cache_seqlens: on device meta, expected cpu",
    ),
    (kvcache, {"cache_leftpad": int32(4, 0)}, ValueError, "cache_leftpad[0]: 4, expected 0 to 3"),
    (kvcache, {"cache_leftpad": int32(0, -2)}, ValueError, "cache_leftpad[1]: -2, expected 0 to 9"),
    (kvcache, {"cache_batch_idx": int32(0, 2)}, ValueError, "cache_batch_idx[1]: 2, expected 0 to 1"),
    (kvcache, {"cache_batch_idx": int32(-1, 1)}, ValueError, "cache_batch_idx[0]: -1, expected 0"),
    (
        kvcache,
        {"cache_batch_idx": int32(1, 1)},
        ValueError,
        "cache_batch_idx[1]: 1, as [0] is, expected each batch once",
    ),
    # pages
    (
        paged,
        {"page_table": int32([0, 1, 2], [3, 4, 6])},
        ValueError,
        "page_table[1, 2]: 6, expected 0 to 5, a page of k_cache",
    ),
    (
        paged,
        {"page_table": int32([-1, 1, 2], [3, 4, 5])},
        ValueError,
        "page_table[0, 0]: -1, expected 0 to 5",
    ),
    (
        paged,
        {"page_table": int32([0, 1, 2], [3, 4, 0])},
        ValueError,
        "page_table[1, 2]: 0, as [0, 0] is, expected each page once",
    ),
    (paged, {"page_table": int32([0, 1, 2])}, ValueError, "page_table: shape (1, 3), expected (2, "),
    (paged, {"page_table": int32(0, 1)}, ValueError, "page_table: 1 dimensions, expected 2"),
    (paged, {"page_table": np.zeros((2, 3))}, TypeError, "page_table: dtype float64, expected int32"),
    (
        paged,
        {"k_cache": ones(6, 0, 2, 8), "v_cache": ones(6, 0, 2, 8)},
        ValueError,
        "k_cache: pages of 0 rows",
    ),
    (paged, {"v_cache": ones(5, 4, 2, 8)}, ValueError, "v_cache: shape (5, 4, 2, 8), expected (6, 4, 2, 8)"),
    # new rows
    (kvcache, {"v": None}, ValueError, "v: None, expected an array beside k"),
    (kvcache, {"k": None}, ValueError, "k: None, expected an array beside v"),
    (kvcache, {"k": ones(2, 1, 2, 7)}, ValueError, "k: shape (2, 1, 2, 7), expected (2, 1, 2, 8)"),
    (kvcache, {"k": ones(2, 1, 4, 8)}, ValueError, "k: shape (2, 1, 4, 8), expected (2, 1, 2, 8)"),
    (kvcache, {"v": ones(2, 2, 2, 8)}, ValueError, "v: shape (2, 2, 2, 8), expected (2, 1, 2, 8)"),
    (
        kvcache,
        {"k": ones(2, 1, 2, 8, dtype=np.float16)},
        ValueError,
        "k: dtype float16, expected float32 as q has",
    ),
    (
        kvcache,
        {"k": ones(2, 2, 8), "v": ones(2, 2, 8), "cu_seqlens_k_new": int32(0, 2, 1)},
        ValueError,
        "cu_seqlens_k_new[2]: 1, expected at least 2",
    ),
    (
        kvcache,
        {"k": ones(2, 2, 8), "v": ones(2, 2, 8), "cu_seqlens_k_new": int32(0, 1, 3)},
        ValueError,
        "cu_seqlens_k_new[2]: 3, expected at most 2",
    ),
    (
        kvcache,
        {"k_cache": frozen(ones(2, 10, 2, 8))},
        BufferError,
        "k_cache: is read-only, expected writable",
    ),
    (
        kvcache,
        {"v_cache": frozen(ones(2, 10, 2, 8))},
        BufferError,
        "v_cache: is read-only, expected writable",
    ),
    (
        kvcache,
        {"k_cache": np.broadcast_to(ones(10, 2, 8), (2, 10, 2, 8))},
        BufferError,
        "k_cache: is read-only",
    ),
    (
        kvcache,
        {"k_cache": torch.ones(10, 2, 8).expand(2, 10, 2, 8)},
        ValueError,
        "k_cache: stride",
    ),
    (kvcache, {"k_cache": shifted(ones(2, 10, 2, 8), 1)}, BufferError, "k_cache: address or strides are not"),
    # rotary tables
    (
        kvcache,
        {**ROTARY, "rotary_cos": ones(9, 4), "rotary_sin": ones(9, 4)},
        ValueError,
        "rotary_cos: 9 positions, but sequence 1 has rows at 9 to 9",
    ),
    (
        kvcache,
        {**ROTARY, "rotary_seqlens": int32(20, 0)},
        ValueError,
        "rotary_cos: 20 positions, but sequence 0 has rows at 20 to 20",
    ),
    (
        kvcache,
        {**ROTARY, "rotary_seqlens": int32(-1, 0)},
        ValueError,
        "rotary_seqlens[0]: -1, expected 0 to",
    ),
    (
        kvcache,
        {**ROTARY, "rotary_sin": None},
        ValueError,
        "rotary_sin: None, expected an array beside rotary_cos",
    ),
    (
        kvcache,
        {"rotary_sin": ones(20, 4)},
        ValueError,
        "rotary_cos: None, expected an array beside rotary_sin",
    ),
    (
        kvcache,
        {"rotary_seqlens": int32(0, 0)},
        ValueError,
        "rotary_cos: None, expected an array beside rotary_seq",
    ),
    (kvcache, {**ROTARY, **NO_NEW}, ValueError, "k: None, expected an array beside rotary_cos"),
    (kvcache, {**ROTARY, "rotary_cos": ones(20, 5)}, ValueError, "rotary_cos: 5 columns, expected 1 to 4"),
    (kvcache, {**ROTARY, "rotary_cos": ones(20, 0)}, ValueError, "rotary_cos: 0 columns, expected 1 to 4"),
    (
        kvcache,
        {**ROTARY, "rotary_sin": ones(20, 3)},
        ValueError,
        "rotary_sin: shape (20, 3), expected (20, 4)",
    ),
    (
        kvcache,
        {**ROTARY, "rotary_cos": ones(20, 4, dtype=np.float16)},
        ValueError,
        "rotary_cos: dtype float16, expected float32 as q has",
    ),
    (kvcache, {"rotary_interleaved": 1}, TypeError, "rotary_interleaved: 1, expected a bool"),
    # packed queries
    (kvcache, {"cu_seqlens_q": int32(0, 1, 2)}, ValueError, "q: 4 dimensions, expected 3"),
    (kvcache, {"q": ones(2, 4, 8)}, ValueError, "q: 3 dimensions, expected 4"),
    (varlen, {"cu_seqlens_q": int32(1, 3, 7)}, ValueError, "cu_seqlens_q[0]: 1, expected 0"),
    (varlen, {"cu_seqlens_q": int32(0, 8, 7)}, ValueError, "cu_seqlens_q[2]: 7, expected at least 8"),
    (varlen, {"cu_seqlens_q": int32(0, 3, 8)}, ValueError, "cu_seqlens_q[2]: 8, expected at most 7"),
    (varlen, {"cu_seqlens_q": int32()}, ValueError, "cu_seqlens_q: is empty, expected one entry more"),
    (varlen, {"cu_seqlens_q": np.array([0, 3, 7])}, TypeError, "cu_seqlens_q: dtype int64, expected int32"),
    (varlen, {"cu_seqlens_k": int32(0, 5, 4)}, ValueError, "cu_seqlens_k[2]: 4, expected at least 5"),
    (varlen, {"cu_seqlens_k": int32(0, 5, 10)}, ValueError, "cu_seqlens_k[2]: 10, expected at most 9"),
    (varlen, {"cu_seqlens_k": int32(0, 9)}, ValueError, "cu_seqlens_k: shape (2,), expected (3,)"),
    (varlen, {"seqused_q": int32(4, 1)}, ValueError, "seqused_q[0]: 4, expected 0 to 3"),
    (varlen, {"seqused_k": int32(5, 5)}, ValueError, "seqused_k[1]: 5, expected 0 to 4"),
    (varlen, {"seqused_k": int32(5)}, ValueError, "seqused_k: shape (1,), expected (2,)"),
    (varlen, {"max_seqlen_q": 3}, ValueError, "max_seqlen_q: 3, but sequence 1 has 4 rows"),
    (varlen, {"max_seqlen_k": 4}, ValueError, "max_seqlen_k: 4, but sequence 0 has 5 rows"),
    (varlen, {"max_seqlen_k": -1}, ValueError, "max_seqlen_k: -1, expected 0 or more"),
    (varlen, {"max_seqlen_q": 3.5}, TypeError, "max_seqlen_q: 3.5, expected an integer"),
    (varlen, {"qv": ones(7, 4, 9)}, ValueError, "qv: shape (7, 4, 9), expected (7, 4, 8)"),
    (varlen, {"v": ones(8, 2, 8)}, ValueError, "v: shape (8, 2, 8), expected (9, 2, 8)"),
    # what needs no sequences
    (whole, {"qv": ones(2, 3, 4, 9)}, ValueError, "qv: shape (2, 3, 4, 9), expected (2, 3, 4, 8)"),
    (
        whole,
        {"qv": ones(2, 3, 4, 8, dtype=np.float16)},
        ValueError,
        "qv: dtype float16, expected float32 as q",
    ),
    (whole, {"q_descale": ones(2, 4)}, ValueError, "q_descale: shape (2, 4), expected (2, 2) or 1"),
    (
        whole,
        {"k_descale": ones(2, 2, dtype=np.float16)},
        TypeError,
        "k_descale: dtype float16, expected float32",
    ),
    (whole, {"v_descale": ones(2)}, ValueError, "v_descale: 1 dimensions, expected 2"),
    (whole, {"v_descale": 1.0}, TypeError, "v_descale: float, expected an array"),
    (whole, {"attention_chunk": -1}, ValueError, "attention_chunk: -1, expected 0 or more"),
    (whole, {"attention_chunk": 1.0}, TypeError, "attention_chunk: 1.0, expected an integer"),
    (whole, {"causal": None}, TypeError, "causal: None, expected a bool"),
    (whole, {"window_size": 3}, TypeError, "window_size: 3, expected two integers"),
    (
        packed,
        {"qkv": ones(2, 3, 2, 4, 8)},
        ValueError,
        "qkv: shape (2, 3, 2, 4, 8), expected (batch, rows, 3,",
    ),
    (packed, {"qkv": ones(2, 3, 8)}, ValueError, "qkv: 3 dimensions, expected 4 or 5"),
    (packed, {"qkv": ones(2, 3, 8, 8)}, ValueError, "num_heads_q: None, expected the number of heads of q"),
    (
        packed,
        {"qkv": ones(2, 3, 8, 8), "num_heads_q": 3},
        ValueError,
        "num_heads_q: 3, expected to leave as many",
    ),
    (
        packed,
        {"qkv": ones(2, 3, 8, 8), "num_heads_q": 8},
        ValueError,
        "num_heads_q: 8, expected to leave as many",
    ),
    (
        packed,
        {"qkv": ones(2, 3, 8, 8), "num_heads_q": 0},
        ValueError,
        "num_heads_q: 0, expected to leave as many",
    ),
    (
        packed,
        {"qkv": ones(2, 3, 9, 8), "num_heads_q": 5},
        ValueError,
        "qkv: 2 heads, expected a divisor of the 5",
    ),
    (packed, {"qkv": 3}, TypeError, "qkv: int, expected an array"),
    (combined, {"out_partial": ones(3, 2, 5, 4)}, ValueError, "out_partial: 4 dimensions, expected 5"),
    (combined, {"out_partial": ones(0, 2, 5, 4, 8)}, ValueError, "out_partial: 0 splits, expected 1 or more"),
    (
        combined,
        {"lse_partial": ones(3, 2, 4, 5)},
        ValueError,
        "lse_partial: shape (3, 2, 4, 5), expected (3, 2, 5",
    ),
    (
        combined,
        {"lse_partial": np.ones((3, 2, 5, 4))},
        TypeError,
        "lse_partial: dtype float64, expected",
    ),
    (combined, {"out": ones(2, 5, 4, 7)}, ValueError, "out: shape (2, 5, 4, 7), expected (2, 5, 4, 8)"),
    (
        combined,
        {"out": np.ones((2, 5, 4, 8))},
        TypeError,
        "out: dtype float64, expected float32, float16",
    ),
    (combined, {"out": frozen(ones(2, 5, 4, 8))}, BufferError, "out: is read-only, expected writable memory"),
    (
        combined,
        {"out": ones(2, 5, 4, 8), "out_dtype": "float16"},
        ValueError,
        "out_dtype: float16, expected float32",
    ),
    (combined, {"out_dtype": "int8"}, TypeError, "out_dtype: 'int8', expected float32"),
    (metadata, {"batch_size": -1}, ValueError, "batch_size: -1, expected 0 or more"),
    (metadata, {"headdim": 2**31}, ValueError, "headdim: 2147483648, expected at most 2147483647"),
    (metadata, {"num_heads_q": "4"}, TypeError, "num_heads_q: '4', expected an integer"),
    (metadata, {"cache_seqlens": int32(3)}, ValueError, "cache_seqlens: shape (1,), expected (2,)"),
    (
        metadata,
        {"cache_seqlens": ones(2)},
        TypeError,
        "cache_seqlens: dtype float32, expected int32",
    ),
    (metadata, {"qkv_dtype": "int8"}, TypeError, "qkv_dtype: 'int8', expected float32"),
    (
        kvcache,
        {"scheduler_metadata": ones(5)},
        TypeError,
        "scheduler_metadata: dtype float32, expected",
    ),
    (
        kvcache,
        {"scheduler_metadata": int32(1)},
        ValueError,
        "scheduler_metadata: shape (1,), expected what get_",
    ),
]


def contents(argument):
    if isinstance(argument, torch.Tensor):
        return None if argument.is_meta else argument.numpy().tobytes()
    return argument.tobytes() if isinstance(argument, np.ndarray) else argument


@pytest.mark.parametrize(
    ("make", "changes", "error", "message"),
    CASES,
    ids=[f"{case[0].__name__}-{'-'.join(case[1])}-{number}" for number, case in enumerate(CASES)],
)
def test_refused(make, changes, error, message):
    function, arguments = make(**changes)
    before = {name: contents(x) for name, x in arguments.items()}
    with pytest.raises(error, match=f"^{re.escape(message)}"):
        function(**arguments)
    assert {name: contents(x) for name, x in arguments.items()} == before


def test_what_the_table_changes_is_right():
    for make in (kvcache, paged, varlen, whole, packed, combined, metadata):
        function, arguments = make()
        function(**arguments)


@pytest.mark.parametrize("name", ["q", "k", "v", "q_descale", "rotary_cos"])
def test_caches_do_not_overlap_what_is_read(name):
    function, arguments = kvcache(**ROTARY, q_descale=ones(2, 2))
    memory = arguments["k_cache"].reshape(-1)
    shape = arguments[name].shape
    arguments[name] = memory[: arguments[name].size].reshape(shape)
    with pytest.raises(ValueError, match=rf"^k_cache overlaps {name} in memory"):
        function(**arguments)
    assert (memory == 1).all()


def test_caches_do_not_overlap_each_other():
    function, arguments = kvcache()
    arguments["v_cache"] = arguments["k_cache"][:]
    with pytest.raises(ValueError, match=r"^k_cache overlaps v_cache in memory"):
        function(**arguments)


def test_there_are_no_gradients_of_what_is_appended():
    one = ones(1, 2, 1, 4)
    lse = ones(1, 1, 2)
    for changes in (
        {"qv": one},
        {"q_descale": ones(1, 1)},
        {"k_new": one, "v_new": one, "seqused_k": int32(0)},
    ):
        with pytest.raises(ValueError, match=f"^{next(iter(changes))}: given, expected None"):
            mfa.attention_backward(one, one, one, one, one, lse, **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seqused_k": int32(5, 5)}, "seqused_k[1]: 5, expected 0 to 4"),
        ({"page_table": int32([0], [1])}, "page_table: given beside cu_seqlens_k, expected one of them"),
        (
            {"cache_batch_idx": int32(0, 1)},
            "cache_batch_idx: given beside cu_seqlens_k, expected one of them",
        ),
        (
            {"mask": np.ones((3, 1, 1, 1), bool)},
            "mask: shape (3, 1, 1, 1), expected one that broadcasts to (2, 2",
        ),
        ({"mask": np.ones((4, 4), bool)}, "mask has shape (1, 1, 4, 4), expected (2, 2, 4, 5)"),
    ],
)
def test_attention_has_its_own_names(changes, message):
    lists = {"cu_seqlens_q": int32(0, 3, 7), "cu_seqlens_k": int32(0, 5, 9)}
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        mfa.attention(ones(7, 2, 8), ones(9, 2, 8), ones(9, 2, 8), **lists, **changes)
