"""The choice of tile size, bands and register tile of a Winograd convolution in blocks of channels."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ..conv_plan import ConvShape
from ..kernel import FloatArray, VectorUnit, ceil_div
from ..tile import ranked
from .tiling import MAX_BLOCKS, most_pixels, step_slots
from .transforms import transforms

__all__ = ["GAIN", "WinogradPlan", "candidates", "pack_winograd", "ranked_winograd"]

L2_BYTES = 832 * 1024
"""What a task may keep in the second-level cache."""

L3_BYTES = 8 * 1024 * 1024
"""Weights up to this size are still in the third-level cache when the network runs again."""

L2_SLOT_BYTES, L3_SLOT_BYTES, MEMORY_SLOT_BYTES = 16, 8, 2.5
"""Bytes that come from a cache or from memory in one issue slot."""

FORWARD_SLOTS, BACKWARD_SLOTS = {2: 80, 4: 240}, {2: 80, 4: 240}
"""Issue slots of the transforms of one tile of one block of channels."""

GAIN = 0.9
"""Winograd is worth its rounding, and its code, if it takes less than this share of the time of direct convolution."""

TILE_SLOTS = 24
"""Issue slots to start and to store a register tile."""


@dataclass(frozen=True)
class WinogradPlan:
    """F(m, 3) on tiles of m x m outputs; `bands` even shares of the rows of tiles are worked on one after the other.

    The last tile of an axis steps back to lie inside the image. Register tiles are `pixels` points x `blocks` blocks.
    """

    m: int
    height: int
    width: int
    inputs: int
    depth: int
    bands: int
    pixels: int
    blocks: int
    lanes: int

    @property
    def size(self) -> int:
        return self.m + 2

    @property
    def points(self) -> int:
        return self.size**2

    @property
    def rows(self) -> int:
        return ceil_div(self.height, self.m)

    @property
    def columns(self) -> int:
        return ceil_div(self.width, self.m)

    @property
    def most(self) -> int:
        """Tiles of the largest band."""
        return ceil_div(self.rows, self.bands) * self.columns

    @property
    def groups(self) -> int:
        return ceil_div(self.depth, self.blocks)

    @property
    def group_weights(self) -> int:
        return self.points * self.inputs * self.blocks * self.lanes

    def slots(self) -> float:
        """Estimated issue slots of one image."""
        in_blocks = ceil_div(self.inputs, self.lanes)
        weights = 4 * self.groups * self.group_weights
        points = 4 * self.points * in_blocks * self.lanes * self.most
        products = 4 * self.points * self.blocks * self.lanes * self.most
        tiles = ceil_div(self.most, self.pixels)
        step = self.inputs * step_slots(self.pixels, self.blocks) + TILE_SLOTS + self.pixels * self.blocks
        compute = self.points * tiles * self.groups * step
        near = weights + points + products <= L2_BYTES
        traffic = weights / (L2_SLOT_BYTES if near else L3_SLOT_BYTES if weights <= L3_BYTES else MEMORY_SLOT_BYTES)
        if points + products > L2_BYTES:
            traffic += self.groups * points / L3_SLOT_BYTES
        transforms = self.most * (
            in_blocks * FORWARD_SLOTS[self.m] + self.groups * self.blocks * BACKWARD_SLOTS[self.m]
        )
        return self.bands * (max(compute, traffic) + 0.3 * min(compute, traffic) + transforms)


@functools.cache
def ranked_winograd(shape: ConvShape, unit: VectorUnit) -> tuple[WinogradPlan, ...]:
    """The cheapest plans, the cheapest first; none where direct convolution is the only way."""
    rows, columns = shape.window.rows, shape.window.columns
    if shape.groups != 1 or any((a.kernel, a.stride, a.dilation) != (3, 1, 1) for a in (rows, columns)):
        return ()
    return ranked(candidates(shape, unit), WinogradPlan.slots)


def candidates(shape: ConvShape, unit: VectorUnit) -> Iterator[WinogradPlan]:
    """Every plan worth a look."""
    height, width = shape.window.rows.out, shape.window.columns.out
    depth = ceil_div(shape.outputs, unit.lanes)
    for m in (2, 4):
        if min(height, width) < m:
            continue
        rows = ceil_div(height, m)
        # The last row of tiles may overlap the one before: both belong to one band, so that no two threads write the
        # same outputs.
        for bands in range(1, rows + 1 if height % m == 0 else max(2, rows)):
            # An uneven share may be a row short.
            least = rows // bands * ceil_div(width, m)
            most = ceil_div(rows, bands) * ceil_div(width, m)
            for blocks in range(1, min(depth, MAX_BLOCKS) + 1):
                limit = most_pixels(blocks, unit)
                for pixels in {min(least, ceil_div(most, ceil_div(most, limit) + more)) for more in (0, 1)}:
                    yield WinogradPlan(m, height, width, shape.inputs, depth, bands, pixels, blocks, unit.lanes)


def pack_winograd(weight: FloatArray, plan: WinogradPlan) -> FloatArray:
    """[O, C, 3, 3] to [groups of blocks | points | C | channels of the group], flat; channels beyond O are zero."""
    g, lanes = transforms(plan.m)[1], plan.lanes
    outputs, channels = weight.shape[:2]
    points = np.zeros((plan.points, channels, plan.depth * lanes), np.float32)
    transformed = np.einsum("ai,ocij,bj->abco", g, weight.astype(np.float64), g, optimize=True)
    points[:, :, :outputs] = transformed.reshape(plan.points, channels, outputs)
    starts = [min(i * plan.blocks, plan.depth - plan.blocks) * lanes for i in range(plan.groups)]
    return np.concatenate([points[:, :, s : s + plan.blocks * lanes].ravel() for s in starts])
