"""The work of an integer graph by the layers of its program, where some of these work on rows.

What is between two products of a transformer, softmax or a norm, is one step: its rows go through local memory in
pieces (`pieces.py`), and only what is read and written by others moves.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from ...ir.diagnostics import IntaglioError
from ...ir.graph import Graph, Node, Value
from .emit.groups import Group, stages
from .emit.network import name_of
from .emit.product import product_layer
from .emit.rows import RowWork, blocks_of, cut, operations, row_work
from .emit.rowwise import constant
from .emit.tensors import bytes_of
from .hierarchy import Hierarchy
from .pieces import Pieces
from .vector import PASSES, UNITS, tensor_bits, vector_of
from .workload import FREE, Work, layer_of, works_of_node

__all__ = ["pieces_of", "room_of", "works_of_groups"]

UNBOUNDED = 1 << 16
"""Bytes of local memory that rows use where it is endless."""


def works_of_groups(graph: Graph, machine: Hierarchy, floats: int) -> list[Work] | None:
    """The work of a graph without kernels; None where no layer works on rows: then kernels tell it as well."""
    parts = stages(graph)
    if not any(g.kind in ("rows", "product") for s in parts for g in s.groups):
        return None
    found: list[Work] = []
    for stage in parts:
        for node in stage.nodes:
            found += (replace(w, host=True) for w in works_of_node(node, floats))
        for group in stage.groups:
            found += _work(group, machine)
    return found


def room_of(machine: Hierarchy) -> int:
    """Bytes of local memory for work on rows."""
    stores = machine.tiers[0]
    store = next((s for s in stores if "I" in s.holds), stores[0])
    return UNBOUNDED if math.isinf(store.capacity) else int(store.capacity // 64) * 8


def _work(group: Group, machine: Hierarchy) -> list[Work]:
    name = name_of(group)
    if group.kind == "rows":
        work = row_work(group)
        vectors = [vector_of(n, on_path=True) for n in group.nodes]
        read = sum(tensor_bits(v.type) for v in (*work.read, *work.shared)) + 8 * len(blocks_of(group).data)
        written = sum(tensor_bits(v.type) for v in work.written)
        vectors[-1] = replace(vectors[-1], read_bits=read, write_bits=written)
        told = " ".join(dict.fromkeys(n.op.name for n in group.nodes))
        return [Work(name, told, None, tuple(vectors), pieces=pieces_of(group, machine))]
    if group.kind in ("name", "shape.reshape"):
        return []
    layer = product_layer(group) if group.kind == "product" else None
    if layer is None:
        product = next((n for n in group.nodes if layer_of(n, {}) is not None), None)
        if product is None:
            return [w for n in group.nodes for w in works_of_node(n, 64)]
        layer = layer_of(product, {})
    assert layer is not None
    made = {n.output for n in group.nodes}
    vectors = []
    for node in group.nodes:
        if node is group.sums or node.op.name in FREE:
            continue
        extra = sum(tensor_bits(v.type) for v in node.inputs if v is not None and v not in made and not constant(v))
        vectors.append(replace(vector_of(node, on_path=True), read_bits=extra))
    return [Work(name, group.sums.op.name, layer, tuple(vectors), layer.words("O"))]


def pieces_of(group: Group, machine: Hierarchy) -> Pieces | None:
    """The pieces as `emit_rows` cuts them; None where there is no room, and so no program."""
    work, blocks = row_work(group), blocks_of(group)
    try:
        rows = cut(work, len(blocks.data), room_of(machine)).rows
    except IntaglioError:
        return None
    once = [8 * len(blocks.data)] if blocks.data else []
    once += [8 * work.length(v) * bytes_of(v) for v in work.shared]
    found = []
    for first in range(0, work.rows, rows):
        n = min(rows, work.rows - first)
        done = tuple(_operations(o, n) for o in group.nodes)
        found.append((_bits(work.read, n, work), done, _bits(work.written, n, work)))
    return Pieces(tuple(once), tuple(found))


def _bits(values: Sequence[Value], rows: int, work: RowWork) -> tuple[int, ...]:
    return tuple(8 * rows * work.length(v) * bytes_of(v) for v in values)


def _operations(node: Node, rows: int) -> tuple[str, int]:
    """The unit that does an op's work on so many rows, and how many operations that is."""
    op = node.op.name
    return UNITS.get(op, "alu"), rows * operations(node) * PASSES.get(op, 1)
