"""One call of flex_attention: what its score_mod was found to be, and what calls it comes to."""

import contextlib
import copy
import functools
import math

import numpy

from mfa import _keywords
from mfa._attention_keywords import DEFAULTS
from mfa._block_lists import visible
from mfa._block_mask import blocks_of_call
from mfa._call import BackwardCall, ForwardCall
from mfa._gradients import Gradients
from mfa._inputs import Inputs
from mfa._mask_mods import name_of
from mfa._memory import as_ndarray, known
from mfa._messages import shown
from mfa._quantized_tensor import QuantizedTensor
from mfa._score_mods import MOST_BIASES, EvaluatedScore, recognised
from mfa._score_tiles import runs, tiles
from mfa._tensors import is_tensor, new_array

NAMES = {"softmax_scale": "scale"}
MOST_SCORES = 1 << 22  # that a score_mod is asked for at once
FLOAT32 = numpy.dtype(numpy.float32)
OF_INPUTS = ("dq", "dk", "dv")


class FlexCall:
    """One call: what it is given, checked, and what its score_mod was found to be.

    The score_mod is asked what it is inside of the context manager `watch`.
    """

    def __init__(
        self,
        query,
        key,
        value,
        score_mod,
        block_mask,
        scale,
        enable_gqa,
        backward=False,
        watch=contextlib.nullcontext(),  # noqa: B008  it has no state
    ):
        self.names = {"names": NAMES, "loose": not backward}
        enable_gqa = _keywords.flag(enable_gqa, "enable_gqa")
        names = ("query", "key", "value")
        self.take(query, key, value)
        for array, name in zip(self.views, names, strict=True):
            if len(array.shape) != 4:
                raise ValueError(f"{name}: {len(array.shape)} dimensions, expected 4")
        query, key, value = self.views
        for array, name in ((key, "key"), (value, "value")):
            if type(array) is QuantizedTensor and array.layout != "bhsd":
                raise ValueError(f"{name}: layout {array.layout!r}, expected 'bhsd' as the call has")
            if array.shape[1] != query.shape[1] and not enable_gqa:
                expected = f"{query.shape[1]} as query has, or enable_gqa=True"
                raise ValueError(f"{name}: {array.shape[1]} heads, expected {expected}")
        if score_mod is not None and not callable(score_mod):
            raise TypeError(f"score_mod: {shown(score_mod)}, expected a function")
        self.keywords = DEFAULTS | {"layout": "bhsd", "alignment": "top-left", "softmax_scale": scale}
        inputs = self.inputs(self.arrays, planning=True)  # says what does not fit
        self.shape = shape = (*inputs.shape[:3], key.shape[2])
        self.group = query.shape[1] // key.shape[1]
        self.scale = 1 / math.sqrt(query.shape[3]) if scale is None else _keywords.real(scale, "scale")
        if block_mask is not None:
            block_mask = blocks_of_call(block_mask, *shape[:2], shape[2:], True)
        self.blocks = self.keywords["block_mask"] = block_mask
        torch_first = backward or is_tensor(self.arrays[0])
        with watch:
            self.ask_what_it_is(score_mod, torch_first)

    def take(self, *arrays):
        """Have query, key and value."""
        names = ("query", "key", "value")
        # An array of another kind may be exported once only.
        self.arrays = [
            x if i > 0 and type(x) is QuantizedTensor else known(x, names[i]) for i, x in enumerate(arrays)
        ]
        self.views = [
            array if type(array) is QuantizedTensor else as_ndarray(array, name)
            for array, name in zip(self.arrays, names, strict=True)
        ]

    def with_arrays(self, *arrays):
        """The same call, of other arrays of these shapes."""
        call = copy.copy(self)
        call.keywords = dict(self.keywords)
        call.take(*arrays)
        return call

    def without_arrays(self):
        call = copy.copy(self)
        call.arrays = call.views = None
        return call

    def ask_what_it_is(self, score_mod, torch_first):
        shape = self.shape
        form = recognised(score_mod, shape, torch_first)
        if form is not None and not representable(self.scale * form.scale, form.softcap):
            form = None
        self.form = form
        self.evaluated = functools.partial(
            EvaluatedScore, unchanged if score_mod is None else score_mod, shape, torch_first
        )
        self.score_mod = None
        self.tiles = None
        if form is None:
            self.ask_for_each_score()
            return
        self.keywords |= {
            "softmax_scale": self.scale * form.scale,
            "softcap": form.softcap,
            "bias": form.bias,
            "alibi_slopes": form.alibi_slopes,
            "window": form.window,
        }
        if form.bias_of is not None:
            self.tiles = self.tiles_of_biases(form.each)

    def tiles_of_biases(self, each):
        return self.tiles_of(MOST_BIASES, each)

    def tiles_of(self, most, each):
        return tiles(
            self.shape, self.group, most, each, 1 if self.blocks is None else self.blocks.block_size[0]
        )

    def ask_for_each_score(self):
        batch, heads, _, keys = self.shape
        self.score_mod = self.evaluated()
        self.tiles = self.tiles_of(MOST_SCORES, batch * heads * keys)
        for name in ("softcap", "alibi_slopes", "window"):
            self.keywords[name] = DEFAULTS[name]

    def inputs(self, arrays, planning=False, **keywords):
        return Inputs(*arrays, self.keywords | keywords, **self.names, planning=planning)

    def blocks_in(self, tile):
        return None if self.blocks is None else self.blocks.part(tile.b, tile.h, tile.rows)

    def tile_inputs(self, tile, arrays, bias, planning=False, **keywords):
        """Of the call for a tile, with these biases; for a score_mod unknown they are the scores."""
        query, key, value = tile.of_queries(arrays[0]), tile.of_keys(arrays[1]), tile.of_keys(arrays[2])
        keywords |= {"bias": bias, "block_mask": self.blocks_in(tile)}
        if self.score_mod is not None:
            nothing = numpy.zeros((), query.dtype)
            query, key = (numpy.broadcast_to(nothing, (*array.shape[:3], 1)) for array in (query, key))
            keywords["softmax_scale"] = 0.0
        return self.inputs((query, key, value), planning, **keywords)

    def products(self, tile, arrays, keys):
        """The scores of a tile and some keys before score_mod."""
        query = tile.of_queries(arrays[0]).astype(FLOAT32)
        key = tile.values_of_keys(arrays[1], keys)
        grouped = query.reshape(len(query), key.shape[1], -1, *query.shape[2:])
        scores = numpy.float32(self.scale) * (grouped @ key[:, :, None].swapaxes(-1, -2))
        return scores.reshape(*query.shape[:3], key.shape[2])

    def scores(self, tile, arrays):
        """What score_mod makes of the scores of a tile, of which those of hidden blocks are not asked for."""
        keys = self.shape[3]
        shape = [part.stop - part.start for part in tile[:3]]
        result = numpy.zeros((*shape, keys), FLOAT32)
        for run in runs(self.blocks_in(tile), keys):
            result[..., run] = self.score_mod(self.products(tile, arrays, run), *tile.indices(run))
        return result

    def forward(self, want_lse, want_max):
        """(out, lse or None, max_scores or None)"""
        if want_max and self.score_mod is None:
            call = self.with_arrays(*self.arrays)
            call.ask_for_each_score()
            return call.forward(want_lse, want_max)
        if self.tiles is None:
            result = ForwardCall(self.inputs(self.arrays), return_lse=want_lse).run()
            return (*result, None) if want_lse else (result, None, None)
        arrays = self.views
        query, value = self.arrays[0], arrays[2]
        strides = arrays[0].strides
        out = new_array(
            query, (*self.shape[:3], value.shape[3]), arrays[0].dtype, heads_inside=strides[1] < strides[2]
        )
        lse = new_array(query, self.shape[:3], FLOAT32)
        most = new_array(query, self.shape[:3], FLOAT32) if want_max else None
        outs, lses = as_ndarray(out, "out"), as_ndarray(lse, "lse")
        for tile in self.tiles:
            bias = self.form.bias_of(tile) if self.score_mod is None else self.scores(tile, arrays)
            call = ForwardCall(
                self.tile_inputs(tile, arrays, bias), out=tile.of_queries(outs), return_lse=True
            )
            tile.of_queries(lses)[...] = call.run()[1]
            if want_max:
                blocks = self.blocks_in(tile)
                seen = True if blocks is None else visible(blocks, bias.shape)
                highest = bias.max(axis=-1, where=seen, initial=-numpy.inf)
                tile.of_queries(as_ndarray(most, "max_scores"))[...] = highest
        return out, lse if want_lse else None, most

    def backward(self, dout, out, lse, dlse=None, *, wanted=OF_INPUTS, captures=None, biases=None):
        """The gradients; those of tensors that score_mod uses go to `captures`, a Substituted of torch's.

        They do so by `biases`, learned ones of torch's, where the score_mod is known.
        """
        if self.tiles is None and biases is None:
            return BackwardCall(self.inputs(self.arrays), dout, out, lse, dlse=dlse, wanted=wanted).run()
        arrays = self.views
        out_shape = (*self.shape[:3], arrays[2].shape[3])
        results = [whole(dout, "dout", out_shape), whole(out, "out", out_shape)]
        for array, name in ((lse, "lse"), (dlse, "dlse")):
            results.append(None if array is None else whole(array, name, self.shape[:3]))
        sums = {
            name: numpy.zeros(array.shape, FLOAT32)
            for name, array in zip(OF_INPUTS, arrays, strict=True)
            if name in wanted
        }
        if self.score_mod is not None:
            self.require_derivative()
            self.add_tiles(self.tiles, functools.partial(self.add_generic, captures), results, sums)
        elif biases is None:
            self.add_tiles(self.tiles, self.add_known, results, sums)
        else:
            self.add_tiles(biases.tiles, functools.partial(self.add_learned, biases), results, sums)
            biases.finish()
        return Gradients(*map(self.rounded, self.arrays, arrays, map(sums.get, OF_INPUTS)), None, None)

    def add_tiles(self, parts, add, results, sums):
        for tile in parts:
            into = {
                name: tile.of_queries(total) if name == "dq" else tile.of_keys(total)
                for name, total in sums.items()
            }
            add(tile, [None if array is None else tile.of_queries(array) for array in results], into)

    def rounded(self, array, view, total):
        """A sum in the dtype of what it is the gradient of; of codes, in that of query."""
        if total is None:
            return None
        if type(array) is QuantizedTensor:
            array, view = self.arrays[0], self.views[0]
        strides = view.strides
        gradient = new_array(array, total.shape, view.dtype, heads_inside=strides[1] < strides[2])
        as_ndarray(gradient, "gradient")[...] = total
        return gradient

    def gradients(self, inputs, results, wanted):
        dout, out, lse, dlse = results
        return BackwardCall(inputs, dout, out, lse, dlse=dlse, out_dtype="float32", wanted=wanted).run()

    def require_derivative(self):
        if not self.score_mod.has_derivative():
            name = name_of(self.score_mod.function)
            raise NotImplementedError(
                f"score_mod: {name} has no derivative; expected what mfa.flex_plan does not call generic, "
                "or a function of torch's operations"
            )

    def add_known(self, tile, results, into):
        inputs = self.tile_inputs(tile, self.views, self.form.bias_of(tile))
        found = self.gradients(inputs, results, into)
        for name, total in into.items():
            total += getattr(found, name)

    def add_learned(self, biases, tile, results, into):
        keys, window = biases.seen_by(tile)
        query, *of_keys = self.views
        arrays = [query, *(x if type(x) is QuantizedTensor else x[:, :, keys] for x in of_keys)]
        inputs = self.tile_inputs(tile, arrays, biases.bias_of(tile), window=window)
        found = self.gradients(inputs, results, ["dbias", *into])
        for name, total in into.items():
            part = total if name == "dq" else total[:, :, keys]
            part += getattr(found, name)
        biases.add(tile, found.dbias)

    def add_generic(self, captures, tile, results, into):
        keys = self.shape[3]
        arrays = self.views
        scores = numpy.zeros((*results[0].shape[:3], keys), FLOAT32)
        pieces = []
        for run in runs(self.blocks_in(tile), keys):
            found, backward = self.score_mod.differentiated(
                self.products(tile, arrays, run), *tile.indices(run), captures=captures
            )
            scores[..., run] = found
            pieces.append((run, backward))
        inputs = self.tile_inputs(tile, arrays, scores)
        wanted = ["dbias", *(name for name in into if name == "dv")]
        found = self.gradients(inputs, results, wanted)
        if "dv" in into:
            into["dv"] += found.dv
        query = tile.of_queries(arrays[0]).astype(FLOAT32)
        kv_heads = tile.kv_heads.stop - tile.kv_heads.start
        for run, backward in pieces:
            dscores = backward(numpy.ascontiguousarray(found.dbias[..., run])) * numpy.float32(self.scale)
            # Heads of a group beside each other, as rows of their key/value head.
            grouped = dscores.reshape(len(dscores), kv_heads, -1, dscores.shape[3])
            if "dq" in into:
                into["dq"] += (grouped @ tile.values_of_keys(arrays[1], run)).reshape(into["dq"].shape)
            if "dk" in into:
                into["dk"][:, :, run] += grouped.swapaxes(-1, -2) @ query.reshape(
                    len(query), kv_heads, -1, query.shape[3]
                )


def whole(array, name, shape):
    """An ndarray over the memory of `array`, of which a tile would not tell that it has another shape."""
    view = as_ndarray(array, name)
    if view.shape != shape:
        raise ValueError(f"{name}: shape {shown(view.shape)}, expected {shape}")
    return view


def representable(scale, softcap):
    """Whether the library can be given both, float32 as they are to be there."""
    with numpy.errstate(over="ignore", under="ignore"):
        scale, cap = numpy.float32(scale), numpy.float32(softcap)
    return bool(numpy.isfinite(scale) and numpy.isfinite(cap) and (cap != 0) == (softcap != 0))


def unchanged(score, b, h, q_idx, kv_idx):
    return score
