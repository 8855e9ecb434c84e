"""mask_mods: functions of batch, head, query and key that say which pairs attend, asked of many at once."""

import functools
import importlib
import sys
import types
from collections.abc import Callable
from typing import Any

import numpy

from mfa._messages import because, brief, kind, shown
from mfa._tensors import is_tensor

AXES = ("b", "h", "q_idx", "kv_idx")
PROBED = (2, 3, 4, 5)  # sizes that tell axes apart


def noop_mask(b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
    """The mask_mod under which all pairs attend."""
    return b.new_ones((), dtype=sys.modules["torch"].bool) if is_tensor(b) else True


def and_masks(*mask_mods: Callable[..., Any]) -> Callable[..., Any]:
    """The mask_mod under which a pair attends where it does under all of `mask_mods`."""
    require_callables(mask_mods)

    def and_mask(b, h, q_idx, kv_idx):
        result = True
        for mask_mod in mask_mods:
            result = mask_mod(b, h, q_idx, kv_idx) & result
        return result

    return and_mask


def or_masks(*mask_mods: Callable[..., Any]) -> Callable[..., Any]:
    """The mask_mod under which a pair attends where it does under any of `mask_mods`."""
    require_callables(mask_mods)

    def or_mask(b, h, q_idx, kv_idx):
        result = False
        for mask_mod in mask_mods:
            result = mask_mod(b, h, q_idx, kv_idx) | result
        return result

    return or_mask


def require_callables(mask_mods):
    for position, mask_mod in enumerate(mask_mods):
        if not callable(mask_mod):
            raise TypeError(f"mask_mods: {shown(mask_mod)} at {position}, expected a function")


def is_noop(mask_mod):
    """Whether it is ours or PyTorch's noop_mask."""
    flex_attention = sys.modules.get("torch.nn.attention.flex_attention")
    return mask_mod is noop_mask or (flex_attention is not None and mask_mod is flex_attention.noop_mask)


class Evaluated:
    """A mask_mod or score_mod as a function of four 1-D index arrays, to an array over their grid.

    The function is given arrays (B, 1, 1, 1), (1, H, 1, 1), (1, 1, Q, 1) and (1, 1, 1, KV), which broadcast.
    NumPy's are tried first, torch's if it `uses_torch` or is to be asked `torch_first`; then the others. What
    of torch's takes scalars only is mapped over them as PyTorch's own flex_attention does it. `depends` says
    of each axis whether results do.
    """

    def __init__(self, function, sizes, torch_first=False, name="mask_mod"):
        self.function, self.name = function, name
        if not callable(function):
            raise TypeError(f"{self.name}: {shown(function)}, expected a function")
        failures = []
        for way in self.ways(torch_first or uses_torch(function)):
            self.way = way
            try:
                self.depends = self.probe(sizes)
            except MemoryError:
                raise
            except Exception as error:  # whatever a function of the caller's raises
                failures.append(error)
            else:
                return
        raise self.failure(failures[0], None) from failures[0]

    def ways(self, torch_first):
        torch = sys.modules.get("torch")
        if not hasattr(torch, "Tensor"):
            return [with_ndarrays]
        if torch_first:
            return [with_tensors, with_scalar_tensors, with_ndarrays]
        return [with_ndarrays, with_tensors]

    def arguments(self, indices):
        """What stands before the indices: nothing for a mask_mod."""
        return ()

    def probe(self, sizes):
        """Hold results for arrays against those for single indices, and see which axes they depend on."""
        most = [min(size, count) for size, count in zip(sizes, PROBED, strict=True)]
        if 0 in most:
            return (True,) * 4
        indices = [
            numpy.unique(numpy.linspace(0, size - 1, count).astype(numpy.int64))
            for size, count in zip(sizes, most, strict=True)
        ]
        full = numpy.broadcast_to(self.results(*indices), [len(x) for x in indices])
        for turn in range(max(PROBED)):
            at = tuple((turn * (axis + 1)) % len(index) for axis, index in enumerate(indices))
            alone = self.results(*(index[i : i + 1] for index, i in zip(indices, at, strict=True)))
            if not close(alone[0, 0, 0, 0], full[at]):
                raise ValueError("its results are not each of one pair alone")
        if self.way is with_scalar_tensors:
            return (True,) * 4
        return tuple(self.depends_on(axis) for axis in range(4))

    def depends_on(self, axis):
        indices = [numpy.zeros(2 if other == axis else 1, numpy.int64) for other in range(4)]
        return self.results(*indices).shape[axis] == 2

    def results(self, *indices, arguments=None):
        """With four axes, each of the size of its indices or 1."""
        result = self.way(self.function, arguments or self.arguments(indices), indices)
        if result.ndim > 4:
            raise ValueError(f"returned {result.ndim} axes, expected at most 4")
        result = result.reshape((1,) * (4 - result.ndim) + result.shape)
        for size, index in zip(result.shape, indices, strict=True):
            if size not in (1, len(index)):
                shape = tuple(map(len, indices))
                raise ValueError(f"returned shape {result.shape}, expected one that broadcasts to {shape}")
        return result

    def __call__(self, *indices):
        """Results for four 1-D arrays of int64, each axis of full size or 1."""
        try:
            return self.results(*indices)
        except MemoryError:
            raise
        except Exception as error:  # whatever a function of the caller's raises
            raise self.failure(error, indices) from error

    def failure(self, error, indices):
        name = name_of(self.function)
        where = ""
        if indices is not None:
            ranges = (f"{axis} {x.min()}..{x.max()}" for axis, x in zip(AXES, indices, strict=True) if len(x))
            where = f" for {', '.join(ranges)}"
        of = TypeError if isinstance(error, TypeError) else ValueError
        return of(f"{self.name}: {name} failed{where}: {kind(error)}: {because(error)}")


class EvaluatedMask(Evaluated):
    """An Evaluated mask_mod."""

    def results(self, *indices):
        result = super().results(*indices)
        if result.dtype != numpy.bool_:
            raise TypeError(f"returned {result.dtype}, expected bool")
        return result


def with_ndarrays(function, arguments, indices):
    result = function(*arguments, *grid(indices))
    if is_tensor(result):
        raise TypeError("returned a tensor for arrays")
    return numpy.asarray(result)


def with_tensors(function, arguments, indices):
    with sys.modules["torch"].no_grad():
        return as_array(of_tensors(function, arguments, indices))


def with_scalar_tensors(function, arguments, indices):
    with sys.modules["torch"].no_grad():
        return as_array(of_scalar_tensors(function, arguments, indices))


def of_tensors(function, arguments, indices):
    return function(*tensors((*arguments, *grid(indices))))


def of_scalar_tensors(function, arguments, indices):
    torch = sys.modules["torch"]
    # Indexing by what vmap makes of an index takes this mode; importing it is slow.
    module = importlib.import_module("torch._dynamo._trace_wrapped_higher_order_op")
    for axis in range(3, -1, -1):
        dims = (0,) * len(arguments) + tuple(0 if other == axis else None for other in range(4))
        function = torch.vmap(function, in_dims=dims)
    with module.TransformGetItemToIndex():
        return function(*tensors((*arguments, *indices)))


def tensors(arrays):
    """Of NumPy's arrays; tensors stay what they are."""
    torch = sys.modules["torch"]
    return [x if is_tensor(x) else torch.from_numpy(numpy.ascontiguousarray(x)) for x in arrays]


def name_of(function):
    """What a message calls it."""
    return brief(function.__name__) if isinstance(function, types.FunctionType) else kind(function)


def uses_torch(value, depth=3):
    """Whether `value` is something of torch's, or a function that can be seen to refer to such."""
    plain = isinstance(value, types.FunctionType | types.BuiltinFunctionType)
    module = value.__name__ if isinstance(value, types.ModuleType) else value.__module__ if plain else None
    if is_tensor(value) or module == "torch":
        return True
    if depth == 0:
        return False
    if isinstance(value, (tuple, list)):
        return any(uses_torch(item, depth - 1) for item in value)
    if isinstance(value, functools.partial):
        return uses_torch((value.func, *value.args, *value.keywords.values()), depth)
    if not isinstance(value, types.FunctionType):
        return False
    cells = [cell.cell_contents for cell in value.__closure__ or () if cell != types.CellType()]
    names = value.__globals__
    reached = [names[name] for name in value.__code__.co_names if name in names]
    return uses_torch([*cells, *reached, *(value.__defaults__ or ())], depth)


def grid(indices):
    """Each along its own axis of four."""
    return [
        index.reshape([-1 if other == axis else 1 for other in range(4)])
        for axis, index in enumerate(indices)
    ]


def as_array(result):
    if not is_tensor(result):
        return numpy.asarray(result)
    result = result.detach().cpu()
    return (result.float() if result.dtype.itemsize == 2 else result).numpy()


def close(one, other):
    """Whether two results are the same but for roundings that depend on how many are computed at once."""
    return bool(numpy.isclose(float(one), float(other), rtol=1e-4, atol=1e-5, equal_nan=True))
