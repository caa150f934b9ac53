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
from .dot import Bf16Dot, BitsDot, BytesDot, Dot
from .fixed import Rescale
from .header import Header
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
    bias: Array | None = None,
    rescale: Rescale | None = None,
    epilogue: Epilogue = identity,
    extras: Sequence[ExtraOperand] = (),
    unit: VectorUnit = VNNI,
    transpose_weight: bool = False,
) -> Kernel | None:
    """(x[.., M, K] - zero_point) @ weight[K, N] in int32, exactly; x uint8 or int8, weight int8 and constant.

    The epilogue gets the int32 sum, `bias`[N] included (rescaled where `rescale` says so), and returns what is stored
    as `out_dtype`. A zero point of None is one that is known only when the kernel runs: an operand [1] of x's type
    after the weight; there is no bias then. Leading dimensions and M may be symbolic. None for symbolic or mismatching
    K, N.
    """
    dot, late = BytesDot(unit, x_dtype=x_dtype), zero_point is None
    head = Header(1 if zero_point is None else dot.correction - zero_point, bias, rescale)
    return _matmul(dot, x_shape, weight_shape, out_dtype, epilogue, extras, transpose_weight, head, late)


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


def _matmul(
    dot: Dot,
    x_shape: Sequence[Dim],
    weight_shape: Sequence[int],
    out_dtype: str,
    epilogue: Epilogue,
    extras: Sequence[ExtraOperand],
    transpose_weight: bool,
    head: Header = Header(),  # noqa: B008 (frozen)
    late: bool = False,
) -> Kernel | None:
    x_shape, weight_shape = tuple(x_shape), tuple(weight_shape)
    if len(weight_shape) != 2 or not is_static(weight_shape) or not x_shape:
        return None
    depth, columns = weight_shape[::-1] if transpose_weight else weight_shape
    if not isinstance(x_shape[-1], int) or x_shape[-1] != depth:
        return None
    if any(isinstance(d, int) and d < 1 for d in x_shape):
        return None
    lanes, steps = dot.lanes, ceil_div(depth, dot.depth)
    rows = row_space(x_shape[:-1])
    height = rows.rows if isinstance(rows.rows, int) else SYMBOLIC_ROWS
    height, vectors = choose_tile(height, ceil_div(columns, lanes), dot.tile_unit)
    block = vectors * lanes
    blocks = ceil_div(columns, block)
    packed_shape = (blocks, head.rows + steps, block * dot.depth)
    out_shape = (*x_shape[:-1], columns)
    emit = Emitter()
    with emit.function():
        x = emit.arg("x", x_shape, dot.x_dtype)
        weight = emit.arg("weight", packed_shape, dot.weight_dtype)
        operand = emit.arg("zero_point", (1,), dot.x_dtype) if late else None
        extra = emit.extra_args(extras)
        out = emit.arg("out", out_shape, out_dtype)

        def tile(matrix: Expr, row: Expr, height: int, b: Expr, valid: int) -> None:
            def constant(at: int, v: int) -> Expr:
                value = emit.bits(vector(at, v), f"int32x{lanes}")
                if not late:
                    return value
                assert operand is not None
                assert isinstance(dot, BytesDot)
                offset = emit.integer(dot.correction) - emit.cast(operand[0], "int32")
                return value * emit.splat(offset, lanes)

            def step(k: Expr, count: int) -> None:
                def load(r: int) -> Callable[[int, int], Expr]:
                    at = rows.index((matrix, row + r))
                    return lambda j, width: x[(*at, emit.ramp(k * dot.depth + j, width))]

                sums.step(lambda r: dot.word(emit, load(r), count), lambda v: vector(k + head.rows, v))

            def vector(k: Expr, v: int) -> Expr:
                return weight[b, k, emit.ramp(v * (lanes * dot.depth), lanes * dot.depth)]

            vectors = ceil_div(valid, lanes)
            sums = DotTile(emit, dot, height, vectors, head.start(constant))
            whole = depth // dot.depth
            if whole:
                with emit.serial(whole) as k:
                    step(k, dot.depth)
            if depth % dot.depth:
                step(whole, depth % dot.depth)
            head.finished(emit, sums.finish(), constant, vectors, lanes).store(
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
        if not head.rows:
            return packed
        sums = np.zeros(blocks * block, np.int64)
        sums[:columns] = w.sum(0, dtype=np.int64)
        starts = range(0, blocks * block, block)
        heads = [np.concatenate(head.pack(sums[i : i + block], slice(i, columns), block)) for i in starts]
        return np.concatenate([np.stack(heads).reshape(blocks, head.rows, -1), packed], axis=1)

    packers = (None, pack, None) if late else (None, pack)
    shapes = (x_shape, packed_shape, (1,)) if late else (x_shape, packed_shape)
    return Kernel(emit.func, packers, shapes, out_shape)
