"""Products of an activation and a packed constant weight: int8, bf16 and signs.

The weight is cut into blocks of columns, a block as wide as the register tile: [blocks, steps, columns of the block,
depth of a dot product]. Where columns have a constant (zero points), it is in front of the block's first step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..emit import Emitter
from ..kernel import (
    VECTOR_UNITS,
    Dim,
    Epilogue,
    Expr,
    ExtraOperand,
    Kernel,
    VectorUnit,
    ceil_div,
    identity,
    is_static,
)
from ..matmul import SYMBOLIC_ROWS, for_row_tiles, row_space
from ..tile import choose_tile
from .dot import Bf16Dot, BitsDot, BytesDot, Dot, constants
from .tile import DotTile

__all__ = ["matmul_bf16", "matmul_binary", "matmul_int8", "pack_signs"]

Array = npt.NDArray[Any]
VNNI = VECTOR_UNITS["avx512_vnni"]
BF16 = VECTOR_UNITS["avx512_bf16"]


def matmul_int8(
    x_shape: Sequence[Dim],
    weight_shape: Sequence[int],
    *,
    x_dtype: str = "uint8",
    zero_point: int | None = 0,
    out_dtype: str = "int32",
    epilogue: Epilogue = identity,
    extras: Sequence[ExtraOperand] = (),
    unit: VectorUnit = VNNI,
    transpose_weight: bool = False,
) -> Kernel | None:
    """(x[.., M, K] - zero_point) @ weight[K, N] in int32, exactly; x uint8 or int8, weight int8 and constant.

    The epilogue gets the int32 sum and returns what is stored as `out_dtype`. A zero point of None is one that is known
    only when the kernel runs: an operand [1] of x's type after the weight. Leading dimensions and M may be symbolic.
    None for symbolic or mismatching K, N.
    """
    dot = BytesDot(unit, x_dtype=x_dtype)
    zero = _Zero(dot, zero_point)
    return _matmul(dot, x_shape, weight_shape, out_dtype, epilogue, extras, transpose_weight, zero)


def matmul_bf16(
    x_shape: Sequence[Dim],
    weight_shape: Sequence[int],
    *,
    out_dtype: str = "float32",
    epilogue: Epilogue = identity,
    extras: Sequence[ExtraOperand] = (),
    unit: VectorUnit = BF16,
    transpose_weight: bool = False,
) -> Kernel | None:
    """x[.., M, K] @ weight[K, N] of bf16 (uint16 holding the bits), summed up in fp32, which the epilogue gets."""
    return _matmul(Bf16Dot(unit), x_shape, weight_shape, out_dtype, epilogue, extras, transpose_weight)


def matmul_binary(
    x_shape: Sequence[Dim],
    weight_shape: Sequence[int],
    *,
    out_dtype: str = "int32",
    epilogue: Epilogue = identity,
    extras: Sequence[ExtraOperand] = (),
    unit: VectorUnit = BF16,
) -> Kernel | None:
    """x[.., M, K] @ weight[N, K]^T of +-1 in int32; both are given as bits.

    The shapes are those of the numbers. In memory x and weight are [.., ceil(K / 32)] int32, as `pack_signs` has them.
    """
    if not x_shape or len(weight_shape) != 2 or not is_static(weight_shape) or x_shape[-1] != weight_shape[1]:
        return None
    depth, words = weight_shape[1], ceil_div(weight_shape[1], 32)

    def product(acc: Expr, index: tuple[Expr, ...], extra: tuple[Any, ...]) -> Expr:
        return epilogue(depth - acc * 2, index, extra)

    packed_x = (*x_shape[:-1], words)
    return _matmul(BitsDot(unit), packed_x, (weight_shape[0], words), out_dtype, product, extras, True)


def pack_signs(x: Array) -> Array:
    """Numbers [.., K] to the bits of their signs, [.., ceil(K / 32)] int32: 1 for a positive number, 0 for others."""
    depth = x.shape[-1]
    padded = np.zeros((*x.shape[:-1], ceil_div(depth, 32) * 32), np.uint8)
    padded[..., :depth] = x > 0
    return np.packbits(padded, axis=-1, bitorder="little").view(np.int32)


class _Zero:
    """The part of the products that an offset of x adds: the same in every row, offset * (sum of the column)."""

    def __init__(self, dot: BytesDot, zero_point: int | None) -> None:
        self.dot, self.point = dot, zero_point

    @property
    def needed(self) -> bool:
        return self.point != 0 or self.dot.correction != 0

    def header(self, weight: Array, width: int) -> Array:
        """What is in front of each block for a weight [K, N]: the constants, or the sums if the zero point is late."""
        sums = weight.sum(0, dtype=np.int64)
        return constants(sums if self.point is None else sums * (self.dot.correction - self.point), width)

    def constant(self, emit: Emitter, header: Expr, operand: Any) -> Expr:
        """The constants of a vector of columns from its part of the header."""
        lanes = self.dot.lanes
        value = emit.bits(header, f"int32x{lanes}")
        if self.point is not None:
            return value
        offset = emit.integer(self.dot.correction) - emit.cast(operand[0], "int32")
        return value * emit.splat(offset, lanes)


def _matmul(
    dot: Dot,
    x_shape: Sequence[Dim],
    weight_shape: Sequence[int],
    out_dtype: str,
    epilogue: Epilogue,
    extras: Sequence[ExtraOperand],
    transpose_weight: bool,
    zero: _Zero | None = None,
) -> Kernel | None:
    x_shape, weight_shape = tuple(x_shape), tuple(weight_shape)
    if len(weight_shape) != 2 or not is_static(weight_shape) or not x_shape:
        return None
    depth, columns = weight_shape[::-1] if transpose_weight else weight_shape
    if not isinstance(x_shape[-1], int) or x_shape[-1] != depth:
        return None
    if any(isinstance(d, int) and d < 1 for d in x_shape):
        return None
    zero = zero if zero is not None and zero.needed else None
    late = zero is not None and zero.point is None
    lanes, steps = dot.lanes, ceil_div(depth, dot.depth)
    rows = row_space(x_shape[:-1])
    height = rows.rows if isinstance(rows.rows, int) else SYMBOLIC_ROWS
    height, vectors = choose_tile(height, ceil_div(columns, lanes), dot.tile_unit)
    block = vectors * lanes
    blocks = ceil_div(columns, block)
    packed_shape = (blocks, steps + (zero is not None), block * dot.depth)
    out_shape = (*x_shape[:-1], columns)
    emit = Emitter()
    with emit.function():
        x = emit.arg("x", x_shape, dot.x_dtype)
        weight = emit.arg("weight", packed_shape, dot.weight_dtype)
        operand = emit.arg("zero_point", (1,), dot.x_dtype) if late else None
        extra = emit.extra_args(extras)
        out = emit.arg("out", out_shape, out_dtype)

        def tile(matrix: Expr, row: Expr, height: int, b: Expr, valid: int) -> None:
            sums = DotTile(emit, dot, height, ceil_div(valid, lanes))

            def step(k: Expr, count: int) -> None:
                def load(r: int) -> Callable[[int, int], Expr]:
                    at = rows.index((matrix, row + r))
                    return lambda j, width: x[(*at, emit.ramp(k * dot.depth + j, width))]

                sums.step(lambda r: dot.word(emit, load(r), count), lambda v: vector(k + (zero is not None), v))

            def vector(k: Expr, v: int) -> Expr:
                return weight[b, k, emit.ramp(v * (lanes * dot.depth), lanes * dot.depth)]

            whole = depth // dot.depth
            if whole:
                with emit.serial(whole) as k:
                    step(k, dot.depth)
            if depth % dot.depth:
                step(whole, depth % dot.depth)
            constant = None if zero is None else lambda v: zero.constant(emit, vector(0, v), operand)
            sums.finish(constant).store(
                range(0, valid, lanes),
                valid,
                lambda r, j: (*rows.index((matrix, row + r)), b * block + j),
                out,
                epilogue,
                extra,
            )

        def column_block(matrix: Expr, row: Expr, height: int, b: Expr) -> None:
            last = columns - (blocks - 1) * block
            if last == block or blocks == 1:
                tile(matrix, row, height, b, last)
            else:
                emit.branch(
                    b < blocks - 1,
                    lambda: tile(matrix, row, height, b, block),
                    lambda: tile(matrix, row, height, blocks - 1, last),
                )

        with emit.llvm(dot.prelude):
            for_row_tiles(emit, rows, height, blocks, column_block)

    def pack(w: Array) -> Array:
        w = w.T if transpose_weight else w
        packed = dot.pack(w, block)
        if zero is None:
            return packed
        return np.concatenate([zero.header(w, block)[:, None], packed], axis=1)

    packers = (None, pack, None) if late else (None, pack)
    shapes = (x_shape, packed_shape, (1,)) if late else (x_shape, packed_shape)
    return Kernel(emit.func, packers, shapes, out_shape)
