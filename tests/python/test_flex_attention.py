"""mfa.flex_attention has PyTorch's signature and does what it does, for NumPy's arrays and torch's."""

import inspect

import ml_dtypes
import numpy as np
import pytest
from support import mask_mods, oracle
from support.tools import require_module

import mfa

torch = require_module("torch", "pip install torch")
flex = require_module("torch.nn.attention.flex_attention", "pip install torch")


@pytest.fixture
def arrays(rng):
    return [rng.standard_normal((2, 4, n, 8), dtype=np.float32) for n in (40, 50, 50)]


def test_signature_is_pytorchs():
    ours, theirs = inspect.signature(mfa.flex_attention), inspect.signature(flex.flex_attention)
    assert [(p.name, p.kind, p.default) for p in ours.parameters.values()] == [
        (p.name, p.kind, p.default) for p in theirs.parameters.values()
    ]
    ours, theirs = inspect.signature(mfa.create_block_mask), inspect.signature(flex.create_block_mask)
    assert list(theirs.parameters)[: len(ours.parameters)] == list(ours.parameters)
    ours, theirs = (inspect.signature(x.BlockMask.from_kv_blocks) for x in (mfa, flex))
    assert list(theirs.parameters)[: len(ours.parameters)] == list(ours.parameters)
    assert mfa.AuxRequest._fields == flex.AuxRequest._fields
    assert mfa.AuxOutput._fields == flex.AuxOutput._fields


