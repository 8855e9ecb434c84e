"""Masks without memory hide what Transformers' own masks hide."""

import itertools

import pytest
import torch
from transformers import masking_utils as hf

import mfa.transformers
from mfa.transformers import _attention
from mfa.transformers._lazy_mask import LazyMask
from mfa.transformers._patterns import pattern_of

PATTERNS = {
    "causal": hf.causal_mask_function,
    "window": hf.sliding_window_causal_mask_function(3),
    "all": hf.bidirectional_mask_function,
    "around": hf.sliding_window_bidirectional_mask_function(2),
}
LENGTHS = {  # rows, keys, q_offset, kv_offset
    "prompt": (7, 7, 0, 0),
    "row": (1, 7, 6, 0),
    "continued": (3, 7, 4, 0),
    "static": (3, 9, 0, 0),
    "static, continued": (3, 12, 4, 0),
    "sliding": (3, 7, 9, 5),
    "one": (1, 1, 0, 0),
}
PADDINGS = {
    "none": lambda n: torch.ones(3, n, dtype=torch.bool),
    "left": lambda n: torch.arange(n) >= torch.tensor([[0], [2], [n - 1]]),
    "right": lambda n: torch.arange(n) < torch.tensor([[n], [2], [1]]),
    "both": lambda n: (torch.arange(n) >= torch.tensor([[0], [1], [2]])) & (torch.arange(n) < n - 1),
    "holes": lambda n: (torch.arange(n) % 3 != 1).expand(3, n),
    "all of one": lambda n: torch.tensor([[True], [False], [True]]).expand(3, n),
}


class Module:
    is_causal = True


def request(pattern, lengths, padding=None):
    rows, keys, q_offset, kv_offset = lengths
    return {
        "batch_size": 3,
        "q_length": rows,
        "kv_length": keys,
        "q_offset": q_offset,
        "kv_offset": kv_offset,
        "mask_function": pattern,
        "attention_mask": None if padding is None else padding(q_offset + rows),
        "device": "cpu",
        "dtype": torch.float32,
        "config": None,
    }


def dense(**request):
    return hf.sdpa_mask(**request | {"allow_is_causal_skip": False})


def operands(rows, keys, heads=4, kv_heads=2, batch=3):
    torch.manual_seed(rows + keys)
    query = torch.randn(batch, rows, heads, 8).transpose(1, 2)
    return query, *(torch.randn(batch, kv_heads, keys, 8) for _ in range(2))


