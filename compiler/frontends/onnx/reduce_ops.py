"""Converters of what goes along axes: reductions, running sums, sorting, softmax and its kin."""

from __future__ import annotations

from typing import Any

from ....ir.dims import UNKNOWN, Shape
from ....ir.graph import Value
from ....ir.types import Float, Tensor
from .call import Call, converter, element

_REDUCE = {"ReduceSum": "sum", "ReduceMean": "mean", "ReduceMax": "max", "ReduceMin": "min", "ReduceProd": "prod"}


def _reduce(c: Call, kind: str, x: Value) -> Value:
    keepdims = bool(c.attr("keepdims", 1))
    rank = len(x.type.shape)
    axes: Any = c.ints("axes")
    if c.has(1):
        axes = c.numbers(1)
        if axes is None:
            return _reduce_by_operand(c, kind, x, keepdims)
    if (not axes and axes is not None) or axes is None:
        if c.attr("noop_with_empty_axes", 0):
            return x
        axes = tuple(range(rank))
    return c.emit(f"math.reduce_{kind}", x, axes=tuple(a % rank if rank else a for a in axes), keepdims=keepdims)


def _reduce_by_operand(c: Call, kind: str, x: Value, keepdims: bool) -> Value:
    """The axes are computed: how many there are says the result's rank, which ones only a run does."""
    axes = c[1]
    count = axes.type.shape[0] if axes.type.shape else 1
    rank = len(x.type.shape)
    if not isinstance(count, int):
        raise c.needs("the number of axes", 1)
    if count == 0:
        if c.attr("noop_with_empty_axes", 0):
            return x
        return c.emit(f"math.reduce_{kind}", x, axes=tuple(range(rank)), keepdims=keepdims)
    shape: Shape = (UNKNOWN,) * (rank if keepdims else rank - count)
    result = Tensor(shape, element(x))
    return c.dynamic(f"math.reduce_{kind}", [x], {"axes": axes}, result, keepdims=keepdims)


@converter(*_REDUCE)
def reduce(c: Call) -> Value:
    return _reduce(c, _REDUCE[c.op_type], c[0])


@converter("ReduceL1")
def reduce_l1(c: Call) -> Value:
    return _reduce(c, "sum", c.emit("math.abs", c[0]))


@converter("ReduceSumSquare")
def reduce_sum_square(c: Call) -> Value:
    return _reduce(c, "sum", c.emit("math.mul", c[0], c[0]))


@converter("ReduceL2")
def reduce_l2(c: Call) -> Value:
    total = reduce_sum_square(c)
    elem = element(total)
    if isinstance(elem, Float):
        return c.emit("math.sqrt", total)
    root = c.emit("math.sqrt", c.emit("math.cast", total, to=Float("f64")))
    return c.emit("math.cast", root, to=elem)


@converter("ReduceLogSum")
def reduce_log_sum(c: Call) -> Value:
    return c.emit("math.log", _reduce(c, "sum", c[0]))


@converter("ReduceLogSumExp")
def reduce_log_sum_exp(c: Call) -> Any:
    """log(sum(exp(x - m))) + m with the largest element m, so that nothing overflows."""
    x = c[0]
    rank = len(x.type.shape)
    axes: Any = c.numbers(1) if c.has(1) else c.ints("axes")
    if c.has(1) and axes is None:
        return c.emit("math.log", _reduce(c, "sum", c.emit("math.exp", x)))
    if not axes:
        if c.attr("noop_with_empty_axes", 0):
            return c.emit("math.log", c.emit("math.exp", x))
        axes = tuple(range(rank))
    axes = tuple(a % rank for a in axes) if rank else ()
    top = c.emit("math.reduce_max", x, axes=axes, keepdims=True)
    finite = c.emit("math.where", c.emit("math.is_inf", top), c.like(0, x), top)
    total = c.emit("math.reduce_sum", c.emit("math.exp", c.emit("math.sub", x, finite)), axes=axes, keepdims=True)
    y = c.emit("math.add", c.emit("math.log", total), finite)
    return y if c.attr("keepdims", 1) else c.emit("shape.squeeze", y, axes=axes)


