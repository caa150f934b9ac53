"""Matrix products: an activation by a packed constant (GEMM and GEMV), and two activations."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .emit import Emitter
from .kernel import (
    AVX512,
    Dim,
    Epilogue,
    Expr,
    ExtraOperand,
    FloatArray,
    Kernel,
    VectorUnit,
    ceil_div,
    identity,
    is_static,
)
from .tile import RegisterTile, choose_tile

SYMBOLIC_ROWS = 64
"""Number of rows that tiles are chosen for where it is unknown."""

LINE = 16
"""Numbers in a cache line."""


def pack_columns(weight: FloatArray, width: int) -> FloatArray:
    """[K, N] to [ceil(N / width), K, width], zero-padded."""
    depth, columns = weight.shape
    blocks = ceil_div(columns, width)
    padded = np.zeros((depth, blocks * width), np.float32)
    padded[:, :columns] = weight
    return np.ascontiguousarray(padded.reshape(depth, blocks, width).transpose(1, 0, 2))


def matmul(
    x_shape: Sequence[Dim],
    weight_shape: Sequence[int],
    *,
    epilogue: Epilogue = identity,
    extras: Sequence[ExtraOperand] = (),
    unit: VectorUnit = AVX512,
    transpose_weight: bool = False,
    rank: int = 0,
) -> Kernel | None:
    """x[.., M, K] @ weight[K, N] with a constant weight ([N, K] if `transpose_weight`), as ONNX MatMul and
    Gemm.

    Leading dimensions and M may be symbolic; a vector x[K] is accepted. None for symbolic or mismatching K, N. `rank`:
    the tile to take of the cheapest ones.
    """
    weight_shape = tuple(weight_shape)
    if len(weight_shape) != 2 or not is_static(weight_shape) or not x_shape:
        return None
    depth, columns = weight_shape[::-1] if transpose_weight else weight_shape
    x_shape = tuple(x_shape)
    if not isinstance(x_shape[-1], int) or x_shape[-1] != depth:
        return None
    if any(isinstance(d, int) and d < 1 for d in x_shape):
        return None
    leading = x_shape[:-1]
    out_shape = (*leading, columns)
    rows = row_space(leading)
    block, packed_shape, func = emit_rows_by_packed(
        rows,
        depth,
        columns,
        x_shape,
        lambda row, k: (*rows.index(row), k),
        out_shape,
        lambda row, column: (*rows.index(row), column),
        epilogue,
        tuple(extras),
        unit,
        rank,
    )

    def pack(w: FloatArray) -> FloatArray:
        return pack_columns(w.T if transpose_weight else w, block)

    return Kernel(func, (None, pack), (x_shape, packed_shape), out_shape)


class RowSpace:
    """The rows of x as `outer` matrices of `rows` rows; both counts may be symbolic."""

    def __init__(self, outer: Sequence[Dim], inner: Sequence[Dim]) -> None:
        self._outer, self._inner = tuple(outer), tuple(inner)
        self.outer: Dim = _product(outer)
        self.rows: Dim = _product(inner)

    def index(self, row: tuple[Expr, Expr]) -> tuple[Expr, ...]:
        """Indices of a row given as (matrix, row in it)."""
        return (*_unflatten(row[0], self._outer), *_unflatten(row[1], self._inner))


def row_space(leading: tuple[Dim, ...]) -> RowSpace:
    """Merge leading dimensions into rows as long as they are static, from the last one outwards."""
    split = len(leading) - 1
    if split < 0:
        return RowSpace((), ())
    if isinstance(leading[split], int):
        while split > 0 and isinstance(leading[split - 1], int):
            split -= 1
        if split == 1 and math.prod(leading[1:]) == 1:
            split = 0
    return RowSpace(leading[:split], leading[split:])


def _product(dims: Sequence[Dim]) -> Dim:
    total: Dim = 1
    for d in dims:
        total = d if isinstance(total, int) and total == 1 else total * d
    return total


def _unflatten(index: Expr, dims: Sequence[Dim]) -> tuple[Expr, ...]:
    result: list[Expr] = []
    for position, d in enumerate(reversed(dims)):
        if isinstance(d, int) and d == 1:
            result.append(0)
        elif position == len(dims) - 1 or all(isinstance(e, int) and e == 1 for e in dims[: len(dims) - 1 - position]):
            result.append(index)
        else:
            result.append(index % d)
            index = index // d
    return tuple(reversed(result))


def emit_rows_by_packed(
    rows: RowSpace,
    depth: int,
    columns: int,
    x_shape: tuple[Dim, ...],
    x_index: Callable[[tuple[Expr, Expr], Expr], tuple[Expr, ...]],
    out_shape: tuple[Dim, ...],
    out_index: Callable[[tuple[Expr, Expr], Expr], tuple[Expr, ...]],
    epilogue: Epilogue,
    extras: tuple[ExtraOperand, ...],
    unit: VectorUnit,
    rank: int = 0,
) -> tuple[int, tuple[int, ...], Any]:
    """(columns of a block, shape of the packed weight, PrimFunc) of a product with a packed weight."""
    vectors = ceil_div(columns, unit.lanes)
    count = rows.rows
    height, width = choose_tile(count if isinstance(count, int) else SYMBOLIC_ROWS, vectors, unit, rank)
    block = width * unit.lanes
    blocks = ceil_div(columns, block)
    packed_shape = (blocks, depth, block)
    emit = Emitter()
    with emit.function():
        x = emit.arg("x", x_shape)
        weight = emit.arg("weight", packed_shape)
        extra = emit.extra_args(extras)
        out = emit.arg("out", out_shape)

        every = steps_a_line(count // height if isinstance(count, int) else 0, depth, block) if blocks > 1 else 0

        def steps(matrix: Expr, row: Expr, b: Expr, acc: RegisterTile) -> None:
            def step(k: Expr) -> None:
                acc.add_outer(
                    lambda r: x[x_index((matrix, row + r), k)],
                    lambda v: weight[b, k, emit.ramp(v * unit.lanes, unit.lanes)],
                )

            if not every:
                with emit.serial(depth) as k:
                    step(k)
                return
            with emit.serial(depth // every) as group:
                line = row // height * (depth // every) + group
                emit.prefetch(weight, [b + 1, line // (block // LINE), line % (block // LINE) * LINE])
                for i in range(every):
                    step(group * every + i)

        def tile(matrix: Expr, row: Expr, height: int, b: Expr, valid: int) -> None:
            acc = RegisterTile(emit, height, ceil_div(valid, unit.lanes), unit.lanes)
            acc.fill()
            steps(matrix, row, b, acc)
            acc.store(
                range(0, valid, unit.lanes),
                valid,
                lambda r, j: out_index((matrix, row + r), b * block + j),
                out,
                epilogue,
                extra,
            )

        def column_block(matrix: Expr, row: Expr, height: int, b: Expr) -> None:
            last = columns - (blocks - 1) * block
            if last == block:
                tile(matrix, row, height, b, block)
            elif blocks == 1:
                tile(matrix, row, height, b, last)
            else:
                emit.branch(
                    b < blocks - 1,
                    lambda: tile(matrix, row, height, b, block),
                    lambda: tile(matrix, row, height, blocks - 1, last),
                )

        for_row_tiles(emit, rows, height, blocks, column_block)
    return block, packed_shape, emit.func


def steps_a_line(tiles: int, depth: int, block: int) -> int:
    """How many steps a tile does for each cache line of the next block of weights that it has fetched; 0: fetch none.

    Weights of a large model come from memory, and a block is read at once by its first tile and then over and over: the
    tiles of the block before have all the time to fetch it. Worth 5 % on MiniLM, free where all is in the cache.
    """
    return next((n for n in (8, 4, 2) if n * block <= tiles * LINE and depth % n == 0 and block % LINE == 0), 0)


def for_row_tiles(
    emit: Emitter,
    rows: RowSpace,
    height: int,
    blocks: int,
    body: Callable[[Expr, Expr, int, Expr], None],
) -> None:
    """Parallel loop over (matrix, block of columns, tile of rows); body(matrix, first row, height, block).

    A last tile that is not full steps back. Matrices with fewer rows than a tile, possible only where the
    number is symbolic, go row by row.
    """
    count = rows.rows
    tiles = ceil_div(count, height) if isinstance(count, int) else (count + height - 1) // height

    def tiled() -> None:
        with emit.parallel(rows.outer * (tiles * blocks)) as task:
            matrix, rest = task // (tiles * blocks), task % (tiles * blocks)
            b, t = rest // tiles, rest % tiles
            exact = isinstance(count, int) and count % height == 0
            body(matrix, t * height if exact else emit.min(t * height, count - height), height, b)

    def row_by_row() -> None:
        with emit.parallel(rows.outer * blocks) as task, emit.serial(count) as row:
            body(task // blocks, row, 1, task % blocks)

    if isinstance(count, int) or height == 1:
        tiled()
    else:
        emit.branch(count >= height, tiled, row_by_row)
