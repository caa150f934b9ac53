"""The algebra of Winograd convolution, and the choice of tile size and cut for a shape."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from .conv_plan import ConvShape
from .geometry import Axis, Window
from .kernel import FloatArray, VectorUnit, ceil_div, cover
from .panel import Panel
from .tile import choose_tile

POINTS = {2: (0.0, 1.0, -1.0), 4: (0.0, 0.75, -0.75, 1.5, -1.5)}
"""Interpolation points besides infinity. For m = 4 these round four times better than the customary 0, 1, -1,
2, -2.
"""

TRANSFORMED_BYTES = 640 * 1024
"""Cap of a band's transformed input, which every block of output channels reads again."""

MIN_CHANNELS = 16
"""With fewer channels the transforms cost more than the products they save."""


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


@dataclass(frozen=True)
class WinogradPlan:
    """Tile size and cut of the image."""

    m: int
    tiles: Window
    tile_rows: int
    splits: int
    block: int
    vectors: int
    lanes: int

    @property
    def points(self) -> int:
        return (self.m + 2) ** 2

    @property
    def bands(self) -> int:
        return ceil_div(self.tiles.rows.out, self.tile_rows)

    @property
    def count(self) -> int:
        """Tiles of a band."""
        return self.tile_rows * self.tiles.columns.out

    @property
    def padded(self) -> int:
        return ceil_div(self.count, self.lanes) * self.lanes


def plan_winograd(shape: ConvShape, unit: VectorUnit) -> WinogradPlan | None:
    """The fastest plan by estimated issue slots; None if direct convolution is as fast, or the only way."""
    rows, columns = shape.window.rows, shape.window.columns
    if shape.groups != 1 or shape.window.is_1d or min(shape.inputs, shape.outputs) < MIN_CHANNELS:
        return None
    if any(a.kernel != 3 or a.stride != 1 or a.dilation != 1 or a.ceil_mode for a in (rows, columns)):
        return None
    flat = Panel(shape.window, rows.out).flat
    best_cost = 0.9 * shape.outputs * shape.depth * ceil_div(flat, unit.lanes)
    best: WinogradPlan | None = None
    for m in (2, 4):
        window = Window(_tile_axis(rows, m), _tile_axis(columns, m), False)
        for tile_rows in range(1, window.rows.out + 1):
            plan = _plan(shape, unit, m, window, tile_rows)
            if plan.padded * plan.points * shape.inputs * 4 > TRANSFORMED_BYTES and tile_rows > 1:
                break
            cost = _cost(shape, plan)
            if cost < best_cost:
                best_cost, best = cost, plan
    return best


def _tile_axis(axis: Axis, m: int) -> Axis:
    """The axis of tiles: windows of m + 2 inputs every m, the padding extended to whole tiles."""
    tiles = ceil_div(axis.out, m)
    after = max(0, (tiles - 1) * m + m + 2 - axis.size - axis.before)
    return Axis(axis.size, m + 2, m, axis.before, after)


def _plan(shape: ConvShape, unit: VectorUnit, m: int, window: Window, tile_rows: int) -> WinogradPlan:
    vectors = ceil_div(tile_rows * window.columns.out, unit.lanes)
    block, tile_vectors = choose_tile(shape.outputs, vectors, unit)
    bands = ceil_div(window.rows.out, tile_rows)
    splits = 2 if bands == 1 and shape.outputs // block >= 4 else 1
    return WinogradPlan(m, window, tile_rows, splits, block, tile_vectors, unit.lanes)


def _cost(shape: ConvShape, plan: WinogradPlan) -> float:
    """Issue slots of the products and of the two transforms, with what these load and store."""
    vectors = plan.padded // plan.lanes
    products = plan.points * shape.inputs * shape.outputs * max(vectors, 1.15 if vectors == 1 else 0)
    row_vectors = len(cover(plan.tiles.columns.out, plan.lanes))
    forward = 12 * plan.points * shape.inputs * plan.tile_rows * row_vectors * plan.splits
    backward = 12 * plan.points * shape.outputs * vectors
    return plan.bands * (products + forward + backward)


def pack_winograd(weight: FloatArray, m: int, block: int) -> FloatArray:
    """[O, C, 3, 3] to [blocks of output channels | points | C | channels of the block], as it is read."""
    g = transforms(m)[1]
    points = np.einsum("ai,ocij,bj->ocab", g, weight.astype(np.float64), g, optimize=True)
    points = points.reshape(*weight.shape[:2], -1).astype(np.float32)
    blocks = [points[o : o + block].transpose(2, 1, 0).ravel() for o in range(0, len(points), block)]
    return np.concatenate(blocks)
