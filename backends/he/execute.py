"""Running a circuit on an engine: the lowering of macros, scales to the last bit, memory.

Plaintexts are encoded at the scale that is missing: a product by a diagonal at level l is encoded at `target * q_l /
scale(x)`, so that rescaling gives the target's scale exactly. Ciphertexts are freed after their last reader; encoded
diagonals are kept for the next sample while they fit into `CACHE` bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from ...ir.diagnostics import error
from ...ir.diagonals import Diagonals, Plan, diagonals, run_plan
from ...ir.graph import Graph, Node, Value
from ...ir.ops.he import identity_map, linear_map
from ...ir.packing import Packing
from .engine import Engine
from .monic import monic

__all__ = ["CACHE", "Circuit", "execute", "layer_of", "load"]

CACHE = 1 << 29  # bytes of encoded plaintexts
PROGRAM = "program.ig"


@dataclass
class Circuit:
    """A graph of `he` ops with what is worked out once: which diagonals a layer has, plaintexts already encoded."""

    graph: Graph
    maps: dict[Node, tuple[Plan, Diagonals, Any]] = field(default_factory=dict)
    plains: dict[Any, Any] = field(default_factory=dict)
    bytes: int = 0


def load(folder: Path) -> Circuit:
    """The circuit of an artifact, or of its server's part."""
    from ...ir.text import parse_file

    for place in (Path(folder) / "server" / PROGRAM, Path(folder) / PROGRAM):
        if place.is_file():
            return Circuit(parse_file(place).main)
    raise error("IG0548", f"`{folder}` holds no circuit", hint="`intaglio compile MODEL --target he -o DIR` makes one")


def execute(
    program: Circuit, engine: Engine, inputs: Sequence[Any], observe: Callable[[Node], None] | None = None
) -> list[Any]:
    """Output ciphertexts for input ciphertexts, in the order of the graph. `observe` is called after each node."""
    held: dict[Value, Any] = dict(zip(program.graph.inputs, inputs, strict=True))
    last = {v: node for node in program.graph.nodes for v in node.inputs if v is not None}
    kept = set(program.graph.outputs)
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


def layer_of(circuit: Circuit, node: Node) -> tuple[Plan, Diagonals, Any]:
    """Plan, diagonals and weights of a `he.linear` or `he.repack` node."""
    found = circuit.maps.get(node)
    if found is None:
        source, target = (Packing.parse(t) for t in (node.inputs[0].type.packing, node.attr("target")))  # type: ignore[union-attr]
        weights = _constant(node, 1)
        plan = Plan.of(node.attr("babies"), node.attr("giants"), node.attr("folds"))
        if node.op.name == "he.repack":
            weights = np.broadcast_to(weights.reshape(-1), (source.size,))
            of = identity_map(source.size)
        else:
            given = {k: node.attr(k) for k in ("strides", "pads", "groups")}
            of = linear_map(source, target, weights.shape, given)
        found = plan, diagonals(plan, source, target, of, weights.reshape(-1) != 0), weights
        circuit.maps[node] = found
    return found


def _constant(node: Node, i: int) -> Any:
    v = node.inputs[i] if i < len(node.inputs) else None
    if v is None or v.node is None or v.node.constant is None:
        raise error("IG0548", f"`{node.op.name}` has no constant as operand {i}")
    return v.node.constant.array


@dataclass
class _Runner:
    program: Circuit
    engine: Engine

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
            values = lambda: packing.pack(_constant(node, 1))  # noqa: E731
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
            if self.program.bytes + size <= CACHE:
                self.program.plains[whole] = found
                self.program.bytes += size
        return found

    def everywhere(self, number: float, level: int, scale: Fraction) -> Any:
        """One number in all slots."""
        return self.plain(number, lambda: np.full(self.engine.parameters.slots, number), level, scale)

    def biased(self, node: Node, x: Any, i: int, packing: Packing) -> Any:
        meta = self.engine.meta(x)
        plain = self.plain((node, "bias"), lambda: packing.pack(_constant(node, i)), meta.level, meta.scale)
        return self.engine.add_plain(x, plain)

    def linear(self, node: Node, x: Any) -> Any:
        plan, found, weights = layer_of(self.program, node)
        algebra = _Ciphertexts(
            self, node, found, weights, self.missing(x, node.attr("scale")), self.engine.meta(x).level
        )
        y = run_plan(algebra, x, plan, found.entries)
        if node.op.name == "he.linear" and len(node.inputs) > 2:
            y = self.biased(node, y, 2, Packing.parse(node.attr("target")))
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
