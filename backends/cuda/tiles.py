"""Matrix product and convolution as one blocked kernel with an epilogue: on tensor cores, or in f32 without them.

The loop over the depth is C++ (product.cuh), called by name; what is TIR is the launch, and the store of a finished
tile through the epilogue, neighbouring threads at neighbouring elements. Both operands are matrices of rows along the
depth that start at multiples of 16 bytes; operands that are not, and images, are copied so before (`pack_rows`,
`pack_images`), weights when the kernel is made.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..tvm.api import modules
from ..tvm.kernels.emit import Emitter
from ..tvm.kernels.geometry import Axis, Window
from ..tvm.kernels.kernel import Dim, Expr, ceil_div

__all__ = [
    "BF16",
    "F16",
    "F32",
    "I8",
    "PLAIN_TILES",
    "TILES",
    "Element",
    "Tile",
    "choose_tile",
    "pack_images",
    "pack_matrix",
    "pack_rows",
    "pack_weight",
    "padded_window",
    "position",
    "product",
    "total_of",
    "wide",
    "windows",
]


@dataclass(frozen=True)
class Element:
    """What the tensor cores multiply: its name in product.cuh, its dtype in memory, and the sums' dtype."""

    name: str
    dtype: str
    sums: str = "float32"

    @property
    def size(self) -> int:
        return np.dtype(self.dtype).itemsize

    @property
    def chunk(self) -> int:
        """Elements of 16 bytes, which is what one copy moves."""
        return 16 // self.size

    def padded(self, depth: int) -> int:
        """Elements of a row that starts at a multiple of 16 bytes."""
        return ceil_div(depth, self.chunk) * self.chunk


F16, BF16, I8 = Element("Half", "float16"), Element("Bf16", "uint16"), Element("Int8", "int8", "int32")
F32 = Element("Single", "float32")
"""Not for tensor cores: the same kernel multiplies and adds one by one, exact to the rounding of f32."""


@dataclass(frozen=True)
class Tile:
    """Rows and columns of a block's tile and of a warp's, and the stages of the pipeline that fills shared memory."""

    rows: int
    columns: int
    warp_rows: int
    warp_columns: int
    stages: int

    @property
    def threads(self) -> int:
        return self.rows // self.warp_rows * (self.columns // self.warp_columns) * 32

    @property
    def pitch(self) -> int:
        """From row to row of the finished tile in shared memory: aligned, and rows fall on different banks."""
        return self.columns + 4

    @property
    def shared(self) -> int:
        """Bytes of shared memory: the stages, and later the finished tile in their place."""
        return max(self.stages * (self.rows + self.columns) * 64, self.rows * self.pitch * 4)

    def blocks(self, rows: int, columns: int) -> int:
        return ceil_div(rows, self.rows) * ceil_div(columns, self.columns)

    @property
    def arguments(self) -> str:
        """Template arguments in product.cuh."""
        return f"{self.rows}, {self.columns}, {self.warp_rows}, {self.warp_columns}, {self.stages}"


TILES = (Tile(128, 128, 64, 64, 4), Tile(128, 64, 64, 32, 4), Tile(64, 64, 32, 32, 4))
PLAIN_TILES = (Tile(128, 128, 32, 64, 4), Tile(64, 64, 32, 32, 4))
"""For f32: 64 sums a thread, or 32."""

PROCESSORS = 108
"""Multiprocessors of an A100: a larger tile reads less, but every one of them should have a block."""

SYMBOLIC = 256  # what an unknown extent is taken for


def choose_tile(element: Element, rows: Dim, columns: Dim, batch: Dim = 1) -> Tile:
    """The largest tile of which there is one for each multiprocessor."""
    m, n, z = (d if isinstance(d, int) else SYMBOLIC for d in (rows, columns, batch))
    tiles = PLAIN_TILES if element == F32 else TILES
    return next((tile for tile in tiles if tile.blocks(m, n) * z >= PROCESSORS), tiles[-1])


# --- operands ---------------------------------------------------------------------------------------------------------


def pack_matrix(weight: Any, element: Element) -> Any:
    """A constant [K, N] as rows [N, padded K]."""
    depth, columns = weight.shape
    rows = np.zeros((columns, element.padded(depth)), element.dtype)
    rows[:, :depth] = weight.T
    return rows


def pack_weight(weight: Any, element: Element) -> Any:
    """A constant [M, C, KH, KW] as rows [M, KH * KW * padded C]."""
    outputs, channels, *taps = weight.shape
    rows = np.zeros((outputs, *taps, element.padded(channels)), element.dtype)
    rows[..., :channels] = np.moveaxis(weight, 1, -1)
    return rows.reshape(outputs, -1)


def pack_rows(
    emit: Emitter,
    element: Element,
    batch: Dim,
    rows: Dim,
    depth: int,
    read: Callable[[Expr, Expr, Expr], Expr],
    width: int | None = None,
) -> Any:
    """Memory of [batch, rows, width] filled by a kernel with read(batch, row, k), as it is multiplied, and zeros.

    `width` is the padded depth, if not given.
    """
    width = width or element.padded(depth)
    made = modules().script.alloc_buffer((batch, rows, width), element.dtype, layout=None)
    with emit.parallel(batch) as z, emit.parallel(rows) as r, emit.parallel(width) as k:
        inside = None if width == depth else k < depth
        _store(emit, element, made, [z, r, k], inside, lambda: read(z, r, k), 0)
    return made


