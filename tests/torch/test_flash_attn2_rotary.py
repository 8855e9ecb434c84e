"""mfa.flash_attn.layers.rotary turns pairs of elements as multiplication by complex numbers does."""

import re

import pytest
import torch

from mfa.flash_attn.layers import rotary

ROWS, TURNED, DIM = 5, 6, 10


@pytest.fixture
def angles():
    torch.manual_seed(2)
    return 4 * torch.rand(12, TURNED // 2, dtype=torch.float64)


def turned(x, angles, interleaved):
    """float64; `angles` has a row for each row of x, (..., N, H, D)."""
    pairs = x[..., :TURNED].double().unflatten(-1, (-1, 2) if interleaved else (2, -1))
    pairs = pairs if interleaved else pairs.transpose(-1, -2)
    result = (
        torch.view_as_complex(pairs.contiguous()) * torch.polar(torch.ones_like(angles), angles)[..., None, :]
    )
    result = torch.view_as_real(result)
    result = (result if interleaved else result.transpose(-1, -2)).flatten(-2)
    return torch.cat([result, x[..., TURNED:].double()], -1)


def tables(angles, dtype=torch.float32):
    return angles.cos().to(dtype), angles.sin().to(dtype)


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("offsets", [0, 7, torch.tensor([3, 0], dtype=torch.int32)], ids=str)
def test_batches(angles, dtype, interleaved, inplace, offsets):
    x = torch.randn(2, ROWS, 3, DIM).to(dtype)
    of_rows = [angles[start : start + ROWS] for start in torch.as_tensor(offsets).expand(2).tolist()]
    expected = turned(x, torch.stack(of_rows), interleaved)
    given = x.clone()
    out = rotary.apply_rotary_emb(given, *tables(angles), interleaved, inplace, offsets)
    assert out.dtype == dtype
    torch.testing.assert_close(out, expected.to(dtype))
    assert (out is given) == inplace
    assert inplace or torch.equal(given, x)


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("offsets", [2, torch.tensor([3, 0, 8])], ids=str)
def test_sequences(angles, inplace, offsets):
    starts = torch.tensor([0, 3, 3, 7], dtype=torch.int32)
    x = torch.randn(9, 2, DIM)
    out = rotary.apply_rotary_emb(
        x.clone(), *tables(angles), inplace=inplace, seqlen_offsets=offsets, cu_seqlens=starts, max_seqlen=4
    )
    first, _, last = torch.as_tensor(offsets).expand(3).tolist()
    torch.testing.assert_close(out[:3], turned(x[:3], angles[first : first + 3], False).float())
    torch.testing.assert_close(out[3:7], turned(x[3:7], angles[last : last + 4], False).float())
    assert torch.equal(out[7:], x[7:])


def test_whole_heads_and_no_rows(angles):
    x = torch.randn(1, 4, 2, TURNED)
    out = rotary.apply_rotary_emb(x, *tables(angles))
    torch.testing.assert_close(out, turned(x, angles[:4], False).float())
    assert rotary.apply_rotary_emb(x[:, :0], *tables(angles)).shape == (1, 0, 2, TURNED)


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("interleaved", [False, True])
def test_gradients(angles, interleaved, inplace):
    x = torch.randn(2, 3, 2, DIM, dtype=torch.float64, requires_grad=True)
    table = [t.requires_grad_() for t in tables(angles, torch.float64)]
    offsets = torch.tensor([1, 4])

    def function(x, cos, sin):
        return rotary.apply_rotary_emb(x * 1, cos, sin, interleaved, inplace, offsets)

    assert torch.autograd.gradcheck(function, (x, *table))


@pytest.mark.parametrize("interleaved", [False, True])
def test_torch_function_takes_tables_of_each_batch(angles, interleaved):
    x = torch.randn(2, 3, 4, DIM)
    of_rows = torch.stack([angles[:3], angles[5:8]])
    out = rotary.apply_rotary_emb_torch(x, *tables(of_rows), interleaved)
    torch.testing.assert_close(out, turned(x, of_rows, interleaved).float())
    quarter = rotary.rotate_half(x, interleaved)
    torch.testing.assert_close(rotary.rotate_half(quarter, interleaved), -x)


@pytest.mark.parametrize("of_keys", [False, True])
def test_packed_arrays_are_written_into(angles, of_keys):
    qkv = torch.randn(2, ROWS, 3, 2, DIM)
    angles_k = angles / 2 if of_keys else angles
    keys = tables(angles_k) if of_keys else (None, None)
    expected = torch.stack(
        [turned(qkv[:, :, 0], angles[1:6], True), turned(qkv[:, :, 1], angles_k[1:6], True), qkv[:, :, 2]], 2
    ).float()
    for given, heads in ((qkv.clone(), None), (qkv.clone().flatten(2, 3), 2)):
        out = rotary.apply_rotary_emb_qkv_(
            given, *tables(angles), *keys, interleaved=True, seqlen_offsets=1, num_heads_q=heads
        )
        assert out is given
        torch.testing.assert_close(out.reshape(expected.shape), expected)
    kv = qkv[:, :, 1:].clone()
    out = rotary.apply_rotary_emb_kv_(kv, *tables(angles_k), interleaved=True, seqlen_offsets=1)
    assert out is kv
    torch.testing.assert_close(out, expected[:, :, 1:])


def test_gradients_pass_what_is_written_into(angles):
    leaf = torch.randn(1, 3, 3, 2, DIM, dtype=torch.float64, requires_grad=True)
    table = tables(angles, torch.float64)
    assert torch.autograd.gradcheck(lambda x: rotary.ApplyRotaryEmbQKV_.apply(x * 1, *table), leaf)
    assert torch.autograd.gradcheck(lambda x: rotary.ApplyRotaryEmbKV_.apply(x[:, :, 1:] * 1, *table), leaf)
    assert torch.autograd.gradcheck(lambda x: rotary.ApplyRotaryEmb.apply(x[:, :, 0], *table), leaf)


def angles_of(dim, base, positions):
    powers = torch.arange(0, dim, 2, dtype=torch.float64) / dim
    return torch.outer(torch.arange(positions, dtype=torch.float64), base**-powers)


@pytest.mark.parametrize("interleaved", [False, True])
def test_module_turns_queries_and_keys(interleaved):
    module = rotary.RotaryEmbedding(TURNED, base=100.0, interleaved=interleaved)
    angles = angles_of(TURNED, 100.0, 20)
    qkv = torch.randn(2, ROWS, 3, 2, DIM)
    at = angles[4:9]
    expected = [turned(qkv[:, :, i], at, interleaved) for i in (0, 1)]
    expected = torch.stack([*expected, qkv[:, :, 2]], 2).float()
    torch.testing.assert_close(module(qkv.clone(), seqlen_offset=4), expected)
    torch.testing.assert_close(
        module(qkv.clone().flatten(2, 3), seqlen_offset=4, num_heads_q=2), expected.flatten(2, 3)
    )
    q, kv = module(qkv[:, :, 0].clone(), qkv[:, :, 1:].clone(), seqlen_offset=4)
    torch.testing.assert_close((q, kv), (expected[:, :, 0], expected[:, :, 1:]))
    offsets = torch.tensor([4, 15])
    out = module(qkv.clone(), seqlen_offset=offsets, max_seqlen=20)
    torch.testing.assert_close(out[0], expected[0])
    torch.testing.assert_close(out[1, :, 0], turned(qkv[1, :, 0], angles[15:20], interleaved).float())
    with pytest.raises(ValueError, match=r"^seqlen_offsets: position 20, expected 0 to 19, a row of cos$"):
        module(qkv, seqlen_offset=offsets + 1)
    with pytest.raises(ValueError, match=r"^max_seqlen: None, expected a number, as there are no tables"):
        rotary.RotaryEmbedding(TURNED)(qkv, seqlen_offset=offsets)


def test_module_with_scales():
    """Queries shrink with their position as keys grow: products depend on distances alone."""
    module = rotary.RotaryEmbedding(TURNED, scale_base=8)
    q, k = torch.randn(2, 1, 1, 1, TURNED)
    qkv = torch.stack(
        [q.expand(1, 12, 1, TURNED), k.expand(1, 12, 1, TURNED), torch.zeros(1, 12, 1, TURNED)], 2
    )
    q, k, _ = module(qkv)[0, :, :, 0].unbind(1)
    scores = q @ k.T
    for distance in (-3, 0, 5):
        diagonal = scores.diagonal(distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal))
    assert q[0].norm() > 1.2 * q[11].norm()


