"""Small constants that stand in the text itself: `0.5`, `[1, 2, 3]`, `true`."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ..types import Bool, Float, Int, Tensor, Type, elem_of
from .fault import Fault
from .syntax import Literal, Named

__all__ = ["array_of", "text_of"]

Array = npt.NDArray[Any]


def text_of(array: Array) -> str:
    """The elements of an array of at most one axis; floats in the fewest digits that give the same value again."""
    if array.dtype.kind == "b":
        items = ["true" if x else "false" for x in array.flat]
    elif isinstance(elem_of(array.dtype), Int):
        items = [str(int(x)) for x in array.flat]
    else:
        items = [_shortest(x, array.dtype) for x in array.ravel().astype(np.float64).tolist()]
    return f"[{', '.join(items)}]" if array.ndim else items[0]


def _shortest(value: float, dtype: np.dtype[Any]) -> str:
    exact = repr(value)
    if dtype == np.float64 or len(exact) <= 8:
        return exact
    with np.errstate(all="ignore"):
        for digits in range(1, 10):
            short = float(f"{value:.{digits}g}")
            if float(np.asarray(short).astype(dtype)) == value:
                return repr(short)
    return exact


def array_of(found: Any, t: Type, pos: int) -> Array:
    """The array that `found` writes for a constant of type `t`."""
    if not isinstance(t, Tensor):
        raise Fault("IG0312", f"a constant is a tensor, not {t}", pos)
    stored = elem_of(t.dtype)
    pos = found.pos if isinstance(found, Literal) else pos
    items = found if isinstance(found, list) else [found]
    values = [_number(item, stored, pos) for item in items]
    with np.errstate(all="ignore"):
        if isinstance(stored, Float):
            wide = np.array(values, dtype=np.float64)
            array = wide.astype(t.dtype)
            if not np.array_equal(np.isfinite(wide), np.isfinite(array.astype(np.float64))):
                raise Fault("IG0312", f"an element of this constant is beyond {stored}", pos)
        else:
            array = np.array(values or np.zeros(0), dtype=t.dtype)
    return array if isinstance(found, list) else array.reshape(())


def _number(found: Any, stored: Float | Int | Bool, pos: int) -> Any:
    at, length = (found.pos, found.length) if isinstance(found, Literal) else (pos, 1)
    value: Any = found.value if isinstance(found, Literal) else None
    if isinstance(stored, Bool):
        if type(value) is not bool:
            raise Fault("IG0312", "an element of this constant is true or false", at, length)
        return value
    if isinstance(found, Named) or type(value) not in (int, float):
        raise Fault("IG0312", f"an element of this constant is a number ({stored})", at, length)
    if isinstance(stored, Float):
        return float(value)
    if type(value) is not int:
        raise Fault("IG0312", f"an element of this constant is an integer ({stored})", at, length)
    low, high = stored.range
    if not low <= value <= high:
        raise Fault("IG0312", f"{value} is outside {stored}: {low} to {high}", at, length)
    return value
