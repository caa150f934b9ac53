"""The groups of a stage as steps of fusion: who reads whose result, row by row or as a whole."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from ....ir.graph import Value
from ..fusion.steps import Layout, Read, Step, layout_of, rowwise
from ..layer import Layer
from ..vector import Vector, tensor_bits, vector_of
from ..workload import Work
from .groups import PRODUCTS, Group
from .tensors import Tensors, input_of, int_of

__all__ = ["steps_of_groups"]

NAMES = {"shape.reshape", "shape.concat"}


def steps_of_groups(
    groups: Sequence[Group],
    tensors: Tensors,
    layers: Mapping[Group, Layer],
    names: Mapping[Group, str],
    fit: Callable[[Layer], Layer],
) -> tuple[list[Step], list[Group]]:
    """Steps, and the group of each. Reshapes are names; what concatenations take is stored for them.

    Products of codes can be fused; vector work by itself runs from and to DRAM.
    """
    steps: list[Step] = []
    of: list[Group] = []
    made: dict[Value, int] = {}
    stored = {tensors.views[v].root for v in tensors.outputs}
    for group in groups:
        if group.kind == "shape.concat":
            stored |= {v for v in group.nodes[0].inputs if v is not None}
    for group in groups:
        if group.kind in NAMES:
            continue
        layer = fit(layers[group]) if group in layers else None
        reads = _reads(group, tensors, layer, made, steps)
        bits = tensor_bits(group.output.type)
        own = tensors.views[group.output].root is group.output
        layout: Layout | None = layout_of(layer) if layer is not None else None
        kept = group.output in stored or not own
        work = Work(names[group], group.kind, layer, _vectors(group, reads), bits // 8)
        made[group.output] = len(steps)
        steps.append(Step(work, tuple(reads), bits, layout, kept, group.kind in PRODUCTS and _codes(group, tensors)))
        of.append(group)
    return steps, of


def _codes(group: Group, tensors: Tensors) -> bool:
    """Whether all that a group reads and writes has 8 bits: rings hold bytes."""
    read = [v for n in group.nodes for v in n.inputs if v is not None and v in tensors.views]
    outside = [v for v in read if not any(v in n.outputs for n in group.nodes)]
    return all(int_of(v).bits == 8 for v in (*outside, group.output))


def _reads(
    group: Group, tensors: Tensors, layer: Layer | None, made: Mapping[Value, int], steps: Sequence[Step]
) -> list[Read]:
    inside = {v for n in group.nodes for v in n.outputs}
    first = input_of(group.nodes[0])
    reads: list[Read] = []
    for node in group.nodes:
        for v in node.inputs:
            if v is None or v in inside or v not in tensors.views:
                continue
            view = tensors.views[v]
            step = made.get(view.root, -1)
            layout = steps[step].layout if step >= 0 and tensors.whole(v) and view.flat is None else None
            if v is first and layer is not None and node is group.nodes[0]:
                reads.append(Read(step, "I", 0, rowwise(layout, layer)))
            else:
                reads.append(Read(step, "V", tensor_bits(v.type), layout is not None))
    if layer is not None:
        reads.append(Read(-1, "W"))
    return reads


def _vectors(group: Group, reads: Sequence[Read]) -> tuple[Vector, ...]:
    """The vector work of a group, with what it reads and, where there is no product, writes in DRAM."""
    product = group.kind in PRODUCTS
    found = [vector_of(n, on_path=True) for n in group.nodes if n.op.name not in PRODUCTS]
    if not found:
        return ()
    last = found[-1]
    read = sum(r.bits for r in reads if r.role == "V")
    write = 0 if product else tensor_bits(group.output.type)
    return (*found[:-1], Vector(last.op, last.unit, last.special, last.simple, read, write))
