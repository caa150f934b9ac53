"""Functions for rules about the numbers in constants, and about which numbers an element type holds.

A question about something that is no constant is answered with no.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from ml_dtypes import finfo

from ..graph import Value
from ..types import DENSE, Affine, Bool, Elem, Float, Int, Sign, Tensor

__all__ = [
    "all_at_least",
    "all_at_most",
    "dense",
    "first_index",
    "has_product",
    "has_reciprocal",
    "holds",
    "is_run",
    "narrow_affine",
    "never_above",
    "per_tensor",
    "same_kind",
]


def _numbers(c: Value | None) -> Any:
    """The data of a numeric constant in f64, or None."""
    if c is None or c.node is None or c.node.constant is None or not isinstance(c.type, Tensor):
        return None
    if not isinstance(c.type.elem, (Float, Int)):
        return None
    data = c.node.constant.array
    return data.astype(np.float32 if data.dtype.kind == "V" else np.float64).astype(np.float64)


def _limits(dtype: np.dtype[Any]) -> tuple[float, float]:
    """The smallest normal and the largest number of a float type."""
    info = finfo(dtype)  # type: ignore[no-untyped-call]
    return float(info.smallest_normal), float(info.max)


def all_at_least(c: Value, number: float) -> bool:
    """Whether c is a constant without an element below `number`."""
    data = _numbers(c)
    return data is not None and bool((data >= number).all())


def all_at_most(c: Value, number: float) -> bool:
    """Whether c is a constant without an element above `number`."""
    data = _numbers(c)
    return data is not None and bool((data <= number).all())


def never_above(a: Value, b: Value) -> bool:
    """Whether no element of the constant a is above the element of the constant b that it meets."""
    x, y = _numbers(a), _numbers(b)
    if x is None or y is None:
        return False
    try:
        return bool((x <= y).all())
    except ValueError:
        return False


def has_reciprocal(c: Value, exact: bool = False) -> bool:
    """Whether 1/c is a normal number for every element of a float constant; `exact`: for powers of two only."""
    data = _numbers(c)
    if data is None or not isinstance(c.type.elem, Float) or data.size == 0:  # type: ignore[union-attr]
        return False
    least, most = _limits(c.type.dtype)  # type: ignore[union-attr]
    magnitude = np.abs(data)
    with np.errstate(all="ignore"):
        normal = (magnitude >= max(least, 1 / most)) & (magnitude <= min(most, 1 / least))
    return bool(normal.all()) and (not exact or bool((np.frexp(magnitude)[0] == 0.5).all()))


def has_product(a: Value, b: Value) -> bool:
    """Whether the elements of the constants a and b multiply to normal numbers or zero: nothing over- or underflows."""
    x, y = _numbers(a), _numbers(b)
    if x is None or y is None:
        return False
    if not isinstance(a.type.elem, Float):  # type: ignore[union-attr]
        return True  # integers wrap, in whatever order
    least, most = _limits(a.type.dtype)  # type: ignore[union-attr]
    try:
        with np.errstate(all="ignore"):
            product = np.abs(x * y)
    except ValueError:
        return False
    return bool(((x == 0) | (y == 0) | ((product >= least) & (product <= most))).all())


def is_run(c: Value) -> bool:
    """Whether c is a constant vector n, n+1, n+2, ... that does not start below 0."""
    data = _numbers(c)
    if data is None or data.ndim != 1 or data.size == 0:
        return False
    return bool(data[0] >= 0 and (np.diff(data) == 1).all())


def first_index(c: Value) -> int:
    """The first element of a constant vector."""
    return int(_numbers(c)[0])


def dense(*values: Value) -> bool:
    """Whether values are stored densely: their layout would not survive being computed with."""
    return all(isinstance(v.type, Tensor) and v.type.layout is DENSE for v in values)


def same_kind(*values: Value) -> bool:
    """Whether values have the same element type."""
    return len({v.type.elem for v in values}) == 1  # type: ignore[union-attr]


_MANTISSA = {"f64": 53, "f32": 24, "f16": 11, "bf16": 8}


def holds(wide: Elem, narrow: Elem) -> bool:
    """Whether every number of the type `narrow` is one of `wide`."""
    if wide is narrow:
        return True
    if isinstance(narrow, Bool):
        return isinstance(wide, Int) or (isinstance(wide, Float) and wide.name in _MANTISSA)
    if isinstance(wide, Int):
        return isinstance(narrow, Int) and wide.range[0] <= narrow.range[0] and narrow.range[1] <= wide.range[1]
    if not isinstance(wide, Float) or wide.name not in _MANTISSA:
        return False
    if isinstance(narrow, Int):
        return narrow.bits <= _MANTISSA[wide.name]
    return isinstance(narrow, Float) and (wide.name == "f64" or (wide.name == "f32" and narrow.name != "f64"))


def narrow_affine(elem: Elem) -> bool:
    """Whether an encoding has integers of at most 8 bits: quantising what was dequantised in f32 gives them back."""
    return isinstance(elem, Affine) and isinstance(elem.store, Int) and elem.store.bits <= 8


def per_tensor(elem: Elem) -> bool:
    """Whether an encoding has one scale for all elements."""
    return not isinstance(elem, (Affine, Sign)) or elem.axis is None
