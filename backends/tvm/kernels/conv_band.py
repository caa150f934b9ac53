"""Direct convolution over bands of output rows.

One task copies the input rows of its band into a panel in the cache, then runs all its blocks of output
channels over it. Registers hold `rows` output channels x `vectors` vectors of flat outputs: input vectors are
loaded, weights are broadcast, so the results come out in NCHW order and need no transposition.
"""

from __future__ import annotations

from typing import Any

from .conv_call import ConvCall
from .conv_plan import BandPlan, ConvShape, pack_blocks, plan_band
from .emit import Emitter
from .geometry import Axis, Window
from .kernel import Dim, Epilogue, Expr, Kernel, VectorUnit, ceil_div
from .panel import fill_panel
from .tile import RegisterTile

UNROLLED_FMAS = 640
"""Taps are unrolled up to this many FMAs in a loop body, so that the code stays in the instruction cache."""


def conv_band(call: ConvCall) -> Kernel:
    """The kernel of any convolution whose output rows are long enough to fill vectors."""
    shape, window = call.shape, call.window
    # Pixels of a pointwise convolution need no rows: take the image as one long row and cut that into bands.
    pixels = window.rows.out * window.columns.out
    band_window = Window(Axis(1, 1), Axis(pixels, 1), True) if shape.is_pointwise else window
    plan = plan_band(shape, band_window, call.unit)
    packed_shape = (shape.groups, shape.outputs * shape.depth)

    emit = Emitter()
    with emit.function():
        x = emit.arg("x", call.x_shape)
        weight = emit.arg("weight", packed_shape)
        extra = emit.extra_args(call.extras)
        out = emit.arg("out", call.out_shape)
        _Band(emit, shape, plan, call.unit, x, weight, out, call.epilogue, extra).emit_all(call.batch)
    return Kernel(
        emit.func,
        (None, lambda w: pack_blocks(w.reshape(call.weight_shape), shape.groups, plan.block)),
        (call.x_shape, packed_shape),
        call.out_shape,
    )