@pytest.mark.parametrize("scale", [None, 0.5, 0.0, -1.0])
def test_scale(scale, arrays):
    out = mfa.flex_attention(*arrays, scale=scale)
    expected, _ = oracle.attention(*arrays, softmax_scale=scale)
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-5)
    doubled = mfa.flex_attention(*arrays, lambda s, b, h, q, k: s + s, scale=scale)  # is asked for each
    expected, _ = oracle.attention(*arrays, softmax_scale=2 * (8**-0.5 if scale is None else scale))
    np.testing.assert_allclose(doubled, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("score_mod", [None, lambda s, b, h, q, k: s * s], ids=["none", "generic"])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_results_are_of_the_dtype_of_query(dtype, score_mod, arrays):
    arrays = [x.astype(dtype) for x in arrays]
    out, lse = mfa.flex_attention(*arrays, score_mod, return_lse=True)
    assert out.dtype == dtype
    assert lse.dtype == np.float32
    wanted = mfa.flex_attention(*(x.astype(np.float32) for x in arrays), score_mod)
    np.testing.assert_allclose(out.astype(np.float32), wanted, atol=5e-2)
    gradients = None
    if score_mod is None:
        gradients = mfa.flex_attention_backward(out, *arrays, out, lse)
    else:
        gradients = mfa.flex_attention_backward(out, *arrays, out, lse, lambda s, b, h, q, k: s * s)
    assert [x.dtype for x in gradients[:3]] == [dtype] * 3


def test_torch_gives_torch(arrays):
    tensors = [torch.from_numpy(x) for x in arrays]
    for score_mod in (None, lambda s, b, h, q, k: s * s):
        out, aux = mfa.flex_attention(*tensors, score_mod, return_aux=mfa.AuxRequest(lse=True))
        assert isinstance(out, torch.Tensor)
        assert isinstance(aux.lse, torch.Tensor)
        assert aux.max_scores is None
        gradients = mfa.flex_attention_backward(out, *tensors, out, aux.lse, score_mod)
        assert all(isinstance(x, torch.Tensor) for x in gradients[:3])


@pytest.mark.parametrize("score_mod", [None, lambda s, b, h, q, k: s * s], ids=["none", "generic"])
def test_one_batch_of_keys_for_all_queries(score_mod, arrays):
    query, key, value = arrays
    out = mfa.flex_attention(query, key[:1], value[:1], score_mod)
    np.testing.assert_array_equal(out[1:], mfa.flex_attention(query[1:], key[:1], value[:1], score_mod))


def test_auxiliary_outputs(arrays):
    out, lse = mfa.flex_attention(*arrays, return_lse=True)
    for request in (mfa.AuxRequest(lse=True), flex.AuxRequest(lse=True)):
        other, aux = mfa.flex_attention(*arrays, return_aux=request)
        np.testing.assert_array_equal(other, out)
        np.testing.assert_array_equal(aux.lse, lse)
    assert mfa.flex_attention(*arrays, return_aux=mfa.AuxRequest())[1] == (None, None)


@pytest.mark.parametrize("score_mod", [None, lambda s, b, h, q, k: s * s], ids=["none", "generic"])
def test_max_scores(score_mod, arrays):
    block_mask = mfa.create_block_mask(
        mfa.and_masks(mask_mods.prefix, lambda b, h, q, k: q != 3), None, None, 40, 50, BLOCK_SIZE=16
    )
    mask = mfa.create_mask(block_mask.mask_mod, None, None, 40, 50)
    _, aux = mfa.flex_attention(
        *arrays, score_mod, block_mask, return_aux=mfa.AuxRequest(lse=True, max_scores=True)
    )
    query, key, _ = arrays
    scores = query @ key.swapaxes(-1, -2) / np.sqrt(8)
    scores = scores if score_mod is None else scores * scores
    expected = np.where(mask, scores, -np.inf).max(-1)
    np.testing.assert_allclose(aux.max_scores, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("score_mod", [None, lambda s, b, h, q, k: s * s], ids=["none", "generic"])
@pytest.mark.parametrize("lengths", [(0, 5), (5, 0), (0, 0)])
def test_nothing_to_attend_to(lengths, score_mod, rng):
    query = rng.standard_normal((1, 2, lengths[0], 8), dtype=np.float32)
    key = rng.standard_normal((1, 2, lengths[1], 8), dtype=np.float32)
    out, lse = mfa.flex_attention(query, key, key, score_mod, return_lse=True)
    assert out.shape == query.shape
    assert not out.any()
    assert (lse == -np.inf).all()


def test_hidden_keys_are_never_asked_for(rng):
    query, key, value = rng.standard_normal((3, 1, 1, 96, 8), dtype=np.float32)
    seen = []

    def score_mod(score, b, h, q_idx, kv_idx):
        seen.append(np.max(np.broadcast_to(kv_idx, np.shape(score))))
        return score * score

    block_mask = mfa.create_block_mask(lambda b, h, q, k: k < 30, None, None, 96, 96, BLOCK_SIZE=32)
    mfa.flex_attention(query, key, value, lambda s, b, h, q, k: s * s, block_mask)
    call = mfa._flex_call.FlexCall(query, key, value, score_mod, block_mask, None, False)
    seen.clear()
    key[:, :, 32:] = value[:, :, 32:] = np.nan
    out, _, _ = call.forward(False, False)
    assert max(seen) < 32
    assert np.isfinite(out).all()


ONES = np.ones((1, 2, 4, 8), np.float32)
WRONG = {
    "three axes": (ValueError, "query: 3 dimensions, expected 4", (ONES[0], ONES, ONES), {}),
    "grouped heads": (ValueError, "key: 1 heads, expected 2 as query has, or enable_gqa=True",
                      (ONES, ONES[:, :1], ONES[:, :1]), {}),
    "head dimensions": (ValueError, "key: shape", (ONES, ONES[..., :4], ONES), {}),
    "dtype": (TypeError, "value: dtype float64", (ONES, ONES, ONES.astype(np.float64)), {}),
    "both ways": (ValueError, "return_lse: True, expected False beside return_aux", (ONES, ONES, ONES),
                  {"return_lse": True, "return_aux": mfa.AuxRequest()}),
    "no request": (TypeError, "return_aux: 3, expected an AuxRequest", (ONES, ONES, ONES), {"return_aux": 3}),
    "scale": (TypeError, "scale: 'x', expected a real number", (ONES, ONES, ONES), {"scale": "x"}),
    "flag": (TypeError, "enable_gqa: 1, expected a bool", (ONES, ONES, ONES), {"enable_gqa": 1}),
    "options": (TypeError, "kernel_options: 3, expected None or a dict", (ONES, ONES, ONES),
                {"kernel_options": 3}),
}  # fmt: skip


@pytest.mark.parametrize(("error", "message", "arrays", "options"), WRONG.values(), ids=WRONG)
def test_wrong_argument_is_named(error, message, arrays, options):
    with pytest.raises(error, match=message):
        mfa.flex_attention(*arrays, **options)


@pytest.mark.parametrize(
    ("place", "name", "wrong"),
    [
        (0, "dout", np.ones((1, 2, 5, 8), np.float32)),
        (1, "out", np.ones((8,), np.float32)),
        (2, "lse", np.ones((2, 2, 4), np.float32)),
    ],
)
def test_results_of_another_shape_are_refused_in_parts_too(place, name, wrong):
    def square(score, b, h, q_idx, kv_idx):
        return score * score * torch.ones(())

    dout, out, lse = (wrong if i == place else x for i, x in enumerate((ONES, ONES, ONES[..., 0])))
    with pytest.raises(ValueError, match=rf"^{name}: shape .*, expected \(1, 2, 4"):
        mfa.flex_attention_backward(dout, ONES, ONES, ONES, out, lse, square)


def test_kernel_options_change_nothing(arrays):
    out = mfa.flex_attention(*arrays, kernel_options={"BLOCK_M": 64})
    np.testing.assert_array_equal(out, mfa.flex_attention(*arrays))


@pytest.mark.parametrize("backward", [False, True])
def test_plan(backward, arrays):
    plan = mfa.flex_plan(*arrays, lambda s, b, h, q, k: s - 0.1 * abs(q - k), backward=backward)
    assert plan.score_mod == "alibi"
    assert plan.calls == 1
    assert plan.plan.status == 0
    assert mfa.flex_plan(*arrays, backward=backward).score_mod == "none"
    assert mfa.flex_plan(*arrays, lambda s, b, h, q, k: s * s, backward=backward).score_mod == "generic"
