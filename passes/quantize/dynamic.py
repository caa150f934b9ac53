"""Activations whose scales are found at run time, one for each token: products of transformers without calibration.

    %y = nn.matmul(%x, %w)        becomes

    %c, %s = quant.quantize_dynamic(%x)      codes, and max |x| / 127 of each row
    %i = quant.matmul(%c, codes of %w)       int32, exact
    %y = cast(%i) * %s * (scales of %w)

Rows differ much in transformers, most of all those of separators, and a scale for all of them is one for the largest
(Yao et al., ZeroQuant, 2022, section 4.2).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from ...ir.graph import Node, Value
from ...ir.ops.quant_dynamic import quantize_dynamic
from ...ir.types import Affine, Int, Tensor
from ..rebuild import Rebuild
from .formats import F32
from .plan import Layer, Plan
from .round import Rounded
from .settings import Quantize

__all__ = ["Tokens", "by_token", "encoded_tokens", "token_bits"]

LIMIT = 1 << 31
"""Sums of products stay below."""


def by_token(plan: Plan) -> Plan:
    """The plan in which products with a constant matrix read codes of tokens, and nothing else reads codes."""
    products = {node for node, layer in plan.layers.items() if _fits(layer)}
    read = {(node, 0) for node in products}
    return replace(plan, points={v for n, _ in read if (v := n.inputs[0]) is not None}, coded=read, ties={})


def _fits(layer: Layer) -> bool:
    """Whether sums of int8 products cannot overflow; 133,000 inputs can."""
    return not layer.is_conv and layer.weights.ndim == 2 and len(layer.weights) * 127 * 128 < LIMIT


def token_bits(v: Value, plan: Plan, options: Quantize) -> int:
    """Bits of a product's activations: those of the first and the last layer have `edges` at least, or 8."""
    assert isinstance(options.activations, int)
    edge = any(layer.first or layer.last for n, layer in plan.layers.items() if n.inputs[0] is v)
    return 8 if edge and options.edges > options.activations else options.activations


def encoded_tokens(x: Any, bits: int) -> Any:
    """What the codes of x stand for."""
    codes, scale = quantize_dynamic.function(x, bits=bits)
    return codes.astype(np.float32) * scale


class Tokens:
    """Writes the products of a plan made by `by_token` into a graph; a value that several read is encoded once."""

    def __init__(self, to: Rebuild, plan: Plan, options: Quantize) -> None:
        self.to, self.plan, self.options = to, plan, options
        self.codes: dict[Value, tuple[Value, Value]] = {}

    def put(self, node: Node, made: Rounded) -> None:
        """The product `node` with the weights `made`."""
        x, w = node.inputs
        assert x is not None
        assert w is not None
        editor = self.to.editor
        if x not in self.codes:
            bits = token_bits(x, self.plan, self.options)
            encoder = editor.emit("quant.quantize_dynamic", self.to.now[x], bits=bits).node
            assert encoder is not None
            self.codes[x] = encoder.outputs[0], encoder.outputs[1]
        codes, scale = self.codes[x]
        elem = made.elem
        assert isinstance(elem, Affine)
        assert isinstance(elem.store, Int)
        stored = editor.constant(made.codes, w.name, Tensor(made.codes.shape, elem))
        weights = editor.emit("quant.store", stored, to=elem.store)
        if elem.store.bits != 8:
            weights = editor.emit("math.cast", weights, to=Int("i8"))
        sums = editor.emit("math.cast", editor.emit("quant.matmul", codes, weights), to=F32)
        columns = getattr(elem.scale, "array", np.float32(elem.scale) if isinstance(elem.scale, float) else None)
        rows = editor.emit("math.mul", sums, scale)
        self.to.put(node, (editor.emit("math.mul", rows, editor.constant(columns), name=node.output.name),))
