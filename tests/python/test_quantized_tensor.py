"""mfa.QuantizedTensor: what it keeps, refuses and stands for."""

import copy
import pickle

import ml_dtypes
import numpy as np
import pytest
import torch

import mfa

SHAPE = (2, 5, 3, 8)
CODES = np.arange(-120, 120).reshape(SHAPE).astype(np.int8)
SCALES = np.linspace(0.5, 2, 30, dtype=np.float32).reshape(2, 5, 3, 1)
BYTES = np.arange(120, dtype=np.uint8).reshape(2, 5, 3, 4)


def test_arrays_are_kept_as_they_are():
    codes, scales = CODES.copy(), SCALES.copy()
    tensor = mfa.QuantizedTensor(codes, scales)
    assert tensor.data is codes
    assert tensor.scales is scales
    assert (tensor.rows, tensor.columns, tensor.layout, tensor.shape) == (1, 0, "bshd", SHAPE)
    assert (tensor.precision, tensor.dtype, tensor.zero_points, tensor.mean) == (
        "int8",
        "float32",
        None,
        None,
    )
    codes[...] = 1
    assert np.array_equal(tensor.dequantize(), np.broadcast_to(scales, SHAPE))


def test_memory_of_tensors_is_shared():
    codes = torch.ones(SHAPE, dtype=torch.int8)
    tensor = mfa.QuantizedTensor(codes, torch.from_numpy(SCALES))
    codes.fill_(2)
    assert type(tensor.data) is np.ndarray
    assert np.array_equal(tensor.dequantize(), np.broadcast_to(2 * SCALES, SHAPE))


def test_nothing_of_it_can_be_replaced():
    tensor = mfa.QuantizedTensor(CODES, SCALES)
    with pytest.raises(AttributeError, match="rows: a QuantizedTensor does not change"):
        tensor.rows = 0
    with pytest.raises(AttributeError, match="data: a QuantizedTensor does not change"):
        del tensor.data
    with pytest.raises(AttributeError):
        tensor.other = 1
    assert tensor.rows == 1


def test_copies_are_equal():
    tensor = mfa.QuantizedTensor(BYTES, SCALES, precision="int4", shape=(2, 5, 3, 7), dtype="float16")
    for other in (pickle.loads(pickle.dumps(tensor)), copy.deepcopy(tensor)):
        assert repr(other) == repr(tensor)
        assert other.dtype == tensor.dtype
        assert np.array_equal(other.dequantize(), tensor.dequantize())


def test_repr_says_what_it_is():
    tensor = mfa.QuantizedTensor(CODES, SCALES)
    expected = "<QuantizedTensor (2, 5, 3, 8) of int8, granularity 'token', layout 'bshd'>"
    assert repr(tensor) == expected


@pytest.mark.parametrize(
    ("rows", "columns", "scales", "expected"),
    [
        (0, 0, (1, 1, 1, 1), "tensor"),
        (0, 0, (2, 1, 3, 1), "head"),
        (1, 0, (2, 5, 3, 1), "token"),
        (0, 1, (1, 1, 1, 8), "channel"),
        (2, 0, (2, 3, 3, 1), "block2"),
        (1, 32, (2, 5, 1, 1), "group32"),
        (0, 32, (2, 1, 3, 1), (0, 32)),
        (4, 1, (2, 2, 3, 8), (4, 1)),
        (1, 1, (2, 5, 3, 8), "group1"),
    ],
)
def test_granularity(rows, columns, scales, expected):
    tensor = mfa.QuantizedTensor(CODES, np.ones(scales, np.float32), rows=rows, columns=columns)
    assert tensor.granularity == expected


def test_bytes_of_all_arrays_count():
    tensor = mfa.QuantizedTensor(
        *(CODES, SCALES.astype(np.float16), np.zeros(SCALES.shape, np.int8)),
        np.zeros((1, 1, 3, 8), np.float32),
    )
    assert tensor.nbytes == 240 + 2 * 30 + 30 + 4 * 24


# ----------------------------------------------------------------- values


