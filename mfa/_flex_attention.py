"""PyTorch's flex_attention, for any array, without a compiler."""

import functools
import math
from dataclasses import dataclass
from typing import Any, NamedTuple

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
from mfa.reports import Plan

NAMES = {"softmax_scale": "scale"}
MOST_SCORES = 1 << 22  # that a score_mod is asked for at once
FLOAT32 = numpy.dtype(numpy.float32)


class AuxRequest(NamedTuple):
    """What `flex_attention` is to return beside its result."""

    lse: bool = False
    max_scores: bool = False


class AuxOutput(NamedTuple):
    """What an `AuxRequest` asked for, (B, H, Nq) of float32; None for the rest."""

    lse: Any = None
    max_scores: Any = None


@dataclass(frozen=True, slots=True)
class FlexPlan:
    """How `flex_attention` would run.

    Attributes
    ----------
    score_mod : str
        What the function was found to be: "none"; or "scale", "softcap", "causal", "window", "alibi",
        "relative" and "bias", joined by " + ", which the library does itself; or "generic", a function that
        is asked for every score.
    calls : int
        How many calls of the library it comes to.
    plan : Plan
        Of the first one.
    """

    score_mod: str
    calls: int
    plan: Plan


class FlexCall:
    """One call: what it is given, checked, and what its score_mod was found to be."""

    def __init__(self, query, key, value, score_mod, block_mask, scale, enable_gqa, backward=False):
        self.names = {"names": NAMES, "loose": not backward}
        enable_gqa = _keywords.flag(enable_gqa, "enable_gqa")
        names = ("query", "key", "value")
        # An array of another kind may be exported once only.
        self.arrays = [
            x if i > 0 and type(x) is QuantizedTensor else known(x, names[i])
            for i, x in enumerate((query, key, value))
        ]
        self.views = [
            array if type(array) is QuantizedTensor else as_ndarray(array, name)
            for array, name in zip(self.arrays, names, strict=True)
        ]
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
            self.tiles = tiles(shape, self.group, MOST_BIASES, form.each, self.block_rows())

    def block_rows(self):
        return 1 if self.blocks is None else self.blocks.block_size[0]

    def ask_for_each_score(self):
        batch, heads, _, keys = self.shape
        self.score_mod = self.evaluated()
        self.tiles = tiles(self.shape, self.group, MOST_SCORES, batch * heads * keys, self.block_rows())
        for name in ("softcap", "alibi_slopes", "window"):
            self.keywords[name] = DEFAULTS[name]

    def inputs(self, arrays, planning=False, **keywords):
        return Inputs(*arrays, self.keywords | keywords, **self.names, planning=planning)

    def blocks_in(self, tile):
        return None if self.blocks is None else self.blocks.part(tile.b, tile.h, tile.rows)

    def tile_inputs(self, tile, arrays, bias, planning=False):
        """Of the call for a tile, with these biases; for a score_mod unknown they are the scores."""
        query, key, value = tile.of_queries(arrays[0]), tile.of_keys(arrays[1]), tile.of_keys(arrays[2])
        keywords = {"bias": bias, "block_mask": self.blocks_in(tile)}
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
        if want_max:
            self.ask_for_each_score()
        if self.tiles is None:
            result = ForwardCall(self.inputs(self.arrays), return_lse=want_lse).run()
            return (*result, None) if want_lse else (result, None, None)
        arrays = self.views
        query, value = self.arrays[0], arrays[2]
        out = new_array(query, (*self.shape[:3], value.shape[3]), arrays[0].dtype)
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

    def backward(self, dout, out, lse):
        if self.tiles is None:
            wanted = ("dq", "dk", "dv")
            return BackwardCall(self.inputs(self.arrays), dout, out, lse, wanted=wanted).run()
        if self.score_mod is not None and not self.score_mod.has_derivative():
            name = name_of(self.score_mod.function)
            raise NotImplementedError(
                f"score_mod: {name} has no derivative; expected what mfa.flex_plan does not call generic, "
                "or a function of torch's operations"
            )
        arrays = self.views
        out_shape = (*self.shape[:3], arrays[2].shape[3])
        dout, out = whole(dout, "dout", out_shape), whole(out, "out", out_shape)
        lse = whole(lse, "lse", self.shape[:3])
        sums = [numpy.zeros(array.shape, FLOAT32) for array in arrays]
        for tile in self.tiles:
            results = [tile.of_queries(array) for array in (dout, out, lse)]
            into = tile.of_queries(sums[0]), *map(tile.of_keys, sums[1:])
            add = self.add_known if self.score_mod is None else self.add_generic
            add(tile, arrays, results, into)
        gradients = []
        for array, view, total in zip(self.arrays, arrays, sums, strict=True):
            if type(array) is QuantizedTensor:
                array, view = self.arrays[0], arrays[0]
            gradient = new_array(array, total.shape, view.dtype)
            as_ndarray(gradient, "gradient")[...] = total
            gradients.append(gradient)
        return Gradients(*gradients, None, None)

    def add_known(self, tile, arrays, results, into):
        inputs = self.tile_inputs(tile, arrays, self.form.bias_of(tile))
        gradients = BackwardCall(inputs, *results, out_dtype="float32", wanted=("dq", "dk", "dv")).run()
        for total, part in zip(into, gradients, strict=False):
            total += part

    def add_generic(self, tile, arrays, results, into):
        keys = self.shape[3]
        scores = numpy.zeros((*results[0].shape[:3], keys), FLOAT32)
        pieces = []
        for run in runs(self.blocks_in(tile), keys):
            found, backward = self.score_mod.differentiated(
                self.products(tile, arrays, run), *tile.indices(run)
            )
            scores[..., run] = found
            pieces.append((run, backward))
        inputs = self.tile_inputs(tile, arrays, scores)
        gradients = BackwardCall(inputs, *results, out_dtype="float32", wanted=("dv", "dbias")).run()
        dq, dk, dv = into
        dv += gradients.dv
        query = tile.of_queries(arrays[0]).astype(FLOAT32)
        kv_heads = dk.shape[1]
        for run, backward in pieces:
            dscores = backward(numpy.ascontiguousarray(gradients.dbias[..., run])) * numpy.float32(self.scale)
            # Heads of a group beside each other, as rows of their key/value head.
            grouped = dscores.reshape(len(dscores), kv_heads, -1, dscores.shape[3])
            dq += (grouped @ tile.values_of_keys(arrays[1], run)).reshape(dq.shape)
            dk[:, :, run] += grouped.swapaxes(-1, -2) @ query.reshape(
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


def flex_attention(
    query: Any,
    key: Any,
    value: Any,
    score_mod: Any = None,
    block_mask: Any = None,
    scale: float | None = None,
    enable_gqa: bool = False,
    return_lse: bool = False,
    kernel_options: Any = None,
    *,
    return_aux: Any = None,
) -> Any:
    """``torch.nn.attention.flex_attention.flex_attention`` on NumPy, torch and other arrays.

    Parameters
    ----------
    query : array (B, H, Nq, D) of float32, float16 or bfloat16
    key : array (B or 1, Hkv, Nkv, D), dtype as query
    value : array (B or 1, Hkv, Nkv, Dv), dtype as query
        Either may be a QuantizedTensor of layout "bhsd" instead, whose products are computed exactly.
    score_mod : function of (score, b, h, q_idx, kv_idx), or None, default None
        What becomes of each score. See Notes for which are fast, and `flex_plan`.
    block_mask : BlockMask of mfa or PyTorch, or None, default None
        Which scores count; the others cost nothing.
    scale : float or None, default None
        Of the products before `score_mod`. None is ``1 / sqrt(D)``.
    enable_gqa : bool, default False
        H may be a multiple of Hkv.
    return_lse : bool, default False
    kernel_options
        Accepted and ignored: they tune CUDA kernels and change no result.
    return_aux : AuxRequest of mfa or PyTorch, or None, default None
        For `max_scores` every score is computed twice.

    Returns
    -------
    out : array (B, H, Nq, Dv)
        dtype as query; a torch tensor if query is one, else an ndarray. A row that sees no key is 0.
    lse : array (B, H, Nq) of float32
        Natural logarithm, -inf for a row that sees no key; with ``return_lse=True`` only.
    aux : AuxOutput
        With `return_aux` only.

    Raises
    ------
    TypeError, ValueError, BufferError, MemoryError, mfa.MFAError
        As `mfa.attention`; ValueError also where `score_mod` raises.

    Notes
    -----
    `score_mod` is called first with a stand-in for all scores and with arrays of indices, NumPy's or torch's,
    that broadcast to (B, H, Nq, Nkv). If it only scales it, bends it by ``c * tanh(score / c)``, adds to it
    what depends on indices, hides some by ``where(..., score, -inf)``, or all of these, the library does the
    same at full speed: a function of ``q_idx - kv_idx`` (ALiBi, relative biases, causal masks, windows) takes
    memory linear in the lengths, another bias is computed for some rows at a time. Any other function is
    called with arrays of scores and indices, some rows at a time, and costs what it costs.

    Gradients are not recorded, but `flex_attention_backward` computes them.

    Examples
    --------
    >>> import mfa, numpy
    >>> query = key = value = numpy.ones((1, 2, 300, 8), numpy.float32)
    >>> def causal(b, h, q_idx, kv_idx):
    ...     return q_idx >= kv_idx
    >>> def soft(score, b, h, q_idx, kv_idx):
    ...     return 20 * numpy.tanh(score / 20)
    >>> block_mask = mfa.create_block_mask(causal, None, None, 300, 300)
    >>> mfa.flex_attention(query, key, value, soft, block_mask).shape
    (1, 2, 300, 8)
    """
    return_lse = _keywords.flag(return_lse, "return_lse")
    want_lse, want_max = return_lse, False
    if return_aux is not None:
        if return_lse:
            raise ValueError("return_lse: True, expected False beside return_aux")
        try:
            want_lse = _keywords.flag(return_aux.lse, "return_aux")
            want_max = _keywords.flag(return_aux.max_scores, "return_aux")
        except MemoryError:
            raise
        except Exception:  # whatever an attribute of the caller's raises
            raise TypeError(f"return_aux: {shown(return_aux)}, expected an AuxRequest") from None
    if kernel_options is not None and not isinstance(kernel_options, dict):
        raise TypeError(f"kernel_options: {shown(kernel_options)}, expected None or a dict")
    call = FlexCall(query, key, value, score_mod, block_mask, scale, enable_gqa)
    out, lse, max_scores = call.forward(want_lse, want_max)
    if return_aux is not None:
        return out, AuxOutput(lse, max_scores)
    return (out, lse) if return_lse else out


def flex_attention_backward(
    dout: Any,
    query: Any,
    key: Any,
    value: Any,
    out: Any,
    lse: Any,
    score_mod: Any = None,
    block_mask: Any = None,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Gradients:
    """The gradients of `flex_attention`, as `attention_backward` computes them.

    Parameters
    ----------
    dout : array, shape as out
        Gradient of `out`.
    query, key, value, score_mod, block_mask, scale, enable_gqa
        As `flex_attention` was given them; with as many batches of key and value as of query.
    out, lse : arrays
        What `flex_attention` returned with ``return_lse=True``.

    Returns
    -------
    Gradients
        dq, dk and dv. What `score_mod` reads gets none. Those of codes are of query's kind and dtype.

    Raises
    ------
    NotImplementedError
        `score_mod` is "generic" by `flex_plan`, and NumPy's: one of torch's operations has a derivative.
    TypeError, ValueError, BufferError, MemoryError, mfa.MFAError
        As `attention_backward`.
    """
    call = FlexCall(query, key, value, score_mod, block_mask, scale, enable_gqa, backward=True)
    return call.backward(dout, out, lse)


def flex_plan(
    query: Any,
    key: Any,
    value: Any,
    score_mod: Any = None,
    block_mask: Any = None,
    scale: float | None = None,
    enable_gqa: bool = False,
    *,
    backward: bool = False,
) -> FlexPlan:
    """Say how `flex_attention` would run with the same arguments, without running it.

    Parameters
    ----------
    query, key, value, score_mod, block_mask, scale, enable_gqa
        As for `flex_attention`. `score_mod` is called, as it would be.
    backward : bool, default False
        Say instead how `flex_attention_backward` would run.

    Returns
    -------
    FlexPlan
    """
    backward = _keywords.flag(backward, "backward")
    call = FlexCall(query, key, value, score_mod, block_mask, scale, enable_gqa, backward)
    if call.tiles is None:
        inputs, count = call.inputs(call.arrays, planning=True), 1
    else:
        tile, count = call.tiles[0], len(call.tiles)
        shape = [part.stop - part.start for part in tile[:3]]
        bias = numpy.broadcast_to(FLOAT32.type(0), (*shape, call.shape[3]))
        inputs = call.tile_inputs(tile, call.views, bias, planning=True)
    made = BackwardCall(inputs, None, None, None) if backward else ForwardCall(inputs)
    return FlexPlan("generic" if call.form is None else call.form.name, count, made.plan())
