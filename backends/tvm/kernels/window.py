"""Sliding windows within one channel: depthwise convolution and pooling, vectorised along rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .emit import Emitter
from .geometry import Window
from .kernel import Dim, Epilogue, Expr, VectorUnit, ceil_div
from .panel import Panel, fill_panel
from .tile import RegisterTile

VECTORS = 8
"""Accumulators of a tile: enough to hide the latency, few enough to leave registers for weights."""

TASKS = 8
"""Parallel tasks aimed at for one image."""


@dataclass(frozen=True)
class Reduction:
    """How a window is reduced: acc = combine(acc, element, output channel, tap), from `start`, padded with
    `pad`.
    """

    start: float
    pad: float
    combine: Callable[[Expr, Expr, Expr, int], Expr]


def channels_a_task(channels: int) -> int:
    """The largest divisor of the channels that still leaves enough tasks."""
    most = max(1, channels // TASKS)
    return next(d for d in range(min(most, 32), 0, -1) if channels % d == 0)


def emit_windows(
    emit: Emitter,
    batch: Dim,
    channels: int,
    multiplier: int,
    window: Window,
    reduction: Reduction,
    x: Any,
    out: Any,
    epilogue: Epilogue,
    extras: tuple[Any, ...],
    unit: VectorUnit,
) -> None:
    """Reduce every window of every channel; input channel c feeds output channels c * multiplier and
    following.
    """
    panel = Panel(window, window.rows.out)
    vectors = ceil_div(panel.flat, unit.lanes)
    group = channels_a_task(channels)

    def load(n: Expr, c: Expr, y: Expr, start: Expr, width: int) -> Expr:
        columns = emit.ramp(start, width)
        return x[n, c, columns] if window.is_1d else x[n, c, y, columns]

    def channel(n: Expr, c: Expr, o: Expr, planes: Any, plane: Expr, spill: Any) -> None:
        def tile(flat: Expr, count: int) -> None:
            acc = RegisterTile(emit, 1, count, unit.lanes)
            acc.fill(reduction.start)
            for kh in range(window.rows.kernel):
                for kw in range(window.columns.kernel):
                    base = plane * (panel.planes * panel.plane) + flat + panel.tap(kh, kw)
                    tap = kh * window.columns.kernel + kw
                    acc.update(
                        lambda a, r, v, base=base, tap=tap: reduction.combine(  # type: ignore[misc]
                            a, planes[emit.ramp(base + v * unit.lanes, unit.lanes)], o, tap
                        )
                    )
            acc.spill(spill, lambda r, v: [flat + v * unit.lanes])

        whole, rest = divmod(vectors, VECTORS)
        if whole:
            with emit.serial(whole) as t:
                tile(t * (VECTORS * unit.lanes), VECTORS)
        if rest:
            tile(whole * VECTORS * unit.lanes, rest)
        with emit.serial(window.rows.out) as r:
            emit.store_row(
                window.columns.out,
                unit.lanes,
                lambda column: spill[r * panel.pitch + column],
                lambda column: (n, o, column) if window.is_1d else (n, o, r, column),
                out,
                epilogue,
                extras,
            )

    with emit.parallel(batch * (channels // group)) as task:
        n, first = task // (channels // group), task % (channels // group) * group
        planes = emit.scratch(panel.size(1, 2 * unit.lanes))
        spill = emit.scratch(vectors * unit.lanes)
        with emit.serial(group) as g:
            c = first + g
            fill_panel(emit, panel, planes, 0, 0, lambda y, s, w: load(n, c, y, s, w), unit, reduction.pad)
            if multiplier == 1:
                channel(n, c, c, planes, 0, spill)
            else:
                with emit.serial(multiplier) as m:
                    channel(n, c, c * multiplier + m, planes, 0, spill)