def test_each_scale_counts_where_it_is_shared():
    rng = np.random.default_rng(3)
    codes = rng.integers(-128, 128, (2, 7, 3, 70)).astype(np.int8)
    scales = rng.random((2, 3, 3, 3)).astype(np.float32)
    zero_points = rng.integers(-9, 9, scales.shape).astype(np.int32)
    mean = rng.standard_normal((2, 1, 1, 70)).astype(np.float32)
    tensor = mfa.QuantizedTensor(codes, scales, zero_points, mean, rows=3, columns=32)
    values = tensor.dequantize()
    for b, n, h, d in np.ndindex(codes.shape):
        place = b, n // 3, h, d // 32
        expected = scales[place] * np.float32(int(codes[b, n, h, d]) - zero_points[place]) + mean[b, 0, 0, d]
        assert values[b, n, h, d] == expected


def test_layouts_differ_in_the_order_of_axes_alone():
    rng = np.random.default_rng(4)
    codes = rng.integers(-128, 128, (2, 7, 3, 8)).astype(np.int8)
    scales = rng.random((2, 4, 3, 1)).astype(np.float32)
    mean = rng.standard_normal((2, 1, 3, 8)).astype(np.float32)
    tensor = mfa.QuantizedTensor(codes, scales, None, mean, rows=2)
    swapped = [array.swapaxes(1, 2) for array in (codes, scales, mean)]
    other = mfa.QuantizedTensor(*swapped[:2], None, swapped[2], rows=2, layout="bhsd")
    assert np.array_equal(tensor.dequantize(), other.dequantize().swapaxes(1, 2))
    packed = mfa.QuantizedTensor(codes[0], scales[0], None, mean[:1], rows=2)
    assert np.array_equal(packed.dequantize(), tensor.dequantize()[0])


@pytest.mark.parametrize("dim", [7, 8])
@pytest.mark.parametrize("precision", ["int4", "uint4"])
def test_bytes_have_the_lower_half_first(precision, dim):
    zero_points = None if precision == "int4" else np.zeros(SCALES.shape, np.uint8)
    tensor = mfa.QuantizedTensor(BYTES, SCALES, zero_points, precision=precision, shape=(2, 5, 3, dim))
    lowest = -8 if precision == "int4" else 0
    codes = np.empty((2, 5, 3, 8), np.int64)
    codes[..., ::2], codes[..., 1::2] = BYTES % 16, BYTES // 16
    codes = (codes - lowest) % 16 + lowest
    assert tensor.shape == (2, 5, 3, dim)
    assert np.array_equal(tensor.dequantize(), (codes * SCALES)[..., :dim].astype(np.float32))


@pytest.mark.parametrize("dtype", [np.float32, "float16", ml_dtypes.bfloat16, torch.bfloat16])
def test_values_are_rounded_to_a_dtype(dtype):
    tensor = mfa.QuantizedTensor(CODES, SCALES)
    name = str(dtype).removeprefix("torch.") if isinstance(dtype, torch.dtype) else np.dtype(dtype).name
    values = tensor.dequantize(dtype)
    assert values.dtype == name
    assert np.array_equal(values, tensor.dequantize().astype(name))


def test_error_is_the_root_mean_square():
    tensor = mfa.QuantizedTensor(CODES, SCALES)
    x = tensor.dequantize()
    assert tensor.error(x) == 0
    x[1, 2, 0, 3] += 2
    assert tensor.error(torch.from_numpy(x)) == pytest.approx(2 / 240**0.5)
    empty = mfa.QuantizedTensor(CODES[:, :0], SCALES[:, :0])
    assert empty.error(np.zeros((2, 0, 3, 8), np.float16)) == 0
    assert empty.dequantize().shape == (2, 0, 3, 8)
    for wrong, error, message in [
        (x[:1], ValueError, r"x: shape \(1, 5, 3, 8\), expected \(2, 5, 3, 8\)"),
        (CODES, TypeError, "x: dtype int8, expected a floating one"),
    ]:
        with pytest.raises(error, match=message):
            tensor.error(wrong)


def test_means_of_packed_sequences_are_not_told_apart():
    tensor = mfa.QuantizedTensor(CODES[0], SCALES[0], None, np.zeros((2, 1, 3, 8), np.float32))
    with pytest.raises(ValueError, match="mean: of 2 sequences, expected 1 as data has"):
        tensor.dequantize()


