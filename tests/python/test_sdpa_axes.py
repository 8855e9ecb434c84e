"""mfa.scaled_dot_product_attention takes any leading axes, as PyTorch's does."""

import numpy as np
import pytest
import torch
from support.arrays import same

import mfa


@pytest.mark.parametrize(
    ("query", "key", "value", "mask"),
    [
        ((5, 8), (7, 8), (7, 4), (5, 7)),
        ((3, 5, 8), (3, 7, 8), (3, 7, 4), (3, 1, 7)),
        ((2, 3, 5, 8), (3, 7, 8), (1, 3, 7, 4), (3, 5, 7)),
        ((1, 3, 5, 8), (2, 3, 7, 8), (2, 3, 7, 4), (2, 1, 5, 1)),
        ((4, 2, 3, 5, 8), (2, 3, 7, 8), (4, 1, 3, 7, 4), (2, 1, 5, 7)),
        ((3, 7, 8), (4, 1, 3, 7, 8), (2, 3, 7, 4), (4, 1, 3, 7, 7)),
        ((2, 1, 2, 3, 5, 8), (4, 1, 3, 7, 8), (3, 7, 4), (5, 7)),
        ((0, 2, 3, 5, 8), (2, 3, 7, 8), (2, 3, 7, 4), (5, 7)),
        ((2, 8, 4, 16), (2, 1, 5, 16), (2, 1, 5, 16), (8, 1, 5)),
        ((2, 1, 4, 16), (2, 8, 5, 16), (2, 8, 5, 16), (8, 4, 5)),
        ((4, 16), (3, 5, 16), (3, 5, 16), (3, 4, 5)),
        ((4, 16), (2, 3, 5, 16), (2, 3, 5, 16), (4, 5)),
        ((3, 4, 16), (5, 16), (5, 16), (3, 1, 5)),
        ((2, 3, 4, 16), (5, 16), (5, 16), (2, 1, 4, 5)),
        ((4, 2, 3, 7, 8), (1, 5, 8), (1, 5, 4), (2, 3, 7, 5)),
        ((5, 8), (4, 2, 3, 7, 8), (4, 2, 3, 7, 8), (3, 5, 7)),
    ],
)
@pytest.mark.parametrize("masked", [False, True])
def test_leading_axes_broadcast_as_in_torch(rng, query, key, value, mask, masked):
    query, key, value, mask = (
        torch.from_numpy(rng.standard_normal(shape).astype(np.float32)) for shape in (query, key, value, mask)
    )
    if not masked:
        mask = None
    expected = torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    result = mfa.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    torch.testing.assert_close(result, expected)
    arrays = [x if x is None else x.numpy() for x in (query, key, value, mask)]
    from_arrays = mfa.scaled_dot_product_attention(*arrays)
    assert isinstance(from_arrays, np.ndarray)
    assert np.array_equal(from_arrays, result.numpy())


def test_more_than_four_axes_of_other_arrays(rng):
    query = rng.standard_normal((2, 2, 3, 5, 8)).astype(np.float32)
    expected = mfa.scaled_dot_product_attention(query, query, query)
    views = [memoryview(query)] * 3
    assert same(mfa.scaled_dot_product_attention(*views), expected)
