"""How an activation lies in memory: plain (row-major), or in blocks of channels with a halo of zeros.

The blocked layout is what oneDNN calls nChw16c: [N, C, H, W] becomes [N, ceil(C / lanes), H + halo, W + halo, lanes].
A vector holds `lanes` channels of one pixel, so that kernels need no shuffles and no rows to fill vectors with. Rows
and columns of zeros around the image save the readers the copy of a padded image; lanes beyond the last channel are
zero, too. Whoever writes a blocked tensor writes these zeros.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from .kernel import Dim, Expr, ceil_div

__all__ = ["NO_HALO", "PLAIN", "Blocked", "Halo", "Layout", "Plain"]


@dataclass(frozen=True)
class Halo:
    """Rows and columns of zeros around an image."""

    top: int = 0
    bottom: int = 0
    left: int = 0
    right: int = 0

    def union(self, other: Halo) -> Halo:
        """The smallest halo that holds both."""
        return Halo(
            max(self.top, other.top),
            max(self.bottom, other.bottom),
            max(self.left, other.left),
            max(self.right, other.right),
        )

    def covers(self, other: Halo) -> bool:
        return self.union(other) == self


NO_HALO = Halo()


@dataclass(frozen=True)
class Plain:
    """Row-major, as the graph's inputs and results are."""

    def shape(self, logical: Sequence[Dim]) -> tuple[Dim, ...]:
        return tuple(logical)

    def index(self, logical: Sequence[Expr]) -> tuple[Expr, ...]:
        return tuple(logical)


@dataclass(frozen=True)
class Blocked:
    """[N, C, H, W] in blocks of `lanes` channels; see the module. Of bytes, the halo holds `fill`: their zero point."""

    lanes: int
    halo: Halo = NO_HALO
    fill: int = 0

    def blocks(self, channels: int) -> int:
        return ceil_div(channels, self.lanes)

    def shape(self, logical: Sequence[Dim]) -> tuple[Dim, ...]:
        """The extents in memory; channels, height and width are numbers, N may be symbolic."""
        n, c, h, w = logical
        halo = self.halo
        return (n, self.blocks(c), h + halo.top + halo.bottom, w + halo.left + halo.right, self.lanes)

    def index(self, logical: Sequence[Expr]) -> tuple[Expr, ...]:
        """Where element (n, c, h, w) lies; with c = block * lanes + lane TVM finds block and lane again."""
        n, c, h, w = logical
        return (n, c // self.lanes, h + self.halo.top, w + self.halo.left, c % self.lanes)


Layout: TypeAlias = Plain | Blocked
PLAIN = Plain()