class _Band:
    """Emits the loops of a planned convolution."""

    def __init__(
        self,
        emit: Emitter,
        shape: ConvShape,
        plan: BandPlan,
        unit: VectorUnit,
        x: Any,
        weight: Any,
        out: Any,
        epilogue: Epilogue,
        extras: tuple[Any, ...],
    ) -> None:
        self.emit, self.shape, self.plan, self.unit = emit, shape, plan, unit
        self.x, self.weight, self.out, self.epilogue, self.extras = x, weight, out, epilogue, extras
        self.tile_length = plan.vectors * unit.lanes
        # Whole tiles may run past the flat outputs; so may the panel reads of the last channel's last tap.
        self.padded_flat = ceil_div(plan.panel.flat, unit.lanes) * unit.lanes

    def emit_all(self, batch: Dim) -> None:
        plan, shape, emit = self.plan, self.shape, self.emit
        tasks_an_image = shape.groups * plan.bands * plan.splits
        with emit.parallel(batch * tasks_an_image) as task:
            n, rest = task // tasks_an_image, task % tasks_an_image
            group, rest = rest // (plan.bands * plan.splits), rest % (plan.bands * plan.splits)
            band, split = rest // plan.splits, rest % plan.splits
            self._task(n, group, emit.bind(self._band_start(band)), split)

    def _band_start(self, band: Expr) -> Expr:
        plan, window = self.plan, self.shape.window
        total = window.rows.out * window.columns.out if plan.by_pixels else window.rows.out
        if plan.bands == 1:
            return 0
        start = band * plan.step
        # The last band steps back to keep its length; it recomputes a few outputs of its neighbour.
        return start if total % plan.step == 0 else self.emit.min(start, total - plan.step)

    def _task(self, n: Expr, group: Expr, start: Expr, split: Expr) -> None:
        emit, shape, plan = self.emit, self.shape, self.plan
        panel = emit.scratch(plan.panel.size(shape.inputs, 2 * self.unit.lanes))
        spill = None if plan.by_pixels else emit.scratch(plan.block, self.padded_flat)
        with emit.serial(shape.inputs) as c:
            channel = group * shape.inputs + c
            if plan.by_pixels:
                # The panel's one row starts at pixel `start` of an image taken as one row.
                fill_panel(
                    emit,
                    plan.panel,
                    panel,
                    c,
                    0,
                    lambda y, x, w: self._load(n, channel, 0, start + x, w),
                    self.unit,
                )
            else:
                fill_panel(
                    emit,
                    plan.panel,
                    panel,
                    c,
                    start,
                    lambda y, x, w: self._load(n, channel, y, x, w),
                    self.unit,
                )
        whole, rest = divmod(shape.outputs, plan.block)
        first = split * whole // plan.splits
        count = (split + 1) * whole // plan.splits - first if plan.splits > 1 else whole

        def block(o: Expr, width: int) -> None:
            self._block(n, group, start, o, width, panel, spill)

        if plan.by_pixels:
            self._pixel_blocks(n, group, start, first, count, panel)
        else:
            with emit.serial(count) as b:
                block((first + b) * plan.block, plan.block)
        if rest and plan.splits > 1:
            with emit.when(split == plan.splits - 1):
                block(whole * plan.block, rest)
        elif rest:
            block(whole * plan.block, rest)

    def _load(self, n: Expr, channel: Expr, y: Expr, x: Expr, width: int) -> Expr:
        columns = self.emit.ramp(x, width)
        return self.x[n, channel, columns] if self.shape.window.is_1d else self.x[n, channel, y, columns]

    def _pixel_blocks(self, n: Expr, group: Expr, start: Expr, first: Expr, count: Expr, panel: Any) -> None:
        """All outputs of the band for `count` whole blocks of output channels.

        Blocks and tiles share one loop: LLVM would unroll a short loop over tiles, and then spill
        accumulators.
        """
        emit, plan = self.emit, self.plan
        whole, rest = divmod(plan.panel.flat, self.tile_length)
        if whole:
            with emit.serial(count * whole) as i:
                o = (first + i // whole) * plan.block
                self._pixel_tile(n, group, start, o, plan.block, i % whole * self.tile_length, self.tile_length, panel)
        if rest:
            with emit.serial(count) as b:
                o = (first + b) * plan.block
                self._pixel_tile(n, group, start, o, plan.block, whole * self.tile_length, rest, panel)

    def _pixel_tile(
        self, n: Expr, group: Expr, start: Expr, o: Expr, width: int, flat: Expr, valid: int, panel: Any
    ) -> None:
        lanes, columns = self.unit.lanes, self.shape.window.columns.out
        channel = group * self.shape.outputs + o

        def index(row: Expr, pixel: Expr) -> tuple[Expr, ...]:
            at = start + flat + pixel
            # Written out in rows and columns for the epilogue; flattening folds it back into a contiguous
            # access.
            if self.shape.window.is_1d:
                return (n, channel + row, at)
            return (n, channel + row, at // columns, at % columns)

        tile = self._accumulate(group, o, width, ceil_div(valid, lanes), flat, panel)
        tile.store(range(0, valid, lanes), valid, index, self.out, self.epilogue, self.extras)

    def _block(self, n: Expr, group: Expr, start: Expr, o: Expr, width: int, panel: Any, spill: Any) -> None:
        """All outputs of the band for `width` output channels from `o` of the group."""
        emit, plan, lanes = self.emit, self.plan, self.unit.lanes
        whole, rest = divmod(plan.panel.flat, self.tile_length)

        def tile(flat: Expr, valid: int) -> None:
            if plan.by_pixels:
                self._pixel_tile(n, group, start, o, width, flat, valid, panel)
            else:
                acc = self._accumulate(group, o, width, ceil_div(valid, lanes), flat, panel)
                acc.spill(spill, lambda j, v: [j, flat + v * lanes])

        if whole:
            with emit.serial(whole) as t:
                tile(t * self.tile_length, self.tile_length)
        if rest:
            tile(whole * self.tile_length, rest)
        if plan.by_pixels:
            return
        with emit.serial(width) as j:
            channel = group * self.shape.outputs + o + j
            if plan.panel.out_rows == 1:
                self._store_row(n, channel, start, 0, j, spill)
            else:
                with emit.serial(plan.panel.out_rows) as r:
                    self._store_row(n, channel, start, r, j, spill)

    def _store_row(self, n: Expr, channel: Expr, start: Expr, r: Expr, j: Expr, spill: Any) -> None:
        def index(column: Expr) -> tuple[Expr, ...]:
            return (n, channel, column) if self.shape.window.is_1d else (n, channel, start + r, column)

        self.emit.store_row(
            self.shape.window.columns.out,
            self.unit.lanes,
            lambda column: spill[j, r * self.plan.panel.pitch + column],
            index,
            self.out,
            self.epilogue,
            self.extras,
        )

    def _accumulate(self, group: Expr, o: Expr, width: int, vectors: int, flat: Expr, panel: Any) -> RegisterTile:
        """A register tile of `width` output channels x `vectors` vectors of flat outputs, summed over all
        taps.
        """
        emit, shape, plan, lanes = self.emit, self.shape, self.plan, self.unit.lanes
        rows, columns = plan.panel.window.rows, plan.panel.window.columns
        tile = RegisterTile(emit, width, vectors, lanes)
        tile.fill()
        channel_size = plan.panel.planes * plan.panel.plane

        def taps(c: Expr, kh: Expr, row_offset: Expr) -> None:
            for kw in range(columns.kernel):
                base = c * channel_size + row_offset + plan.panel.tap(0, kw) - plan.panel.tap(0, 0) + flat
                k = (c * rows.kernel + kh) * columns.kernel + kw
                w = o * shape.depth + k * width
                tile.add_outer(
                    lambda j, w=w: self.weight[group, w + j],  # type: ignore[misc]
                    lambda v, base=base: panel[emit.ramp(base + v * lanes, lanes)],  # type: ignore[misc]
                )

        with emit.serial(shape.inputs) as c:
            if shape.window.taps * width * vectors <= UNROLLED_FMAS:
                for kh in range(rows.kernel):
                    taps(c, kh, plan.panel.tap(kh, 0))
            else:
                for phase in rows.phases:
                    first, step, count, shift = rows.taps_of_phase(phase)
                    with emit.serial(count) as i:
                        taps(c, first + i * step, plan.panel.tap(first, 0) + i * (shift * plan.panel.pitch))
        return tile
