"""mfa where PyTorch looks for an implementation of flash attention, and what `import torch` does about it."""

import os
import re
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from support.source_tree import ROOT
from torch.nn.attention import (
    activate_flash_attention_impl,
    current_flash_attention_impl,
    list_flash_attention_impls,
    restore_flash_attention_impl,
)
from torch.nn.attention.varlen import AuxRequest, varlen_attn, varlen_attn_out

import _mfa_torch_autoload
import mfa
import mfa.torch
from mfa.torch import _counts, _flash_operators

aten = torch.ops.aten
FLOAT64 = "query: float64, expected float32, float16 or bfloat16"


@pytest.fixture(autouse=True)
def activated():
    torch.manual_seed(1)
    _counts.TALLY.__init__()
    activate_flash_attention_impl("mfa")
    yield
    restore_flash_attention_impl(_raise_warn=False)


def ran_in_mfa():
    return mfa.torch.sdpa_counts().mfa


def tensors(*shape, dtype=torch.float32):
    return [torch.randn(*shape, dtype=dtype, requires_grad=True) for _ in range(3)]


def outcome(function, operands):
    """The result and the gradients of what requires one, in float64."""
    result = function(*operands)
    wanted = [operand for operand in operands if operand.requires_grad]
    gradients = torch.autograd.grad(result, wanted, torch.linspace(-1, 1, result.shape[-1]).expand_as(result))
    return [tensor.double() for tensor in (result, *gradients)]


def exact(function, operands):
    """The same of float64 operands, by operations that are not attention's."""
    return outcome(function, [operand.detach().double().requires_grad_() for operand in operands])


def attend(query, key, value, *, hidden=None):
    """(..., N, D) written out; key and value may have fewer heads."""
    groups = query.shape[-3] // key.shape[-3]
    key, value = (x.repeat_interleave(groups, -3) for x in (key, value))
    scores = query @ key.mT / query.shape[-1] ** 0.5
    if hidden is not None:
        scores = scores.masked_fill(hidden, -torch.inf)
    return scores.softmax(-1) @ value


def above(rows, columns):
    """What a causal mask hides, aligned bottom-right."""
    return torch.ones(rows, columns, dtype=torch.bool).triu(1 + columns - rows)


def agree(actual, expected, tolerance=1e-5):
    torch.testing.assert_close(actual, expected, atol=tolerance, rtol=tolerance)


def test_is_listed_current_and_given_back():
    assert "mfa" in list_flash_attention_impls()
    assert current_flash_attention_impl() == "mfa"
    restore_flash_attention_impl()
    assert current_flash_attention_impl() is None
    F.scaled_dot_product_attention(*tensors(1, 2, 4, 8))
    assert ran_in_mfa() == 0
    with pytest.raises(NotImplementedError, match="_flash_attention_forward"):
        packed(torch.randn(4, 2, 8), [0, 4])


def test_operators_are_registered_for_mps():
    for name in _flash_operators.OPERATORS:
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"aten::{name}", "MPS"), name
    for key in ("MPS", "AutogradMPS"):
        assert torch._C._dispatch_has_kernel_for_dispatch_key("aten::scaled_dot_product_attention", key)
    assert not torch._C._dispatch_has_kernel_for_dispatch_key("aten::scaled_dot_product_attention", "CPU")


@pytest.mark.parametrize("causal", [False, True])
def test_sdpa(causal):
    operands = tensors(2, 4, 6, 8)
    actual = outcome(lambda *x: F.scaled_dot_product_attention(*x, is_causal=causal), operands)
    assert ran_in_mfa() == 1
    agree(actual, exact(lambda *x: attend(*x, hidden=above(6, 6) if causal else None), operands))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sdpa_in_half_precision(dtype):
    operands = tensors(2, 4, 6, 8, dtype=dtype)
    actual = outcome(F.scaled_dot_product_attention, operands)
    assert ran_in_mfa() == 1
    agree(actual, exact(attend, operands), 2e-2)


def test_sdpa_of_grouped_heads_and_a_mask_of_which_a_row_sees_nothing():
    query, key, value = torch.randn(2, 4, 6, 8), torch.randn(2, 2, 5, 8), torch.randn(2, 2, 5, 8)
    for operand in (query, key, value):
        operand.requires_grad_()
    visible = torch.ones(6, 5, dtype=torch.bool).tril(-1)
    actual = outcome(
        lambda *x: F.scaled_dot_product_attention(*x, attn_mask=visible, enable_gqa=True), (query, key, value)
    )
    assert ran_in_mfa() == 1
    expected = exact(lambda q, *x: attend(q[..., 1:, :], *x, hidden=~visible[1:]), (query, key, value))
    assert not actual[0][..., 0, :].any()
    agree([actual[0][..., 1:, :], *actual[1:]], expected)


