"""Biases that a known score_mod makes of tensors whose gradients are wanted, and the sums that these are."""

import numpy
import torch

from mfa._mask_mods import as_array
from mfa._quantized_tensor import QuantizedTensor
from mfa._score_mods import by_difference


def biases_of(captures, call):
    """Those of a FlexCall, made of the leaves of `captures`, a Substituted, which gradients are added to."""
    return (DifferenceBiases if call.form.by_difference else IndexBiases)(captures, call)


def traced(captures, form, tile):
    """The Score that a known score_mod makes of leaves."""
    with torch.enable_grad(), captures:
        return form.trace(tile)


def bias(captures, form, tile):
    """Its bias, with four axes."""
    score = traced(captures, form, tile)
    with torch.enable_grad():
        bias = torch.as_tensor(score.bias, device="cpu").float()
        return bias.reshape((1,) * (4 - bias.ndim) + tuple(bias.shape))


class IndexBiases:
    """Biases of a known score_mod that are looked up by indices, of some rows at a time."""

    def __init__(self, captures, call):
        self.captures, self.form = captures, call.form
        self.tiles = call.tiles_of_biases(call.form.each)

    def seen_by(self, tile):
        """The keys that a tile is to read, and the window within them."""
        return slice(None), (-1, -1)

    def bias_of(self, tile):
        self.bias = bias(self.captures, self.form, tile)
        return as_array(self.bias)

    def add(self, tile, dbias):
        self.captures.differentiate(self.bias, dbias)

    def finish(self):
        """All is added as it comes."""


class DifferenceBiases:
    """Biases that are looked up by the difference of positions: a number for each, which pairs share."""

    def __init__(self, captures, call):
        self.captures, self.call = captures, call
        self.bias = bias(captures, call.form, None)
        self.sums = numpy.zeros(self.bias.shape, numpy.float32)
        self.rows, self.keys = call.shape[2:]
        self.view = by_difference(as_array(self.bias), call.shape)
        self.tiles = call.tiles_of_biases(self.sums.shape[0] * self.sums.shape[1] * self.keys)
        call.keywords["alibi_slopes"] = None
        # Lists of blocks and scales of codes are of all keys.
        self.has_parts = call.blocks is None and not any(type(x) is QuantizedTensor for x in call.views)

    def seen_by(self, tile):
        """The keys that a tile is to read, and the window within them; biases of -inf hide the rest."""
        left, right = self.call.form.window
        first, behind = tile.rows.start, tile.rows.stop
        start, stop = 0, self.keys
        if self.has_parts:
            start = min(max(0, first - left), stop) if left >= 0 else 0
            stop = max(start, min(behind + right, stop)) if right >= 0 else stop
        return slice(start, stop), (
            max(left - first + start, -1),
            right + first - start if right >= 0 else -1,
        )

    def part(self, tile, array):
        """Of an array whose first two axes may be of one for all."""
        b, h = (x if n > 1 else slice(0, 1) for x, n in zip(tile[:2], array.shape[:2], strict=True))
        return array[b, h]

    def bias_of(self, tile):
        return self.part(tile, self.view)[:, :, tile.rows, self.seen_by(tile)[0]]

    def add(self, tile, dbias):
        keys, _ = self.seen_by(tile)
        sums = self.part(tile, self.sums)[:, :, 0]
        for i, row in enumerate(range(tile.rows.start, tile.rows.stop)):
            of_first = self.rows - 1 - row
            sums[:, :, of_first + keys.start : of_first + keys.stop] += dbias[:, :, i]

    def finish(self):
        self.captures.differentiate(self.bias, self.sums)
