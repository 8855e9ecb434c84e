"""mfa.quantize: codes, scales and zero points of what arrays hold."""

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.dlpack_producer import VersionedProducer
from support.views import field, shifted

import mfa

SHAPE = (2, 5, 3, 33)
PRECISIONS = ["int8", "uint8", "int4", "uint4"]
RANGES = {"int8": (-128, 127), "uint8": (0, 255), "int4": (-8, 7), "uint4": (0, 15)}
SHAPES = {
    "tensor": (1, 1, 1, 1),
    "head": (2, 1, 3, 1),
    "token": (2, 5, 3, 1),
    "channel": (2, 1, 3, 33),
    "block2": (2, 3, 3, 1),
    "block64": (2, 1, 3, 1),
    "group32": (2, 5, 3, 2),
    (4, 64): (2, 2, 3, 1),
}


@pytest.fixture
def x(rng):
    return rng.standard_normal(SHAPE).astype(np.float32)


def codes_of(tensor):
    """One number an element."""
    if tensor.precision.endswith("8"):
        return tensor.data.astype(int)
    codes = np.stack([tensor.data % 16, tensor.data // 16], axis=-1).astype(int)
    codes = codes.reshape(*tensor.data.shape[:-1], 2 * tensor.data.shape[-1])[..., : tensor.shape[-1]]
    return codes - 16 * (codes > 7) if tensor.precision == "int4" else codes


def spread(array, tensor):
    """Scales or zero points, one an element; in layout "bshd"."""
    rows, dim = tensor.shape[-3], tensor.shape[-1]
    array = array.repeat(tensor.rows or rows, axis=-3)[..., :rows, :, :]
    return np.broadcast_to(array.repeat(tensor.columns or dim, axis=-1)[..., :dim], tensor.shape)


# ----------------------------------------------------------------- results


@pytest.mark.parametrize("granularity", SHAPES)
def test_granularity_says_what_shares_a_scale(x, granularity):
    tensor = mfa.quantize(x, granularity=granularity)
    assert tensor.scales.shape == SHAPES[granularity]
    # More rows or columns than there are.
    expected = {(4, 64): (4, 64)}.get(granularity, granularity)
    assert tensor.granularity == expected
    largest = np.empty_like(x)
    shared = spread(np.arange(tensor.scales.size).reshape(tensor.scales.shape), tensor)
    for number in range(tensor.scales.size):
        largest[shared == number] = np.abs(x[shared == number]).max(initial=0)
    assert np.allclose(spread(tensor.scales, tensor) * 127, largest, rtol=1e-6)


@pytest.mark.parametrize("layout", ["bshd", "bhsd"])
def test_layout_is_the_order_of_axes(x, layout):
    swap = (lambda array: array.swapaxes(1, 2)) if layout == "bhsd" else (lambda array: array)
    tensor, plain = mfa.quantize(swap(x), layout=layout, smooth=True), mfa.quantize(x, smooth=True)
    assert tensor.layout == layout
    for name in ("data", "scales", "mean"):
        assert np.array_equal(swap(getattr(tensor, name)), getattr(plain, name))


def test_axes_that_are_missing_count_as_one(x):
    packed = mfa.quantize(x[0], smooth=True)
    whole = mfa.quantize(x[:1], smooth=True)
    for name in ("data", "scales", "mean"):
        assert np.array_equal(getattr(packed, name), getattr(whole, name)[0])
    rows = mfa.quantize(x[0, :, 0], layout="bhsd")
    assert rows.scales.shape == (5, 1)
    assert np.array_equal(rows.data, mfa.quantize(x[:1, :, :1]).data[0, :, 0])


@given(
    precision=st.sampled_from(PRECISIONS),
    granularity=st.sampled_from([*SHAPES, (3, 1), (0, 32)]),
    symmetric=st.booleans(),
    smooth=st.booleans(),
    dtype=st.sampled_from([np.float32, np.float16, ml_dtypes.bfloat16]),
    scale_dtype=st.sampled_from(["float32", "float16"]),
    shape=st.tuples(*(st.integers(0, most) for most in (2, 9, 3)), st.integers(1, 70)),
    seed=st.integers(0, 2**32 - 1),
)
def test_round_trip(precision, granularity, symmetric, smooth, dtype, scale_dtype, shape, seed):
    rng = np.random.default_rng(seed)
    exponents = rng.integers(-6, 6, (*shape[:3], 1))
    x = (rng.standard_normal(shape) * 2.0**exponents).astype(dtype)
    symmetric = symmetric and not precision.startswith("u")
    tensor = mfa.quantize(
        x, precision, granularity, symmetric=symmetric, smooth=smooth, scale_dtype=scale_dtype
    )
    assert tensor.shape == shape
    assert tensor.dtype == dtype
    assert tensor.scales.dtype == scale_dtype
    assert (tensor.zero_points is None) == symmetric
    assert (tensor.mean is None) == (not smooth)
    lowest, highest = RANGES[precision]
    codes = codes_of(tensor)
    assert ((codes >= lowest + symmetric) & (codes <= highest)).all()
    values = tensor.dequantize()
    assert values.shape == shape
    scales = spread(tensor.scales.astype(np.float32), tensor)
    # Half a step; the ends of asymmetric codes are cut by as much again, as zero is rounded. A scale that is
    # rounded to half reaches less far.
    bound = scales * (0.5 if symmetric else 1.0) + 255 * 2.0**-11 * scales * (scale_dtype == "float16")
    slack = 1e-5 * np.abs(x.astype(np.float32)).max(initial=0)
    assert (np.abs(values - x.astype(np.float32)) <= bound * 1.001 + slack).all()


@pytest.mark.parametrize(("precision", "share"), [("int8", 0.25), ("int4", 0.125)])
def test_codes_take_a_quarter_or_an_eighth(precision, share, rng):
    x = rng.standard_normal((1, 64, 2, 128)).astype(np.float32)
    tensor = mfa.quantize(x, precision)
    assert tensor.data.nbytes == share * x.nbytes
    assert tensor.nbytes == share * x.nbytes + 4 * 64 * 2


def test_smoothing_keeps_the_mean(x):
    shifted_x = x + 50 * np.arange(33, dtype=np.float32)
    smooth = mfa.quantize(shifted_x, smooth=True)
    assert smooth.mean.shape == (2, 1, 3, 33)
    assert np.allclose(smooth.mean, shifted_x.mean(axis=1, keepdims=True), rtol=1e-5)
    assert smooth.error(shifted_x) < 0.01 * mfa.quantize(shifted_x).error(shifted_x)


def test_zero_points_share_out_all_codes():
    x = np.linspace(-1, 3, 256, dtype=np.float32).reshape(1, 1, 1, 256)
    for precision in PRECISIONS:
        lowest, highest = RANGES[precision]
        tensor = mfa.quantize(x, precision, symmetric=False)
        assert tensor.scales[0, 0, 0, 0] == pytest.approx(4 / (highest - lowest))
        assert tensor.zero_points.dtype == ("u1" if precision.startswith("u") else "i1")
        codes = codes_of(tensor)
        assert (codes.min(), codes.max()) == (lowest, highest)
    positive = mfa.quantize(x + 2, symmetric=False)
    assert positive.zero_points[0, 0, 0, 0] == -128
    assert positive.scales[0, 0, 0, 0] == pytest.approx(5 / 255)


def test_nothing_but_zeros_has_scale_one():
    tensor = mfa.quantize(np.zeros((1, 4, 2, 8), np.float16))
    assert (tensor.scales == 1).all()
    assert not tensor.data.any()


# ------------------------------------------------------------ given scales


@pytest.mark.parametrize("precision", PRECISIONS)
def test_given_numbers_are_used(x, precision):
    lowest, highest = RANGES[precision]
    zero_point = (lowest + highest + 1) // 2
    tensor = mfa.quantize(x, precision, scale=0.25, zero_point=zero_point)
    assert tensor.granularity == "tensor"
    assert tensor.scales.item() == 0.25
    assert tensor.zero_points.item() == zero_point
    expected = np.clip(np.rint(x / 0.25) + zero_point, lowest, highest)
    assert np.array_equal(codes_of(tensor), expected)


def test_given_arrays_are_kept(x):
    scales = np.full((2, 5, 3, 1), 0.5, np.float16)
    zero_points = np.arange(30, dtype=np.int8).reshape(2, 5, 3, 1)
    tensor = mfa.quantize(x, scale=scales, zero_point=zero_points)
    assert tensor.scales is scales
    assert tensor.zero_points is zero_points
    assert np.array_equal(tensor.data, np.rint(x / 0.5) + zero_points)
    shared = np.full((1, 1, 3, 1), 0.5, np.float32)
    assert mfa.quantize(x, granularity="head", scale=shared).scales is shared


def test_a_number_counts_for_any_granularity(x):
    tensor = mfa.quantize(x, granularity="token", scale=0.5, scale_dtype="float16")
    assert tensor.granularity == "token"
    assert tensor.scales.dtype == np.float16
    assert (tensor.scales == 0.5).all()


# ------------------------------------------------------------------ inputs


def same(actual, expected):
    assert np.array_equal(actual.data, expected.data)
    assert np.array_equal(actual.scales, expected.scales)


def test_any_array_is_taken(x):
    plain = mfa.quantize(x)
    frozen = x.copy()
    frozen.flags.writeable = False
    for array in (
        frozen,
        memoryview(x),
        torch.from_numpy(x),
        VersionedProducer(x),
        shifted(x, 1),
        field(x, 2),
        x[::-1, ::-1].copy()[::-1, ::-1],
        np.asfortranarray(x),
    ):
        same(mfa.quantize(array), plain)
    same(mfa.quantize(x[:, ::2, :, ::-1]), mfa.quantize(x[:, ::2, :, ::-1].copy()))
    broadcast = np.broadcast_to(x[:1, :1], x.shape)
    same(mfa.quantize(broadcast), mfa.quantize(broadcast.copy()))


def test_tensors_in_bfloat16_are_taken(x):
    tensor = torch.from_numpy(x).to(torch.bfloat16)
    quantised = mfa.quantize(tensor)
    assert quantised.dtype == ml_dtypes.bfloat16
    same(quantised, mfa.quantize(x.astype(ml_dtypes.bfloat16)))


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("shape", [(0, 5, 3, 8), (2, 0, 3, 8), (2, 5, 0, 8), (2, 5, 3, 0)])
@pytest.mark.parametrize("granularity", ["tensor", "head", "token", "channel", "block32", "group32"])
def test_nothing_is_quantised_to_nothing(precision, shape, granularity):
    tensor = mfa.quantize(np.ones(shape, np.float32), precision, granularity)
    assert tensor.shape == shape
    assert tensor.data.size == 0
    assert tensor.dequantize().shape == shape


def test_context_is_used(x, context):
    same(mfa.quantize(x, context=context), mfa.quantize(x))


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused_or_saturates(x, wrong):
    x[1, 2, 0, 5] = wrong
    with pytest.raises(ValueError, match=rf"^x\[1, 2, 0, 5\]: {wrong}, expected a finite number"):
        mfa.quantize(x)
    with pytest.raises(ValueError, match=rf"^x\[2, 0, 5\]: {wrong}, expected a finite number"):
        mfa.quantize(x[1])
    with pytest.raises(ValueError, match=rf"^x\[1, 0, 2, 5\]: {wrong}, expected a finite number"):
        mfa.quantize(x.swapaxes(1, 2), layout="bhsd")
    expected = {np.inf: 127, -np.inf: -127}.get(wrong, 0)
    assert mfa.quantize(x, saturate=True).data[1, 2, 0, 5] == expected


# ------------------------------------------------------------------ errors


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ({"x": 3}, TypeError, "x: int, expected an array"),
        (
            {"x": np.ones(SHAPE)},
            TypeError,
            r"x: dtype float64, expected float32, float16 or bfloat16, as x\.astype",
        ),
        ({"x": np.ones(SHAPE, ">f4")}, TypeError, "x: dtype >f4, expected .* native byte order"),
        ({"x": np.ones((3, 4), np.float32)}, ValueError, "x: 2 dimensions, expected 3 to 4"),
        ({"x": torch.ones(SHAPE, requires_grad=True)}, ValueError, "x: requires grad"),
        ({"precision": "int2"}, ValueError, "precision: 'int2', expected 'int8', 'uint8', 'int4', 'uint4'"),
        ({"granularity": "blok"}, ValueError, "granularity: 'blok', expected 'tensor', 'head', 'token',"),
        ({"granularity": "block0"}, ValueError, "granularity: 'block0', expected"),
        ({"granularity": "group48"}, ValueError, "granularity: 'group48', expected a multiple of 32"),
        ({"granularity": (1, 31)}, ValueError, r"granularity: \(1, 31\), expected a multiple of 32"),
        (
            {"granularity": (-1, 0)},
            ValueError,
            r"granularity: \(-1, 0\), expected \(rows, columns\) from 0 up",
        ),
        ({"granularity": 32}, TypeError, r"granularity: 32, expected a str or \(rows, columns\)"),
        (
            {"precision": "uint8", "symmetric": True},
            ValueError,
            "symmetric: True, expected None or False for uint8",
        ),
        ({"symmetric": 1}, TypeError, "symmetric: 1, expected a bool"),
        ({"smooth": 1}, TypeError, "smooth: 1, expected a bool"),
        ({"saturate": None}, TypeError, "saturate: None, expected a bool"),
        ({"smooth": True, "scale": 1.0}, ValueError, "smooth: True, expected False beside scale"),
        ({"scale": 0}, ValueError, "scale: 0, expected a positive number that float32 can hold"),
        ({"scale": 1e-9, "scale_dtype": "float16"}, ValueError, "scale: 1e-09, expected .* float16 can hold"),
        ({"scale": True}, TypeError, "scale: True, expected a real number"),
        ({"scale": np.ones(3, np.float32)}, ValueError, r"scale: shape \(3,\), expected \(2, 5, 3, 1\)"),
        ({"scale": np.ones((2, 5, 3, 1))}, TypeError, "scale: dtype float64, expected float32 or float16"),
        (
            {"scale": np.zeros((2, 5, 3, 1), np.float32)},
            ValueError,
            r"scale\[0, 0, 0, 0\]: 0, expected a positive finite number",
        ),
        ({"zero_point": 1}, ValueError, "zero_point: given, expected None without scale"),
        ({"scale": 1.0, "zero_point": 128}, ValueError, "zero_point: 128, expected -128 to 127"),
        ({"scale": 1.0, "zero_point": 1.5}, TypeError, "zero_point: float, expected an array"),
        (
            {"scale": 1.0, "zero_point": 1, "symmetric": True},
            ValueError,
            "zero_point: given, expected None beside",
        ),
        ({"scale": 1.0, "symmetric": False}, ValueError, "zero_point: None, expected .* for symmetric=False"),
        ({"scale": 1.0, "precision": "uint4"}, ValueError, "zero_point: None, expected .* for uint4 codes"),
        (
            {"scale": 1.0, "zero_point": np.zeros((1, 1, 1, 1), np.uint8)},
            TypeError,
            "zero_point: dtype uint8, expected int32 or int8",
        ),
        (
            {"scale": 1.0, "zero_point": np.zeros((1, 1, 3, 1), np.int8)},
            ValueError,
            r"zero_point: shape \(1, 1, 3, 1\), expected \(1, 1, 1, 1\) as scale has",
        ),
        (
            {"scale": 1.0, "precision": "int4", "zero_point": np.full((1, 1, 1, 1), 8, np.int32)},
            ValueError,
            r"zero_point\[0, 0, 0, 0\]: 8, expected -8 to 7",
        ),
        ({"scale_dtype": "float64"}, ValueError, "scale_dtype: 'float64', expected 'float32' or 'float16'"),
        ({"scale_dtype": None}, TypeError, "scale_dtype: None, expected"),
        ({"layout": "sbhd"}, ValueError, "layout: 'sbhd', expected 'bshd' or 'bhsd'"),
        (
            {"x": np.full(SHAPE, 1e20, np.float32), "scale_dtype": "float16"},
            ValueError,
            r"scale\[0, 0, 0, 0\] would be 7.87\d*e\+17, but the largest number of FP16 is 65504",
        ),
    ],
)
def test_what_is_wrong_is_named(wrong, error, message):
    with pytest.raises(error, match=f"^{message}"):
        mfa.quantize(**{"x": np.ones(SHAPE, np.float32)} | wrong)