def test_gradients_may_be_those_of_torch():
    operands, visible = tensors(2, 4, 6, 8), torch.ones(6, 6, dtype=torch.bool).tril(-1)
    expected = outcome(lambda *x: F.scaled_dot_product_attention(*x, attn_mask=visible), operands)
    assert ran_in_mfa() == 1

    def attend_then_restore(*x):
        result = F.scaled_dot_product_attention(*x, attn_mask=visible)
        torch.nn.attention.restore_flash_attention_impl()
        return result

    agree(outcome(attend_then_restore, operands), expected)


def test_sdpa_of_float64_runs_in_torch():
    operands = tensors(1, 2, 4, 8, dtype=torch.float64)
    with pytest.warns(
        UserWarning, match=rf"^PyTorch runs _scaled.*_for_cpu in place of mfa: {FLOAT64} \(said once\)"
    ):
        actual = outcome(F.scaled_dot_product_attention, operands)
    assert mfa.torch.sdpa_counts() == (0, 1, {FLOAT64: 1})
    agree(actual, exact(attend, operands))


@pytest.mark.parametrize("rows_first", [False, True])
def test_strides_are_what_compiled_code_expects(rows_first):
    query, key, value = torch.randn(3, 2, 3, 5, 8)
    if rows_first:
        query, key, value = torch.randn(3, 2, 5, 3, 8).transpose(2, 3)
    operators = {
        aten._scaled_dot_product_flash_attention_for_cpu: (
            aten._scaled_dot_product_flash_attention_for_cpu_backward,
            lambda results: (0.0, False),
        ),
        aten._scaled_dot_product_flash_attention: (
            aten._scaled_dot_product_flash_attention_backward,
            lambda results: (*results[2:6], 0.0, False, *results[6:8]),
        ),
    }

    def strides(forward, backward, rest):
        results = forward(query, key, value)
        gradients = backward(results[0], query, key, value, *results[:2], *rest(results))
        return [x.stride() for x in (*results[:2], *gradients)]

    for forward, (backward, rest) in operators.items():
        real = strides(forward, backward, rest)
        with torch._subclasses.FakeTensorMode(allow_non_fake_inputs=True):
            assert strides(forward, backward, rest) == real


def test_gradients_of_packed_sequences_lie_as_operands_do():
    heads_outside = torch.randn(3, 2, 9, 8).transpose(1, 2)  # (9 rows, 2 heads, 8), one head behind the other
    starts = torch.tensor([0, 9], dtype=torch.int32)

    def strides():
        query, key, value = heads_outside
        out, logsumexp, state, unused, _ = aten._flash_attention_forward(
            *(query, key, value, starts, starts, 9, 9, 0.0, False, False)
        )
        gradients = aten._flash_attention_backward(
            *(out, query, key, value, out, logsumexp, starts, starts, 9, 9, 0.0, False, state, unused)
        )
        return [x.stride() for x in (out, logsumexp, *gradients)]

    real = strides()
    with torch._subclasses.FakeTensorMode(allow_non_fake_inputs=True):
        assert strides() == real


def test_causal_without_a_window_is_aligned_bottom_right():
    query, key = torch.randn(1, 3, 2, 8), torch.randn(1, 5, 2, 8)
    out, *_ = aten._flash_attention_forward(query, key, key, None, None, 3, 5, 0.0, True, False)
    by_head = attend(*(x.transpose(1, 2) for x in (query, key, key)), hidden=above(3, 5))
    agree(out, by_head.transpose(1, 2))


def test_compiled_functions_call_it_when_they_run():
    operands = tensors(2, 4, 6, 8)
    compiled = torch.compile(F.scaled_dot_product_attention, backend="aot_eager", fullgraph=True)
    actual = outcome(compiled, operands)
    assert ran_in_mfa() == 1
    agree(actual, exact(attend, operands))


def packed(x, starts, window=(-1, -1), **keywords):
    starts = torch.tensor(starts, dtype=torch.int32)
    longest = int(starts.diff().max())
    return varlen_attn(x, x, x, starts, starts, longest, longest, window_size=window, **keywords)


