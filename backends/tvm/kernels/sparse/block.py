"""Weights of which whole blocks are zero: one block is a vector of output channels times one step of a dot product.

That is 16 x 1 for fp32 and 16 x 4 for bytes (with 16 lanes). For each vector of outputs there is a list of blocks that
are not zero; a register tile of pixels runs through it, and all pixels use each block. So a pattern 2:4 that 16 output
channels share is a case of half the blocks.

Three arrays take the place of the weight. Their packers all take the whole dense weight, so bind it three times:

* pointers[b] .. pointers[b + 1]: the blocks of output vector b;
* offsets: where a block's inputs are, in elements of x from the first one that the output reads;
* values: the blocks themselves.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..blocked.store import Output
from ..blocked.tiling import Tiling, plan_tiles
from ..conv_call import conv_call
from ..emit import Emitter
from ..kernel import AVX512, Dim, Epilogue, Expr, ExtraOperand, Kernel, VectorUnit, ceil_div, identity, is_static
from ..layout import Blocked, Layout
from ..lowbit.conv import reads_blocks
from ..lowbit.dot import BytesDot, Dot, FloatDot, constants
from ..lowbit.tile import DotTile
from ..matmul import SYMBOLIC_ROWS, RowSpace, for_row_tiles, row_space

__all__ = ["block_sparse_conv", "block_sparse_matmul", "count_blocks", "dot_of"]

Array = npt.NDArray[Any]

LINE, PAGE = 64, 4096
"""Bytes of a cache line, and of one line for each set of a first-level cache."""

RESIDENT_BYTES = 512 * 1024
"""Values up to this size stay in the second-level cache while the image streams by."""


def dot_of(dtype: str, unit: VectorUnit) -> Dot:
    """The arithmetic for x of a dtype: float32, uint8 or int8."""
    return FloatDot(unit) if dtype == "float32" else BytesDot(unit, x_dtype=dtype)


def count_blocks(weight: Array, dot: Dot) -> int:
    """The number of blocks of a weight [O, C] or [O, C, KH, KW] that are not zero."""
    return int(_split(weight, dot).any((3, 4)).sum())


def _split(weight: Array, dot: Dot) -> Array:
    """[O, C, taps..] to [output vectors, input steps, taps, lanes, depth], zero-padded."""
    outputs, inputs = weight.shape[:2]
    vectors, steps = ceil_div(outputs, dot.lanes), ceil_div(inputs, dot.depth)
    flat = weight.reshape(outputs, inputs, -1)
    padded = np.zeros((vectors * dot.lanes, steps * dot.depth, flat.shape[2]), weight.dtype)
    padded[:outputs, :inputs] = flat
    return padded.reshape(vectors, dot.lanes, steps, dot.depth, -1).transpose(0, 2, 4, 1, 3)


@dataclass(frozen=True)
class _Packing:
    """The arrays of a weight, whose packers raise ValueError where it has another number of blocks.

    Inputs of a step and tap are at offset(steps, taps); `constant` is added to x.
    """

    dot: Dot
    vectors: int
    blocks: int
    offset: Callable[[Array, Array], Array]
    constant: int

    def shapes(self) -> list[tuple[int, ...]]:
        # an array without elements is not what compiled code takes
        count = max(1, self.blocks)
        shapes: list[tuple[int, ...]] = [(self.vectors + 1,), (count,), (count, self.dot.lanes * self.dot.depth)]
        return [*shapes, (self.vectors, self.dot.lanes)] if self.constant else shapes

    def packers(self) -> list[Callable[[Array], Array]]:
        packers: list[Callable[[Array], Array]] = [self._pointers, self._offsets, self._values]
        return [*packers, self._constants] if self.constant else packers

    def _kept(self, weight: Array) -> tuple[Array, Array, Array]:
        """(output vector, step, tap) of each block, in the order of memory."""
        vectors, steps, taps = np.nonzero(_split(weight, self.dot).any((3, 4)))
        if len(vectors) != self.blocks:
            raise ValueError(f"the weight has {len(vectors)} blocks, the kernel is made for {self.blocks}")
        order = np.lexsort((self.offset(steps, taps), vectors))
        return vectors[order], steps[order], taps[order]

    def _pointers(self, weight: Array) -> Array:
        counts = np.bincount(self._kept(weight)[0], minlength=self.vectors)
        return np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)

    def _offsets(self, weight: Array) -> Array:
        _, steps, taps = self._kept(weight)
        return self._padded(self.offset(steps, taps).astype(np.int32))

    def _values(self, weight: Array) -> Array:
        return self._padded(
            _split(weight, self.dot)[self._kept(weight)].reshape(self.blocks, self.dot.lanes * self.dot.depth)
        )

    def _padded(self, array: Array) -> Array:
        return array if self.blocks else np.zeros((1, *array.shape[1:]), array.dtype)

    def _constants(self, weight: Array) -> Array:
        sums = weight.reshape(len(weight), -1).sum(1, dtype=np.int64) * self.constant
        return constants(sums, self.dot.lanes).view(np.int32)

    def declare(self, emit: Emitter) -> _Blocks:
        shapes = self.shapes()
        dtypes = ["int32", "int32", self.dot.weight_dtype, "int32"]
        names = ["pointers", "offsets", "values", "constants"]
        args = [emit.arg(n, s, d) for n, s, d in zip(names, shapes, dtypes, strict=False)]
        return _Blocks(emit, self.dot, args)


class _Blocks:
    """The declared arrays, and the loop over them."""

    def __init__(self, emit: Emitter, dot: Dot, args: list[Any]) -> None:
        self.emit, self.dot = emit, dot
        self.pointers, self.offsets, self.values = args[:3]
        self.constants = args[3] if len(args) > 3 else None

    def sum_up(self, vector: Expr, rows: int, load: Callable[[int, Expr, int], Expr]) -> Any:
        """The tile of an output vector; load(row, offset, width) reads x."""
        emit, dot = self.emit, self.dot
        table = self.constants
        start = None if table is None else lambda _: table[vector, emit.ramp(0, dot.lanes)]
        sums = DotTile(emit, dot, rows, 1, start)
        first = emit.bind(self.pointers[vector])
        with emit.serial(self.pointers[vector + 1] - first) as i:
            at = emit.bind(first + i)
            offset = emit.bind(self.offsets[at])
            weights = self.values[at, emit.ramp(0, dot.lanes * dot.depth)]

            def word(r: int) -> Expr:
                return dot.word(emit, lambda j, width: load(r, offset + j, width), dot.depth)

            sums.step(word, lambda _: weights)
        return sums.finish()


def block_sparse_matmul(
    x_shape: Sequence[Dim],
    weight_shape: Sequence[int],
    blocks: int,
    *,
    x_dtype: str = "float32",
    zero_point: int = 0,
    out_dtype: str = "",
    epilogue: Epilogue = identity,
    extras: Sequence[ExtraOperand] = (),
    unit: VectorUnit = AVX512,
) -> Kernel | None:
    """x[.., M, K] @ weight[N, K]^T with `blocks` (see `count_blocks`) blocks that are not zero.

    x is float32, or uint8 or int8 with a zero point and an int8 weight, exactly in int32; the epilogue gets the sum.
    Leading dimensions and M may be symbolic. None for a K that is symbolic, mismatching or no multiple of the depth of
    a dot product.
    """
    x_shape, weight_shape = tuple(x_shape), tuple(weight_shape)
    dot = dot_of(x_dtype, unit)
    if len(weight_shape) != 2 or not is_static(weight_shape) or not x_shape or x_shape[-1] != weight_shape[1]:
        return None
    columns, depth = weight_shape
    if depth % dot.depth or any(isinstance(d, int) and d < 1 for d in x_shape):
        return None
    lanes, rows = dot.lanes, row_space(x_shape[:-1])
    vectors = ceil_div(columns, lanes)
    packing = _Packing(dot, vectors, blocks, lambda steps, _: steps * dot.depth, _constant(dot, zero_point))
    count = rows.rows if isinstance(rows.rows, int) else SYMBOLIC_ROWS
    height = plan_tiles(1, count, 1, 1 + blocks // vectors, dot.tile_unit).columns
    out_shape = (*x_shape[:-1], columns)
    emit = Emitter()
    with emit.function():
        x = emit.arg("x", x_shape, dot.x_dtype)
        weight = packing.declare(emit)
        extra = emit.extra_args(extras)
        out = emit.arg("out", out_shape, out_dtype or dot.acc_dtype)
        element = _apart(emit, dot, rows, depth, x)

        def tile(matrix: Expr, row: Expr, height: int, vector: Expr, valid: int) -> None:
            sums = weight.sum_up(vector, height, lambda r, k, width: element(matrix, row + r, emit.ramp(k, width)))
            index = lambda r, j: (*rows.index((matrix, row + r)), vector * lanes + j)  # noqa: E731
            sums.store([0], valid, index, out, epilogue, extra)

        def column_block(matrix: Expr, row: Expr, height: int, vector: Expr) -> None:
            last = columns - (vectors - 1) * lanes
            if last == lanes or vectors == 1:
                tile(matrix, row, height, vector, last)
            else:
                emit.branch(
                    vector < vectors - 1,
                    lambda: tile(matrix, row, height, vector, lanes),
                    lambda: tile(matrix, row, height, vectors - 1, last),
                )

        for_row_tiles(emit, rows, height, vectors, column_block)
    return Kernel(emit.func, (None, *packing.packers()), (x_shape, *packing.shapes()), out_shape)


def _apart(emit: Emitter, dot: Dot, rows: RowSpace, depth: int, x: Any) -> Callable[[Expr, Expr, Expr], Expr]:
    """Reads (matrix, row, k) of x, from a copy if rows are so far apart that those of a tile share few cache sets."""
    size = np.dtype(dot.x_dtype).itemsize

    def there(matrix: Expr, row: Expr, k: Expr) -> Expr:
        return x[(*rows.index((matrix, row)), k)]

    if rows.rows == 1 or math.gcd(depth * size, PAGE) < PAGE // 8:
        return there
    copy = emit.scratch(rows.outer * rows.rows, depth + LINE // size, dtype=dot.x_dtype)
    with emit.parallel(rows.outer * rows.rows) as i:

        def move(start: Expr, width: int) -> None:
            k = emit.ramp(start, width)
            emit.store(copy, [i, k], there(i // rows.rows, i % rows.rows, k))

        emit.for_each_vector(depth, LINE // size, move)
    return lambda matrix, row, k: copy[matrix * rows.rows + row, k]


def _constant(dot: Dot, zero_point: int) -> int:
    return dot.correction - zero_point if isinstance(dot, BytesDot) else 0


def block_sparse_conv(
    x_shape: Sequence[Dim],
    weight_shape: Sequence[int],
    blocks: int,
    *,
    x_layout: Blocked,
    out_layout: Layout,
    x_dtype: str = "float32",
    zero_point: int = 0,
    out_dtype: str = "",
    fill: float = 0,
    strides: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    dilations: Sequence[int] | None = None,
    epilogue: Epilogue = identity,
    extras: Sequence[ExtraOperand] = (),
    unit: VectorUnit = AVX512,
) -> Kernel | None:
    """ONNX Conv or ConvInteger of x[N, C, H, W] with a weight[O, C, KH, KW] of so many blocks; no groups, no bias.

    Layouts, zero point and `fill` as in `lowbit.conv.conv_int8`; the halo of x holds the zero point (0 for float32).
    """
    dot = dot_of(x_dtype, unit)
    call = conv_call(x_shape, weight_shape, x_layout=x_layout, strides=strides, pads=pads, dilations=dilations)
    if call is None or not reads_blocks(call) or x_layout.lanes % dot.depth:
        return None
    shape = call.shape
    rows, columns = shape.window.rows, shape.window.columns
    x_memory = x_layout.shape(x_shape)
    lanes, vectors = dot.lanes, ceil_div(shape.outputs, dot.lanes)

    def offset(steps: Array, taps: Array) -> Array:
        channel = steps * dot.depth
        row, column = taps // columns.kernel * rows.dilation, taps % columns.kernel * columns.dilation
        pixel = (channel // x_layout.lanes * x_memory[2] + row) * x_memory[3] + column
        return np.asarray(pixel * x_layout.lanes + channel % x_layout.lanes)

    packing = _Packing(dot, vectors, blocks, offset, _constant(dot, zero_point))
    tiling = _wide_tiles(rows.out, columns.out, 1 + blocks // vectors, dot.tile_unit)
    out_shape = (x_shape[0], shape.outputs, rows.out, columns.out)
    values = np.dtype(dot.weight_dtype).itemsize * blocks * lanes * dot.depth
    emit = Emitter()
    with emit.function():
        x = emit.arg("x", x_memory, dot.x_dtype)
        weight = packing.declare(emit)
        extra = emit.extra_args(extras)
        out = Output(emit, out_layout, out_shape, epilogue, extra, unit, out_dtype or dot.acc_dtype, fill)
        with emit.parallel(x_shape[0] * tiling.count * vectors) as task:
            n, rest = task // (tiling.count * vectors), task % (tiling.count * vectors)
            by_pixels = values <= RESIDENT_BYTES
            vector = emit.bind(rest % vectors if by_pixels else rest // tiling.count)
            pixels = rest // vectors if by_pixels else rest % tiling.count
            top = emit.bind(emit.step_back(pixels // tiling.column_tiles, tiling.rows, tiling.height))
            left = emit.bind(emit.step_back(pixels % tiling.column_tiles, tiling.columns, tiling.width))
            y = emit.bind(top * rows.stride + (x_layout.halo.top - rows.before))
            w = emit.bind(left * columns.stride + (x_layout.halo.left - columns.before))
            tile = weight.sum_up(vector, tiling.pixels, _pixels(emit, tiling, rows.stride, columns.stride, x, n, y, w))
            out.store_tile(
                tile,
                tiling.pixels,
                1,
                n,
                vector,
                lambda i: (top + i // tiling.columns, left + i % tiling.columns),
            )
            with emit.when(pixels == 0):
                out.fill_halo(n, vector)
    return Kernel(emit.func, (None, *packing.packers()), (x_memory, *packing.shapes()), out_layout.shape(out_shape))


def _wide_tiles(height: int, width: int, steps: int, unit: VectorUnit) -> Tiling:
    """Tiles of one block, of equally cheap ones the widest: neighbouring pixels lie in neighbouring cache lines."""
    turned = plan_tiles(width, height, 1, steps, unit)
    return Tiling(height, width, 1, turned.columns, turned.rows, 1)


def _pixels(
    emit: Emitter, tiling: Tiling, row_stride: int, column_stride: int, x: Any, n: Expr, y: Expr, w: Expr
) -> Callable[[int, Expr, int], Expr]:
    """Reads at an offset from a pixel of the tile; the offset runs on from the last axis into all others."""

    def load(i: int, offset: Expr, width: int) -> Expr:
        r, q = divmod(i, tiling.columns)
        return x[n, 0, y + r * row_stride, w + q * column_stride, emit.ramp(offset, width)]

    return load