def test_module_keeps_angles_exact_when_converted():
    module = rotary.RotaryEmbedding(TURNED).bfloat16()
    module._update_cos_sin_cache(4096, dtype=torch.float32, device=torch.device("cpu"))
    torch.testing.assert_close(
        module._cos_cached, angles_of(TURNED, 10000.0, 4096).cos().float(), atol=5e-4, rtol=0
    )


@pytest.mark.parametrize("training", [False, True])
def test_module_makes_new_tables_for_gradients(training):
    module = rotary.RotaryEmbedding(TURNED).train(training)
    with torch.inference_mode():
        module(torch.randn(1, 4, 3, 2, DIM))
    x = torch.randn(1, 4, 3, 2, DIM, requires_grad=True)
    module(x * 1).sum().backward()
    assert x.grad.shape == x.shape
    assert not module.state_dict()


@pytest.mark.parametrize("training", [False, True])
def test_module_is_compiled_in_one_graph(training):
    torch._dynamo.reset()
    module = rotary.RotaryEmbedding(TURNED).train(training)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    for rows in (3, 2):
        qkv = torch.randn(1, rows, 3, 2, DIM)
        torch.testing.assert_close(compiled(qkv.clone()), module(qkv.clone()))


def table(rows=8, columns=2):
    return torch.ones(rows, columns)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"x": torch.ones(3, 2, 4)}, "x: 3 dimensions, expected 4"),
        ({"cos": torch.ones(1, 8, 2)}, "cos: 3 dimensions, expected 2"),
        ({"sin": table(7)}, "sin: shape (7, 2), expected (8, 2) as cos"),
        ({"cos": table(8, 3), "sin": table(8, 3)}, "cos: 3 columns, expected at most 2, half of head_dim"),
        ({"seqlen_offsets": 6}, "seqlen_offsets: position 8, expected 0 to 7, a row of cos"),
        ({"seqlen_offsets": -1}, "seqlen_offsets: position -1, expected 0 to 7, a row of cos"),
        ({"seqlen_offsets": torch.tensor([1, 2])}, "seqlen_offsets: shape (2,), expected (1,) or an integer"),
        (
            {"x": torch.ones(3, 2, 4), "cu_seqlens": torch.tensor([0, 2, 4])},
            "cu_seqlens: 4 rows, expected at most 3 as x has",
        ),
    ],
    ids=str,
)
def test_errors_name_the_argument(arguments, message):
    arguments = {"x": torch.ones(1, 3, 2, 4), "cos": table(), "sin": table()} | arguments
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        rotary.apply_rotary_emb(**arguments)


@pytest.mark.parametrize(
    ("function", "shape", "arguments", "message"),
    [
        (
            "apply_rotary_emb_qkv_",
            (1, 3, 2, 2, 4),
            {},
            "qkv: shape (1, 3, 2, 2, 4), expected (batch, rows, 3, ",
        ),
        ("apply_rotary_emb_qkv_", (1, 3, 4), {}, "qkv: 3 dimensions, expected 4 or 5"),
        ("apply_rotary_emb_qkv_", (1, 3, 6, 4), {}, "num_heads_q: None, expected the number of heads of q"),
        (
            "apply_rotary_emb_qkv_",
            (1, 3, 6, 4),
            {"num_heads_q": 3},
            "num_heads_q: 3, expected to leave as many",
        ),
        (
            "apply_rotary_emb_kv_",
            (1, 3, 3, 2, 4),
            {},
            "kv: shape (1, 3, 3, 2, 4), expected (batch, rows, 2, ",
        ),
    ],
)
def test_errors_of_packed_arrays(function, shape, arguments, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        getattr(rotary, function)(torch.ones(shape), table(), table(), **arguments)
