"""The keywords that functions share, one list of them, and the signatures of classes."""

import ast
from inspect import signature
from pathlib import Path
from typing import get_type_hints

import numpy as np
import pytest
from support.checks import same_bits, same_gradient_bits

import mfa
from mfa._attention_keywords import DEFAULTS, Keywords

ONES = np.ones((1, 3, 2, 4), np.float32)
LSE = np.ones((1, 2, 3), np.float32)


def test_shared_keywords_are_those_of_attention():
    hints = get_type_hints(mfa.attention)
    assert get_type_hints(Keywords).items() <= hints.items()
    keyword_only = signature(mfa.attention).parameters.keys() - {"query", "key", "value"}
    assert keyword_only - Keywords.__annotations__.keys() == {"out", "out_dtype", "return_lse", "context"}


@pytest.mark.parametrize(
    ("function", "arrays", "own"),
    [
        (mfa.plan, (ONES, ONES, ONES), {"out", "out_dtype", "return_lse", "context", "backward"}),
        (
            mfa.attention_backward,
            (ONES, ONES, ONES, ONES, ONES, LSE),
            {"delta", "dlse", "zero_clipped", "out_dtype", "context", "wanted"},
        ),
    ],
    ids=["plan", "attention_backward"],
)
def test_signature_is_what_the_function_takes(function, arrays, own):
    parameters = signature(function).parameters
    optional = {name: p.default for name, p in parameters.items() if p.default is not p.empty}
    assert optional.keys() == Keywords.__annotations__.keys() | own
    assert list(parameters)[len(arrays) :] == list(optional)
    function(*arrays, **optional)


@pytest.mark.parametrize("function", [mfa.plan, mfa.attention_backward], ids=lambda f: f.__name__)
def test_hints_are_those_of_the_signature(function):
    hints = get_type_hints(function)
    assert hints.pop("return") in (mfa.Plan, mfa.Gradients)
    assert hints.keys() == signature(function).parameters.keys()
    assert get_type_hints(Keywords).items() <= hints.items()


@pytest.mark.parametrize(
    "function", [mfa.attention, mfa.plan, mfa.attention_backward], ids=lambda f: f.__name__
)
def test_unknown_keywords_are_refused_as_python_does(function):
    arrays = [ONES] * (6 if function is mfa.attention_backward else 3)
    with pytest.raises(TypeError, match=rf"^{function.__name__}\(\) got an unexpected keyword .*'wnidow'"):
        function(*arrays, wnidow=(1, 1))


def test_plan_of_backward_takes_the_out_that_backward_takes():
    frozen = ONES.copy()
    frozen.flags.writeable = False
    assert mfa.attention_backward(ONES, ONES, ONES, ONES, frozen, LSE, out_dtype="float16").dq.dtype == "f2"
    assert mfa.plan(ONES, ONES, ONES, out=frozen, out_dtype="float16", backward=True).status == 0


@pytest.mark.parametrize("name", mfa.__all__)
def test_everything_has_a_signature(name):
    assert callable(getattr(mfa, name))
    signature(getattr(mfa, name))


@pytest.mark.parametrize("kind", [mfa.Context, mfa.Buffer], ids=["Context", "Buffer"])
def test_signature_of_a_class_is_that_of_its_stub(kind):
    """Both are written by hand, and the docstring's first line is not part of the documentation."""
    stub = Path(mfa.__file__).with_name(f"_{kind.__name__.lower()}.pyi")
    [new] = [
        node
        for node in ast.walk(ast.parse(stub.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef) and node.name == "__new__"
    ]
    for argument in (*new.args.args, *new.args.kwonlyargs):
        argument.annotation = None
    own = str(signature(kind)).removeprefix("(").removesuffix(")")
    assert ast.unparse(new.args).removeprefix("cls, ") == ast.unparse(
        ast.parse(f"def f({own}): 0").body[0].args
    )
    assert not kind.__doc__.startswith(kind.__name__)


def test_defaults_of_a_context_are_those_it_shows():
    shown = {name: p.default for name, p in signature(mfa.Context).parameters.items()}
    with mfa.Context(**shown) as given, mfa.Context() as plain:
        assert given.describe() == plain.describe()


def test_what_is_not_given_is_the_default():
    """Calls without keywords take a way of their own."""
    rng = np.random.default_rng(0)
    query, key, value = (rng.standard_normal((2, n, 2, 8)).astype(np.float32) for n in (3, 5, 5))
    given = dict(DEFAULTS)
    assert same_bits(mfa.attention(query, key, value), mfa.attention(query, key, value, **given))
    assert mfa.plan(query, key, value) == mfa.plan(query, key, value, **given)
    out, lse = mfa.attention(query, key, value, return_lse=True)
    plain = mfa.attention_backward(out, query, key, value, out, lse)
    assert same_gradient_bits(plain, mfa.attention_backward(out, query, key, value, out, lse, **given))
