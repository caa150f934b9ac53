"""Emitting the circuit: a graph of `he` ops over ciphertext types, for a network with packings, plans and levels."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ...ir.edit import Editor
from ...ir.graph import Graph, Value, attributes
from ...ir.ops import get
from ...ir.ops.he import polynomial_levels, result_type
from ...ir.packing import Packing
from ...ir.types import Cipher
from .choose import Chosen
from .levels import Levels, absorbed, rise
from .network import Layer, Network
from .parameters import Parameters

__all__ = ["lower"]


def lower(network: Network, chosen: Chosen, levels: Levels, parameters: Parameters, *, hoist: bool = False) -> Graph:
    """The circuit. Its one input is what the client packs, its one output what the client unpacks."""
    return _Emitter(network, chosen, levels, parameters, hoist).graph()


HOISTED = 3  # rotations of a layer, from which on hoisting them is worth its keys


class _Emitter:
    def __init__(self, network: Network, chosen: Chosen, levels: Levels, parameters: Parameters, hoist: bool) -> None:
        self.hoist = hoist
        self.network, self.chosen, self.levels, self.parameters = network, chosen, levels, parameters
        self.editor = Editor(name="main")
        self.held: dict[int, Value] = {}

    def graph(self) -> Graph:
        first = self.network.layers[0]
        packing = self.chosen.client.packing
        t = Cipher(packing.shape, str(packing), self.levels.level[0], self.parameters.scale_bits)
        self.held[0] = self.editor.input(first.name or "x", t)
        for i, layer in enumerate(self.network.layers):
            if i:
                self.editor.loc = layer.source
                self.held[i] = getattr(self, f"_{layer.kind}")(i, layer)
            if i in self.levels.raised:
                scale = self.parameters.scale_bits
                self.held[i] = self.op("he.bootstrap", self.at(i, 0), level=self.levels.top, scale=scale)
        self.editor.output(self.held[self.network.output], "y")
        return self.editor.freeze()

    # --- building ---------------------------------------------------------------------------------------------------

    def op(self, name: str, *operands: Value, **attrs: Any) -> Value:
        """A node whose type follows from the rules."""
        found = get(name)
        made = attributes(found.normal(attrs))
        t = result_type(found, tuple(v.type for v in operands), made)
        return self.editor.apply(found, operands, made, types=(t,)).outputs[0]

    def at(self, value: int, level: int) -> Value:
        """A value at a level: dropped there when it lies higher."""
        held = self.held[value]
        return held if held.type.level == level else self.op("he.drop", held, level=level)  # type: ignore[union-attr]

    def operand(self, value: int, user: int) -> Value:
        return self.at(value, self.levels.level[user] + rise(self.network, value, user))

    def bits(self, x: Value) -> int:
        """Of the prime that rescaling x divides by."""
        return self.parameters.prime_bits[x.type.level]  # type: ignore[union-attr]

    def rescaled(self, x: Value) -> Value:
        return self.op("he.rescale", x, bits=self.bits(x))

    # --- layers -----------------------------------------------------------------------------------------------------

    def _linear(self, i: int, layer: Layer) -> Value:
        x, candidate, g = self.operand(layer.inputs[0], i), self.chosen.plans[i], layer.geometry
        assert g is not None and layer.weights is not None
        weights, bias = layer.weights, layer.bias
        attrs: dict[str, Any] = {}
        if self.hoist and candidate.plan.rotations - len(candidate.plan.folds) >= HOISTED:
            attrs = {"hoist": True}
        if layer.rows:
            attrs |= {"rows": layer.rows, "columns": layer.columns}
        if g.window and self.chosen.client.geometry is not None and layer.inputs == (0,):
            weights = weights.reshape(*weights.shape[:-3], -1, 1, 1)
        elif g.window:
            attrs |= {"strides": g.strides, "pads": g.pads, "groups": g.groups}
        factor = 1.0
        for u in self.network.users(i):
            user = self.network.layers[u]
            if user.kind == "sum" and absorbed(self.network, i, u):
                factor = user.factors[user.inputs.index(i)]
        operands = [x, self.editor.constant((weights * factor).astype(np.float32), f"{layer.name}.weight")]
        if bias is not None and np.any(bias):
            shaped = (bias * factor).astype(np.float32).reshape(candidate.target.shape)
            operands.append(self.editor.constant(shaped, f"{layer.name}.bias"))
        return self.op(
            "he.linear",
            *operands,
            target=str(candidate.target),
            **candidate.plan.numbers(),
            bits=self.bits(x),
            scale=self.parameters.scale_bits,
            **attrs,
        )

    def _square(self, i: int, layer: Layer) -> Value:
        return self.rescaled(self.op("he.relin", self.op("he.square", self.operand(layer.inputs[0], i))))

    def _poly(self, i: int, layer: Layer) -> Value:
        x = self.operand(layer.inputs[0], i)
        depth, level = polynomial_levels(len(layer.coeffs) - 1), x.type.level  # type: ignore[union-attr]
        bits = tuple(self.parameters.prime_bits[level - k] for k in range(depth))
        return self.op("he.polynomial", x, coeffs=layer.coeffs, bits=bits, scale=self.parameters.scale_bits)

    def _monic(self, i: int, layer: Layer) -> Value:
        x = self.operand(layer.inputs[0], i)
        level = x.type.level  # type: ignore[union-attr]
        bits = tuple(self.parameters.prime_bits[level - k] for k in range(layer.depth))
        return self.op("he.monic", x, coeffs=layer.coeffs, bits=bits)

    def _sum(self, i: int, layer: Layer) -> Value:
        total = None
        for n, (j, factor) in enumerate(zip(layer.inputs, layer.factors, strict=True)):
            x = self.operand(j, i)
            if rise(self.network, j, i):  # a factor, and the scale of a layer's result: one product
                factors = np.full(Packing.parse(x.type.packing).shape, factor, np.float32)  # type: ignore[union-attr]
                plain = self.editor.constant(factors, f"{layer.name}.factor")
                rescaled = {"bits": self.bits(x), "rescaled": self.parameters.scale_bits}
                x = self.rescaled(self.op("he.mul_plain", x, plain, **rescaled))
            if step := self.chosen.turns.get((i, n)):
                x = self.op("he.rotate", x, step=step)
            total = x if total is None else self.op("he.add_ct", total, x)
        assert total is not None
        if layer.bias is not None and np.any(layer.bias):
            shape = Packing.parse(total.type.packing).shape  # type: ignore[union-attr]
            bias = np.broadcast_to(layer.bias, (math.prod(shape),)).astype(np.float32).reshape(shape)
            total = self.op("he.add_plain", total, self.editor.constant(bias, f"{layer.name}.bias"))
        return total
