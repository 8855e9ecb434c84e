"""torch.nn.functional.scaled_dot_product_attention while mfa replaces it."""

import contextlib
import threading
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention as bound_before
from torch.utils.checkpoint import checkpoint

import mfa
import mfa.torch
from mfa.torch import _cache_tag, _counts

OPERATOR = "aten::scaled_dot_product_attention"
KEYS = ("CPU", "AutogradCPU", "MPS", "AutogradMPS")
FLOAT64 = "query: float64, expected float32, float16 or bfloat16"


@pytest.fixture(autouse=True)
def unused():
    """Each test warns for the first time, and none leaves an override behind."""
    torch.manual_seed(1)
    _counts.TALLY.__init__()
    yield
    assert not any(torch._C._dispatch_has_kernel_for_dispatch_key(OPERATOR, key) for key in KEYS)
    assert torch.compiler.config.cache_key_tag == ""


def tensors(*shape, dtype=torch.float32, requires_grad=True):
    return [torch.randn(*shape, dtype=dtype, requires_grad=requires_grad) for _ in range(3)]


def outcome(function, operands, **keywords):
    """The result and the gradients of all operands that require one, in float64."""
    result = function(*operands, **keywords)
    wanted = [operand for operand in operands if operand.requires_grad]
    gradients = torch.autograd.grad(result, wanted, torch.linspace(-1, 1, result.shape[-1]).expand_as(result))
    return [tensor.double() for tensor in (result, *gradients)]


def agree(actual, expected, tolerance=1e-5):
    torch.testing.assert_close(actual, expected, atol=tolerance, rtol=tolerance)


def exact(operands, **keywords):
    doubles = [operand.detach().double().requires_grad_() for operand in operands]
    if keywords.get("attn_mask") is not None and keywords["attn_mask"].is_floating_point():
        keywords["attn_mask"] = keywords["attn_mask"].double()
    with sdpa_kernel(SDPBackend.MATH):
        return outcome(F.scaled_dot_product_attention, doubles, **keywords)


CASES = {
    "plain": ((2, 4, 5, 8), {}),
    "causal": ((2, 4, 5, 8), {"is_causal": True}),
    "scale": ((1, 1, 1, 8), {"scale": 0.3}),
    "bool mask": ((2, 4, 5, 8), {"attn_mask": torch.eye(5, dtype=torch.bool)}),
    "a row that sees nothing": ((2, 4, 5, 8), {"attn_mask": torch.ones(5, 5, dtype=torch.bool).tril(-1)}),
    "floating mask": ((2, 4, 5, 8), {"attn_mask": torch.linspace(-1, 1, 25).reshape(5, 5)}),
    "two axes": ((5, 8), {}),
    "three axes": ((4, 5, 8), {"is_causal": True}),
}


@pytest.mark.parametrize("case", CASES)
def test_results_and_gradients_are_exact_ones(case):
    shape, keywords = CASES[case]
    operands = tensors(*shape)
    with mfa.torch.replace_sdpa(strict=True) as replaced:
        actual = outcome(F.scaled_dot_product_attention, operands, **keywords)
    assert replaced.counts == (1, 0, {})
    agree(actual, exact(operands, **keywords))


def test_grouped_heads_other_value_sizes_and_strides():
    query = torch.randn(2, 5, 4, 8).transpose(1, 2).requires_grad_()
    key, value = torch.randn(2, 2, 7, 8, requires_grad=True), torch.randn(2, 2, 7, 6, requires_grad=True)
    with mfa.torch.replace_sdpa(strict=True):
        actual = outcome(F.scaled_dot_product_attention, (query, key, value), enable_gqa=True)
    agree(actual, exact((query, key, value), enable_gqa=True))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    operands = tensors(1, 2, 6, 8, dtype=dtype)
    with mfa.torch.replace_sdpa(strict=True):
        assert F.scaled_dot_product_attention(*operands).dtype is dtype
        actual = outcome(F.scaled_dot_product_attention, operands)
    agree(actual, exact(operands), 2e-2)


@pytest.mark.parametrize("length", [(0, 5), (5, 0)])
def test_nothing_to_see(length):
    query, key = torch.randn(1, 2, length[0], 8), torch.randn(1, 2, length[1], 8)
    with mfa.torch.replace_sdpa(strict=True):
        result = F.scaled_dot_product_attention(query, key, key)
    assert torch.equal(result, torch.zeros(1, 2, length[0], 8))


