"""Monic polynomials of degree 4 and 8 in two and three levels, by completing squares.

    degree 4   x^4 + c x^2 + b x + a              = (x^2 + c/2)^2 + b x + (a - c^2/4)
    degree 8   x^8 + ... (no x^7)                 = (x^4 + p x^2 + q x + r)^2 + (s x + t) x^2 + u x + v

The quartic inside is of the first form again. Terms that bypass a squaring are multiplied by a plaintext whose scale
makes them meet it exactly, so no level goes into adjusting scales.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

from .engine import Engine

__all__ = ["monic"]

Encode = Callable[[float, int, Fraction], Any]  # a plaintext with one number in all slots


def monic(engine: Engine, x: Any, coeffs: Sequence[float], encode: Encode) -> Any:
    """x^d + sum of coeffs[i] x^i, d = len(coeffs) = 4 or 8, coeffs[d - 1] = 0; log2(d) levels below x."""
    steps = _Steps(engine, encode)
    if len(coeffs) == 4:
        return steps.quartic(x, coeffs)[0]
    return steps.octic(x, coeffs)


class _Steps:
    def __init__(self, engine: Engine, encode: Encode) -> None:
        self.e, self.encode, self.primes = engine, encode, engine.parameters.primes

    def squared(self, x: Any) -> Any:
        return self.e.rescale(self.e.relin(self.e.square(x)))

    def plus(self, x: Any, number: float) -> Any:
        meta = self.e.meta(x)
        return x if number == 0 else self.e.add_plain(x, self.encode(number, meta.level, meta.scale))

    def times(self, x: Any, number: float, level: int, scale: Fraction) -> Any:
        """number * x at `level`, with exactly that scale."""
        x = self.e.drop(x, level + 1)
        plain = self.encode(number, level + 1, scale * self.primes[level + 1] / self.e.meta(x).scale)
        return self.e.rescale(self.e.mul_plain(x, plain))

    def plus_times(self, total: Any, x: Any, number: float) -> Any:
        meta = self.e.meta(total)
        return total if number == 0 else self.e.add(total, self.times(x, number, meta.level, meta.scale))

    def quartic(self, x: Any, coeffs: Sequence[float]) -> tuple[Any, Any]:
        """The polynomial, two levels down, and x^2, one level down."""
        a, b, c = coeffs[:3]
        square = self.squared(x)
        total = self.plus_times(self.squared(self.plus(square, c / 2)), x, b)
        return self.plus(total, a - c * c / 4), square

    def octic(self, x: Any, coeffs: Sequence[float]) -> Any:
        p, q = coeffs[6] / 2, coeffs[5] / 2
        r = (coeffs[4] - p * p) / 2
        inner, square = self.quartic(x, (r, q, p, 0.0))
        total = self.squared(inner)
        s, t = coeffs[3] - 2 * p * q, coeffs[2] - q * q - 2 * p * r
        u, v = coeffs[1] - 2 * q * r, coeffs[0] - r * r
        meta = self.e.meta(total)
        if s or t:
            # (s x + t) at the level of x^2, at the scale at which their product, rescaled, meets the square
            low = meta.level + 1
            scale = meta.scale * self.primes[low] / self.e.meta(square).scale
            line = self.plus(self.times(x, s, self.e.meta(square).level, scale), t)
            term = self.e.mul(self.e.drop(line, low), self.e.drop(square, low))
            total = self.e.add(total, self.e.rescale(self.e.relin(term)))
        return self.plus(self.plus_times(total, x, u), v)
