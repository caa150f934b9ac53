"""A layer as the cost model sees it: eight loops, three operands, their bits.

for n, g, k, p, q:  O[n,g,k,p,q] = sum over c, r, s of  W[g,k,c,r,s] * I[n,g,c, p*stride + r*dilation - pad, q*...]

convolution   N batch, G groups (depthwise: K = C = 1), K/C channels of a group, P/Q output rows/columns, R/S window
product       [P, C] x [C, K] -> [P, K]; a batched one has its batch in G where both operands have it
vector work   pools, norms, softmax, elementwise: `vector.py`
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property

__all__ = ["DIMS", "OPERANDS", "OWN", "RELEVANT", "Layer", "conv", "gemm"]

DIMS = ("N", "G", "K", "C", "P", "Q", "R", "S")
OPERANDS = ("W", "I", "O")
OWN = {"W": ("N", "P", "Q"), "I": ("K",), "O": ("C", "R", "S")}
"""The loops that reuse an operand: its tile does not change while they run. G changes all three."""
RELEVANT = {x: tuple(d for d in DIMS if d not in own) for x, own in OWN.items()}


@dataclass(frozen=True)
class Layer:
    """One layer. `sizes` in the order of DIMS; `image` is the input's height and width without pads.

    `bits` are those of W, I, O in memory and of the accumulator; `density` the shares of non-zeros of W and I;
    `nonzeros` counts those of W for each output channel where the weights are known, which tells how even they lie.
    """

    name: str
    sizes: tuple[int, int, int, int, int, int, int, int]
    strides: tuple[int, int] = (1, 1)
    dilations: tuple[int, int] = (1, 1)
    pads: tuple[int, int] = (0, 0)
    image: tuple[int, int] = (0, 0)
    bits: tuple[int, int, int, int] = (8, 8, 8, 32)
    density: tuple[float, float] = (1.0, 1.0)
    nonzeros: tuple[int, ...] = ()
    pattern: str = ""  # "nm:2:4", "block": how the zeros of W lie, where the type says so
    kind: str = field(default="conv", compare=False)

    @cached_property
    def extent(self) -> dict[str, int]:
        return dict(zip(DIMS, self.sizes, strict=True))

    @property
    def macs(self) -> int:
        return math.prod(self.sizes)

    def axis(self, i: int) -> tuple[int, int, int, int, int, int]:
        """(outputs, window, stride, dilation, pad, image) of axis 0 (P, R) or 1 (Q, S)."""
        e = self.extent
        p, r = (e["P"], e["R"]) if i == 0 else (e["Q"], e["S"])
        return p, r, self.strides[i], self.dilations[i], self.pads[i], self.image[i]

    def words(self, operand: str) -> int:
        """Elements of an operand that exist and are used; pads are not elements."""
        from .tiling import touched

        e = self.extent
        if operand == "I":
            rows, columns = (touched(self.axis(i)) for i in (0, 1))
            return e["N"] * e["G"] * e["C"] * rows * columns
        return math.prod(e[d] for d in RELEVANT[operand])

    def key(self) -> tuple[object, ...]:
        """What the mapping depends on; layers of one key are searched once."""
        return (self.sizes, self.strides, self.dilations, self.pads, self.image, self.bits, self.density,
                self.nonzeros, self.pattern)  # fmt: skip


def conv(
    name: str,
    k: int,
    c: int,
    image: tuple[int, int],
    window: tuple[int, int],
    *,
    n: int = 1,
    groups: int = 1,
    strides: tuple[int, int] = (1, 1),
    dilations: tuple[int, int] = (1, 1),
    pads: tuple[int, int, int, int] = (0, 0, 0, 0),
    bits: tuple[int, int, int, int] = (8, 8, 8, 32),
    density: tuple[float, float] = (1.0, 1.0),
) -> Layer:
    """A convolution; `k` and `c` count the channels of all groups, pads are top, left, bottom, right."""
    out = [(image[i] + pads[i] + pads[2 + i] - dilations[i] * (window[i] - 1) - 1) // strides[i] + 1 for i in (0, 1)]
    sizes = (n, groups, k // groups, c // groups, out[0], out[1], window[0], window[1])
    return Layer(name, sizes, strides, dilations, (pads[0], pads[1]), image, bits, density)


def gemm(
    name: str,
    rows: int,
    reduction: int,
    columns: int,
    *,
    batch: int = 1,
    bits: tuple[int, int, int, int] = (8, 8, 8, 32),
    density: tuple[float, float] = (1.0, 1.0),
) -> Layer:
    """[rows, reduction] x [reduction, columns], `batch` times with operands of their own."""
    sizes = (1, batch, columns, reduction, rows, 1, 1, 1)
    return Layer(name, sizes, image=(rows, 1), bits=bits, density=density, kind="gemm")
