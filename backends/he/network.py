"""What a CKKS circuit is made of: linear layers, polynomials, sums."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy.typing as npt

from ...ir.convolutions import Conv
from .plans import Geometry

__all__ = ["Array", "Layer", "Network", "product"]

Array = npt.NDArray[Any]


@dataclass
class Layer:
    """One step: `kind` is input, linear, square, poly, monic or sum; `inputs` are indices of earlier layers.

    linear: `weights` [M, C / groups, kh, kw] or [rows, columns], `bias` one per result element or None. Where borders
    have kernels of their own (ir/convolutions.py), `rows` and `columns` number the kinds, and `weights` is [kinds of
    rows, kinds of columns, M, C, kh, kw]. poly: `coeffs`, lowest first; monic: those below the leading 1. sum: factor
    of each operand, and `bias`. `source` is where in the model it comes from.
    """

    kind: str
    inputs: tuple[int, ...]
    shape: tuple[int, ...]
    geometry: Geometry | None = None
    weights: Array | None = None
    bias: Array | None = None
    coeffs: tuple[float, ...] = ()
    factors: tuple[float, ...] = ()
    rows: tuple[int, ...] = ()
    columns: tuple[int, ...] = ()
    name: str = ""
    source: Any = None

    @property
    def depth(self) -> int:
        """Levels from its operands to its result."""
        if self.kind == "monic":
            return len(self.coeffs).bit_length() - 1
        if self.kind == "poly":
            return math.ceil(math.log2(len(self.coeffs) - 1)) + 1
        return {"linear": 1, "square": 1}.get(self.kind, 0)


@dataclass
class Network:
    """Layers in the order of computation; `output` is the last one's index, its meaning `sign * held + offset`."""

    layers: list[Layer] = field(default_factory=list)
    output: int = 0
    sign: float = 1.0
    offset: Array | float = 0.0

    def users(self, index: int) -> list[int]:
        return [i for i, one in enumerate(self.layers) if index in one.inputs]

    def pruned(self) -> Network:
        """Without layers that the output does not need; the others keep their order."""
        alive, stack = set(), [self.output]
        while stack:
            i = stack.pop()
            if i not in alive:
                alive.add(i)
                stack += self.layers[i].inputs
        number = {old: new for new, old in enumerate(sorted(alive))}
        layers = [
            replace(one, inputs=tuple(number[j] for j in one.inputs)) for one in map(self.layers.__getitem__, number)
        ]
        return Network(layers, number[self.output], self.sign, self.offset)


def product(one: Layer, x: Array) -> Array:
    """A linear layer's weights times an input in the clear, without the bias; flat."""
    from ...ir.ops.nn import conv

    g, w = one.geometry, one.weights
    assert g is not None and w is not None
    if not g.window:
        return w @ x.reshape(-1)
    if one.rows:
        return Conv(g.source, g.target, w, one.rows, one.columns, g.strides, g.pads)(x.reshape(g.source)).reshape(-1)  # type: ignore[arg-type]
    p, q = g.target[1:]
    bottom = (p - 1) * g.strides[0] + g.window[0] - g.source[1] - g.pads[0]
    right = (q - 1) * g.strides[1] + g.window[1] - g.source[2] - g.pads[1]
    pads = (*g.pads, max(0, bottom), max(0, right))
    x = x.reshape((1, *g.source))
    found = conv.function(x, w, None, strides=g.strides, pads=pads, dilations=(1, 1), g=g.groups)
    return found[0][:, :p, :q].reshape(-1)
