"""The algebra of Winograd convolution, and how a transform is computed."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from ..emit import Emitter
from ..kernel import Expr, ceil_div

__all__ = ["apart", "combine", "transforms"]

POINTS = {2: (0.0, 1.0, -1.0), 4: (0.0, 0.75, -0.75, 1.5, -1.5)}
"""Interpolation points besides infinity. For m = 4 these round four times better than the customary 0, 1, -1, 2, -2."""

Matrix: TypeAlias = npt.NDArray[np.float64]


@functools.cache
def transforms(m: int) -> tuple[Matrix, Matrix, Matrix]:
    """(input, weight, output) transforms of F(m, 3) by Toom and Cook's construction."""
    points = np.array(POINTS[m])
    size = m + 2
    forward, weight, back = np.zeros((size, size)), np.zeros((size, 3)), np.zeros((m, size))
    for i, point in enumerate(points):
        others = np.delete(points, i)
        forward[i, : size - 1] = np.poly(others)[::-1]
        weight[i] = point ** np.arange(3) / np.prod(point - others)
        back[:, i] = point ** np.arange(m)
    forward[-1] = np.poly(points)[::-1]
    weight[-1, -1] = back[-1, -1] = 1.0
    return forward, weight, back


def apart(length: int) -> int:
    """A length of planes accessed together: two cache lines past a page, so that they fall into different sets."""
    return ceil_div(length, 1024) * 1024 + 32


def combine(emit: Emitter, factors: Sequence[float], vectors: Sequence[Expr], lanes: int) -> Expr:
    """The sum of factor * vector.

    Points come in pairs of opposite sign, whose rows agree in the even powers and differ by sign in the odd
    ones. The two halves are summed apart, so that LLVM finds each half twice and computes it once.
    """
    even = _terms(emit, factors[::2], vectors[::2], lanes)
    odd_factors = factors[1::2]
    sign = next((np.sign(f) for f in odd_factors if f), 1.0)
    odd = _terms(emit, [f * sign for f in odd_factors], vectors[1::2], lanes)
    if even is None or odd is None:
        total = even if odd is None else odd
        return total if odd is None or sign > 0 else emit.splat(emit.const(0.0), lanes) - total
    return even + odd if sign > 0 else even - odd


def _terms(emit: Emitter, factors: Sequence[float], vectors: Sequence[Expr], lanes: int) -> Expr | None:
    total: Expr | None = None
    # Terms of factor one first: they need no multiplication.
    for factor, vector in sorted(zip(factors, vectors, strict=True), key=lambda pair: bool(pair[0] != 1)):
        if factor == 0:
            continue
        term = vector if factor == 1 else vector * emit.splat(emit.const(float(factor)), lanes)
        total = term if total is None else total + term
    return total
