"""How a direct convolution is cut into tasks, register tiles and blocks of packed weights."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .geometry import Axis, Window
from .kernel import FloatArray, VectorUnit, ceil_div
from .panel import Panel
from .tile import choose_tile

PANEL_BYTES = 416 * 1024
"""Cap of a task's panel: it shares a second-level cache with a block of weights."""

TASKS = 4
"""Parallel tasks aimed at for one image."""


@dataclass(frozen=True)
class ConvShape:
    """A grouped convolution of one image, in channels a group."""

    groups: int
    inputs: int
    outputs: int
    window: Window

    @property
    def depth(self) -> int:
        """Length of the dot product behind one output."""
        return self.inputs * self.window.taps

    @property
    def is_pointwise(self) -> bool:
        rows, columns = self.window.rows, self.window.columns
        return all(a.kernel == a.stride == 1 and a.before == a.after == 0 for a in (rows, columns))


def pack_blocks(weight: FloatArray, groups: int, block: int) -> FloatArray:
    """[O, C, taps..] to [groups, blocks of output channels | depth | channels of the block], flat in each
    group.
    """
    outputs = weight.shape[0] // groups
    rows = weight.reshape(groups, outputs, -1)
    blocks = [rows[:, o : o + block].transpose(0, 2, 1).reshape(groups, -1) for o in range(0, outputs, block)]
    return np.ascontiguousarray(np.concatenate(blocks, axis=1), dtype=np.float32)


@dataclass(frozen=True)
class BandPlan:
    """How the output of one group is cut: bands of rows (or of pixels), and splits of the output channels."""

    panel: Panel
    bands: int
    splits: int
    block: int
    vectors: int
    by_pixels: bool

    @property
    def step(self) -> int:
        """Rows (or pixels) from one band to the next."""
        return self.panel.window.columns.out if self.by_pixels else self.panel.out_rows


def plan_band(shape: ConvShape, window: Window, unit: VectorUnit) -> BandPlan:
    by_pixels = shape.is_pointwise
    if by_pixels:
        pixels = window.columns.out
        most = max(unit.lanes * 4, PANEL_BYTES // 4 // shape.inputs // unit.lanes * unit.lanes)
        bands = ceil_div(pixels, most)
        if shape.groups * bands < TASKS and pixels >= TASKS * unit.lanes * 8:
            bands = TASKS
        length = min(pixels, ceil_div(ceil_div(pixels, bands), unit.lanes) * unit.lanes)
        bands = ceil_div(pixels, length)
        panel = Panel(Window(Axis(1, 1), Axis(length, 1), True), 1)
    else:
        rows = window.rows.out
        out_rows = rows
        while out_rows > 1 and 4 * shape.inputs * Panel(window, out_rows).planes * Panel(window, out_rows).plane > (
            PANEL_BYTES
        ):
            out_rows -= 1
        bands = ceil_div(rows, out_rows)
        if shape.groups * bands < TASKS and rows >= TASKS * 4:
            bands = TASKS
        out_rows = ceil_div(rows, bands)
        bands = ceil_div(rows, out_rows)
        panel = Panel(window, out_rows)
    block, vectors = choose_tile(shape.outputs, ceil_div(panel.flat, unit.lanes), unit)
    blocks = shape.outputs // block
    splits = 1 if bands * shape.groups >= TASKS else max(1, min(ceil_div(TASKS, bands * shape.groups), blocks // 4))
    return BandPlan(panel, bands, splits, block, vectors, by_pixels)
