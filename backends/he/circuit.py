"""A circuit, and what is worked out of it once: diagonals, rotations that layers share, encoded plaintexts."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...ir.diagnostics import error
from ...ir.diagonals import Diagonals, Plan, diagonals
from ...ir.graph import Graph, Node
from ...ir.ops.he import identity_map, linear_map
from ...ir.packing import Packing
from .hoisting import Hoisted, hoisted
from .room import room

if TYPE_CHECKING:
    from .sharing import Shared

__all__ = ["PROGRAM", "Circuit", "constant", "hoisted_of", "layer_of", "load"]

PROGRAM = "program.ig"


@dataclass
class Circuit:
    """A graph of `he` ops with what is worked out once: which diagonals a layer has, which rotations several layers
    need, plaintexts already encoded. `room` is what the latter may take in all, in bytes: see room.py."""

    graph: Graph
    room: int = field(default_factory=room)
    shared: dict[Node, Shared] | None = None
    hoisted: dict[Node, Hoisted] = field(default_factory=dict)
    maps: dict[Node, tuple[Plan, Diagonals, Any]] = field(default_factory=dict)
    plains: dict[Any, Any] = field(default_factory=dict)
    bytes: int = 0
    encoded_by: Any = None  # an engine, or its process: when that has died, what it had encoded is lost


def load(folder: Path) -> Circuit:
    """The circuit of an artifact, or of its server's part."""
    from ...ir.text import parse_file

    for place in (Path(folder) / "server" / PROGRAM, Path(folder) / PROGRAM):
        if place.is_file():
            return Circuit(parse_file(place).main)
    raise error("IG0548", f"`{folder}` holds no circuit", hint="`intaglio compile MODEL --target he -o DIR` makes one")


def layer_of(circuit: Circuit, node: Node) -> tuple[Plan, Diagonals, Any]:
    """Plan, diagonals and weights of a `he.linear` or `he.repack` node."""
    found = circuit.maps.get(node)
    if found is None:
        source, target = (Packing.parse(t) for t in (node.inputs[0].type.packing, node.attr("target")))  # type: ignore[union-attr]
        weights = constant(node, 1)
        plan = Plan.of(node.attr("babies"), node.attr("giants"), node.attr("folds"))
        if node.op.name == "he.repack":
            weights = np.broadcast_to(weights.reshape(-1), (source.size,))
            of = identity_map(source.size)
        else:
            given = {k: node.attr(k) for k in ("strides", "pads", "groups", "rows", "columns")}
            of = linear_map(source, target, weights.shape, given)
        found = plan, diagonals(plan, source, target, of, weights.reshape(-1) != 0), weights
        circuit.maps[node] = found
    return found


def hoisted_of(circuit: Circuit, node: Node) -> Hoisted:
    """The diagonals of a `he.linear` node with `hoist`."""
    if node not in circuit.hoisted:
        circuit.hoisted[node] = hoisted(*layer_of(circuit, node))
    return circuit.hoisted[node]


def constant(node: Node, i: int) -> Any:
    v = node.inputs[i] if i < len(node.inputs) else None
    if v is None or v.node is None or v.node.constant is None:
        raise error("IG0548", f"`{node.op.name}` has no constant as operand {i}")
    return v.node.constant.array
