"""Rotations of one value that several layers need: made by the first of them, kept for the others.

A convolution and the shortcut beside it read the same value, the second at a lower level; copies that merging.py makes
for the operands of sums do as well. A value that is rotated and then dropped to a level is what it would be if it were
rotated there.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...ir.graph import Node, Value
from ...ir.types import Cipher
from .circuit import Circuit, layer_of

__all__ = ["Shared", "shared"]

MOST = 32  # rotations of one value that are kept: ciphertexts in memory


@dataclass(frozen=True)
class Shared:
    """For one layer: the value it turns (before it is dropped to the layer's level), the offsets that are there already
    with the level each is at, and those to be kept for layers after it."""

    of: Value
    given: dict[int, int]
    kept: frozenset[int]


def shared(circuit: Circuit) -> dict[Node, Shared]:
    """For every layer by diagonals of a circuit."""
    if circuit.shared is None:
        circuit.shared = _found(circuit)
    return circuit.shared


def _found(circuit: Circuit) -> dict[Node, Shared]:
    layers = [n for n in circuit.graph.nodes if n.op.name in ("he.linear", "he.repack")]
    layers = [n for n in layers if n.op.name == "he.repack" or not n.attr("hoist")]
    read: dict[Node, frozenset[int]] = {}
    of = {node: _root(node) for node in layers}
    for node in layers:
        read[node] = frozenset(b for _, b in layer_of(circuit, node)[1].entries if b)
    made: dict[Value, dict[int, int]] = {}
    found = {}
    for i, node in enumerate(layers):
        level, have = _level(node), made.setdefault(of[node], {})
        offsets = layer_of(circuit, node)[0].baby_offsets
        given = {b: have[b] for b in offsets if have.get(b, -1) >= level}
        later = [n for n in layers[i + 1 :] if of[n] is of[node]]
        new = {b for b in read[node] - given.keys() if any(b in read[n] and _level(n) <= level for n in later)}
        room = MOST - sum(any(b in read[n] for n in later) for b in have)
        have.update(dict.fromkeys(sorted(new)[: max(0, room)], level))
        for b in [b for b in have if not any(b in read[n] for n in later)]:
            del have[b]
        found[node] = Shared(of[node], given, frozenset(have))
    return found


def _root(node: Node) -> Value:
    v = node.inputs[0]
    while v is not None and v.node is not None and v.node.op.name == "he.drop":
        v = v.node.inputs[0]
    assert v is not None
    return v


def _level(node: Node) -> int:
    t = node.inputs[0].type  # type: ignore[union-attr]
    assert isinstance(t, Cipher)
    return t.level
