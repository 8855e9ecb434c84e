"""The bounds that gradients are held to are met by rounded gradients, and by no wrong ones."""

import numpy as np
import pytest
from support import checks, oracle
from support.gradient_tolerance import gradient_reference

SCALE = 0.3
FEATURES = {
    "softmax_scale": SCALE,
    "causal": True,
    "offset": 30,
    "softcap": 2.0,
    "dropout_p": 0.25,
    "dropout_seed": 5,
}
GROUP = 2


@pytest.fixture(scope="module", params=checks.DTYPES, ids=str)
def dtype(request):
    return request.param


@pytest.fixture(scope="module")
def problem(dtype):
    """Operands by name, and features."""
    rng = np.random.default_rng(4)
    sizes = {"batch": 2, "heads": 4, "kv_heads": 2, "query_length": 60, "key_length": 90, "head_dim": 24}
    arrays = checks.operands_and_dout(rng, **sizes, dtype=dtype, layout="bhsd")
    operands = dict(
        zip(("dout", "query", "key", "value"), (x.astype(np.float64) for x in arrays), strict=True)
    )
    operands["dlogsumexp"] = rng.standard_normal((2, 4, 60))
    return operands, {
        **FEATURES,
        "sinks": rng.standard_normal(4),
        "alibi_slopes": rng.uniform(0.01, 0.1, 4),
        "additive_mask": rng.standard_normal((2, 1, 60, 90)),
    }


@pytest.fixture(scope="module")
def reference(problem, dtype):
    operands, features = problem
    mask = features["additive_mask"]
    return gradient_reference(
        **operands,
        **features,
        weight_dtype=dtype,
        out_dtype=dtype,
        gradient_dtype=dtype,
        bias_shape=mask.shape,
        bias_dtype=np.float32,
    )


def gradients(problem, operands=None, **changed):
    """The exact gradients, of operands and features that differ from `problem` in what is named."""
    kept, features = problem
    return summed(
        problem, oracle.attention_backward(**{**kept, **(operands or {})}, **{**features, **changed})
    )


def summed(problem, g):
    return g._replace(dbias=oracle.summed_to(g.dbias, problem[1]["additive_mask"].shape))


def rounded(g, dtype):
    return oracle.Gradients(*(x.astype(dtype) for x in g[:3]), *(x.astype(np.float32) for x in g[3:]))


def test_rounded_gradients_hold(problem, reference, dtype):
    reference.assert_holds(rounded(gradients(problem), dtype))


def without_keys(problem, first, last):
    """What a kernel that never visits some keys makes of dq."""
    operands, features = problem
    whole = oracle.attention_backward(**operands, **features)
    _, slopes, _ = oracle.softmax_weights(operands["query"], operands["key"], **features)
    part = (whole.dbias * slopes)[..., first:last]
    keys = np.repeat(operands["key"], GROUP, axis=1)[:, :, first:last]
    return {"dq": whole.dq - part @ keys}


def without_rows(problem, first, last):
    """What a kernel that never visits some rows makes of dk and dv."""
    left = np.ones((60, 1))
    left[first:last] = 0
    g = gradients(problem, of_some(problem, left))
    return {"dk": g.dk, "dv": g.dv}


def of_some(problem, factors):
    """The gradients of results times `factors`, (B, H, Nq, 1)."""
    operands = problem[0]
    return {"dout": operands["dout"] * factors, "dlogsumexp": operands["dlogsumexp"] * factors[..., 0]}


def with_delta_dropped(problem):
    """dscores = weights dweights"""
    operands, features = problem
    g = oracle.attention_backward(**operands, **features)
    weights, slopes, _ = oracle.softmax_weights(operands["query"], operands["key"], **features)
    dropped = oracle.dropout(operands["query"], operands["key"], **features)
    value = np.repeat(operands["value"], GROUP, axis=1)
    dscores = weights * dropped * (operands["dout"] @ value.swapaxes(-1, -2))
    return {
        "dbias": oracle.summed_to(dscores, features["additive_mask"].shape),
        "dq": (dscores * slopes) @ np.repeat(operands["key"], GROUP, axis=1),
        "dsinks": np.zeros_like(g.dsinks),
    }


def without_softcap_slope(problem):
    operands, features = problem
    dscores = oracle.attention_backward(**operands, **features).dbias
    return {"dq": SCALE * dscores @ np.repeat(operands["key"], GROUP, axis=1)}


def one_head_of_a_group(problem):
    g = gradients(problem, of_some(problem, np.reshape([1, 0, 1, 0], (4, 1, 1))))
    return {"dk": g.dk, "dv": g.dv}