@pytest.mark.parametrize("window", [(-1, -1), (-1, 0), (2, 0), (2, 1)])
def test_varlen_attn(window):
    x = torch.randn(9, 2, 8, requires_grad=True)
    left, right = window

    def expected(x):
        parts = []
        for part in x.split([3, 0, 5, 1]):
            i = torch.arange(len(part))
            ahead = i - i[:, None]
            hidden = (ahead > right) & (right >= 0) | (-ahead > left) & (left >= 0)
            parts.append(attend(*(part.transpose(0, 1),) * 3, hidden=hidden).transpose(0, 1))
        return torch.cat(parts)

    actual = outcome(lambda x: packed(x, [0, 3, 3, 8, 9], window), [x])
    assert ran_in_mfa() == 1
    agree(actual, exact(expected, [x]))


def test_varlen_attn_compiled_is_varlen_attn():
    x = torch.randn(9, 2, 8, requires_grad=True)
    compiled = torch.compile(lambda x: packed(x, [0, 3, 9]), backend="aot_eager", fullgraph=True)
    assert all(map(torch.equal, outcome(compiled, [x]), outcome(lambda x: packed(x, [0, 3, 9]), [x])))


def test_varlen_attn_has_no_autocast():
    x = torch.randn(9, 2, 8, requires_grad=True)
    expected = outcome(lambda x: packed(x, [0, 3, 9]), [x])
    with torch.autocast("cpu", torch.bfloat16):
        assert all(map(torch.equal, outcome(lambda x: packed(x, [0, 3, 9]), [x]), expected))


def test_autocast_casts_sdpa_first():
    operands = tensors(2, 4, 6, 8)
    with torch.autocast("cpu", torch.bfloat16):
        actual = outcome(F.scaled_dot_product_attention, operands)
    assert ran_in_mfa() == 1
    agree(actual, [x.bfloat16().double() for x in exact(attend, operands)], 3e-2)


def test_varlen_attn_gives_and_writes():
    x = torch.randn(9, 2, 8)
    out, logsumexp = packed(x, [0, 3, 9], return_aux=AuxRequest(lse=True))
    scores = torch.einsum("qhd,khd->hqk", x, x) / 8**0.5
    expected = torch.cat([scores[:, :3, :3].logsumexp(-1), scores[:, 3:, 3:].logsumexp(-1)], 1)
    agree(logsumexp, expected)
    starts, written = torch.tensor([0, 3, 9], dtype=torch.int32), torch.full_like(x, torch.nan)
    returned = varlen_attn_out(written, x, x, x, starts, starts, 6, 6)
    assert returned is written
    assert torch.equal(written, out)


def test_varlen_attn_of_pages():
    pages = torch.randn(5, 4, 1, 8)
    table = torch.tensor([[3, 0], [1, 4]], dtype=torch.int32)
    used = torch.tensor([6, 3], dtype=torch.int32)
    query, starts = torch.randn(3, 2, 8), torch.tensor([0, 2, 3], dtype=torch.int32)
    actual = varlen_attn(
        *(query, pages, pages, starts, None, 2, 8),
        window_size=(-1, 0),
        enable_gqa=True,
        seqused_k=used,
        block_table=table,
    )
    assert ran_in_mfa() == 1
    rows = [
        pages[row.long()].flatten(0, 1)[:length].transpose(0, 1)
        for row, length in zip(table, used, strict=True)
    ]
    first = attend(query[:2].transpose(0, 1), rows[0], rows[0], hidden=above(2, 6))
    second = attend(query[2:].transpose(0, 1), rows[1], rows[1])
    agree(actual, torch.cat([first, second], 1).transpose(0, 1))


def of_batch(x, value):
    return aten._flash_attention_forward(x, x, value, None, None, 3, 3, 0.5, False, False)[0]


def of_sequences(x, value):
    starts = torch.tensor([0, 2, 3], dtype=torch.int32)
    return aten._flash_attention_forward(x[0], x[0], value[0], starts, starts, 2, 2, 0.5, False, False)[0]


def of_sdpa(x, value):
    x, value = x.transpose(1, 2), value.transpose(1, 2)
    return aten._scaled_dot_product_flash_attention(x, x, value, 0.5)[0]