# ----------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ({"data": 3}, TypeError, "data: int, expected an array"),
        ({"data": CODES.astype(np.int16)}, TypeError, "data: dtype int16, expected int8$"),
        ({"data": CODES.view(np.uint8)}, TypeError, "data: dtype uint8, expected int8"),
        ({"precision": "int4"}, TypeError, "data: dtype int8, expected uint8"),
        ({"data": CODES[0, 0]}, ValueError, "data: 2 dimensions, expected 3 to 4"),
        ({"data": CODES[0, 0, 0], "layout": "bhsd"}, ValueError, "data: 1 dimensions, expected 2 to 4"),
        (
            {"data": BYTES[..., ::2], "precision": "int4"},
            ValueError,
            "data: a stride of 2 bytes along the last axis, expected 1 for int4",
        ),
        ({"data": np.ma.masked_array(CODES)}, TypeError, "data: is a masked array"),
        (
            {"scales": SCALES.astype(float)},
            TypeError,
            r"scales: dtype float64, expected float32 or float16, as scales\.astype\(numpy\.float32\) has$",
        ),
        ({"scales": SCALES.astype(">f4")}, TypeError, "scales: dtype >f4, expected .* in native byte order"),
        (
            {"scales": SCALES[0]},
            ValueError,
            r"scales: shape \(5, 3, 1\), expected \(2, 5, 3, 1\) with rows 1",
        ),
        ({"rows": 2}, ValueError, r"scales: shape \(2, 5, 3, 1\), expected \(2, 3, 3, 1\) with rows 2"),
        (
            {"columns": 1},
            ValueError,
            r"scales: .*, expected \(2, 5, 3, 8\) with rows 1 and columns 1, or 1 in",
        ),
        ({"scales": SCALES[:, :, :2]}, ValueError, r"scales: shape \(2, 5, 2, 1\), expected \(2, 5, 3, 1\)"),
        ({"layout": "sbhd"}, ValueError, "layout: 'sbhd', expected 'bshd' or 'bhsd'"),
        ({"zero_points": SCALES}, TypeError, "zero_points: dtype float32, expected int32 or int8 or uint8"),
        ({"zero_points": np.zeros((1, 5, 3, 1), np.int8)}, ValueError, r"zero_points: .* as scales has"),
        (
            {"data": CODES.view(np.uint8), "precision": "uint8"},
            ValueError,
            "zero_points: None, expected an array for uint8 codes",
        ),
        ({"mean": np.zeros((2, 1, 3, 8))}, TypeError, "mean: dtype float64, expected float32"),
        (
            {"mean": np.zeros((2, 3, 1, 8), np.float32)},
            ValueError,
            r"mean: shape \(2, 3, 1, 8\), expected \(sequences, 1, 3, 8\), or 1 in the places of sequences",
        ),
        ({"mean": np.zeros(8, np.float32)}, ValueError, r"mean: shape \(8,\), expected"),
        ({"precision": "int2"}, ValueError, "precision: 'int2', expected 'int8', 'uint8', 'int4', 'uint4'"),
        ({"precision": 8}, TypeError, "precision: 8, expected 'int8'"),
        ({"rows": -1}, ValueError, "rows: -1, expected 0 or more"),
        ({"rows": True}, TypeError, "rows: True, expected an integer"),
        ({"columns": 48}, ValueError, r"columns: 48, expected 0 \(all\), 1 or a multiple of 32"),
        ({"shape": (2, 5, 3, 7)}, ValueError, r"shape: \(2, 5, 3, 7\), expected \(2, 5, 3, 8\) as data has"),
        ({"shape": 240}, TypeError, "shape: 240, expected None or integers"),
        (
            {"data": BYTES, "precision": "int4", "shape": (2, 5, 3, 6)},
            ValueError,
            r"shape: \(2, 5, 3, 6\), expected \(2, 5, 3, 7 or 8\) as data has",
        ),
        ({"dtype": "float64"}, TypeError, "dtype: 'float64', expected float32, float16 or bfloat16"),
    ],
)
def test_what_is_wrong_is_named(wrong, error, message):
    with pytest.raises(error, match=f"^{message}"):
        mfa.QuantizedTensor(**{"data": CODES, "scales": SCALES} | wrong)
