"""`shape`: moving elements around. Also `const`, the source of constants."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..diagnostics import error
from ..op import Data, Ints, ShapeAttr, op, structural
from ..types import Elem

_SAME = "x: T[*S] -> T[*S]"


def _holds(types: Any, attrs: Any, results: Any) -> None:
    """The type beside a constant fits its array."""
    array = attrs["value"].array
    if len(results) != 1 or results[0].shape != array.shape or results[0].dtype != array.dtype:
        found = f"{array.dtype.name}{list(array.shape)}"
        raise error("IG0209", f"a constant of {found} is declared as {', '.join(map(str, results))}")


@op("const", "-> any[]", structural, declared=_holds)
def const(*, value: Data):
    """A constant tensor. Its type is written beside it: the stored array may stand for quantised numbers."""
    return value.array


@op("shape.reshape", "x: T[*S] -> T[*reshaped(S)]", structural)
def reshape(x, *, shape: ShapeAttr):
    """The same elements in row-major order under another shape; one extent may be `?`: what is left."""
    return np.reshape(x, tuple(d if isinstance(d, (int, np.integer)) else -1 for d in shape))


@op("shape.squeeze", "x: T[*S] -> T[*squeezed(S)]", structural)
def squeeze(x, *, axes: Ints):
    """Without `axes`, which have extent 1."""
    return np.squeeze(x, axis=tuple(axes))


@op("shape.unsqueeze", "x: T[*S] -> T[*unsqueezed(S)]", structural)
def unsqueeze(x, *, axes: Ints):
    """With new axes of extent 1 at `axes` of the result."""
    return np.expand_dims(x, tuple(axes))


@op("shape.transpose", "x: T[*S] -> T[*permuted(S)]", structural)
def transpose(x, *, perm: Ints):
    """Axis i of the result is axis perm[i] of x."""
    return np.transpose(x, perm)


@op("shape.expand", "x: T[*S] -> T[*expanded(S)]", structural)
def expand(x, *, shape: ShapeAttr):
    """x broadcast together with `shape`."""
    return np.broadcast_to(x, np.broadcast_shapes(x.shape, shape))


@op("shape.concat", "xs: T[*S]... -> T[*concatenated(S)]", structural)
def concat(*xs, axis: int):
    """The operands one after the other along `axis`."""
    return np.concatenate(xs, axis=axis)


@op("shape.split", "x: T[*S] -> T[*pieces(S)]...", structural)
def split(x, *, axis: int, sizes: ShapeAttr):
    """Consecutive pieces of `sizes` along `axis`."""
    return tuple(np.split(x, np.cumsum(sizes)[:-1].tolist(), axis=axis))


@op("shape.slice", "x: T[*S] -> T[*sliced(S)]", structural)
def slice_(x, *, starts: Ints, stops: Ints, axes: Ints | None = None, steps: Ints | None = None):
    """Python's slices: start, stop and step for each of `axes` (the first ones when absent)."""
    pick = [slice(None)] * x.ndim
    for i, axis in enumerate(axes if axes is not None else range(len(starts))):
        step = steps[i] if steps is not None else 1
        stop = None if step < 0 and stops[i] <= -(1 << 31) else stops[i]
        pick[axis] = slice(starts[i], stop, step)
    return x[tuple(pick)]


@op("shape.pad", "x: T[*S], value: T[]? -> T[*padded(S)]", structural)
def pad(x, value=None, *, pads: Ints, mode: str = "constant"):
    """Borders of `value` (0 when absent), or by `mode` edge, reflect, wrap; befores then afters; negative pads crop."""
    rank = x.ndim
    before, after = pads[:rank], pads[rank:]
    x = x[tuple(slice(max(-b, 0), x.shape[i] - max(-a, 0)) for i, (b, a) in enumerate(zip(before, after, strict=True)))]
    width = [(max(b, 0), max(a, 0)) for b, a in zip(before, after, strict=True)]
    if mode != "constant":
        return np.pad(x, width, mode=mode)
    out = np.full(
        [b + d + a for (b, a), d in zip(width, x.shape, strict=True)], 0 if value is None else value, dtype=x.dtype
    )
    out[tuple(slice(b, b + d) for (b, _), d in zip(width, x.shape, strict=True))] = x
    return out


@op("shape.tile", "x: T[*S] -> T[*tiled(S)]", structural)
def tile(x, *, repeats: Ints):
    """x repeated along each axis."""
    return np.tile(x, repeats)


@op("shape.reverse", _SAME, structural)
def reverse(x, *, axes: Ints):
    """Backwards along `axes`."""
    return np.flip(x, axes)


