"""What the importer knows of values before anything runs: constants, and integer vectors made of symbolic extents.

Exporters compute shapes inside the graph (Shape, Gather, Concat, Reshape). Here such a vector is carried as an array
of `Extent` beside the value that stands for it, so that `Reshape` gets an attribute like `[N, 12, S, 64]` and the
computation itself falls away.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ....ir.dims import UNKNOWN, Dim, Extent, exact_div, floor_div, size
from ....ir.graph import Node, Value
from ....ir.types import Int, Tensor

__all__ = ["FOLD_LIMIT", "array_of", "extents_of", "foldable", "symbolic_result"]

_VIEWS = ("shape.transpose", "shape.reshape", "shape.squeeze", "shape.unsqueeze")
FOLD_LIMIT = 1 << 14  # elements: larger results stay computations
SYMBOLIC_LIMIT = 64  # entries of a vector
_INT64 = range(-(1 << 63), 1 << 63)


def array_of(value: Value | None) -> Any:
    """The array of a constant value, else None."""
    if value is None or value.node is None:
        return None
    constant = value.node.constant
    return None if constant is None else constant.array


def extents_of(value: Value | None, symbolic: Mapping[Value, Any]) -> tuple[Extent, ...] | None:
    """The entries of an integer vector or scalar, if all are known up to symbols; `?` entries count as known."""
    if value is None:
        return None
    array = array_of(value)
    if array is None:
        array = symbolic.get(value)
        return None if array is None else tuple(np.ravel(array).tolist())
    return tuple(int(n) for n in np.ravel(array)) if array.dtype.kind in "iub" else None


def foldable(node: Node) -> bool:
    """Whether a node of constants may be computed now: cheap, or a mere view of the data."""
    if node.op.declared is not None or node.op.has("dynamic") or node.op.dialect == "quant":
        return False  # what is quantised stays quantised
    sizes: list[Extent] = []
    for v in node.outputs:
        t = v.type
        if not isinstance(t, Tensor) or not t.static:
            return False
        sizes.append(size(t.shape))
    if node.op.name in _VIEWS:
        array = array_of(node.inputs[0])
        if node.op.name != "shape.reshape" or (array is not None and array.flags.c_contiguous):
            return True
    sizes += [size(v.type.shape) for v in node.inputs if v is not None]
    return all(isinstance(n, int) and n <= FOLD_LIMIT for n in sizes)


def _divide(a: Extent, b: Extent) -> Extent:
    if a is UNKNOWN or b is UNKNOWN:
        return UNKNOWN
    found = exact_div(a, b)
    if found is not None:
        return found
    if isinstance(b, int) and b > 0:
        return floor_div(a, b)
    return UNKNOWN


def _elementwise(fn: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    return np.frompyfunc(fn, 2, 1)


# ops that mean the same on arrays of extents, either as they are or in these versions
_SYMBOLIC: dict[str, Callable[..., Any] | None] = {
    "math.add": _elementwise(lambda a, b: a + b),
    "math.sub": _elementwise(lambda a, b: a - b),
    "math.mul": _elementwise(lambda a, b: a * b),
    "math.div": _elementwise(_divide),
    "math.cast": lambda x, **_: x,
    "shape.gather": None,
    "shape.concat": None,
    "shape.slice": None,
    "shape.squeeze": None,
    "shape.unsqueeze": None,
    "shape.reshape": None,
    "shape.split": None,
    "math.reduce_prod": lambda x, axes=None, keepdims=True: np.asarray(_product(x)).reshape(
        [1] * x.ndim if keepdims else []
    ),
}


def _product(x: Any) -> Any:
    total: Extent = 1
    for d in np.ravel(x).tolist():
        total = total * d
    return total


def symbolic_result(node: Node, symbolic: Mapping[Value, Any]) -> list[Any] | None:
    """Arrays of extents for the results of an integer op on known operands, else None."""
    if node.op.name == "shape.extents":
        operand = node.inputs[0]
        assert operand is not None
        vector = np.empty(len(operand.type.shape), dtype=object)
        vector[:] = operand.type.shape
        return [vector]
    if node.op.name not in _SYMBOLIC:
        return None
    if any(not isinstance(v.type, Tensor) or not isinstance(v.type.elem, Int) for v in node.outputs):
        return None
    operands = []
    for v in node.inputs:
        if v is None:
            return None
        array = array_of(v)
        array = symbolic.get(v) if array is None else array
        if array is None or array.size > SYMBOLIC_LIMIT:
            return None
        operands.append(_objects(array))
    if node.op.name == "shape.gather":  # positions are plain numbers
        position = array_of(node.inputs[1])
        if position is None:
            return None
        operands[1] = position
    fn = _SYMBOLIC[node.op.name] or node.op.function
    try:
        results = fn(*operands, **node.attrs)
    except (ValueError, IndexError, TypeError):
        return None
    found: list[Any] = [np.asarray(r, dtype=object) for r in (results if isinstance(results, tuple) else (results,))]
    if any(a.shape != v.type.shape or not _in_range(a) for a, v in zip(found, node.outputs, strict=True)):
        return None
    return found


def _in_range(array: Any) -> bool:
    """Whether the numbers are such that 64-bit arithmetic does not wrap: beyond, the model computes something else."""
    return all(d in _INT64 for d in array.ravel().tolist() if isinstance(d, int))


def _objects(array: Any) -> Any:
    if array.dtype == object:
        return array
    found = np.empty(array.shape, dtype=object)
    found[...] = array.astype(object)
    return found


def plain(array: Any, dtype: Any) -> Any:
    """The array as numbers if no symbol is left in it, else None."""
    flat = np.ravel(array).tolist()
    if any(isinstance(d, Dim) for d in flat):
        return None
    return np.array(flat, dtype=dtype).reshape(array.shape)


def has_symbols(extents: Sequence[Extent]) -> bool:
    return any(isinstance(d, Dim) for d in extents)