def test_floating_mask_has_a_gradient():
    operands, mask = tensors(2, 4, 5, 8), torch.randn(4, 5, 5, requires_grad=True)
    with mfa.torch.replace_sdpa(strict=True):
        actual = outcome(F.scaled_dot_product_attention, (*operands, mask))
    agree(actual, exact((*operands, mask)))


@pytest.mark.parametrize("mode", [contextlib.nullcontext, torch.no_grad, torch.inference_mode])
def test_every_grad_mode_reaches_mfa(mode):
    operands = tensors(1, 2, 4, 8)
    with mfa.torch.replace_sdpa() as replaced, mode():
        result = F.scaled_dot_product_attention(*operands)
        assert result.requires_grad == (mode is contextlib.nullcontext)
        F.scaled_dot_product_attention(*tensors(1, 2, 4, 8))  # of inference_mode, where that is it
    assert replaced.counts == (2, 0, {})


def test_a_name_bound_before_reaches_mfa():
    with mfa.torch.replace_sdpa() as replaced:
        bound_before(*tensors(1, 2, 4, 8))
    assert replaced.counts.mfa == 1


def test_multihead_attention_trains_in_mfa():
    module, inputs = torch.nn.MultiheadAttention(16, 2, batch_first=True), torch.randn(2, 5, 16)
    result = module(inputs, inputs, inputs, need_weights=False)[0]
    expected = torch.autograd.grad(result.sum(), module.parameters())
    with mfa.torch.replace_sdpa() as replaced:
        result = module(inputs, inputs, inputs, need_weights=False)[0]
        actual = torch.autograd.grad(result.sum(), module.parameters())
    assert replaced.counts == (1, 0, {})
    agree(actual, expected)


def test_multihead_attention_in_eval_mode_without_its_fast_path():
    module, inputs = torch.nn.MultiheadAttention(16, 2, batch_first=True).eval(), torch.randn(2, 5, 16)
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad(), mfa.torch.replace_sdpa() as replaced:
            module(inputs, inputs, inputs, need_weights=False)
    finally:
        torch.backends.mha.set_fastpath_enabled(True)
    assert replaced.counts.mfa == 1


def test_autocast_casts_first():
    operands = tensors(1, 2, 4, 8)
    with mfa.torch.replace_sdpa(strict=True), torch.autocast("cpu", torch.bfloat16):
        result = F.scaled_dot_product_attention(*operands)
    assert result.dtype is torch.bfloat16
    [gradient] = torch.autograd.grad(result.sum(), operands[0])
    assert gradient.dtype is torch.float32


def test_below_autograd_nothing_is_recorded():
    """Inside of an operator, of which autograd knows the gradient itself."""
    with torch.library._scoped_library("mfa_test", "DEF") as library:
        library.define("attend(Tensor x) -> Tensor")
        library.impl("attend", lambda x: F.scaled_dot_product_attention(x, x, x), "CPU")
        with mfa.torch.replace_sdpa() as replaced, torch._C._AutoDispatchBelowAutograd():
            result = torch.ops.mfa_test.attend(torch.randn(1, 2, 4, 8, requires_grad=True))
    assert replaced.counts.mfa == 1
    assert result.grad_fn is None


def test_dropout_follows_the_generator_of_torch():
    query = key = torch.zeros(1, 1, 50, 8)
    value = torch.ones(1, 1, 50, 8)
    with mfa.torch.replace_sdpa(strict=True) as replaced:
        results = []
        for seed in (3, 3, 4):
            torch.manual_seed(seed)
            results.append(F.scaled_dot_product_attention(query, key, value, dropout_p=0.5))
    assert replaced.counts.mfa == 3
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])
    assert abs(results[0].mean() - 1) < 0.1


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpoints_drop_the_same_again(use_reentrant):
    query, key, value = tensors(1, 2, 20, 8)

    def attend(query):
        return F.scaled_dot_product_attention(query, key, value, dropout_p=0.5)

    gradients = []
    with mfa.torch.replace_sdpa(strict=True):
        for call in (attend, lambda x: checkpoint(attend, x, use_reentrant=use_reentrant)):
            torch.manual_seed(3)
            query.grad = None
            call(query).sum().backward()
            gradients.append(query.grad)
    assert torch.equal(*gradients)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
