"""The register tile of dot products."""

from __future__ import annotations

from collections.abc import Callable

from ..emit import Emitter
from ..kernel import Expr
from ..tile import RegisterTile
from .dot import BytesDot, Dot

__all__ = ["DotTile"]


class DotTile:
    """`rows` words of x times `vectors` vectors of weights, accumulated in registers.

    `constant(v)` (a vector of lanes) is part of the sums of every row: they start with it where they can.
    """

    def __init__(
        self, emit: Emitter, dot: Dot, rows: int, vectors: int, constant: Callable[[int], Expr] | None = None
    ) -> None:
        self._emit, self._dot, self._shape = emit, dot, (rows, vectors)
        self._sums = RegisterTile(emit, rows, vectors, dot.width, dot.acc_dtype)
        self._late = None if dot.partials == 1 else constant
        if constant is None or dot.partials > 1:
            self._sums.fill()
        else:
            self._sums.update(lambda _, r, v: constant(v))

    def step(self, word: Callable[[int], Expr], weights: Callable[[int], Expr]) -> None:
        """Add word(r) times weights(v) to sum (r, v); weights(v) is a vector of lanes * depth."""
        self._sums.update(lambda acc, r, v: self._dot.add(self._emit, acc, word(r), weights(v)))

    def add(self, r: int, v: int, x: Expr, weights: Expr) -> None:
        """Add the dot products of two vectors of lanes * depth bytes to sum (r, v)."""
        dot = self._dot
        assert isinstance(dot, BytesDot)
        self._sums.update_one(r, v, lambda acc: dot.add_lanes(self._emit, acc, x, weights))

    def finish(self) -> RegisterTile:
        """The sums."""
        emit, dot, constant = self._emit, self._dot, self._late
        if dot.partials == 1:
            return self._sums
        result = RegisterTile(emit, *self._shape, dot.lanes, dot.acc_dtype)

        def value(r: int, v: int) -> Expr:
            total = dot.finish(emit, self._sums[r, v])
            return total if constant is None else total + constant(v)

        result.update(lambda _, r, v: value(r, v))
        return result
