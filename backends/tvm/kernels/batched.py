"""The product of two activations, as in attention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .emit import Emitter
from .kernel import AVX512, Dim, Epilogue, Expr, ExtraOperand, Kernel, VectorUnit, ceil_div, cover, identity
from .matmul import SYMBOLIC_ROWS
from .tile import RegisterTile, choose_tile

ROWS_WORTH_A_PANEL = 16
"""From this many rows on, copying a block of columns to contiguous memory pays."""


def batched_matmul(
    a_shape: Sequence[Dim],
    b_shape: Sequence[Dim],
    *,
    epilogue: Epilogue = identity,
    extras: Sequence[ExtraOperand] = (),
    unit: VectorUnit = AVX512,
    rank: int = 0,
) -> Kernel | None:
    """a[.., M, K] @ b[.., K, N], leading dimensions broadcast as in NumPy.

    Leading dimensions and M may be symbolic. None for vectors, for symbolic K or N, and for shapes that do
    not match. `rank`: the tile to take of the cheapest ones.
    """
    a_shape, b_shape = tuple(a_shape), tuple(b_shape)
    if len(a_shape) < 2 or len(b_shape) < 2:
        return None
    rows, depth, columns = a_shape[-2], a_shape[-1], b_shape[-1]
    if not (isinstance(depth, int) and isinstance(columns, int) and isinstance(b_shape[-2], int)):
        return None
    if depth != b_shape[-2] or any(isinstance(d, int) and d < 1 for d in (*a_shape, *b_shape)):
        return None
    leading = broadcast(a_shape[:-2], b_shape[:-2])
    if leading is None:
        return None
    out_shape = (*leading, rows, columns)

    emit = Emitter()
    with emit.function():
        a, b = emit.arg("a", a_shape), emit.arg("b", b_shape)
        extra = emit.extra_args(tuple(extras))
        out = emit.arg("out", out_shape)
        product = _Product(emit, unit, rank, rows, depth, columns, a, b, out, epilogue, extra)
        total: Dim = 1
        for d in leading:
            total = total * d
        with emit.parallel(total * product.blocks) as task:
            position, block = task // product.blocks, task % product.blocks
            index = unravel(position, leading)
            product.block(index, project(index, a_shape[:-2]), project(index, b_shape[:-2]), block)
    return Kernel(emit.func, (None, None), (a_shape, b_shape), out_shape)


def _is_one(d: Dim) -> bool:
    return isinstance(d, int) and d == 1


def _same(a: Dim, b: Dim) -> bool:
    if isinstance(a, int) or isinstance(b, int):
        return isinstance(a, int) and isinstance(b, int) and a == b
    return bool(a.same_as(b))


def broadcast(a: tuple[Dim, ...], b: tuple[Dim, ...]) -> tuple[Dim, ...] | None:
    rank = max(len(a), len(b))
    a, b = (1,) * (rank - len(a)) + a, (1,) * (rank - len(b)) + b
    if not all(_is_one(x) or _is_one(y) or _same(x, y) for x, y in zip(a, b, strict=True)):
        return None
    return tuple(y if _is_one(x) else x for x, y in zip(a, b, strict=True))


def unravel(position: Expr, dims: Sequence[Dim]) -> tuple[Expr, ...]:
    """The index of a flat position."""
    index: list[Expr] = []
    for i, d in enumerate(reversed(dims)):
        outermost = all(_is_one(e) for e in dims[: len(dims) - 1 - i])
        index.append(0 if _is_one(d) else position if outermost else position % d)
        position = position if _is_one(d) else position // d
    return tuple(reversed(index))


def project(index: tuple[Expr, ...], dims: tuple[Dim, ...]) -> tuple[Expr, ...]:
    """The index into an operand whose dimensions of one are broadcast."""
    own = index[len(index) - len(dims) :]
    return tuple(0 if _is_one(d) else i for i, d in zip(own, dims, strict=True))


class _Product:
    """Emits one block of columns of one matrix of the batch."""

    def __init__(
        self,
        emit: Emitter,
        unit: VectorUnit,
        rank: int,
        rows: Dim,
        depth: int,
        columns: int,
        a: Any,
        b: Any,
        out: Any,
        epilogue: Epilogue,
        extras: tuple[Any, ...],
    ) -> None:
        self.emit, self.unit, self.rows, self.depth, self.columns = emit, unit, rows, depth, columns
        self.a, self.b, self.out, self.epilogue, self.extras = a, b, out, epilogue, extras
        known = rows if isinstance(rows, int) else SYMBOLIC_ROWS
        self.height, vectors = choose_tile(known, ceil_div(columns, unit.lanes), unit, rank)
        self.width = min(columns, vectors * unit.lanes)
        self.blocks = ceil_div(columns, self.width)
        self.uses_panel = known >= ROWS_WORTH_A_PANEL

    def block(self, index: tuple[Expr, ...], a_at: tuple[Expr, ...], b_at: tuple[Expr, ...], block: Expr) -> None:
        # The last block steps back, so that all have one width.
        start = self.emit.min(block * self.width, self.columns - self.width) if self.blocks > 1 else 0
        panel = self._copy_panel(b_at, start) if self.uses_panel else None

        def tile(row: Expr, height: int) -> None:
            self._tile(index, a_at, b_at, start, panel, row, height)

        emit, rows, height = self.emit, self.rows, self.height
        if isinstance(rows, int):
            whole, rest = divmod(rows, height)
            with emit.serial(whole) as t:
                tile(t * height, height)
            if rest:
                tile(whole * height, rest)
        else:
            with emit.serial(rows // height) as t:
                tile(t * height, height)
            with emit.serial(rows % height) as r:
                tile(rows // height * height + r, 1)

    def _copy_panel(self, b_at: tuple[Expr, ...], start: Expr) -> Any:
        emit = self.emit
        panel = emit.scratch(self.depth, self.width)
        with emit.serial(self.depth) as k:
            for offset, lanes in cover(self.width, self.unit.lanes):
                value = self.b[(*b_at, k, emit.ramp(start + offset, lanes))]
                emit.store(panel, [k, emit.ramp(offset, lanes)], value)
        return panel

    def _tile(
        self,
        index: tuple[Expr, ...],
        a_at: tuple[Expr, ...],
        b_at: tuple[Expr, ...],
        start: Expr,
        panel: Any,
        row: Expr,
        height: int,
    ) -> None:
        emit = self.emit
        pieces = cover(self.width, self.unit.lanes)
        lanes = pieces[0][1]
        acc = RegisterTile(emit, height, len(pieces), lanes)
        acc.fill()

        def vector(k: Expr, v: int) -> Expr:
            if panel is not None:
                return panel[k, emit.ramp(pieces[v][0], lanes)]
            return self.b[(*b_at, k, emit.ramp(start + pieces[v][0], lanes))]

        with emit.serial(self.depth) as k:
            acc.add_outer(lambda r: self.a[(*a_at, row + r, k)], lambda v: vector(k, v))
        acc.store(
            [offset for offset, _ in pieces],
            self.width,
            lambda r, j: (*index, row + r, start + j),
            self.out,
            self.epilogue,
            self.extras,
        )