def test_nested_tensors_are_left_alone():
    parts = [torch.randn(length, 2, 8) for length in (3, 5)]
    nested = torch.nested.nested_tensor(parts, layout=torch.jagged).transpose(1, 2)
    with mfa.torch.replace_sdpa(strict=True) as replaced:
        result = F.scaled_dot_product_attention(nested, nested, nested)
    assert replaced.counts == (0, 0, {})
    for actual, part in zip(result.transpose(1, 2).unbind(), parts, strict=True):
        agree(actual, F.scaled_dot_product_attention(*(part.transpose(0, 1),) * 3).transpose(0, 1))


def test_jit_trace_and_export_record_the_function_of_torch():
    operands = tensors(1, 2, 4, 8, requires_grad=False)

    class Module(torch.nn.Module):
        def forward(self, query, key, value):
            return F.scaled_dot_product_attention(query, key, value)

    with mfa.torch.replace_sdpa() as replaced:
        exported = torch.export.export(Module(), tuple(operands)).module()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            traced = torch.jit.trace(Module(), operands)
        assert "scaled_dot_product_attention" in str(traced.inlined_graph)
        before = replaced.counts.mfa
        for program in (exported, traced):
            program(*operands)
        assert replaced.counts.mfa == before + 2
    expected = F.scaled_dot_product_attention(*operands)
    for program in (exported, traced):
        agree(program(*operands), expected)


@pytest.fixture
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()  # what was traced in a test is of no use after it


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize("case", CASES)
def test_compiled_functions_are_traced_into_mfa(case):
    shape, keywords = CASES[case]
    operands = tensors(*shape)
    compiled = torch.compile(F.scaled_dot_product_attention, backend="aot_eager", fullgraph=True)
    with mfa.torch.replace_sdpa(strict=True) as replaced:
        actual = outcome(compiled, operands, **keywords)
        assert replaced.counts == (1, 0, {})
        outcome(compiled, operands, **keywords)
    assert replaced.counts == (1, 0, {}), "counted when it is traced"
    agree(actual, exact(operands, **keywords))


@pytest.mark.usefixtures("fresh_compiler")
def test_compiled_functions_are_of_who_ran_calls_when_they_were_traced():
    operands = tensors(1, 2, 4, 8)
    expected = exact(operands)
    for replacing, calls in ((contextlib.nullcontext, 0), (mfa.torch.replace_sdpa, 1)) * 2:
        torch._dynamo.reset()
        before = mfa.torch.sdpa_counts().mfa
        compiled = torch.compile(F.scaled_dot_product_attention, backend="aot_eager", fullgraph=True)
        with replacing():
            agree(outcome(compiled, operands), expected)
        assert mfa.torch.sdpa_counts().mfa - before == calls


@pytest.mark.usefixtures("fresh_compiler")
def test_compiled_dropout_is_another_each_time():
    operands = tensors(1, 2, 20, 8)
    compiled = torch.compile(
        lambda *x: F.scaled_dot_product_attention(*x, dropout_p=0.5), backend="aot_eager", fullgraph=True
    )
    with mfa.torch.replace_sdpa(strict=True):
        results = []
        for seed in (3, 3, 4):
            torch.manual_seed(seed)
            results.append(compiled(*operands))
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


@pytest.mark.usefixtures("fresh_compiler")
def test_compiled_functions_that_mfa_refuses_run_in_torch():
    operands = tensors(1, 2, 4, 8, dtype=torch.float64)
    compiled = torch.compile(F.scaled_dot_product_attention, backend="aot_eager", fullgraph=True)
    with mfa.torch.replace_sdpa() as replaced, pytest.warns(UserWarning, match=FLOAT64):
        actual = outcome(compiled, operands)
    assert replaced.counts == (0, 1, {FLOAT64: 1})
    agree(actual, exact(operands))