def padded_window(window: Window) -> Window:
    """The window over images that have their padding in memory."""

    def padded(a: Axis) -> Axis:
        return Axis(a.size + a.before + a.after, a.kernel, a.stride, 0, 0, a.dilation)

    return Window(padded(window.rows), padded(window.columns), window.is_1d)


def pack_images(
    emit: Emitter,
    element: Element,
    groups: int,
    batch: Dim,
    channels: int,
    window: Window,
    read: Callable[..., Expr],
    fill: int | None = None,
) -> Any:
    """Memory of [groups, N, H, W, padded C] filled with read(n, channel, y, x): pixels of a group's channels.

    With `fill`, the images have their padding around them, which is that number: those of `padded_window`.
    """
    own, chunk = channels // groups, element.chunk
    depth = element.padded(own)
    rows, columns = window.rows, window.columns
    outer = window if fill is None else padded_window(window)
    height, width = outer.rows.size, outer.columns.size
    made = modules().script.alloc_buffer((groups, batch, height, width, depth), element.dtype, layout=None)
    extents = (groups, batch, depth // chunk, height, width)
    with ExitStack() as stack:
        group, n, c, y, x = (stack.enter_context(emit.parallel(d)) for d in extents)
        with emit.serial(chunk) as lane:  # a thread fills 16 bytes of a pixel, neighbours read neighbouring pixels
            at = c * chunk + lane
            inside = None if depth == own else at < own
            row, column = y, x
            for axis, place in ((rows, y), (columns, x)) if fill is not None else ():
                if axis.before or axis.after:
                    on = emit.both(place >= axis.before, place < axis.before + axis.size)
                    inside = on if inside is None else emit.both(inside, on)
            if fill is not None:
                row, column = y - rows.before, x - columns.before
            _store(
                emit,
                element,
                made,
                [group, n, y, x, at],
                inside,
                lambda: read(n, group * own + at, row, column),
                fill or 0,
            )
    return made


def _store(
    emit: Emitter,
    element: Element,
    buffer: Any,
    index: list[Expr],
    inside: Expr | None,
    value: Callable[[], Expr],
    fill: int,
) -> None:
    """buffer[index] = value where `inside`, `fill` elsewhere: a branch, for nothing may be read outside."""
    if inside is None:
        emit.store(buffer, index, value())
        return
    other = modules().tirx.const(fill, element.dtype)
    emit.branch(inside, lambda: emit.store(buffer, index, value()), lambda: emit.store(buffer, index, other))


def windows(window: Window, depth: int) -> str:
    """The type in product.cuh that gathers the windows of images whose pixels take `depth` bytes."""
    r, c = window.rows, window.columns
    numbers = (depth, r.size, c.size, r.out, c.out, r.kernel, c.kernel)
    rest = (r.stride, c.stride, r.before, c.before, r.dilation, c.dilation)
    return f"ig::Windows<{', '.join(map(str, (*numbers, *rest)))}>"


# --- the kernel -------------------------------------------------------------------------------------------------------


def product(
    emit: Emitter,
    element: Element,
    tile: Tile,
    rows: Dim,
    columns: Dim,
    batch: Dim,
    call: str,
    operands: Callable[[Expr], tuple[Any, ...]],
    store: Callable[[Expr, Expr, Expr, Expr], None],
) -> None:
    """Launch a kernel of `batch` products [rows, columns]; store(sum, batch, row, column) for each element.

    `call` is the function of product.cuh with its template arguments, operands(batch) what it takes between the shared
    memory and the tile's position.
    """
    script, tirx = modules().script, modules().tirx
    across = (columns + tile.columns - 1) // tile.columns
    down = (rows + tile.rows - 1) // tile.rows
    grid = script.launch_thread("blockIdx.x", batch * down * across)  # the other axes of a grid end at 65535
    with grid as number, script.launch_thread("threadIdx.x", tile.threads) as thread:
        z, block = number // (down * across), number % (down * across)
        # Of one type in all kernels of a file, whatever the sums are: in C++ it is one variable.
        shared = script.alloc_buffer((tile.shared // 4,), "float32", scope="shared.dyn", layout=None)
        m0, n0 = block // across * tile.rows, block % across * tile.columns
        script.evaluate(tirx.call_extern("int32", call, shared.data, *operands(z), m0, n0))
        with emit.serial(tile.rows * tile.columns // tile.threads) as i:
            at = i * tile.threads + thread
            r, c = at // tile.columns, at % tile.columns
            with emit.when(emit.both(m0 + r < rows, n0 + c < columns)):
                total = shared[r * tile.pitch + c]
                store(total if element.sums == "float32" else emit.bits(total, element.sums), z, m0 + r, n0 + c)


# --- batches ----------------------------------------------------------------------------------------------------------


def total_of(extents: tuple[Dim, ...]) -> Dim:
    """The number of elements of a shape."""
    total: Dim = 1
    for d in extents:
        total = d if isinstance(total, int) and total == 1 else total * d
    return total


def position(index: tuple[Expr, ...], own: tuple[Dim, ...]) -> Expr:
    """The flat position of an operand's matrix whose leading axes `own` broadcast to those of the index."""
    at: Expr = 0
    for i, d in zip(index[len(index) - len(own) :], own, strict=True):
        at = at * d + (0 if isinstance(d, int) and d == 1 else i)
    return at


def wide(x: Expr) -> Expr:
    """An offset in 64 bits."""
    tirx = modules().tirx
    return tirx.const(x, "int64") if isinstance(x, int) else x if str(x.ty.dtype) == "int64" else tirx.Cast("int64", x)
