"""Dot products in vector lanes: acc[lane] += sum_j x[j] * weight[lane, j], the step all templates here are made of.

A step takes 32 bits of x, broadcast to all lanes, and 32 bits of weights a lane. How many numbers that is, and which
instructions add them up, is what a `Dot` knows:

| | numbers | instruction | without it |
|---|---|---|---|
| `BytesDot` | 4 unsigned or signed bytes x 4 signed bytes | vpdpbusd | vpmaddwd of widened bytes |
| `Bf16Dot` | 2 x 2 bf16 | vdpbf16ps | two FMAs of shifted halves |
| `BitsDot` | 32 signs x 32 signs | vpopcntd | popcounts of bytes, added up as bytes are |
| `FloatDot` | 1 x 1 fp32 | FMA | |

Bytes are exact on every machine (vpmaddubsw is not used: it saturates). vdpbf16ps takes denormal numbers for zeros.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..emit import Emitter
from ..kernel import Expr, VectorUnit, ceil_div

__all__ = ["BitsDot", "Bf16Dot", "BytesDot", "Dot", "FloatDot", "constants"]

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Dot(ABC):
    """See the module. x and weights are stored as `x_dtype` and `weight_dtype`; `depth` elements of x make a step.

    An accumulator vector has `partials` neighbouring elements a lane, whose sum is the result.
    """

    unit: VectorUnit

    x_dtype: str = ""
    weight_dtype: str = ""
    acc_dtype: str = ""
    depth: int = 1

    @property
    def lanes(self) -> int:
        return self.unit.lanes

    @property
    def partials(self) -> int:
        return 1

    @property
    def width(self) -> int:
        """Elements of an accumulator vector."""
        return self.lanes * self.partials

    @property
    def tile_unit(self) -> VectorUnit:
        """The registers, counted in vectors of results, for the choice of a register tile."""
        return self.unit

    @property
    def prelude(self) -> str:
        """LLVM assembly that a kernel needs once."""
        return ""

    @abstractmethod
    def word(self, emit: Emitter, load: Callable[[int, int], Expr], count: int) -> Expr:
        """The 32 bits of a step; load(j, width) reads elements j, j + 1, ..; only the first `count` of them exist."""

    @abstractmethod
    def add(self, emit: Emitter, acc: Expr, word: Expr, weights: Expr) -> Expr:
        """acc plus the products of a scalar word and a vector of lanes * depth weights."""

    def finish(self, emit: Emitter, acc: Expr) -> Expr:
        """The sums of a vector of accumulators, before any constant is added."""
        return acc

    def pack(self, weight: Array, width: int) -> Array:
        """[K, N] to [ceil(N / width), ceil(K / depth), width * depth], zero-padded; K counts stored elements."""
        depth, columns = weight.shape
        steps, blocks = ceil_div(depth, self.depth), ceil_div(columns, width)
        padded = np.zeros((steps * self.depth, blocks * width), weight.dtype)
        padded[:depth, :columns] = weight
        split = padded.reshape(steps, self.depth, blocks, width).transpose(2, 0, 3, 1)
        return np.ascontiguousarray(split).reshape(blocks, steps, width * self.depth)


def _glued(emit: Emitter, load: Callable[[int, int], Expr], count: int, bits: int) -> Expr:
    """A word whose last elements do not exist: zeros in their place."""
    word = emit.integer(0)
    for j in range(count):
        element = emit.cast(emit.bits(load(j, 1), f"uint{bits}"), "int32")
        word = word | (element << emit.integer(bits * j))
    return word


@dataclass(frozen=True)
class FloatDot(Dot):
    """fp32 times fp32."""

    x_dtype: str = "float32"
    weight_dtype: str = "float32"
    acc_dtype: str = "float32"

    def word(self, emit: Emitter, load: Callable[[int, int], Expr], count: int) -> Expr:
        return load(0, 1)

    def add(self, emit: Emitter, acc: Expr, word: Expr, weights: Expr) -> Expr:
        return acc + emit.splat(word, self.lanes) * weights


@dataclass(frozen=True)
class BytesDot(Dot):
    """Bytes times signed bytes, exact in int32.

    Signed x are taken as x + 128, whose bits are those of x with the sign flipped: whoever uses the sums must add
    `correction` times the sum of a lane's weights.
    """

    x_dtype: str = "uint8"
    weight_dtype: str = "int8"
    acc_dtype: str = "int32"
    depth: int = 4

    @property
    def correction(self) -> int:
        return -128 if self.x_dtype == "int8" else 0

    @property
    def partials(self) -> int:
        return 1 if self.unit.vnni else 2

    @property
    def tile_unit(self) -> VectorUnit:
        # LLVM keeps words of several steps in registers: tiles that fill the others spill (77 instead of 93 % of peak)
        registers = self.unit.registers
        return VectorUnit(self.lanes, registers - 6 * registers // 32 if self.unit.vnni else registers // 2)

    def word(self, emit: Emitter, load: Callable[[int, int], Expr], count: int) -> Expr:
        word = emit.bits(load(0, 4), "int32") if count >= 4 else _glued(emit, load, count, 8)
        return word ^ emit.integer(-0x7F7F7F80) if self.x_dtype == "int8" else word

    def add(self, emit: Emitter, acc: Expr, word: Expr, weights: Expr) -> Expr:
        return self.add_lanes(emit, acc, emit.bits(emit.splat(word, self.lanes), f"uint8x{4 * self.lanes}"), weights)

    def add_lanes(self, emit: Emitter, acc: Expr, x: Expr, weights: Expr) -> Expr:
        """acc plus the products of two vectors of 4 * lanes bytes, the first unsigned."""
        if self.unit.vnni:
            name = f"llvm.x86.avx512.vpdpbusd.{32 * self.lanes}"
            return emit.intrinsic(f"int32x{self.lanes}", name, acc, emit.bits(x, f"int8x{4 * self.lanes}"), weights)
        # LLVM makes one vpmaddwd of this
        wide_x, wide_w = emit.cast(x, "int16"), emit.cast(weights, "int16")
        even, odd = range(0, 4 * self.lanes, 2), range(1, 4 * self.lanes, 2)
        products = [
            emit.cast(emit.shuffle([wide_x], picks), "int32") * emit.cast(emit.shuffle([wide_w], picks), "int32")
            for picks in (even, odd)
        ]
        return acc + (products[0] + products[1])

    def finish(self, emit: Emitter, acc: Expr) -> Expr:
        if self.unit.vnni:
            return acc
        return emit.shuffle([acc], range(0, self.width, 2)) + emit.shuffle([acc], range(1, self.width, 2))


@dataclass(frozen=True)
class Bf16Dot(Dot):
    """bf16, stored as the uint16 of its bits, times bf16, summed up in fp32."""

    x_dtype: str = "uint16"
    weight_dtype: str = "uint16"
    acc_dtype: str = "float32"
    depth: int = 2

    @property
    def native(self) -> bool:
        return self.unit.bf16 and self.lanes == 16

    @property
    def tile_unit(self) -> VectorUnit:
        return self.unit if self.native else VectorUnit(self.lanes, self.unit.registers - 4)

    @property
    def prelude(self) -> str:
        # TVM turns its bf16 type into fp32 before LLVM sees it, so that the intrinsic cannot be called from TIR.
        return _DPBF16 if self.native else ""

    def word(self, emit: Emitter, load: Callable[[int, int], Expr], count: int) -> Expr:
        return emit.bits(load(0, 2), "int32") if count >= 2 else _glued(emit, load, count, 16)

    def add(self, emit: Emitter, acc: Expr, word: Expr, weights: Expr) -> Expr:
        lanes = f"x{self.lanes}"
        pairs = emit.bits(weights, "int32" + lanes)
        if self.native:
            # the word last: there the instruction can broadcast it from memory
            return emit.external("float32x16", "intaglio_dpbf16ps_512", acc, pairs, emit.splat(word, 16))
        for shift in (True, False):  # the low halves, then the high ones
            x, w = (
                v << emit.splat_of(16, "int32", n) if shift else v & emit.splat_of(-65536, "int32", n)
                for v, n in ((word, 1), (pairs, self.lanes))
            )
            acc = acc + emit.splat(emit.bits(x, "float32"), self.lanes) * emit.bits(w, "float32" + lanes)
        return acc


_DPBF16 = """
declare <16 x float> @llvm.x86.avx512bf16.dpbf16ps.512(<16 x float>, <32 x bfloat>, <32 x bfloat>)
define linkonce_odr <16 x float> @intaglio_dpbf16ps_512(<16 x float> %acc, <16 x i32> %a, <16 x i32> %b) alwaysinline {
  %x = bitcast <16 x i32> %a to <32 x bfloat>
  %y = bitcast <16 x i32> %b to <32 x bfloat>
  %r = call <16 x float> @llvm.x86.avx512bf16.dpbf16ps.512(<16 x float> %acc, <32 x bfloat> %x, <32 x bfloat> %y)
  ret <16 x float> %r
}
"""


@dataclass(frozen=True)
class BitsDot(Dot):
    """The number of bits in which 32 signs differ from 32 others; a product of +-1 vectors of n is n - 2 * that."""

    x_dtype: str = "int32"
    weight_dtype: str = "int32"
    acc_dtype: str = "int32"

    @property
    def _bytes(self) -> BytesDot:
        return BytesDot(self.unit)

    @property
    def partials(self) -> int:
        return 1 if self.unit.popcount else self._bytes.partials

    @property
    def tile_unit(self) -> VectorUnit:
        return self.unit if self.unit.popcount else self._bytes.tile_unit

    def word(self, emit: Emitter, load: Callable[[int, int], Expr], count: int) -> Expr:
        return load(0, 1)

    def add(self, emit: Emitter, acc: Expr, word: Expr, weights: Expr) -> Expr:
        differ = emit.splat(word, self.lanes) ^ weights
        if self.unit.popcount:
            return acc + emit.popcount(differ)
        count = 4 * self.lanes
        ones = emit.splat_of(1, "int8", count)
        # LLVM counts the bits of a byte by looking up both halves in a table of 16 (vpshufb)
        return self._bytes.add_lanes(emit, acc, emit.popcount(emit.bits(differ, f"uint8x{count}")), ones)

    def finish(self, emit: Emitter, acc: Expr) -> Expr:
        return acc if self.unit.popcount else self._bytes.finish(emit, acc)


def constants(values: Sequence[int] | Array, width: int) -> Array:
    """Per-column int32 [N] in rows of `width` lanes, as bytes: [ceil(N / width), 4 * width] int8, zero-padded."""
    columns = np.asarray(values, np.int64)
    blocks = ceil_div(len(columns), width)
    padded = np.zeros(blocks * width, np.int64)
    padded[: len(columns)] = columns
    return padded.astype(np.int32).view(np.int8).reshape(blocks, 4 * width)
