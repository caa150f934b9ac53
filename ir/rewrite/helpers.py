"""Functions that conditions and attribute expressions of rules may call; values and nodes are both accepted.

Third parties add theirs by name to `HELPERS` before their rules are read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from ml_dtypes import finfo

from ..dims import Extent, Shape
from ..dims import size as _size
from ..graph import Node, Value
from ..types import Affine, Bool, Float, Int, Pow2, Sign, Type
from . import axes, numbers

__all__ = ["HELPERS"]

HELPERS: dict[str, Callable[..., Any]] = {
    "len": len, "range": lambda *a: tuple(range(*a)), "sorted": lambda x: tuple(sorted(x)), "min": min, "max": max,
    "magnitude": abs, "sum": sum, "all": all, "any": any, "int": int, "float": float, "sqrt_of": math.sqrt,
    **{name: getattr(module, name) for module in (axes, numbers) for name in module.__all__},
}  # fmt: skip


def helper(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Make `fn` callable from rules under its name."""
    HELPERS[fn.__name__.rstrip("_")] = fn
    return fn


def _value(x: Value | Node) -> Value:
    return x.outputs[0] if isinstance(x, Node) else x


@helper
def type_(x: Value | Node) -> Type:
    """The type; types are equal when they are the same."""
    return _value(x).type


@helper
def shape(x: Value | Node) -> Shape:
    """The shape."""
    return _value(x).type.shape


@helper
def rank(x: Value | Node) -> int:
    """The number of axes."""
    return len(_value(x).type.shape)


@helper
def dim(x: Value | Node, axis: int) -> Extent:
    """One extent, the axis from the front or from the end."""
    return _value(x).type.shape[axis]


@helper
def size(x: Value | Node) -> Extent:
    """The number of elements."""
    return _size(_value(x).type.shape)


@helper
def elem(x: Value | Node) -> Any:
    """The element type."""
    return _value(x).type.elem  # type: ignore[union-attr]


@helper
def is_float(x: Value | Node) -> bool:
    """Whether the elements are floats."""
    return isinstance(elem(x), Float)


@helper
def is_int(x: Value | Node) -> bool:
    """Whether the elements are integers."""
    return isinstance(elem(x), Int)


@helper
def is_bool(x: Value | Node) -> bool:
    """Whether the elements are truth values."""
    return isinstance(elem(x), Bool)


@helper
def is_quantised(x: Value | Node) -> bool:
    """Whether the elements are encodings of real numbers."""
    return isinstance(elem(x), (Affine, Sign, Pow2))


@helper
def bits(x: Value | Node) -> int:
    """Width of an element in memory."""
    return int(_value(x).type.dtype.itemsize) * 8  # type: ignore[union-attr]


@helper
def static(x: Value | Node) -> bool:
    """Whether every extent is a known number."""
    return _value(x).type.static


@helper
def one_use(x: Node | Value) -> bool:
    """Whether exactly one node (or the graph's result) reads it."""
    node = x if isinstance(x, Node) else x.node
    return node is None or node.uses is None or len(node.uses) == 1


@helper
def is_const(x: Value | None) -> bool:
    """Whether it is a constant."""
    return x is not None and x.node is not None and x.node.op.name == "const"


@helper
def array(x: Value) -> Any:
    """The data of a constant, None for anything else."""
    constant = x.node.constant if x.node is not None else None
    return None if constant is None else constant.array


@helper
def splat(x: Value) -> float | None:
    """The number that all elements of a constant are, or None."""
    data = array(x)
    if data is None or data.size == 0:
        return None
    first = data.reshape(-1)[0]
    if data.size > 1 and not (data == first).all():
        return None
    if first == 0 and isinstance(elem(x), Float) and np.signbit(data).any() != np.signbit(data).all():
        return None  # zeros of both signs
    return float(first)


@helper
def broadcasts_to(x: Value | Node, target: Value | Node) -> bool:
    """Whether combining x with target element by element has the shape of target."""
    have, want = shape(x), shape(target)
    return len(have) <= len(want) and all(a in (1, b) for a, b in zip(have[::-1], want[::-1], strict=False))


@helper
def inverse(perm: Sequence[int]) -> tuple[int, ...]:
    """The permutation that undoes `perm`."""
    return tuple(int(i) for i in np.argsort(perm))


@helper
def positive(axis: int, of: Value | Node) -> int:
    """The axis counted from the front."""
    return axis % max(rank(of), 1)


@helper
def or_default(value: Any, default: Any) -> Any:
    """`value`, or `default` when the attribute is absent."""
    return default if value is None else value


def is_number(v: Value | None, number: float) -> bool:
    """Whether v is a constant all of whose elements are `number`, zeros by sign.

    A number that v's float type cannot hold stands for its roundings: exporters differ in the last bits of sqrt(2).
    """
    if v is None or v.node is None or v.node.op.name != "const":
        return False
    kind, data = v.type.elem, v.node.attrs["value"].array  # type: ignore[union-attr]
    if data.size == 0 or not isinstance(kind, (Float, Int)):
        return False
    found = {float(x) for x in data.reshape(-1)[:2]}
    if len(found) != 1:
        return False
    (first,) = found
    if isinstance(kind, Int):
        return first == number and (data.size == 1 or bool((data == data.reshape(-1)[0]).all()))
    if first != number:
        rounded = float(data.dtype.type(number))
        unit = float(finfo(data.dtype).eps)  # type: ignore[no-untyped-call]
        if rounded == number or not abs(first - rounded) <= 4 * abs(rounded) * unit:
            return False
    if data.size > 1 and not (data == data.reshape(-1)[0]).all():
        return False
    if number == 0:
        signs = np.signbit(data.astype(np.float32))
        return bool((signs == (math.copysign(1, number) < 0)).all())
    return True


def same_value(a: Value | None, b: Value | None) -> bool:
    """The same value, or constants of equal type and content."""
    if a is b:
        return True
    if a is None or b is None or a.type is not b.type or a.node is None or b.node is None:
        return False
    return a.node.op.name == b.node.op.name == "const" and a.node.attrs["value"] == b.node.attrs["value"]