def one_batch(problem):
    g = gradients(problem, of_some(problem, np.reshape([1, 0], (2, 1, 1, 1))))
    return {"dsinks": g.dsinks}


def in_another_head_order(problem):
    """Query head h reading key/value head h % Hkv."""
    order = [0, 2, 1, 3]
    operands, features = problem
    moved = {name: operands[name][:, order] for name in ("dout", "dlogsumexp", "query")}
    per_head = {name: features[name][order] for name in ("sinks", "alibi_slopes")}
    return gradients(problem, moved, **per_head)._asdict()


def with_another_dlogsumexp(problem, factor):
    g = gradients(problem, {"dlogsumexp": factor * problem[0]["dlogsumexp"]})
    return {name: getattr(g, name) for name in ("dq", "dk", "dbias", "dsinks")}


# Each gives wrong values for the gradients that it names, every one of which must be found out.
MISTAKES = {
    "delta dropped": with_delta_dropped,
    "dlogsumexp left out": lambda problem: with_another_dlogsumexp(problem, 0),
    "dlogsumexp of the wrong sign": lambda problem: with_another_dlogsumexp(problem, -1),
    "softcap slope left out": without_softcap_slope,
    "scale twice": lambda problem: {"dq": SCALE * gradients(problem).dq, "dk": SCALE * gradients(problem).dk},
    "one tile of keys missed": lambda problem: without_keys(problem, 64, 80),
    "last key missed": lambda problem: without_keys(problem, 89, 90),
    "one block of rows missed": lambda problem: without_rows(problem, 48, 60),
    "last row missed": lambda problem: without_rows(problem, 59, 60),
    "no dropout": lambda problem: gradients(problem, dropout_p=0.0)._asdict(),
    "another dropout mask": lambda problem: gradients(problem, dropout_offset=1)._asdict(),
    "kept weights not scaled": lambda problem: {"dv": 0.75 * gradients(problem).dv},
    "one head of a group only": one_head_of_a_group,
    "heads in another order": in_another_head_order,
    "no ALiBi": lambda problem: gradients(problem, alibi_slopes=None)._asdict(),
    "no sinks": lambda problem: gradients(problem, sinks=None)._asdict(),
    "no softcap": lambda problem: gradients(problem, softcap=0.0)._asdict(),
    "no additive mask": lambda problem: gradients(problem, additive_mask=None)._asdict(),
    "causal off by one": lambda problem: gradients(problem, offset=31)._asdict(),
    "dsinks of the wrong sign": lambda problem: {"dsinks": -gradients(problem).dsinks},
    "dsinks of one batch only": one_batch,
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_wrong_gradients_do_not_hold(problem, reference, dtype, mistake):
    right = rounded(gradients(problem), dtype)
    for name, wrong in MISTAKES[mistake](problem).items():
        one = right._replace(**{name: wrong.astype(getattr(right, name).dtype)})
        with pytest.raises(AssertionError, match=name):
            reference.assert_holds(one)


def test_rounded_weights_do_not_hold_where_they_stay_float32(problem, dtype):
    """Weights, or their gradients, rounded once to a 16-bit type are told from exact ones."""
    operands, features = problem
    exact = gradient_reference(
        **operands, **features, weight_dtype=np.float32, out_dtype=np.float32, gradient_dtype=np.float32
    )
    right = rounded(exact.exact, np.float32)
    exact.assert_holds(right)
    weights, slopes, _ = oracle.softmax_weights(operands["query"], operands["key"], **features)
    weights *= oracle.dropout(operands["query"], operands["key"], **features)
    narrow, narrow_gradients = (
        x.astype(np.float32).astype(dtype).astype(np.float64) for x in (weights, exact.exact.dbias * slopes)
    )
    wrong = {
        "dq": narrow_gradients @ np.repeat(operands["key"], GROUP, axis=1),
        "dk": group_sum(narrow_gradients.swapaxes(-1, -2) @ operands["query"]),
        "dv": group_sum(narrow.swapaxes(-1, -2) @ operands["dout"]),
    }
    for name, gradient in wrong.items():
        one = right._replace(**{name: gradient.astype(np.float32)})
        if dtype == np.float32:
            exact.assert_holds(one)
        else:
            with pytest.raises(AssertionError, match=name):
                exact.assert_holds(one)


def group_sum(gradient):
    """What a key/value head gets from its group of query heads."""
    batch, heads, rows, dim = gradient.shape
    return gradient.reshape(batch, heads // GROUP, GROUP, rows, dim).sum(axis=2)
