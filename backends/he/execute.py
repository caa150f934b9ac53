"""Running a circuit on an engine: the lowering of macros, scales to the last bit, memory.

Plaintexts are encoded at the scale that is missing: a product by a diagonal at level l is encoded at `target * q_l /
scale(x)`, so that rescaling gives the target's scale exactly. Ciphertexts are freed after their last reader; encoded
diagonals are kept for the next sample while they fit into the circuit's room.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np

from ...ir.diagonals import Diagonals, run_plan
from ...ir.graph import Node, Value
from ...ir.packing import Packing
from .circuit import Circuit, constant, hoisted_of, layer_of, load
from .engine import Engine
from .monic import monic
from .sharing import shared

__all__ = ["execute", "load"]


def execute(
    program: Circuit, engine: Engine, inputs: Sequence[Any], observe: Callable[[Node], None] | None = None
) -> list[Any]:
    """Output ciphertexts for input ciphertexts, in the order of the graph. `observe` is called after each node."""
    held: dict[Value, Any] = dict(zip(program.graph.inputs, inputs, strict=True))
    last = {v: node for node in program.graph.nodes for v in node.inputs if v is not None}
    kept = set(program.graph.outputs)
    encoder = getattr(engine, "process", engine)
    if program.encoded_by is not encoder:
        program.plains.clear()
        program.bytes, program.encoded_by = 0, encoder
    runner = _Runner(program, engine)
    for node in program.graph.nodes:
        if node.constant is not None:
            continue
        operands = [held.get(v) for v in node.inputs if v is not None]
        held[node.output] = runner.run(node, operands)
        del operands
        if observe is not None:
            observe(node)
        for v in node.inputs:
            if v is not None and last[v] is node and v not in kept:
                held.pop(v, None)
    return [held[v] for v in program.graph.outputs]


@dataclass
class _Runner:
    program: Circuit
    engine: Engine
    turned: dict[Value, dict[int, Any]] = field(default_factory=dict)  # rotations that layers to come need as well

    def run(self, node: Node, operands: list[Any]) -> Any:
        e, x, name = self.engine, operands[0], node.op.name.removeprefix("he.")
        if name in ("square", "relin", "rescale"):
            return getattr(e, name)(x)
        if name in ("add_ct", "sub_ct", "mul_ct"):
            return getattr(e, name.removesuffix("_ct"))(x, operands[1])
        if name == "negate":
            return e.neg(x)
        if name == "drop":
            return e.drop(x, node.attr("level"))
        if name == "rotate":
            return e.rotate(x, node.attr("step"))
        if name == "add_plain":
            return self.biased(node, x, 1, Packing.parse(node.inputs[0].type.packing))  # type: ignore[union-attr]
        if name == "mul_plain":
            packing = Packing.parse(node.inputs[0].type.packing)  # type: ignore[union-attr]
            scale = self.missing(x, node.attr("rescaled"))
            values = lambda: packing.pack(constant(node, 1))  # noqa: E731
            return e.mul_plain(x, self.plain(node, values, e.meta(x).level, scale))
        if name == "polynomial":
            return e.poly(x, node.attr("coeffs"), Fraction(1 << node.attr("scale")))
        if name == "monic":
            return monic(e, x, node.attr("coeffs"), self.everywhere)
        if name == "bootstrap":
            return e.bootstrap(x)
        return self.linear(node, x)

    def missing(self, x: Any, scale: int) -> Fraction:
        """The scale of a plaintext, so that x times it, rescaled, has scale 2^`scale`."""
        meta = self.engine.meta(x)
        return Fraction(1 << scale) * self.engine.parameters.primes[meta.level] / meta.scale

    def plain(self, key: Any, values: Any, level: int, scale: Fraction) -> Any:
        """An encoded plaintext, from the cache if it was needed before."""
        whole = (self.engine.name, key, level, scale)
        found = self.program.plains.get(whole)
        if found is None:
            found = self.engine.encode(values(), level, scale)
            size = self.engine.parameters.ciphertext_bytes(level, 1)
            if self.program.bytes + size <= self.program.room:
                self.program.plains[whole] = found
                self.program.bytes += size
        return found

    def everywhere(self, number: float, level: int, scale: Fraction) -> Any:
        """One number in all slots."""
        return self.plain(number, lambda: np.full(self.engine.parameters.slots, number), level, scale)

    def biased(self, node: Node, x: Any, i: int, packing: Packing) -> Any:
        meta = self.engine.meta(x)
        plain = self.plain((node, "bias"), lambda: packing.pack(constant(node, i)), meta.level, meta.scale)
        return self.engine.add_plain(x, plain)

    def linear(self, node: Node, x: Any) -> Any:
        plan, found, weights = layer_of(self.program, node)
        if node.op.name == "he.linear" and node.attr("hoist"):
            return self.hoisted(node, x)
        level = self.engine.meta(x).level
        algebra = _Ciphertexts(self, node, found, weights, self.missing(x, node.attr("scale")), level)
        share = shared(self.program)[node]
        there = self.turned.get(share.of, {})
        rotated = {b: self.engine.drop(there[b], level) for b in share.given}
        y = run_plan(algebra, x, plan, found.entries, rotated, share.kept - there.keys())
        rotated.pop(0, None)
        self.turned[share.of] = {b: c for b, c in (there | rotated).items() if b in share.kept}
        return self.finished(node, y)

    def hoisted(self, node: Node, x: Any) -> Any:
        diagonals = hoisted_of(self.program, node)
        y = self.engine.rescale(self.engine.linear(x, diagonals, diagonals.steps, self.missing(x, node.attr("scale"))))
        for fold in layer_of(self.program, node)[0].folds:
            y = self.engine.add(y, self.engine.rotate(y, fold))
        return self.finished(node, y)

    def finished(self, node: Node, y: Any) -> Any:
        """With the bias, if there is one."""
        if node.op.name == "he.linear" and len(node.inputs) > 2:
            return self.biased(node, y, 2, Packing.parse(node.attr("target")))
        return y


@dataclass
class _Ciphertexts:
    """See `ir.diagonals.Algebra`."""

    runner: _Runner
    node: Node
    found: Diagonals
    weights: Any
    scale: Fraction
    level: int

    def rotate(self, x: Any, step: int) -> Any:
        return self.runner.engine.rotate(x, step)

    def multiply(self, x: Any, key: tuple[int, int]) -> Any:
        values = lambda: self.found.vector(*key, self.weights)  # noqa: E731
        plain = self.runner.plain((self.node, key), values, self.level, self.scale)
        return self.runner.engine.mul_plain(x, plain)

    def add(self, x: Any, y: Any) -> Any:
        return self.runner.engine.add(x, y)

    def rescale(self, x: Any) -> Any:
        return self.runner.engine.rescale(x)
