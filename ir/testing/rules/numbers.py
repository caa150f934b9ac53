"""Arrays for drawn examples: numbers that find mistakes.

`exact` examples get what arithmetic stumbles over: both zeros, subnormals, the largest, infinities, nan; integers at
their limits. `real` ones get moderate numbers that no two of which are alike, zeros of both signs, and duplicates, for
over the reals there is neither overflow nor nan. A `Domain` narrows that where an op wants it: indices, variances,
the interval of a bound.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from ...types import Affine, Bool, Elem, Float, Int, Pow2, Sign

__all__ = ["Domain", "array"]

Array = npt.NDArray[Any]
_POOL = 256  # one random byte picks an entry


@dataclass(frozen=True)
class Domain:
    """Numbers from `low` to `high`, both included."""

    low: float
    high: float


@cache
def _pool(elem: Elem, nasty: bool, mode: int, domain: Domain | None, extra: tuple[float, ...]) -> Array:
    """256 numbers. Mode 0: varied; 1: half of them special; 2: few different ones."""
    rng = np.random.default_rng(7)
    dtype = elem.dtype
    if isinstance(elem, (Bool, Sign)):
        return rng.integers(0, 2, _POOL).astype(np.bool_)
    if isinstance(elem, Pow2):
        return rng.integers(-7, 8, _POOL).astype(np.int8)
    if isinstance(elem, Int) or (isinstance(elem, Affine) and isinstance(elem.store, Int)):
        return _integers(rng, elem if isinstance(elem, Int) else elem.store, mode, domain, extra)  # type: ignore[arg-type]
    if domain is not None:
        numbers = rng.uniform(domain.low, domain.high, _POOL)
        numbers[:8] = [domain.low, domain.high, (domain.low + domain.high) / 2, *numbers[3:8]]
        return _stored(numbers if mode < 2 else numbers[rng.integers(0, 4, _POOL)], dtype)
    numbers = rng.normal(0, 2, _POOL)
    numbers[:24] = np.arange(-12, 12) / 2
    if mode == 2:
        numbers = rng.choice(np.array([0.0, -0.0, 1.0, -1.0, 2.0, 0.5]), _POOL)
    if extra:
        numbers[100:116] = np.resize(np.array(extra), 16)
    if mode == 1:
        numbers[128:] = np.resize(np.array([0.0, -0.0, 1.0, -1.0, 3.0, -7.5, 1e-3, -1e-3, 20.0, -30.0]), 128)
    out = _stored(numbers, dtype)
    if nasty and mode == 1:
        out[64:] = np.resize(_special(elem), 192)
    return out


def _special(elem: Elem) -> Array:
    assert isinstance(elem, (Float, Affine))
    dtype = elem.dtype
    info: Any = ml_dtypes.finfo(dtype)  # type: ignore[no-untyped-call]
    with np.errstate(all="ignore"):
        values = [0.0, -0.0, np.inf, -np.inf, np.nan, np.nan, -0.0, 1.0, -1.0, 0.5, 1e-3, -3.0]
        limits = [info.max, info.min, info.tiny, -info.tiny, info.smallest_subnormal, info.eps]
        return np.array([*np.array(values).astype(dtype), *[np.asarray(v).astype(dtype) for v in limits]], dtype=dtype)


def _integers(rng: Any, elem: Int, mode: int, domain: Domain | None, extra: tuple[float, ...]) -> Array:
    low, high = elem.range
    if domain is not None:
        low, high = max(low, int(domain.low)), min(high, int(domain.high))
        return rng.integers(low, max(low, high), _POOL, endpoint=True).astype(elem.dtype)
    numbers = rng.integers(max(low, -9), 10, _POOL)
    if mode == 2:
        numbers = rng.integers(max(low, -1), 3, _POOL)
    whole = [int(x) for x in extra if np.isfinite(x) and low <= x <= high]
    if whole:
        numbers[100:116] = np.resize(np.array(whole), 16)
    if mode == 1:  # at the limits, where results wrap
        edges = [low, high, low + 1, high - 1, high // 2 + 1, 0, 1, max(low, -1), 2, high // 3]
        numbers[128:] = np.resize(np.array(edges, dtype=np.int64), 128)
    return numbers.astype(elem.dtype)


def _stored(numbers: Any, dtype: Any) -> Array:
    with np.errstate(all="ignore"):
        return np.asarray(np.asarray(numbers).astype(dtype))


def array(
    shape: Sequence[int], elem: Elem, mode: int, seed: int, nasty: bool, domain: Domain | None, extra: tuple[float, ...]
) -> Array:
    """An array of numbers for a shape; `seed` 0 is the pool in order. Mode 3: one number everywhere."""
    count = 1
    for d in shape:
        count *= d
    pool = _pool(elem, nasty, mode if mode < 3 else 1, domain, extra)
    if mode == 3:
        return np.full(tuple(shape), pool[seed % _POOL], dtype=pool.dtype)
    if seed == 0:
        return np.resize(pool, tuple(shape))
    picks = np.frombuffer(random.Random(seed).randbytes(count), dtype=np.uint8)
    return pool[picks].reshape(tuple(shape))
