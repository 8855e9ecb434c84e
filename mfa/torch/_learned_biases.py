"""Biases that a known score_mod makes of tensors whose gradients are wanted, and the sums that these are."""

import numpy
import torch

from mfa._mask_mods import as_array
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
        bias = torch.as_tensor(score.bias).float()
        return bias.reshape((1,) * (4 - bias.ndim) + tuple(bias.shape))


class IndexBiases:
    """Biases of a known score_mod that are looked up by indices, of some rows at a time."""

    wanted = ("dbias",)

    def __init__(self, captures, call):
        self.captures, self.form = captures, call.form
        self.tiles = call.tiles_of_biases(call.form.each)

    def bias_of(self, tile):
        self.bias = bias(self.captures, self.form, tile)
        return as_array(self.bias)

    def add(self, tile, dbias):
        self.captures.differentiate(self.bias, dbias)

    def finish(self):
        """All is added as it comes."""


class DifferenceBiases:
    """Biases that are looked up by the difference of positions: a number for each, which pairs share."""

    wanted = ("dbias",)

    def __init__(self, captures, call):
        self.captures = captures
        self.bias = bias(captures, call.form, None)
        self.sums = numpy.zeros(self.bias.shape, numpy.float32)
        self.rows, self.keys = call.shape[2:]
        self.view = by_difference(as_array(self.bias), call.shape)
        self.tiles = call.tiles_of_biases(self.sums.shape[0] * self.sums.shape[1] * self.keys)
        call.keywords["alibi_slopes"] = None
        if len(self.tiles) > 1:
            # It counts from the first row of all; biases of -inf hide the same.
            call.keywords["window"] = (-1, -1)

    def part(self, tile, array):
        """Of an array whose first two axes may be of one for all."""
        b, h = (x if n > 1 else slice(0, 1) for x, n in zip(tile[:2], array.shape[:2], strict=True))
        return array[b, h]

    def bias_of(self, tile):
        return self.part(tile, self.view)[:, :, tile.rows]

    def add(self, tile, dbias):
        sums = self.part(tile, self.sums)[:, :, 0]
        for i, row in enumerate(range(tile.rows.start, tile.rows.stop)):
            start = self.rows - 1 - row
            sums[:, :, start : start + self.keys] += dbias[:, :, i]

    def finish(self):
        self.captures.differentiate(self.bias, self.sums)