@pytest.mark.parametrize("operator", [of_batch, of_sequences, of_sdpa])
def test_gradients_drop_what_was_dropped(operator):
    """Of values that are ones, results are sums of the weights that are left, and so are gradients."""
    x = torch.zeros(1, 3, 20, 8)
    value = torch.ones_like(x).requires_grad_()
    results = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        results.append(operator(x, value))
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])
    [gradient] = torch.autograd.grad(results[0], value, torch.ones_like(results[0]))
    by_head = results[0].transpose(-2, -3) if operator is of_sdpa else results[0]
    agree(gradient.sum((0, 1)), by_head.reshape(3, 20, 8).sum(0))


def test_what_no_kernel_has_is_refused():
    x = torch.randn(1, 3, 2, 8)
    with pytest.raises(NotImplementedError, match=r"^return_debug_mask: True, expected False"):
        aten._flash_attention_forward(x, x, x, None, None, 3, 3, 0.0, False, True)
    without_dropout = {
        aten._flash_attention_forward_no_dropout_inplace: (x, x, x, x, None, None, 3, 3, 0.5, False, False),
        aten._scaled_dot_product_flash_attention_for_cpu: (x, x, x, 0.5),
        aten._scaled_dot_product_flash_attention_for_cpu_backward: (x, x, x, x, x, x[..., 0], 0.5, False),
    }
    for operator, arguments in without_dropout.items():
        with pytest.raises(ValueError, match=r"^dropout_p: 0.5, expected 0.0$"):
            operator(*arguments)


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder that says to `import torch` what an installed wheel of mfa says."""
    folder = tmp_path_factory.mktemp("installed")
    information = folder / "mfa_under_test-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: mfa-under-test\nVersion: 1.0\n")
    groups = re.findall(
        r'(?m)^\[project.entry-points."(.+)"\]\n((?:.+\n)+)', (ROOT / "pyproject.toml").read_text()
    )
    assert "torch.backends" in dict(groups)
    entries = "".join(f"[{group}]\n{lines}" for group, lines in groups).replace('"', "")
    (information / "entry_points.txt").write_text(entries)
    return folder


def python(program, *folders, **variables):
    path = os.pathsep.join(map(str, (*folders, ROOT)))
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        cwd=folders[-1],  # not one with another mfa
        env=os.environ | {"PYTHONPATH": path} | variables,
        capture_output=True,
        text=True,
        timeout=120,
    )


AFTERWARDS = """
import torch.nn.functional as F
x = torch.ones(1, 2, 4, 8)
F.scaled_dot_product_attention(x, x, x)
import mfa.torch
print(mfa.torch.sdpa_counts().mfa)
"""


def test_import_torch_offers_mfa_without_importing_it(installed):
    program = """
import sys, torch
assert "mfa" in torch.nn.attention.list_flash_attention_impls()
assert torch.nn.attention.current_flash_attention_impl() is None
assert "mfa" not in sys.modules
torch.nn.attention.activate_flash_attention_impl("mfa")
"""
    done = python(program + AFTERWARDS, installed)
    assert (done.stdout, done.stderr, done.returncode) == ("1\n", "", 0)


@pytest.mark.parametrize("first", ["torch", "mfa.torch, torch"])
def test_environment_replaces_sdpa(installed, first):
    done = python(f"import {first}" + AFTERWARDS, installed, MFA_TORCH_REPLACE_SDPA="1")
    assert (done.stdout, done.stderr, done.returncode) == ("1\n", "", 0)


def test_a_broken_mfa_does_not_break_torch(installed, tmp_path):
    (tmp_path / "mfa").mkdir()
    (tmp_path / "mfa" / "__init__.py").write_text("raise OSError('no library')")
    done = python("import torch; print(torch.ones(1))", tmp_path, installed, MFA_TORCH_REPLACE_SDPA="1")
    assert done.stdout == "tensor([1.])\n"
    assert done.returncode == 0
    assert "PyTorch goes on without mfa" in done.stderr
    assert "OSError: no library" in done.stderr


def test_a_wrong_value_in_the_environment_is_named(monkeypatch, caplog):
    monkeypatch.setenv("MFA_TORCH_REPLACE_SDPA", "yes")
    _mfa_torch_autoload.autoload()
    assert "MFA_TORCH_REPLACE_SDPA: 'yes', expected '0' or '1'" in caplog.text
    F.scaled_dot_product_attention(*tensors(1, 2, 4, 8))
    assert not torch._C._dispatch_has_kernel_for_dispatch_key("aten::scaled_dot_product_attention", "CPU")
