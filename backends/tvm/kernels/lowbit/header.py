"""The numbers of each channel that lie in front of packed weights: what sums start with, and how they are rescaled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..emit import Emitter
from ..kernel import Expr
from ..tile import RegisterTile
from .dot import constants
from .fixed import Rescale, rescale_vector

__all__ = ["Header"]

Array = npt.NDArray[Any]
Vector = Callable[[int, int], Expr]
"""(which row of the header, which vector of channels) -> int32 numbers, a lane for each."""


@dataclass(frozen=True, eq=False)
class Header:
    """Sums start with `offset` times the sum of a channel's weights, plus its `bias`; rows of int32 for that."""

    offset: int = 0
    bias: Array | None = None
    rescale: Rescale | None = None

    @property
    def starts(self) -> bool:
        return self.offset != 0 or self.bias is not None

    @property
    def rows(self) -> int:
        return self.starts + (0 if self.rescale is None else 3)

    def pack(self, sums: Array, channels: slice, width: int) -> list[Array]:
        """The rows, as bytes, for `width` channels with these sums of weights, of which `channels` exist."""
        parts = []
        if self.starts:
            values = sums.astype(np.int64) * self.offset
            if self.bias is not None:
                some = self.bias[channels][:width]
                values[: len(some)] += some
            parts.append(constants(values, width).ravel())
        if self.rescale is not None:
            parts.append(self.rescale.constants(channels, width))
        return parts

    def start(self, vector: Vector) -> Callable[[int], Expr] | None:
        """What the sums of a vector of channels start with."""
        return (lambda v: vector(0, v)) if self.starts else None

    def finished(self, emit: Emitter, tile: RegisterTile, vector: Vector, vectors: int, lanes: int) -> RegisterTile:
        """The tile, rescaled if that is wanted."""
        if self.rescale is not None:
            factors = [[vector(self.starts + i, v) for i in range(3)] for v in range(vectors)]
            tile.update(lambda acc, r, v: rescale_vector(emit, acc, factors[v][0], factors[v][1], factors[v][2], lanes))
        return tile
