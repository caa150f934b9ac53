"""A plain image with zeros around it, in scratch memory: what the first convolution of a network reads."""

from __future__ import annotations

from typing import Any

from ..emit import Emitter
from ..kernel import Expr, VectorUnit
from ..layout import Halo

__all__ = ["PaddedImage"]


class PaddedImage:
    """One image [C, H, W] with a halo. Few channels (three, as a rule) make no vectors, so it is not blocked."""

    def __init__(self, emit: Emitter, shape: tuple[int, ...], halo: Halo, unit: VectorUnit) -> None:
        self._emit, self._shape, self.halo, self._lanes = emit, shape, halo, unit.lanes
        channels, height, width = shape
        self._rows, self._pitch = halo.top + height + halo.bottom, halo.left + width + halo.right
        self._memory = emit.scratch(channels, self._rows, self._pitch)

    def fill(self, x: Any, n: Expr) -> None:
        """Copy image n of x[N, C, H, W]."""
        emit, halo = self._emit, self.halo
        channels, height, width = self._shape
        with emit.parallel(channels * self._rows) as task:
            c, row = task // self._rows, task % self._rows

            def inside() -> None:
                emit.fill_row(self._memory, (c, row), 0, halo.left, 0.0, self._lanes)

                def copy(start: Expr, lanes: int) -> None:
                    value = x[n, c, row - halo.top, emit.ramp(start, lanes)]
                    emit.store(self._memory, [c, row, emit.ramp(halo.left + start, lanes)], value)

                emit.for_each_vector(width, self._lanes, copy)
                emit.fill_row(self._memory, (c, row), halo.left + width, halo.right, 0.0, self._lanes)

            def outside() -> None:
                emit.fill_row(self._memory, (c, row), 0, self._pitch, 0.0, self._lanes)

            if halo.top or halo.bottom:
                emit.branch(emit.both(row >= halo.top, row < halo.top + height), inside, outside)
            else:
                inside()

    def read(self, n: Expr, block: Expr, lane: Expr, h: Expr, w: Expr) -> Expr:
        """Channel `block * lanes + lane` at a pixel that counts from the halo's corner."""
        return self._memory[block * self._lanes + lane, h, w]
