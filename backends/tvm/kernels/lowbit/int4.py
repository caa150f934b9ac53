"""Products of fp32 activations and int4 weights with a scale for each group of K; weights are unpacked in registers.

A code of 4 bits stands for (code - zero) * scale, with zero and scale per column and group. `exact` multiplies fp32 by
fp32 (accuracy level 1 of ONNX Runtime's MatMulNBits); otherwise the rows of x are first rounded to signed bytes with a
scale of their own for each group, and the sums of a group are exact integers (level 4).

Packed, an int32 holds 8 codes of a column: byte b has that of k + b in its lower half and that of k + 4 + b in the
upper one, so that two masks make two words for a dot product of bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..emit import Emitter
from ..kernel import Dim, Epilogue, Expr, ExtraOperand, Kernel, VectorUnit, ceil_div, identity, is_static
from ..matmul import SYMBOLIC_ROWS, RowSpace, for_row_tiles, row_space
from ..rows import fold_lanes
from ..tile import RegisterTile, choose_tile
from .dot import BytesDot
from .gemm import VNNI

__all__ = ["matmul_int4"]

Array = npt.NDArray[Any]

CODES = 8
"""Codes in an int32."""

MIDDLE = 8
"""The zero of symmetric weights."""

MOST_VECTORS = 8
"""Vectors of columns of a tile of one row."""

_ROUND = 12582912.0  # 1.5 * 2**23: adding it leaves no bits for a fraction, and rounds half to even


def matmul_int4(
    x_shape: Sequence[Dim],
    weight_shape: Sequence[int],
    group: int,
    *,
    symmetric: bool = True,
    exact: bool = True,
    out_dtype: str = "float32",
    epilogue: Epilogue = identity,
    extras: Sequence[ExtraOperand] = (),
    unit: VectorUnit = VNNI,
) -> Kernel | None:
    """x[.., M, K] @ weight[N, K]^T in fp32; leading dimensions and M may be symbolic.

    Inputs as the packers take them: x, the codes [N, K] (uint8 from 0 to 15), the scales [N, K / group] (fp32) and,
    unless `symmetric`, the zeros [N, K / group] (uint8 from 0 to 15; the symmetric zero is 8). None for symbolic or
    mismatching K, N, for groups that do not divide K, and for groups that are no multiple of 8 (of the vectors' length,
    if not `exact`).
    """
    x_shape, weight_shape = tuple(x_shape), tuple(weight_shape)
    if len(weight_shape) != 2 or not is_static(weight_shape) or not x_shape or group < 1:
        return None
    columns, depth = weight_shape
    if x_shape[-1] != depth or depth % group or group % (CODES if exact else max(CODES, unit.lanes)):
        return None
    if any(isinstance(d, int) and d < 1 for d in x_shape):
        return None
    lanes, groups = unit.lanes, depth // group
    rows = row_space(x_shape[:-1])
    count = rows.rows if isinstance(rows.rows, int) else SYMBOLIC_ROWS
    height, vectors = _choose(count, ceil_div(columns, lanes), exact, unit)
    block = vectors * lanes
    blocks = ceil_div(columns, block)
    word_shape, group_shape = (blocks, depth // CODES, block), (blocks, groups, block)
    out_shape = (*x_shape[:-1], columns)
    emit = Emitter()
    with emit.function():
        x = emit.arg("x", x_shape)
        codes = emit.arg("codes", word_shape, "int32")
        scale = emit.arg("scale", group_shape)
        zero = None if symmetric else emit.arg("zero", group_shape)
        extra = emit.extra_args(extras)
        out = emit.arg("out", out_shape, out_dtype)
        kind = _Exact if exact else _Rounded
        x_rows = kind(emit, unit, rows, x, group, groups, symmetric)
        x_rows.prepare()

        def tile(matrix: Expr, row: Expr, height: int, b: Expr, valid: int) -> None:
            vectors = ceil_div(valid, lanes)
            total = RegisterTile(emit, height, vectors, lanes)
            total.fill()
            with emit.serial(groups) as g:

                def word(step: Expr, v: int) -> Expr:
                    return codes[b, g * (group // CODES) + step, emit.ramp(v * lanes, lanes)]

                sums = x_rows.group_sums((matrix, row), height, vectors, g, word)

                def add(acc: Expr, r: int, v: int) -> Expr:
                    at = (b, g, emit.ramp(v * lanes, lanes))
                    zeros = zero[at] if zero is not None else None
                    return acc + x_rows.scaled((matrix, row + r), g, sums[r, v], scale[at], zeros)

                total.update(add)
            total.store(
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

        for_row_tiles(emit, rows, height, blocks, column_block)

    packers = (None, lambda c: pack_codes(c, block), lambda s: _pack_groups(s, block))
    shapes = (x_shape, word_shape, group_shape)
    if symmetric:
        return Kernel(emit.func, packers, shapes, out_shape)
    return Kernel(emit.func, (*packers, packers[-1]), (*shapes, group_shape), out_shape)


def _choose(rows: int, vectors: int, exact: bool, unit: VectorUnit) -> tuple[int, int]:
    """The register tile: each of its sums has an accumulator for the group and one for all."""
    if rows == 1:
        return 1, min(vectors, MOST_VECTORS if unit.registers == 32 else 2)
    partials = 1 if exact else BytesDot(unit).partials
    return choose_tile(rows, vectors, VectorUnit(unit.lanes, unit.registers // (1 + partials)))


def pack_codes(codes: Array, width: int) -> Array:
    """[N, K] of 0..15 to [ceil(N / width), K / 8, width] int32; see the module."""
    columns, depth = codes.shape
    blocks = ceil_div(columns, width)
    padded = np.zeros((blocks * width, depth), np.uint8)
    padded[:columns] = codes
    halves = padded.reshape(blocks, width, depth // CODES, 2, 4)
    packed = halves[..., 0, :] | halves[..., 1, :] << 4
    return np.ascontiguousarray(packed.transpose(0, 2, 1, 3)).view(np.int32)[..., 0]


def _pack_groups(values: Array, width: int) -> Array:
    """[N, groups] to [ceil(N / width), groups, width] fp32."""
    columns, groups = values.shape
    blocks = ceil_div(columns, width)
    padded = np.zeros((blocks * width, groups), np.float32)
    padded[:columns] = values
    return np.ascontiguousarray(padded.reshape(blocks, width, groups).transpose(0, 2, 1))


Row = tuple[Expr, Expr]
Word = Callable[[Expr, int], Expr]


class _Rows:
    """The rows of x as products want them. `sums` has the sum of each row and group, by which zeros are multiplied."""

    def __init__(
        self, emit: Emitter, unit: VectorUnit, rows: RowSpace, x: Any, group: int, groups: int, symmetric: bool
    ) -> None:
        self.emit, self.unit, self.rows, self.x = emit, unit, rows, x
        self.group, self.groups, self.symmetric = group, groups, symmetric
        self.lanes = unit.lanes

    def element(self, row: Row, k: Expr) -> Expr:
        return self.x[(*self.rows.index(row), k)]

    def number(self, row: Row) -> Expr:
        return row[0] * self.rows.rows + row[1]

    def each_group(self, body: Callable[[Row, Expr, Expr], None]) -> None:
        """body(row, its number, group)."""
        emit = self.emit
        with emit.parallel(self.rows.outer * self.rows.rows) as i, emit.serial(self.groups) as g:
            body((i // self.rows.rows, i % self.rows.rows), i, g)

    def fold(self, row: Row, g: Expr, merge: Callable[[Expr, Expr], Expr], value: Callable[[Expr], Expr]) -> Expr:
        """All elements of a group merged; value(vector) is applied first."""
        emit = self.emit
        width = self.lanes
        while self.group % width:
            width //= 2
        buffer = emit.registers(width)
        for i in range(self.group // width):
            x = value(self.element(row, emit.ramp(g * self.group + i * width, width)))
            emit.store(buffer, [emit.ramp(0, width)], x if i == 0 else merge(buffer[emit.ramp(0, width)], x))
        fold_lanes(emit, buffer, width, merge)
        return buffer[0]


class _Exact(_Rows):
    """fp32. The codes of symmetric weights become code - 8 at once; others are corrected a group at a time."""

    def prepare(self) -> None:
        if self.symmetric:
            return
        self.sums = self.emit.scratch(self.rows.outer * self.rows.rows, self.groups)

        def sum_up(row: Row, i: Expr, g: Expr) -> None:
            self.emit.store(self.sums, [i, g], self.fold(row, g, lambda a, b: a + b, lambda v: v))

        self.each_group(sum_up)

    def weights(self, word: Expr, nibble: int) -> Expr:
        """The codes at a position of all words, as fp32."""
        emit, lanes = self.emit, self.lanes
        shifted = word >> emit.splat_of(4 * nibble, "int32", lanes) if nibble else word
        if lanes == 16:  # vpermps looks at four bits of an index only
            first = -MIDDLE if self.symmetric else 0
            table = emit.shuffle([emit.const(first + code) for code in range(16)], range(16))
            return emit.intrinsic("float32x16", "llvm.x86.avx512.permvar.sf.512", table, shifted)
        code = shifted & emit.splat_of(15, "int32", lanes)
        return emit.cast(code - emit.splat_of(MIDDLE, "int32", lanes) if self.symmetric else code, "float32")

    def group_sums(self, row: Row, height: int, vectors: int, g: Expr, word: Word) -> RegisterTile:
        emit = self.emit
        sums = RegisterTile(emit, height, vectors, self.lanes)
        sums.fill()
        with emit.serial(self.group // CODES) as step:
            for nibble in range(CODES):
                k = g * self.group + step * CODES + (nibble // 2 + nibble % 2 * 4)
                sums.add_outer(
                    lambda r, k=k: self.element((row[0], row[1] + r), k),  # type: ignore[misc]
                    lambda v, nibble=nibble: self.weights(word(step, v), nibble),  # type: ignore[misc]
                )
        return sums

    def scaled(self, row: Row, g: Expr, value: Expr, scale: Expr, zeros: Expr | None) -> Expr:
        if zeros is not None:
            value = value - zeros * self.emit.splat(self.sums[self.number(row), g], self.lanes)
        return value * scale


class _Rounded(_Rows):
    """Signed bytes with a scale of their own for each group: x is nearly byte * scale, with scale = max|x| / 127."""

    def prepare(self) -> None:
        emit = self.emit
        count = self.rows.outer * self.rows.rows
        self.dot = BytesDot(self.unit)
        self.bytes = emit.scratch(count, self.group * self.groups, dtype="int8")
        self.scales, self.sums = emit.scratch(count, self.groups), emit.scratch(count, self.groups)
        self.each_group(self._round)

    def _round(self, row: Row, i: Expr, g: Expr) -> None:
        emit, lanes = self.emit, self.lanes

        def magnitude(v: Expr) -> Expr:
            return emit.max(v, emit.splat_of(0.0, "float32", lanes) - v)

        largest = emit.registers(1)
        emit.store(largest, [0], self.fold(row, g, emit.max, magnitude))
        emit.store(self.scales, [i, g], largest[0] * emit.const(1 / 127))
        inverse = emit.registers(1)
        some = largest[0] > emit.const(0.0)
        emit.store(
            inverse,
            [0],
            emit.select(some, emit.const(127.0) / emit.max(largest[0], emit.const(1e-30)), emit.const(0.0)),
        )

        def nearest(v: Expr) -> Expr:
            return emit.reinterpret(
                v * emit.splat(inverse[0], lanes) + emit.splat_of(_ROUND, "float32", lanes), "int32"
            )

        total = emit.registers(lanes, dtype="int32")
        emit.store(total, [emit.ramp(0, lanes)], emit.splat_of(0, "int32", lanes))
        for j in range(self.group // lanes):
            at = emit.ramp(g * self.group + j * lanes, lanes)
            whole = nearest(self.element(row, at)) - emit.splat_of(0x4B400000, "int32", lanes)
            emit.store(self.bytes, [i, at], emit.cast(whole, "int8"))
            here = emit.ramp(0, lanes)
            emit.store(total, [here], total[here] + emit.cast(self.bytes[i, at], "int32"))
        fold_lanes(emit, total, lanes, lambda a, b: a + b)
        emit.store(self.sums, [i, g], emit.to_float(total[0]))

    def group_sums(self, row: Row, height: int, vectors: int, g: Expr, word: Word) -> RegisterTile:
        emit, dot, lanes = self.emit, self.dot, self.lanes
        sums = RegisterTile(emit, height, vectors, dot.width, "int32")
        sums.fill()
        mask = emit.splat_of(0x0F0F0F0F, "int32", lanes)
        with emit.serial(self.group // CODES) as step:
            for half in range(2):

                def add(acc: Expr, r: int, v: int, half: int = half) -> Expr:
                    codes = word(step, v)
                    codes = (codes >> emit.splat_of(4, "int32", lanes) if half else codes) & mask
                    k = g * self.group + step * CODES + 4 * half
                    x = emit.bits(self.bytes[self.number((row[0], row[1] + r)), emit.ramp(k, 4)], "int32")
                    four = f"x{4 * lanes}"
                    return dot.add_lanes(
                        emit, acc, emit.bits(codes, "uint8" + four), emit.bits(emit.splat(x, lanes), "int8" + four)
                    )

                sums.update(add)
        return sums

    def scaled(self, row: Row, g: Expr, value: Expr, scale: Expr, zeros: Expr | None) -> Expr:
        emit, lanes, i = self.emit, self.lanes, self.number(row)
        zeros = emit.splat_of(float(MIDDLE), "float32", lanes) if zeros is None else zeros
        whole = emit.cast(self.dot.finish(emit, value), "float32") - zeros * emit.splat(self.sums[i, g], lanes)
        return whole * (scale * emit.splat(self.scales[i, g], lanes))