def expected(query, key, value, mask, bias=0.0):
    """float64, and 0 where a row sees nothing."""
    query, key, value = query.double(), key.double(), value.double()
    key, value = (x.repeat_interleave(query.shape[1] // x.shape[1], 1) for x in (key, value))
    scores = (query @ key.transpose(-2, -1) / query.shape[-1] ** 0.5 + bias).masked_fill(~mask, -torch.inf)
    return (scores.softmax(-1).nan_to_num(0.0) @ value).transpose(1, 2)


def require_equal(actual, reference):
    torch.testing.assert_close(actual.double(), reference, atol=2e-6, rtol=0)


@pytest.fixture
def said(monkeypatch):
    """The keywords of each call that reaches mfa."""
    calls, forward = [], _attention.forward

    def spy(query, key, value, keywords, **others):
        calls.append(keywords | {"keys": key.shape[-3]})
        return forward(query, key, value, keywords, **others)

    monkeypatch.setattr(_attention, "forward", spy)
    return calls


@pytest.mark.parametrize("padding", [None, *PADDINGS])
@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("pattern", PATTERNS)
def test_hides_what_a_mask_in_memory_hides(pattern, lengths, padding, said):
    lengths = LENGTHS[lengths]
    asked = request(PATTERNS[pattern], lengths, PADDINGS.get(padding))
    mask, reference = mfa.transformers.attention_mask(**asked, allow_is_causal_skip=False), dense(**asked)
    assert type(mask) is LazyMask
    assert torch.equal(mask & True, reference)
    tensors = operands(*lengths[:2])
    bias = torch.randn(1, 4, *lengths[:2])
    require_equal(mfa.transformers.attention(Module, *tensors, mask)[0], expected(*tensors, reference))
    result, _ = mfa.transformers.attention(Module, *tensors, mask, position_bias=bias)
    require_equal(result, expected(*tensors, reference, bias.double()))
    for call in said:
        assert call["mask"] is None or call["mask"].shape[2] == 1, "a mask of all pairs"


@pytest.mark.parametrize("padding", [None, *PADDINGS])
@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("pattern", PATTERNS)
def test_none_hides_what_a_mask_hides(pattern, lengths, padding):
    """Where it may be None; an offset that is a tensor is a static cache's."""
    lengths = LENGTHS[lengths]
    asked = request(PATTERNS[pattern], lengths, PADDINGS.get(padding))
    is_causal = pattern in ("causal", "window")
    allowed = {"allow_is_causal_skip": is_causal, "allow_is_bidirectional_skip": not is_causal}
    tensors = operands(*lengths[:2])
    reference = expected(*tensors, dense(**asked))
    for offset in (asked["q_offset"], torch.tensor(asked["q_offset"])):
        mask = mfa.transformers.attention_mask(**asked | {"q_offset": offset}, **allowed)
        result, _ = mfa.transformers.attention(Module, *tensors, mask, is_causal=is_causal)
        require_equal(result, reference)


def test_is_none_where_nothing_is_hidden_but_by_causality():
    def made(pattern, lengths, **allowed):
        return mfa.transformers.attention_mask(**request(pattern, LENGTHS[lengths]), **allowed)

    wide = hf.sliding_window_causal_mask_function(7)
    for pattern, lengths in itertools.product((PATTERNS["causal"], wide), ("prompt", "row", "static")):
        assert made(pattern, lengths) is None
        assert made(pattern, lengths, allow_is_causal_skip=False) is not None
    assert made(PATTERNS["window"], "prompt") is not None
    assert made(PATTERNS["causal"], "continued") is not None
    assert made(PATTERNS["all"], "prompt", allow_is_causal_skip=False) is not None
    skip = {"allow_is_causal_skip": False, "allow_is_bidirectional_skip": True}
    assert made(PATTERNS["all"], "prompt", **skip) is None
    assert made(PATTERNS["around"], "prompt", **skip) is not None


@pytest.mark.parametrize(
    ("padding", "lists"),
    [("left", {"leftpad_k"}), ("right", {"seqused_k"}), ("holes", {"mask"}), ("none", set())],
)
def test_padding_at_the_ends_is_said_by_lengths(padding, lists, said):
    mask = mfa.transformers.attention_mask(
        **request(PATTERNS["causal"], LENGTHS["prompt"], PADDINGS[padding]), allow_is_causal_skip=False
    )
    mfa.transformers.attention(Module, *operands(7, 7), mask)
    assert {name for name in ("leftpad_k", "seqused_k", "mask") if said[0][name] is not None} == lists


def test_keys_out_of_reach_are_left_out(said):
    """Those of a static cache that are not there yet, and those that the window has left behind."""
    asked = request(PATTERNS["window"], (2, 50, 20, 0))
    mask = mfa.transformers.attention_mask(**asked, allow_is_causal_skip=False)
    tensors = operands(2, 50)
    require_equal(mfa.transformers.attention(Module, *tensors, mask)[0], expected(*tensors, dense(**asked)))
    assert said[0]["keys"] == 4


@pytest.mark.parametrize("padding", [None, "left", "none", "right", "holes", "both"])
@pytest.mark.parametrize("lengths", ["prompt", "row", "continued", "static", "sliding"])
def test_chunks(padding, lengths, said):
    lengths = LENGTHS[lengths]
    asked = request(None, lengths, PADDINGS.get(padding))
    present = asked["attention_mask"]
    first = torch.zeros(3, dtype=torch.int64) if present is None else present.byte().argmax(-1)
    asked["mask_function"] = hf.chunked_causal_mask_function(4, first)
    mask = mfa.transformers.attention_mask(**asked, allow_is_causal_skip=False)
    tensors = operands(*lengths[:2])
    require_equal(mfa.transformers.attention(Module, *tensors, mask)[0], expected(*tensors, dense(**asked)))
    is_said = said[0]["attention_chunk"] == 4
    # Chunks begin with a sequence, and its first key is the first one, or one that a length counts from.
    assert is_said == (lengths[3] == 0 and padding != "both")


PACKED = torch.tensor([[0, 1, 2, 0, 1, 0, 1], [0, 1, 2, 3, 4, 5, 6], [0, 0, 0, 1, 2, 3, 4]])


@pytest.mark.parametrize("inner", ["causal", "window", "chunk"])
@pytest.mark.parametrize("batch", [1, 3])
def test_packed_sequences(inner, batch, said):
    positions = PACKED[:batch]
    chunk = hf.chunked_causal_mask_function(2, torch.zeros(batch, dtype=int))
    inner = (PATTERNS | {"chunk": chunk})[inner]
    function = hf.and_masks(
        hf.remap_positions_for_packed_sequence(inner, positions),
        hf.packed_sequence_mask_function(hf.find_packed_sequence_indices(positions)),
    )
    asked = request(function, (7, 7, 0, 0)) | {"batch_size": batch}
    mask = mfa.transformers.attention_mask(**asked, allow_is_causal_skip=False)
    tensors = operands(7, 7, batch=batch)
    require_equal(mfa.transformers.attention(Module, *tensors, mask)[0], expected(*tensors, dense(**asked)))
    starts = [0, 3, 5, 7, 14, 15, 16, 21] if batch == 3 else [0, 3, 5, 7]
    assert said[0]["cu_seqlens_q"].tolist() == starts
    bias = torch.randn(1, 4, 7, 7)
    result, _ = mfa.transformers.attention(Module, *tensors, mask, position_bias=bias)
    require_equal(result, expected(*tensors, dense(**asked), bias.double()))


@pytest.mark.parametrize(
    "function",
    [
        hf.or_masks(hf.causal_mask_function, hf.bidirectional_mask_function),
        hf.and_masks(hf.causal_mask_function, lambda b, h, q, k: k > 1),
        hf.remap_positions_for_packed_sequence(hf.causal_mask_function, PACKED),
        hf.blockwise_overlay(PACKED),
        hf.and_masks(hf.chunked_overlay(2, PACKED[:, 0]), hf.chunked_overlay(4, PACKED[:, 0])),
    ],
)
def test_unknown_functions_make_masks_in_memory(function):
    assert pattern_of(function) is None
    asked = request(function, LENGTHS["prompt"])
    mask = mfa.transformers.attention_mask(**asked, allow_is_causal_skip=False)
    assert type(mask) is torch.Tensor
    assert torch.equal(mask, dense(**asked))


def made(**changed):
    asked = request(PATTERNS["causal"], LENGTHS["prompt"]) | changed
    return mfa.transformers.attention_mask(**asked, allow_is_causal_skip=False)


def test_operations_get_the_mask_in_memory():
    mask, reference = made(), dense(**request(PATTERNS["causal"], LENGTHS["prompt"]))
    for result in (mask.to(torch.float32), torch.cat([mask, mask]), mask[..., :3], ~mask, mask.sum(-1)):
        assert type(result) is torch.Tensor
    assert torch.equal(mask[..., 2:], reference[..., 2:])
    assert "causal=True" in repr(mask)


def test_copies_have_no_memory_either():
    for copy in (made().detach(), made().clone()):
        assert type(copy) is LazyMask
        assert torch.equal(copy & True, made() & True)


@pytest.mark.parametrize("make", [made, lambda: made(q_length=1, q_offset=torch.tensor(6))])
def test_what_is_written_to_a_mask_counts(make):
    mask = make()
    tensors = operands(mask.shape[2], 7)
    before, _ = mfa.transformers.attention(Module, *tensors, mask)
    mask[:, :, -1:, :6] = False
    after, _ = mfa.transformers.attention(Module, *tensors, mask)
    reference = mask & True
    require_equal(after, expected(*tensors, reference))
    assert not torch.equal(before, after)
    assert torch.equal(mask.clone() & True, reference)


def test_static_offset_is_read_once():
    """Caches count it on, in place."""
    offset = torch.tensor(4)
    mask = made(q_length=3, q_offset=offset)
    reference = mask.clone() & True
    offset += 3
    assert torch.equal(mask & True, reference)


def test_mask_of_other_lengths_is_refused():
    with pytest.raises(
        ValueError, match=r"attention_mask: shape \(3, 1, 7, 7\), expected 7 queries and 6 keys"
    ):
        mfa.transformers.attention(Module, operands(7, 7)[0], *operands(7, 6)[1:], made())


def test_memory_is_linear_in_the_lengths():
    rows = 1 << 17
    mask = made(q_length=rows, kv_length=rows, batch_size=1, mask_function=PATTERNS["window"])
    query = torch.randn(1, 1, rows, 8)
    assert mfa.transformers.attention(Module, query, query, query, mask)[0].shape == (1, rows, 1, 8)
