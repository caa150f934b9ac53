"""Depthwise convolution of bytes in blocks of channels.

A dot product here takes four taps of one kernel column: their vectors of channels are interleaved, byte by byte. An
interleaved vector serves all taps of its column, and several output rows where these fit into the same four (two for a
3x3 kernel of stride 1): the weights of a row are zero where it has no tap.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ..blocked.store import Output
from ..conv_call import ConvCall
from ..emit import Emitter
from ..geometry import Window
from ..kernel import Expr, Kernel, ceil_div
from ..layout import Blocked
from .conv import reads_blocks
from .dot import BytesDot
from .fixed import Rescale
from .header import Header
from .tile import DotTile

__all__ = ["depthwise_int8"]

Array = npt.NDArray[Any]

SPARE_REGISTERS = 8
"""For weights and interleaved vectors."""

MAX_TAPS = 121
"""Windows are unrolled."""


def depthwise_int8(
    call: ConvCall, *, zero_point: int = 0, bias: Array | None = None, rescale: Rescale | None = None
) -> Kernel | None:
    """As `conv_int8`, for a weight[C, 1, KH, KW] and C groups; None for any other, and for very large windows."""
    shape, unit, x_layout = call.shape, call.unit, call.x_layout
    if not reads_blocks(call) or (shape.inputs, shape.outputs) != (1, 1) or shape.window.taps > MAX_TAPS:
        return None
    assert isinstance(x_layout, Blocked)
    if x_layout.lanes != unit.lanes:
        return None
    dot = BytesDot(unit, x_dtype=call.x_dtype)
    batch, channels, lanes = call.batch, shape.groups, unit.lanes
    plan = _Plan(shape.window, dot, Header(dot.correction - zero_point, bias, rescale))
    height, width = shape.window.rows.out, shape.window.columns.out
    tall, wide = plan.tall, plan.wide
    row_tiles, column_tiles = ceil_div(height, tall), ceil_div(width, wide)
    blocks = ceil_div(channels, lanes)
    packed_shape = (blocks, plan.size)
    emit = Emitter()
    with emit.function():
        x = emit.arg("x", x_layout.shape(call.x_shape), call.x_dtype)
        weight = emit.arg("weight", packed_shape, "int8")
        out = Output.of(emit, call, emit.extra_args(call.extras))
        with emit.parallel(batch * blocks * row_tiles) as task:
            n, block = task // (blocks * row_tiles), emit.bind(task // row_tiles % blocks)
            top = emit.bind(emit.step_back(task % row_tiles, tall, height))
            with emit.serial(column_tiles) as i:
                left = emit.bind(emit.step_back(i, wide, width))
                tile = _tile(emit, plan, dot, x_layout, x, weight, n, block, top, left)
                out.store_tile(tile, tall * wide, 1, n, block, lambda p: (top + p // wide, left + p % wide))
            with emit.when(task % row_tiles == 0):
                out.fill_halo(n, block)
    shapes = (x_layout.shape(call.x_shape), packed_shape)
    return Kernel(emit.func, (None, plan.pack), shapes, call.out_layout.shape(call.out_shape))


class _Plan:
    """A tile of `tall` x `wide` outputs, the input `rows` it reads (from its first one on), and its packed weights."""

    def __init__(self, window: Window, dot: BytesDot, head: Header) -> None:
        self.window, self.dot, self.head = window, dot, head
        rows, columns = window.rows, window.columns
        chunks = ceil_div(rows.kernel, 4)
        self.tall = max(t for t in range(1, rows.out + 1) if t == 1 or len(self._rows(t)) <= 4 * chunks)
        self.rows = self._rows(self.tall)
        self.chunks = ceil_div(len(self.rows), 4)
        most = max(2, (dot.unit.registers - SPARE_REGISTERS) // (self.tall * dot.partials))
        self.wide = ceil_div(columns.out, ceil_div(columns.out, most))
        self.vector = 4 * dot.lanes
        self.header = head.rows * self.vector
        self.size = self.header + self.tall * self.chunks * columns.kernel * self.vector

    def _rows(self, tall: int) -> list[int]:
        rows = self.window.rows
        return sorted({r * rows.stride + k * rows.dilation for r in range(tall) for k in range(rows.kernel)})

    def at(self, row: int, chunk: int, kw: int) -> int:
        """Where the weights of an output row for a chunk of input rows and a kernel column lie."""
        return self.header + ((row * self.chunks + chunk) * self.window.columns.kernel + kw) * self.vector

    def pack(self, weight: Array) -> Array:
        """[C, 1, KH, KW] to [blocks, header | output row | chunk | KW | lanes | 4]."""
        channels, _, kernel_rows, kernel_columns = weight.shape
        lanes, rows = self.dot.lanes, self.window.rows
        blocks = ceil_div(channels, lanes)
        packed = np.zeros((blocks * lanes, self.tall, self.chunks * 4, kernel_columns), np.int8)
        for r in range(self.tall):
            for k in range(kernel_rows):
                packed[:channels, r, self.rows.index(r * rows.stride + k * rows.dilation)] = weight[:, 0, k]
        split = packed.reshape(blocks, lanes, self.tall, self.chunks, 4, kernel_columns)
        flat = split.transpose(0, 2, 3, 5, 1, 4).reshape(blocks, -1)
        sums = np.zeros(blocks * lanes, np.int64)
        sums[:channels] = weight.sum((1, 2, 3), dtype=np.int64)
        starts = range(0, blocks * lanes, lanes)
        heads = [self.head.pack(sums[i : i + lanes], slice(i, channels), lanes) for i in starts]
        return np.stack([np.concatenate([*head, row]) for head, row in zip(heads, flat, strict=True)])


def _tile(
    emit: Emitter,
    plan: _Plan,
    dot: BytesDot,
    layout: Blocked,
    x: Any,
    weight: Any,
    n: Expr,
    block: Expr,
    top: Expr,
    left: Expr,
) -> Any:
    lanes, vector = dot.lanes, plan.vector
    rows, columns = plan.window.rows, plan.window.columns

    def constant(row: int, _: int) -> Expr:
        return emit.bits(weight[block, emit.ramp(row * vector, vector)], f"int32x{lanes}")

    sums = DotTile(emit, dot, plan.tall * plan.wide, 1, plan.head.start(constant))
    picks = [j * lanes + lane for lane in range(lanes) for j in range(4)]
    y = emit.bind(top * rows.stride + (layout.halo.top - rows.before))
    w = emit.bind(left * columns.stride + (layout.halo.left - columns.before))

    def interleaved(chunk: int, column: int) -> Expr:
        some = (plan.rows[4 * chunk : 4 * chunk + 4] * 4)[:4]  # any rows for taps that do not exist
        value = emit.shuffle([x[n, block, y + r, w + column, emit.ramp(0, lanes)] for r in some], picks)
        value = emit.bits(value, f"uint8x{vector}")
        return value ^ emit.splat_of(128, "uint8", vector) if dot.x_dtype == "int8" else value

    for chunk in range(plan.chunks):
        for column in range((plan.wide - 1) * columns.stride + columns.reach + 1):
            value = interleaved(chunk, column)
            for kw in range(columns.kernel):
                q, beside = divmod(column - kw * columns.dilation, columns.stride)
                if beside == 0 and 0 <= q < plan.wide:
                    for r in range(plan.tall):
                        weights = weight[block, emit.ramp(plan.at(r, chunk, kw), vector)]
                        sums.add(r * plan.wide + q, 0, value, weights)
    return plan.head.finished(emit, sums.finish(), constant, 1, lanes)