@op("shape.reverse_sequence", "x: T[*S], lengths: i64[B] -> T[*S]", structural)
def reverse_sequence(x, lengths, *, time_axis: int = 0, batch_axis: int = 1):
    """Entry b of the batch backwards in its first lengths[b] time steps, as it was after them."""
    y = np.moveaxis(x, (batch_axis, time_axis), (0, 1)).copy()
    for b, n in enumerate(lengths):
        y[b, :n] = y[b, :n][::-1].copy()
    return np.moveaxis(y, (0, 1), (batch_axis, time_axis))


@op("shape.gather", "x: T[*S], indices: I[*J] -> T[*gathered(S, J)]", structural)
def gather(x, indices, *, axis: int = 0):
    """x's entries at `indices` along `axis`; negative ones count from the end."""
    return np.take(x, indices, axis=axis)


@op("shape.gather_elements", "x: T[*S], indices: I[*J] -> T[*J]", structural)
def gather_elements(x, indices, *, axis: int = 0):
    """At every position of `indices`, the element of x there, but with that index along `axis`."""
    indices = np.where(indices < 0, indices + x.shape[axis], indices)
    # other axes of `indices` may be shorter than x's
    within = tuple(slice(None) if i == axis % x.ndim else slice(0, n) for i, n in enumerate(indices.shape))
    return np.take_along_axis(x[within], indices, axis=axis)


@op("shape.gather_nd", "x: T[*S], indices: I[*J] -> T[*gathered_nd(S, J)]", structural)
def gather_nd(x, indices, *, batch: int = 0):
    """Slices of x at the index tuples in the last axis of `indices`; the first `batch` axes go in step."""
    lead = np.indices(indices.shape[:-1], sparse=True)[:batch]
    return (
        x[(*lead, *np.moveaxis(indices, -1, 0))]
        if indices.shape[-1] + batch
        else np.broadcast_to(x, indices.shape[:-1] + x.shape)
    )


_REDUCERS = {"add": np.add, "mul": np.multiply, "max": np.maximum, "min": np.minimum}


@op("shape.scatter_elements", "x: T[*S], indices: I[*J], updates: T[*J] -> T[*S]", structural)
def scatter_elements(x, indices, updates, *, axis: int = 0, reduction: str = "none"):
    """x, but updates written (or combined by add, mul, max, min) where gather_elements would have read."""
    y = x.copy()
    where = list(np.indices(indices.shape))
    where[axis] = np.where(indices < 0, indices + x.shape[axis], indices)
    if reduction == "none":
        y[tuple(where)] = updates
    else:
        _REDUCERS[reduction].at(y, tuple(where), updates)
    return y


@op("shape.scatter_nd", "x: T[*S], indices: I[*J], updates: T[*U] -> T[*S]", structural)
def scatter_nd(x, indices, updates, *, reduction: str = "none"):
    """x, but updates written (or combined) where gather_nd would have read."""
    y = x.copy()
    where = tuple(np.moveaxis(indices, -1, 0))
    if reduction == "none":
        y[where] = updates
    else:
        _REDUCERS[reduction].at(y, where, updates)
    return y


@op("shape.one_hot", "indices: N[*S], values: T[2] -> T[*one_hot_shape(S)]", structural)
def one_hot(indices, values, *, depth: int, axis: int = -1):
    """A new `axis` of `depth`: values[1] at the index (negative from the end), values[0] elsewhere."""
    wanted = indices.astype(np.int64)
    wanted = np.where((wanted < 0) & (wanted >= -depth), wanted + depth, wanted)
    hit = np.expand_dims(wanted, axis) == np.arange(depth).reshape(
        [-1 if i == axis % (indices.ndim + 1) else 1 for i in range(indices.ndim + 1)]
    )
    return np.where(hit, values[1], values[0])


@op("shape.trilu", "x: T[*S, R, C], k: i64[]? -> T[*S, R, C]", structural)
def trilu(x, k=None, *, upper: bool = True):
    """Upper (lower) triangles of the last two axes, 0 beyond the k-th diagonal."""
    return (np.triu if upper else np.tril)(x, 0 if k is None else int(k))


@op("shape.iota", "-> elem[*attribute_shape()]", structural)
def iota(*, shape: ShapeAttr, axis: int = 0, elem: Elem):
    """0, 1, 2, ... along `axis`, the same everywhere else."""
    line = np.arange(shape[axis]).astype(elem.dtype)
    return np.broadcast_to(line.reshape([-1 if i == axis % len(shape) else 1 for i in range(len(shape))]), shape)


@op("shape.full", "value: T[] -> T[*attribute_shape()]", structural)
def full(value, *, shape: ShapeAttr):
    """`value` everywhere."""
    return np.full(shape, value, dtype=value.dtype)


@op("shape.extents", "x: T[*S] -> i64[rank_of(S)]")
def extents(x):
    """The shape of x, as a vector."""
    return np.array(x.shape, dtype=np.int64)
