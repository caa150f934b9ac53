"""Winograd convolution F(2x2, 3x3) and F(4x4, 3x3) in blocks of channels (Lavin and Gray, arXiv:1509.09308).

A task transforms the tiles of a band of the image, a vector of channels at a time; then, for each group of output
blocks, it multiplies all points and transforms the products back. Transformed inputs and products of a group stay in
the second-level cache. If the image is a single band, threads share its transformed input and split the groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..conv_call import ConvCall
from ..conv_plan import ConvShape
from ..emit import Emitter
from ..kernel import Expr, Kernel, ceil_div
from ..layout import Blocked
from ..tile import RegisterTile
from .store import Output
from .tiling import NARROW
from .transforms import apart, combine, transforms
from .winograd_plan import WinogradPlan, pack_winograd

__all__ = ["winograd_conv"]


def winograd_conv(call: ConvCall, plan: WinogradPlan) -> Kernel:
    """The kernel of a planned Winograd convolution of a blocked image."""
    assert isinstance(call.x_layout, Blocked)
    packed_shape = (plan.groups * plan.group_weights,)
    emit = Emitter()
    with emit.function():
        x = emit.floats("x", call.x_layout.shape(call.x_shape), call.x_dtype)
        weight = emit.arg("weight", packed_shape)
        out = Output.of(emit, call, emit.extra_args(call.extras))
        task = _Task(emit, call.shape, plan, call.x_layout, x, weight, out)
        if plan.bands == 1:
            with emit.serial(call.batch) as n:
                task.emit_shared(n)
        else:
            with emit.parallel(call.batch * plan.bands) as t:
                task.emit_band(t // plan.bands, t % plan.bands)
    return Kernel(
        emit.func,
        (None, lambda w: pack_winograd(w, plan)),
        (call.x_layout.shape(call.x_shape), packed_shape),
        call.out_layout.shape(call.out_shape),
    )


def _interpolate(emit: Emitter, power: int, factors: Sequence[float], vectors: Sequence[Expr], lanes: int) -> Expr:
    """Row `power` of the output transform.

    Points p and -p have the same factor in even rows and opposite ones in odd rows, so the sum and the difference of
    their vectors serve all rows.
    """
    first, *pairs, last = range(len(vectors))
    total = vectors[first] if factors[first] else None
    for i in pairs[::2]:
        a, b = vectors[i], vectors[i + 1]
        term = a - b if power % 2 else a + b
        if factors[i] != 1:
            term = term * emit.splat(emit.const(float(factors[i])), lanes)
        total = term if total is None else total + term
    assert total is not None
    return total + vectors[last] if factors[last] else total


class _Task:
    """Emits the steps of a planned Winograd convolution."""

    def __init__(
        self, emit: Emitter, shape: ConvShape, plan: WinogradPlan, layout: Blocked, x: Any, weight: Any, out: Output
    ) -> None:
        self.emit, self.shape, self.plan, self.layout = emit, shape, plan, layout
        self.x, self.weight, self.out, self.lanes = x, weight, out, plan.lanes
        self.in_blocks = ceil_div(shape.inputs, plan.lanes)
        self.points_plane = apart(self.in_blocks * plan.most * plan.lanes)
        self.products_plane = apart(plan.blocks * plan.most * plan.lanes)

    def emit_shared(self, n: Expr) -> None:
        """An image as one band, by all threads together."""
        emit, plan = self.emit, self.plan
        points = emit.scratch(plan.points * self.points_plane)
        with emit.parallel(self.in_blocks) as c:
            self._transform_input(n, c, 0, plan.rows, points)
        with emit.parallel(plan.groups) as group:
            self._group(n, group, 0, plan.rows, points, emit.scratch(plan.points * self.products_plane), True)

    def emit_band(self, n: Expr, band: Expr) -> None:
        """One band by one thread."""
        emit, plan = self.emit, self.plan
        start, rows = band * (plan.rows // plan.bands), plan.rows // plan.bands
        if plan.rows % plan.bands:
            start = emit.bind(band * plan.rows // plan.bands)
            rows = emit.bind((band + 1) * plan.rows // plan.bands - start)
        points = emit.scratch(plan.points * self.points_plane)
        products = emit.scratch(plan.points * self.products_plane)
        with emit.serial(self.in_blocks) as c:
            self._transform_input(n, c, start, rows, points)
        with emit.serial(plan.groups) as group:
            self._group(n, group, start, rows, points, products, band == 0)

    def _transform_input(self, n: Expr, c: Expr, start: Expr, rows: Expr, points: Any) -> None:
        emit, plan, lanes, size = self.emit, self.plan, self.lanes, self.plan.size
        window, halo, matrix = self.shape.window, self.layout.halo, transforms(self.plan.m)[0]
        with emit.serial(rows) as r, emit.serial(plan.columns) as q:
            y = emit.bind(self._row(start + r) + (halo.top - window.rows.before))
            x = emit.bind(self._column(q) + (halo.left - window.columns.before))
            half = emit.registers(size * size * lanes)
            for j in range(size):
                column = [self.x[n, c, y + i, x + j, emit.ramp(0, lanes)] for i in range(size)]
                for i in range(size):
                    value = combine(emit, matrix[i], column, lanes)
                    emit.store(half, [emit.ramp((i * size + j) * lanes, lanes)], value)
            at = emit.bind((c * plan.most + r * plan.columns + q) * lanes)
            for i in range(size):
                line = [half[emit.ramp((i * size + j) * lanes, lanes)] for j in range(size)]
                for j in range(size):
                    value = combine(emit, matrix[j], line, lanes)
                    emit.store(points, [emit.ramp((i * size + j) * self.points_plane + at, lanes)], value)

    def _row(self, tile: Expr) -> Expr:
        return self.emit.step_back(tile, self.plan.m, self.plan.height)

    def _column(self, tile: Expr) -> Expr:
        return self.emit.step_back(tile, self.plan.m, self.plan.width)

    def _group(self, n: Expr, group: Expr, start: Expr, rows: Expr, points: Any, products: Any, has_halo: Expr) -> None:
        """Products and outputs of one group of blocks."""
        emit, plan = self.emit, self.plan
        first = emit.bind(emit.step_back(group, plan.blocks, plan.depth))
        self._multiply(group, rows * plan.columns, points, products)
        with emit.serial(plan.blocks) as b:
            self._transform_output(n, first + b, b, start, rows, products)
            if has_halo is True:
                self.out.fill_halo(n, first + b)
            else:
                with emit.when(has_halo):
                    self.out.fill_halo(n, first + b)

    def _multiply(self, group: Expr, count: Expr, points: Any, products: Any) -> None:
        """products[p] = weights[p] . points[p] for the `count` tiles of a band."""
        emit, plan, lanes = self.emit, self.plan, self.lanes
        width = plan.blocks * lanes
        whole, rest = divmod(self.shape.inputs, lanes)
        # Points and tiles share one loop: LLVM would unroll a short loop over tiles, and then spill accumulators.
        tiles = (
            ceil_div(count, plan.pixels)
            if isinstance(count, int)
            else emit.bind((count + plan.pixels - 1) // plan.pixels)
        )
        with emit.serial(tiles * plan.points) as i:
            p = emit.bind(i // tiles)
            # The last tile steps back.
            t = (
                0
                if count == plan.pixels and isinstance(count, int)
                else emit.min(i % tiles * plan.pixels, count - plan.pixels)
            )
            source = emit.bind(p * self.points_plane + t * lanes)
            weights = emit.bind((group * plan.points + p) * (self.shape.inputs * width))
            tile = RegisterTile(emit, plan.pixels, plan.blocks, lanes)
            tile.fill()

            def channel(c: Expr, lane: Expr) -> None:
                tile.add_outer(
                    lambda r: points[source + c * (plan.most * lanes) + r * lanes + lane],
                    lambda b: self.weight[emit.ramp(weights + (c * lanes + lane) * width + b * lanes, lanes)],
                )

            if lanes <= NARROW:
                with emit.serial(self.shape.inputs) as k:
                    channel(k // lanes, k % lanes)
            else:
                if whole:
                    with emit.serial(whole) as c, emit.serial(lanes) as lane:
                        channel(c, lane)
                if rest:
                    with emit.serial(rest) as lane:
                        channel(whole, lane)
            tile.spill(products, lambda r, b: [p * self.products_plane + (b * plan.most + t + r) * lanes])

    def _transform_output(self, n: Expr, block: Expr, b: Expr, start: Expr, rows: Expr, products: Any) -> None:
        emit, plan, lanes, m, size = self.emit, self.plan, self.lanes, self.plan.m, self.plan.size
        matrix = transforms(m)[2]
        with emit.serial(rows) as r, emit.serial(plan.columns) as q:
            at = emit.bind((b * plan.most + r * plan.columns + q) * lanes)
            half = emit.registers(m * size * lanes)
            for j in range(size):
                column = [products[emit.ramp((i * size + j) * self.products_plane + at, lanes)] for i in range(size)]
                for i in range(m):
                    value = _interpolate(emit, i, matrix[i], column, lanes)
                    emit.store(half, [emit.ramp((i * size + j) * lanes, lanes)], value)
            result = emit.registers(m * m * lanes)
            for i in range(m):
                line = [half[emit.ramp((i * size + j) * lanes, lanes)] for j in range(size)]
                for j in range(m):
                    value = _interpolate(emit, j, matrix[j], line, lanes)
                    emit.store(result, [emit.ramp((i * m + j) * lanes, lanes)], value)
            y, x = emit.bind(self._row(start + r)), emit.bind(self._column(q))
            self.out.store_pixels(
                m * m, n, block, lambda i: (y + i // m, x + i % m), lambda i, lane: result[i * lanes + lane]
            )