@converter("ArgMax", "ArgMin")
def argument(c: Call) -> Value:
    x = c[0]
    return c.emit(
        f"math.{c.op_type.lower()}",
        x,
        axis=c.axis(c.attr("axis", 0), len(x.type.shape)),
        keepdims=bool(c.attr("keepdims", 1)),
        last=bool(c.attr("select_last_index", 0)),
    )


@converter("CumSum", "CumProd")
def scan(c: Call) -> Value:
    op, x = f"math.{c.op_type.lower()}", c[0]
    options = {"exclusive": bool(c.attr("exclusive", 0)), "reverse": bool(c.attr("reverse", 0))}
    axis = c.number(1)
    if axis is None:
        return c.dynamic(op, [x], {"axis": c[1]}, x.type, **options)
    return c.emit(op, x, axis=c.axis(axis, len(x.type.shape)), **options)


@converter("TopK")
def top_k(c: Call) -> Any:
    x = c[0]
    axis = c.axis(c.attr("axis", -1), len(x.type.shape))
    k = c.attr("k", 0) if c.version < 10 else c.number(1)
    if k is None:
        raise c.needs("k", 1)
    return c.emit_all("math.top_k", x, k=k, axis=axis, largest=bool(c.attr("largest", 1)))


@converter("Einsum")
def einsum(c: Call) -> Value:
    return c.emit("math.einsum", *[c[i] for i in range(len(c))], equation=c.attr("equation", ""))


# --- along an axis --------------------------------------------------------------------------------------------------

_ALONG = {"Softmax": "nn.softmax", "LogSoftmax": "nn.log_softmax", "Hardmax": "nn.hardmax"}


@converter(*_ALONG)
def along(c: Call) -> Value:
    """Since opset 13 over one axis; before, over all axes from `axis` on, as if flattened to a matrix."""
    op, x = _ALONG[c.op_type], c[0]
    rank = len(x.type.shape)
    axis = c.attr("axis", -1 if c.version >= 13 else 1)
    axis = c.axis(axis, rank) if rank or c.version >= 13 else axis
    if c.version >= 13 or axis == rank - 1:
        return c.emit(op, x, axis=axis)
    rows = x.type.shape[:axis]
    flat = c.emit("shape.reshape", x, shape=(*rows, UNKNOWN))
    return c.emit("shape.reshape", c.emit(op, flat, axis=len(rows)), shape=x.type.shape)


@converter("LpNormalization")
def lp_normalization(c: Call) -> Value:
    x = c[0]
    axis = c.axis(c.attr("axis", -1), len(x.type.shape))
    if c.attr("p", 2) == 1:
        norm = c.emit("math.reduce_sum", c.emit("math.abs", x), axes=(axis,))
    else:
        norm = c.emit("math.sqrt", c.emit("math.reduce_sum", c.emit("math.mul", x, x), axes=(axis,)))
    zero = c.emit("math.equal", norm, c.like(0, x))
    return c.emit("math.where", zero, c.like(0, x), c.emit("math.div", x, norm))


@converter("MeanVarianceNormalization")
def mean_variance_normalization(c: Call) -> Value:
    x = c[0]
    axes = c.ints("axes") or (0, 2, 3)
    mean = c.emit("math.reduce_mean", x, axes=axes)
    centred = c.emit("math.sub", x, mean)
    deviation = c.emit("math.sqrt", c.emit("math.reduce_mean", c.emit("math.mul", centred, centred), axes=axes))
    return c.emit("math.div", centred, c.emit("math.add", deviation, c.like(1e-9, x)))


@converter("Det")
def det(c: Call) -> Value:
    return c.emit("nn.det", c[0])
