"""The register tile of dot products."""

from __future__ import annotations

from collections.abc import Callable

from ..emit import Emitter
from ..kernel import Expr
from ..tile import RegisterTile
from .dot import BytesDot, Dot

__all__ = ["DotTile"]


class DotTile:
    """`rows` words of x times `vectors` vectors of weights, accumulated in registers."""

    def __init__(self, emit: Emitter, dot: Dot, rows: int, vectors: int) -> None:
        self._emit, self._dot, self._shape = emit, dot, (rows, vectors)
        self._sums = RegisterTile(emit, rows, vectors, dot.width, dot.acc_dtype)
        self._sums.fill()

    def step(self, word: Callable[[int], Expr], weights: Callable[[int], Expr]) -> None:
        """Add word(r) times weights(v) to sum (r, v); weights(v) is a vector of lanes * depth."""
        self._sums.update(lambda acc, r, v: self._dot.add(self._emit, acc, word(r), weights(v)))

    def add(self, r: int, v: int, x: Expr, weights: Expr) -> None:
        """Add the dot products of two vectors of lanes * depth bytes to sum (r, v)."""
        dot = self._dot
        assert isinstance(dot, BytesDot)
        self._sums.update_one(r, v, lambda acc: dot.add_lanes(self._emit, acc, x, weights))

    def finish(self, constant: Callable[[int], Expr] | None = None) -> RegisterTile:
        """The sums, plus constant(v) (a vector of lanes) in every row."""
        emit, dot = self._emit, self._dot
        if dot.partials == 1 and constant is None:
            return self._sums
        result = RegisterTile(emit, *self._shape, dot.lanes, dot.acc_dtype)

        def value(r: int, v: int) -> Expr:
            total = dot.finish(emit, self._sums[r, v])
            return total if constant is None else total + constant(v)

        result.update(lambda _, r, v: value(r, v))
        return result
