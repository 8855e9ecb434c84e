"""Every backend gives the answer of the scalar one, to within what rounding allows."""

import numpy as np
import pytest
from hypothesis import given
from support import backends, checks, oracle, strategies, tolerance

import mfa


@pytest.fixture(scope="module")
def scalar():
    with mfa.Context(backend="cpu", cpu_isa="scalar") as context:
        yield context


@pytest.fixture(
    scope="module",
    params=[x for x in backends.PRESENT if x.name != "scalar"],
    ids=lambda backend: backend.name,
)
def vector(request):
    with request.param.context() as context:
        yield context


@given(call=strategies.calls())
def test_equals_scalar(scalar, vector, call):
    out, logsumexp = mfa.attention(*call.operands, **call.options, context=vector, return_lse=True)
    out = out.copy()
    plain, plain_logsumexp = mfa.attention(*call.operands, **call.options, context=scalar, return_lse=True)
    reference = checks.expected(*call.operands, **call.options)
    heads_first = checks.heads_first(out, call.options["layout"])
    plain = checks.heads_first(plain, call.options["layout"]).astype(np.float64)
    tolerance.assert_within(heads_first, plain, 2 * reference.out_bound)
    tolerance.assert_within(
        logsumexp, plain_logsumexp.astype(np.float64), 2 * reference.logsumexp_bound, what="logsumexp"
    )


@given(call=strategies.backward_calls())
def test_gradients_equal_those_of_scalar(scalar, vector, call):
    reference = checks.expected_gradients(*call.operands, **call.options)
    plain = checks.backward(scalar, *call.operands, **call.options)
    plain = checks.gradients_heads_first(plain, call.layout)
    exact = oracle.Gradients(*(None if x is None else x.astype(np.float64) for x in plain))
    gradients = checks.backward(vector, *call.operands, **call.options)
    gradients = checks.gradients_heads_first(gradients, call.layout)
    reference._replace(exact=exact).assert_holds(gradients, times=2)


@pytest.mark.cpu
def test_context_reports_the_isa_asked_for(backend, context):
    isa = context.describe().isa
    assert isa == backend.name or (backend.name == "avx512" and isa in ("avx512vnni", "avx512bf16"))


@pytest.mark.cpu
def test_environment_chooses_the_isa_that_the_caller_left_open(monkeypatch):
    monkeypatch.setenv("MFA_CPU_ISA", "scalar")
    with mfa.Context(backend="cpu") as context:
        assert context.describe().isa == "scalar"
    for backend in filter(lambda backend: backend.is_cpu, backends.PRESENT):
        with backend.context() as context:
            assert context.describe().isa.startswith(backend.name)


@pytest.mark.cpu
def test_an_isa_of_another_machine_is_refused():
    absent = [backend for backend in backends.BACKENDS if backend not in backends.PRESENT]
    assert absent, "no machine has both AVX2 and NEON"
    for backend in absent:
        with pytest.raises(mfa.MFAError, match=backend.name) as caught:
            backend.context()
        assert caught.value.code == backends.DEVICE_NOT_SUPPORTED
