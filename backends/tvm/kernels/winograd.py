"""3x3 convolution of stride 1 in Winograd's domain: F(2x2, 3x3) and F(4x4, 3x3).

An output tile of m x m needs (m + 2)^2 products instead of 9 m^2. For each of the (m + 2)^2 points a matrix
product runs over the channels, with tiles along the vectors. A task transforms the input of a band of tile
rows, then for each block of output channels computes all points, transforms back and stores rows; everything
in between stays in the second-level cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .conv_plan import ConvShape
from .emit import Emitter
from .kernel import Dim, Epilogue, Expr, ExtraOperand, Kernel, VectorUnit, ceil_div, cover
from .panel import Panel, fill_panel
from .tile import RegisterTile
from .winograd_plan import WinogradPlan, pack_winograd, transforms


def winograd(
    batch: Dim,
    shape: ConvShape,
    plan: WinogradPlan,
    in_shape: tuple[Dim, ...],
    epilogue: Epilogue,
    extras: tuple[ExtraOperand, ...],
    unit: VectorUnit,
) -> Kernel:
    """The kernel of a planned Winograd convolution."""
    out_shape = (batch, shape.outputs, *shape.window.out_spatial)
    packed_shape = (plan.points * shape.outputs * shape.inputs,)
    emit = Emitter()
    with emit.function():
        x = emit.arg("x", in_shape)
        weight = emit.arg("weight", packed_shape)
        extra = emit.extra_args(extras)
        out = emit.arg("out", out_shape)
        task = _Task(emit, shape, plan, unit, x, weight, out, epilogue, extra)
        with emit.parallel(batch * (plan.bands * plan.splits)) as t:
            n, rest = t // (plan.bands * plan.splits), t % (plan.bands * plan.splits)
            band, split = rest // plan.splits, rest % plan.splits
            start = (
                emit.min(band * plan.tile_rows, plan.tiles.rows.out - plan.tile_rows) if plan.bands > 1 else 0
            )
            task.emit_all(n, emit.bind(start), split)
    return Kernel(
        emit.func, (None, lambda w: pack_winograd(w, plan.m, plan.block)), (in_shape, packed_shape), out_shape
    )


def apart(length: int) -> int:
    """A length of planes accessed together: two cache lines past a page, so that they fall into different
    sets.
    """
    return ceil_div(length, 1024) * 1024 + 32


def combine(emit: Emitter, factors: Sequence[float], vectors: Sequence[Expr], lanes: int) -> Expr:
    """The sum of factor * vector.

    Points come in pairs of opposite sign, whose rows agree in the even powers and differ by sign in the odd
    ones. The two halves are summed apart, so that LLVM finds each half twice and computes it once.
    """
    even = _terms(emit, factors[::2], vectors[::2], lanes)
    odd_factors = factors[1::2]
    sign = next((np.sign(f) for f in odd_factors if f), 1.0)
    odd = _terms(emit, [f * sign for f in odd_factors], vectors[1::2], lanes)
    if even is None or odd is None:
        total = even if odd is None else odd
        return total if odd is None or sign > 0 else emit.splat(emit.const(0.0), lanes) - total
    return even + odd if sign > 0 else even - odd


def _terms(emit: Emitter, factors: Sequence[float], vectors: Sequence[Expr], lanes: int) -> Expr | None:
    total: Expr | None = None
    # Terms of factor one first: they need no multiplication.
    for factor, vector in sorted(zip(factors, vectors, strict=True), key=lambda pair: bool(pair[0] != 1)):
        if factor == 0:
            continue
        term = vector if factor == 1 else vector * emit.splat(emit.const(float(factor)), lanes)
        total = term if total is None else total + term
    return total


class _Task:
    """Emits what one task does for a band of tile rows of one image."""

    def __init__(
        self,
        emit: Emitter,
        shape: ConvShape,
        plan: WinogradPlan,
        unit: VectorUnit,
        x: Any,
        weight: Any,
        out: Any,
        epilogue: Epilogue,
        extras: tuple[Any, ...],
    ) -> None:
        self.emit, self.shape, self.plan, self.unit = emit, shape, plan, unit
        self.x, self.weight, self.out, self.epilogue, self.extras = x, weight, out, epilogue, extras
        self.panel = Panel(plan.tiles, plan.tile_rows)
        self.pitch = plan.padded + unit.lanes

    def emit_all(self, n: Expr, start: Expr, split: Expr) -> None:
        emit, shape, plan = self.emit, self.shape, self.plan
        panel = emit.scratch(self.panel.size(1, 2 * self.unit.lanes))
        # Vectors of a row's last tiles run on into the next row's, which overwrite them; the slack is for the
        # last.
        points = emit.scratch(plan.points, apart(shape.inputs * self.pitch))
        products = emit.scratch(plan.points, apart(plan.block * plan.padded))
        planes = emit.scratch(plan.m * plan.m, plan.padded + self.unit.lanes)
        row = emit.scratch(plan.tiles.columns.out * plan.m)
        with emit.serial(shape.inputs) as c:
            fill_panel(
                emit,
                self.panel,
                panel,
                0,
                start,
                lambda y, x, width: self.x[n, c, y, emit.ramp(x, width)],
                self.unit,
            )
            with emit.serial(plan.tile_rows) as r:
                for first, width in cover(plan.tiles.columns.out, self.unit.lanes):
                    self._transform_input(c, r, first, width, panel, points)
        whole, rest = divmod(shape.outputs, plan.block)
        begin = split * whole // plan.splits
        count = (split + 1) * whole // plan.splits - begin if plan.splits > 1 else whole

        def block(o: Expr, width: int) -> None:
            self._multiply(o, width, points, products)
            with emit.serial(width) as j:
                self._transform_output(n, o + j, j, start, products, planes, row)

        with emit.serial(count) as b:
            block((begin + b) * plan.block, plan.block)
        if rest and plan.splits > 1:
            with emit.when(split == plan.splits - 1):
                block(whole * plan.block, rest)
        elif rest:
            block(whole * plan.block, rest)

    def _transform_input(self, c: Expr, r: Expr, first: int, width: int, panel: Any, points: Any) -> None:
        emit, size = self.emit, self.plan.m + 2
        matrix = transforms(self.plan.m)[0]
        half = emit.registers(size * size, width)
        base = r * self.panel.pitch + first
        for j in range(size):
            column = [panel[emit.ramp(base + self.panel.tap(i, j), width)] for i in range(size)]
            for i in range(size):
                emit.store(
                    half, [i * size + j, emit.ramp(0, width)], combine(emit, matrix[i], column, width)
                )
        at = emit.ramp(c * self.pitch + r * self.plan.tiles.columns.out + first, width)
        for i in range(size):
            row = [half[i * size + j, emit.ramp(0, width)] for j in range(size)]
            for j in range(size):
                emit.store(points, [i * size + j, at], combine(emit, matrix[j], row, width))

    def _multiply(self, o: Expr, width: int, points: Any, products: Any) -> None:
        """The products of all points for a block of output channels."""
        emit, plan, lanes = self.emit, self.plan, self.unit.lanes
        channels = self.shape.inputs
        whole, rest = divmod(plan.padded // lanes, plan.vectors)

        def tile(p: Expr, first: Expr, vectors: int) -> None:
            acc = RegisterTile(emit, width, vectors, lanes)
            acc.fill()
            with emit.serial(channels) as c:
                acc.add_outer(
                    lambda j: self.weight[o * channels * plan.points + (p * channels + c) * width + j],
                    lambda v: points[p, emit.ramp(c * self.pitch + first + v * lanes, lanes)],
                )
            acc.spill(products, lambda j, v: [p, j * plan.padded + first + v * lanes])

        if whole:
            with emit.serial(plan.points * whole) as i:
                tile(i // whole, i % whole * (plan.vectors * lanes), plan.vectors)
        if rest:
            with emit.serial(plan.points) as p:
                tile(p, whole * plan.vectors * lanes, rest)

    def _transform_output(
        self, n: Expr, o: Expr, j: Expr, start: Expr, products: Any, planes: Any, row: Any
    ) -> None:
        emit, plan, lanes, m = self.emit, self.plan, self.unit.lanes, self.plan.m
        size = m + 2
        matrix = transforms(m)[2]
        with emit.serial(plan.padded // lanes) as v:
            half = emit.registers(m * size, lanes)
            at, source = emit.ramp(v * lanes, lanes), emit.ramp(j * plan.padded + v * lanes, lanes)
            for b in range(size):
                column = [products[a * size + b, source] for a in range(size)]
                for a in range(m):
                    emit.store(
                        half, [a * size + b, emit.ramp(0, lanes)], combine(emit, matrix[a], column, lanes)
                    )
            for a in range(m):
                line = [half[a * size + b, emit.ramp(0, lanes)] for b in range(size)]
                for b in range(m):
                    emit.store(planes, [a * m + b, at], combine(emit, matrix[b], line, lanes))
        window = self.shape.window
        with emit.serial(plan.tile_rows) as r, emit.serial(m) as a:
            y = (start + r) * m + a
            if window.rows.out % m:
                with emit.when(y < window.rows.out):
                    self._store_row(n, o, y, r, a, planes, row)
            else:
                self._store_row(n, o, y, r, a, planes, row)

    def _store_row(self, n: Expr, o: Expr, y: Expr, r: Expr, a: Expr, planes: Any, row: Any) -> None:
        """Interleave the m planes of a row and store it with the epilogue."""
        emit, m = self.emit, self.plan.m
        tiles = self.plan.tiles.columns.out
        for first, width in cover(tiles, self.unit.lanes // m):
            vectors = [planes[a * m + b, emit.ramp(r * tiles + first, width)] for b in range(m)]
            picks = [b * width + t for t in range(width) for b in range(m)]
            emit.store(row, [emit.ramp(first * m, width * m)], emit.shuffle(vectors, picks))
        emit.store_row(
            self.shape.window.columns.out,
            self.unit.lanes,
            lambda column: row[column],
            lambda column: (n, o, y, column),
            self.out,
            self.epilogue,
            self.extras,
        )
