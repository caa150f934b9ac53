"""What a kernel template takes and returns: vector unit, fused epilogue, finished kernel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Expr: TypeAlias = Any
"""A scalar TIR expression (or a Python number)."""

Dim: TypeAlias = Any
"""A Python int or a symbolic TIR variable."""

FloatArray: TypeAlias = npt.NDArray[np.float32]
Packer: TypeAlias = Callable[[FloatArray], FloatArray]
Epilogue: TypeAlias = Callable[[Expr, tuple[Expr, ...], tuple[Any, ...]], Expr]
"""(accumulator, index of the output element, buffers of the extra operands) -> value to store."""


def identity(acc: Expr, index: tuple[Expr, ...], extras: tuple[Any, ...]) -> Expr:
    """The epilogue that stores the accumulator as it is."""
    return acc


@dataclass(frozen=True)
class ExtraOperand:
    """An operand that only the epilogue reads: a bias vector, a residual tensor."""

    shape: tuple[Dim, ...]
    dtype: str = "float32"


@dataclass(frozen=True)
class VectorUnit:
    """The vector registers of an instruction set, in fp32 terms.

    `simt`: no vectors but threads, as on a GPU; loops then only say what is independent, for a backend to share it out.
    `vnni`, `bf16`, `popcount`: whether there are dot products of bytes (vpdpbusd), of bf16 (vdpbf16ps), and the count
    of bits in a lane (vpopcntd). `maximum`: whether there is one for the larger of two numbers in which nan wins.
    """

    lanes: int
    registers: int
    simt: bool = False
    vnni: bool = False
    bf16: bool = False
    popcount: bool = False
    maximum: bool = False


VECTOR_UNITS = {
    "avx512_bf16": VectorUnit(16, 32, vnni=True, bf16=True, popcount=True),
    "avx512_vnni": VectorUnit(16, 32, vnni=True),
    "avx512": VectorUnit(16, 32),
    "avx2_vnni": VectorUnit(8, 16, vnni=True),
    "avx2": VectorUnit(8, 16),
    "neon": VectorUnit(4, 32, maximum=True),
    "baseline": VectorUnit(4, 16),
}
AVX512 = VECTOR_UNITS["avx512"]


@dataclass(frozen=True)
class Kernel:
    """A scheduled PrimFunc with its calling convention.

    Parameters of `func`: the inputs (packed weights in their place), the extra operands, the output.
    `packers` has one entry an input: None for a plain activation, else the function from the ONNX weight to
    the array `func` expects. `packed_shapes` gives the shape of every input as `func` sees it. Scratch memory
    is allocated inside `func`.
    """

    func: Any
    packers: tuple[Packer | None, ...]
    packed_shapes: tuple[tuple[Dim, ...], ...]
    out_shape: tuple[Dim, ...]


def is_static(dims: Sequence[Dim]) -> bool:
    """Whether every dimension is a known positive number."""
    return all(isinstance(d, int) and d > 0 for d in dims)


def ceil_div(a: int, b: int) -> int:
    return -(-a // b)


def cover(length: int, lanes: int) -> list[tuple[int, int]]:
    """(start, width) of power-of-two vectors that together cover exactly [0, length).

    The last vector steps back over its neighbour instead of going past the end, so no access needs a mask;
    elements in the overlap are computed twice with the same result.
    """
    width = lanes
    while width > length:
        width //= 2
    starts = list(range(0, length - width + 1, width))
    if starts[-1] + width < length:
        starts.append(length - width)
    return [(s, width) for s in starts]
