"""Converters of ops that pick, place or count elements by index."""

from __future__ import annotations

from typing import Any

import numpy as np

from ....ir.dims import UNKNOWN, Extent
from ....ir.graph import Value
from ....ir.types import Float, Int, Tensor
from .call import Call, converter, element
from .tensors import elem_type


@converter("Gather")
def gather(c: Call) -> Value:
    x = c[0]
    return c.emit("shape.gather", x, c[1], axis=c.axis(c.attr("axis", 0), len(x.type.shape)))


@converter("GatherElements")
def gather_elements(c: Call) -> Value:
    x = c[0]
    return c.emit("shape.gather_elements", x, c[1], axis=c.axis(c.attr("axis", 0), len(x.type.shape)))


@converter("GatherND")
def gather_nd(c: Call) -> Value:
    return c.emit("shape.gather_nd", c[0], c[1], batch=c.attr("batch_dims", 0))


_REDUCTIONS = ("none", "add", "mul", "max", "min")


@converter("Scatter", "ScatterElements")
def scatter_elements(c: Call) -> Value:
    x = c[0]
    axis = c.axis(c.attr("axis", 0), len(x.type.shape))
    return c.emit(
        "shape.scatter_elements", x, c[1], c[2], axis=axis, reduction=c.choice("reduction", "none", _REDUCTIONS)
    )


@converter("ScatterND")
def scatter_nd(c: Call) -> Value:
    return c.emit("shape.scatter_nd", c[0], c[1], c[2], reduction=c.choice("reduction", "none", _REDUCTIONS))


@converter("TensorScatter")
def tensor_scatter(c: Call) -> Value:
    """Writes `update` into a cache at per-batch positions along `axis`, wrapping around in mode `circular`."""
    cache, update = c[0], c[1]
    rank = len(cache.type.shape)
    axis = c.axis(c.attr("axis", -2), rank)
    shape = update.type.shape
    line = c.emit("shape.iota", shape=shape, axis=axis, elem=Int("i64"))
    start = c.optional(2)
    if start is not None:
        line = c.emit("math.add", line, c.emit("shape.reshape", start, shape=(UNKNOWN, *[1] * (rank - 1))))
    if c.choice("mode", "linear", ("linear", "circular")) == "circular":
        extent = cache.type.shape[axis]
        if not isinstance(extent, int):
            raise c.fail("wraps around a cache of symbolic extent")
        line = c.emit("math.mod", line, c.constant(np.int64(extent)))
    return c.emit("shape.scatter_elements", cache, line, update, axis=axis)


@converter("Range")
def range_(c: Call) -> Value:
    start, limit, delta = (None if c.array(i) is None else c.array(i).reshape(-1)[0] for i in range(3))
    elem = element(c[0])
    if start is not None and limit is not None and delta is not None:
        if float(delta) == 0:
            raise c.fail("has a step of 0")
        count = max(0, int(np.ceil((float(limit) - float(start)) / float(delta))))
        steps: Extent = count
    else:
        known = [c.extents(i) for i in range(3)]
        if isinstance(elem, Int) and all(k is not None for k in known) and known[0] == (0,) and known[2] == (1,):
            steps = known[1][0]  # type: ignore[index]
        else:
            return _dynamic_range(c)
    line = c.emit("shape.iota", shape=(steps,), axis=0, elem=elem)
    first, step = (c.emit("shape.reshape", v, shape=()) if v.type.shape else v for v in (c[0], c[2]))
    return c.emit("math.add", c.emit("math.mul", line, step), first)


def _dynamic_range(c: Call) -> Value:
    """start + delta * (0 .. count - 1), the count computed."""
    start, limit, delta = (c.emit("shape.reshape", c[i], shape=()) for i in range(3))
    elem = element(start)
    wide = [c.emit("math.cast", v, to=Float("f64")) if elem is not Float("f64") else v for v in (start, limit, delta)]
    count = c.emit("math.ceil", c.emit("math.div", c.emit("math.sub", wide[1], wide[0]), wide[2]))
    count = c.emit("math.cast", c.emit("math.maximum", count, c.constant(np.float64(0))), to=Int("i64"))
    vector = c.emit("shape.reshape", count, shape=(1,))
    line = c.dynamic("shape.iota", [], {"shape": vector}, Tensor((UNKNOWN,), elem), elem=elem)
    return c.emit("math.add", c.emit("math.mul", line, delta), start)


@converter("OneHot")
def one_hot(c: Call) -> Value:
    indices, depth, values = c[0], c.numbers(1), c[2]
    array = c.array(1)
    if depth is None and array is not None:
        depth = (int(array.reshape(-1)[0]),)
    axis = c.attr("axis", -1) % (len(indices.type.shape) + 1)
    if depth is None:
        shape = list(indices.type.shape)
        shape.insert(axis, UNKNOWN)
        wide = c.emit("math.cast", c[1], to=Int("i64")) if element(c[1]) is not Int("i64") else c[1]
        return c.dynamic(
            "shape.one_hot", [indices, values], {"depth": wide}, Tensor(tuple(shape), element(values)), axis=axis
        )
    return c.emit("shape.one_hot", indices, values, depth=depth[0], axis=axis)


@converter("Trilu")
def trilu(c: Call) -> Value:
    k = c.optional(1)
    if k is not None and k.type.shape:
        k = c.emit("shape.reshape", k, shape=())
    return c.emit("shape.trilu", c[0], k, upper=bool(c.attr("upper", 1)))


@converter("EyeLike")
def eye_like(c: Call) -> Value:
    x = c[0]
    if len(x.type.shape) != 2:
        raise c.fail("needs a matrix")
    elem = elem_type(c.attr("dtype", 0), "the result of an EyeLike") if "dtype" in c.attrs else element(x)
    shape = x.type.shape
    row = c.emit("shape.iota", shape=shape, axis=0, elem=Int("i64"))
    column = c.emit("shape.iota", shape=shape, axis=1, elem=Int("i64"))
    hit = c.emit("math.equal", c.emit("math.add", row, c.constant(np.int64(c.attr("k", 0)))), column)
    return c.emit("math.cast", hit, to=elem)


@converter("NonZero")
def non_zero(c: Call) -> Value:
    return c.emit("dyn.nonzero", c[0])


@converter("Compress")
def compress(c: Call) -> Value:
    axis = c.attrs.get("axis")
    return c.emit("dyn.compress", c[0], c[1], axis=None if axis is None else axis % len(c[0].type.shape))


@converter("Unique")
def unique(c: Call) -> Any:
    return c.emit_all("dyn.unique", c[0], axis=c.attrs.get("axis"), ordered=bool(c.attr("sorted", 1)))


@converter("ReverseSequence")
def reverse_sequence(c: Call) -> Value:
    return c.emit(
        "shape.reverse_sequence", c[0], c[1], time_axis=c.attr("time_axis", 0), batch_axis=c.attr("batch_axis", 1)
    )