REFUSED = {
    "float64": (lambda: tensors(1, 2, 4, 8, dtype=torch.float64), {}, FLOAT64),
    "dropout": (lambda: tensors(1, 2, 4, 8), {"dropout_p": 1.0}, "dropout_p: 1.0, expected less than 1"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_mfa_refuses_runs_in_torch_and_says_so_once(case):
    make, keywords, reason = REFUSED[case]
    operands = make()
    expected = outcome(F.scaled_dot_product_attention, operands, **keywords)
    with mfa.torch.replace_sdpa() as replaced:
        with pytest.warns(
            UserWarning, match=rf"^PyTorch runs .* in place of mfa: {reason} \(said once\)$"
        ) as said:
            actual = outcome(F.scaled_dot_product_attention, operands, **keywords)
        assert said[0].filename == __file__
        F.scaled_dot_product_attention(*operands, **keywords)
    agree(actual, expected, 0)
    assert replaced.counts == (0, 2, {reason: 2})
    assert mfa.torch.sdpa_counts() == (0, 2, {reason: 2})


@pytest.mark.parametrize("case", REFUSED)
def test_strict_makes_it_an_error(case):
    make, keywords, reason = REFUSED[case]
    with mfa.torch.replace_sdpa(strict=True) as replaced, pytest.raises(RuntimeError) as raised:
        F.scaled_dot_product_attention(*make(), **keywords)
    assert str(raised.value) == (
        f"scaled_dot_product_attention: mfa cannot run it, and replace_sdpa is strict: {reason}"
    )
    assert replaced.counts == (0, 0, {})


def test_strict_names_what_mfa_said():
    query, key = torch.randn(1, 2, 4, 8), torch.randn(1, 2, 4, 9)
    with mfa.torch.replace_sdpa(strict=True), pytest.raises(RuntimeError, match=r"strict.*key") as raised:
        F.scaled_dot_product_attention(query, key, key)
    assert isinstance(raised.value.__cause__, ValueError)


def test_wrong_arguments_raise_what_torch_raises():
    query, key = torch.randn(1, 2, 4, 8), torch.randn(1, 2, 4, 9)
    with pytest.raises(RuntimeError) as expected:
        F.scaled_dot_product_attention(query, key, key)
    with (
        mfa.torch.replace_sdpa(),
        pytest.warns(UserWarning, match="key"),
        pytest.raises(RuntimeError) as actual,
    ):
        F.scaled_dot_product_attention(query, key, key)
    assert type(actual.value) is type(expected.value)
    assert str(actual.value) == str(expected.value)


def test_random_numbers_of_a_call_that_torch_runs_are_those_of_torch():
    operands = tensors(1, 2, 4, 8, dtype=torch.float64)
    torch.manual_seed(5)
    expected = F.scaled_dot_product_attention(*operands, dropout_p=0.5)
    torch.manual_seed(5)
    with mfa.torch.replace_sdpa(), pytest.warns(UserWarning, match="float64"):
        actual = F.scaled_dot_product_attention(*operands, dropout_p=0.5)
    assert torch.equal(actual, expected)


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")  # torch's vmap
@pytest.mark.parametrize("transform", ["grad", "vmap of grad", "jacrev"])
def test_transforms_run_in_torch(transform):
    operands = tensors(2, 2, 4, 8, requires_grad=False)

    def attend(query):
        return F.scaled_dot_product_attention(query, *(x[:1] for x in operands[1:]))

    transformed = {
        "grad": torch.func.grad(lambda query: attend(query).sum()),
        "vmap of grad": torch.func.vmap(torch.func.grad(lambda query: attend(query[None]).sum())),
        "jacrev": torch.func.jacrev(attend),
    }[transform]
    expected = transformed(operands[0])
    with (
        mfa.torch.replace_sdpa() as replaced,
        pytest.warns(UserWarning, match="in place of mfa: under a transform of torch.func"),
    ):
        actual = transformed(operands[0])
    agree(actual, expected, 0)
    assert replaced.counts.torch == 1


class Elsewhere(torch.Tensor):
    """A tensor whose memory is that of another one."""

    @staticmethod
    def __new__(cls, inner):
        return torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype)

    def __init__(self, inner):
        self.inner = inner

    @classmethod
    def __torch_dispatch__(cls, operator, types, arguments=(), keywords=None):
        inner = torch.utils._pytree.tree_map_only(cls, lambda x: x.inner, (arguments, keywords or {}))
        result = operator(*inner[0], **inner[1])
        return torch.utils._pytree.tree_map_only(torch.Tensor, cls, result)


def test_tensors_that_are_elsewhere_run_in_torch():
    query, key, value = tensors(1, 2, 4, 8, requires_grad=False)
    expected = F.scaled_dot_product_attention(query, key, value)
    with (
        mfa.torch.replace_sdpa(),
        pytest.warns(UserWarning, match="in place of mfa: Elsewhere has a __torch_dispatch__"),
    ):
        actual = F.scaled_dot_product_attention(query, Elsewhere(key), value)
    assert torch.equal(actual.inner, expected)


def test_subclasses_that_are_memory_run_in_mfa():
    class Named(torch.Tensor):
        pass

    query, key, value = tensors(1, 2, 4, 8)
    with mfa.torch.replace_sdpa(strict=True) as replaced:
        F.scaled_dot_product_attention(torch.nn.Parameter(query), key.as_subclass(Named), value)
    assert replaced.counts.mfa == 1


def test_sdpa_kernel_decides():
    operands = tensors(1, 2, 4, 8)
    with mfa.torch.replace_sdpa(strict=True) as replaced:
        with sdpa_kernel(SDPBackend.MATH):
            F.scaled_dot_product_attention(*operands)
        assert replaced.counts == (
            0,
            1,
            {"sdpa_kernel or enable_flash_sdp excludes flash attention": 1},
        )
        with sdpa_kernel([SDPBackend.MATH, SDPBackend.FLASH_ATTENTION]):
            F.scaled_dot_product_attention(*operands)
    assert replaced.counts.mfa == 1


def test_override_is_made_for_cpu_and_mps():
    with mfa.torch.replace_sdpa():
        assert all(torch._C._dispatch_has_kernel_for_dispatch_key(OPERATOR, key) for key in KEYS)


def test_nested_ones_end_with_the_last_in_any_order():
    operands = tensors(1, 2, 4, 8)
    first = mfa.torch.replace_sdpa()
    second = mfa.torch.replace_sdpa(strict=True)
    F.scaled_dot_product_attention(*operands)
    with pytest.raises(RuntimeError, match="strict"):
        F.scaled_dot_product_attention(*(x.double() for x in operands))
    first.remove()
    F.scaled_dot_product_attention(*operands)
    second.remove()
    F.scaled_dot_product_attention(*operands)
    assert (first.counts.mfa, second.counts.mfa) == (1, 2)
    second.remove()


def test_a_removed_one_is_no_context_manager():
    replaced = mfa.torch.replace_sdpa()
    replaced.remove()
    with pytest.raises(RuntimeError, match=r"^replace_sdpa: removed already"), replaced:
        pass


def test_in_effect_without_a_reference():
    mfa.torch.replace_sdpa()
    try:
        F.scaled_dot_product_attention(*tensors(1, 2, 4, 8))
        assert mfa.torch.sdpa_counts().mfa == 1
    finally:
        mfa.torch._replace._in_effect[0].remove()


def test_an_error_ends_the_with_statement():
    with pytest.raises(KeyError), mfa.torch.replace_sdpa():
        raise KeyError


def test_counts_from_many_threads():
    operands = tensors(1, 1, 2, 8, requires_grad=False)

    def work():
        for _ in range(50):
            F.scaled_dot_product_attention(*operands)

    with mfa.torch.replace_sdpa() as replaced:
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert replaced.counts == (200, 0, {})


def test_reasons_are_not_without_end():
    for number in range(200):
        _counts.TALLY.add_torch(f"size {number}")
    counts = mfa.torch.sdpa_counts()
    assert counts.torch == 200
    assert len(counts.reasons) == _counts.MOST_REASONS + 1
    assert counts.reasons["other reasons"] == 200 - _counts.MOST_REASONS


def seen_by_another_thread():
    seen = []
    thread = threading.Thread(target=lambda: seen.append(torch.compiler.config.cache_key_tag))
    thread.start()
    thread.join()
    return seen[0]


def test_caches_are_tagged_for_every_thread():
    with mfa.torch.replace_sdpa():
        assert torch.compiler.config.cache_key_tag == seen_by_another_thread() == f"mfa-{mfa.__version__}"
    assert seen_by_another_thread() == ""


def test_tag_of_the_user_stays():
    with torch.compiler.config.patch(cache_key_tag="ours 2"):
        with mfa.torch.replace_sdpa():
            assert torch.compiler.config.cache_key_tag == f"ours 2 {_cache_tag.TAG}"
            assert seen_by_another_thread() == _cache_tag.TAG
            torch.compiler.config.cache_key_tag += " 3"
        assert torch.compiler.config.cache_key_tag == "ours 2 3"
