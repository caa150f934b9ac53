"""What kernels that work along rows share: reductions across the lanes of a vector, and the exponential of softmax."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .emit import Emitter
from .kernel import Expr

_EXP = (
    1.0, 1.0, 0.5, 0.16666512957593232, 0.04166618749924772, 0.008369590245513805, 0.0013951703105825226,
)  # fmt: skip
_ROUND = 12582912.0  # 1.5 * 2**23: adding it leaves no bits for a fraction
_BIAS = 127  # of the exponent


def fold_lanes(emit: Emitter, buffer: Any, lanes: int, merge: Callable[[Expr, Expr], Expr]) -> None:
    """Leave the lanes of buffer[0:lanes], merged pair by pair, in buffer[0]."""
    while lanes > 1:
        lanes //= 2
        low, high = emit.ramp(0, lanes), emit.ramp(lanes, lanes)
        emit.store(buffer, [low], merge(buffer[low], buffer[high]))


def exponentials(
    emit: Emitter, row: Callable[[Expr], tuple[Expr, ...]], buffer: Any, vectors: Expr, lanes: int
) -> Expr:
    """Replace x by exp(x - max(x)) in the whole vectors of a row, buffer[row(vector of columns)]; gives their sum.

    Lanes that do not count are -inf. One nan makes the sum nan, and so do a largest element of inf or -inf.
    """
    everywhere = emit.ramp(0, lanes)
    best, total, peak = emit.registers(lanes), emit.registers(lanes), emit.registers(1)
    emit.store(best, [everywhere], emit.splat(emit.const(float("-inf")), lanes))
    with emit.serial(vectors) as i:
        here = row(emit.ramp(i * lanes, lanes))
        emit.store(best, [everywhere], emit.max(best[everywhere], buffer[here]))
    fold_lanes(emit, best, lanes, emit.max)
    emit.store(peak, [0], best[0])
    emit.store(total, [everywhere], emit.splat(emit.const(0.0), lanes))
    with emit.serial(vectors) as i:
        here = row(emit.ramp(i * lanes, lanes))
        emit.store(buffer, here, exp_nonpositive(emit, buffer[here] - emit.splat(peak[0], lanes), lanes))
        emit.store(total, [everywhere], total[everywhere] + buffer[here])
    fold_lanes(emit, total, lanes, lambda a, b: a + b)
    return total[0]


def exp_nonpositive(emit: Emitter, x: Expr, lanes: int) -> Expr:
    """e**x of a vector of numbers that are not positive; 0 from -88 down, where the true value is 6e-39; nan stays nan.

    2**n e**r with |r| <= ln(2) / 2 (as in lowering/functions.py), but with half as many operations.
    """

    def splat(value: float) -> Expr:
        return emit.splat(emit.const(value), lanes)

    def kept(value: Expr, dtype: str = "float32") -> Expr:
        buffer = emit.registers(lanes, dtype=dtype)
        emit.store(buffer, [emit.ramp(0, lanes)], value)
        return buffer[emit.ramp(0, lanes)]

    x = kept(x)
    inside = kept(emit.select(x < splat(-88.0), splat(-88.0), x))
    # The integer n + bias ends up in the lowest bits; shifted to the exponent's place it is 2**n, or 0 for n = -127.
    raw = kept(emit.reinterpret(inside * splat(1.4426950408889634) + splat(_ROUND + _BIAS), "int32"), "int32")
    n = kept(emit.reinterpret(raw, "float32") - splat(_ROUND + _BIAS))
    r = kept(inside - n * splat(0.693359375) - n * splat(-2.12194440e-4))
    y = splat(_EXP[-1])
    for c in reversed(_EXP[:-1]):
        y = y * r + splat(c)
    return y * emit.reinterpret(raw << emit.splat(emit.integer(23), lanes), "float32")
