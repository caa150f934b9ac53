"""What of an integer graph the accelerator runs, as layers: a product with what follows it on its way to memory.

quant.conv | quant.matmul | quant.sum_pool | a spatial sum   then quant.requantize   then quant.add, or not
quant.add, quant.table, nn.max_pool                          by themselves
shape.concat of channels, shape.reshape                      names for parts of tensors that others write
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass

from ....ir.graph import Graph, Node, Value
from ....ir.types import Int, Tensor

__all__ = ["PRODUCTS", "Group", "Stage", "channel_axis", "stages"]

PRODUCTS = {"quant.conv", "quant.matmul"}
SUMS = {*PRODUCTS, "quant.sum_pool", "math.reduce_sum"}


@dataclass(frozen=True)
class Group:
    """Nodes that become one layer; `kind` is the op of the first that computes."""

    kind: str
    nodes: tuple[Node, ...]

    @property
    def output(self) -> Value:
        return self.nodes[-1].output

    @property
    def sums(self) -> Node:
        """The product or sum of the group."""
        return next(n for n in self.nodes if n.op.name in SUMS)

    def node(self, op: str) -> Node | None:
        return next((n for n in self.nodes if n.op.name == op), None)


@dataclass(frozen=True)
class Stage:
    """Consecutive work of the accelerator (`groups`) or of the host (`nodes`)."""

    groups: tuple[Group, ...] = ()
    nodes: tuple[Node, ...] = ()


def stages(graph: Graph) -> list[Stage]:
    """The graph as stages that run one after the other, host and accelerator by turns; the host comes first."""
    inside = _groups(graph)
    level: dict[Value, int] = {v: 0 for v in graph.inputs}
    found: dict[int, tuple[list[Group], list[Node]]] = {}
    for node in graph.nodes:
        group = inside.get(node)
        members = group.nodes if group is not None else (node,)
        if node is not members[-1] or node.op.name == "const":
            continue
        before = [level[v] for m in members for v in m.inputs if v is not None and v in level]
        number = max(before, default=0)
        number += number % 2 == 0 if group is not None else number % 2
        bucket = found.setdefault(number, ([], []))
        if group is not None:
            bucket[0].append(group)
        else:
            bucket[1].append(node)
        for m in members:
            level.update(dict.fromkeys(m.outputs, number))
    return [Stage(tuple(found[n][0]), tuple(found[n][1])) for n in sorted(found)]


def _groups(graph: Graph) -> dict[Node, Group]:
    users: dict[Value, list[Node]] = {}
    for node in graph.nodes:
        for v in node.inputs:
            if v is not None:
                users.setdefault(v, []).append(node)
    results = set(graph.outputs)
    inside: dict[Node, Group] = {}
    for node in graph.nodes:
        if node in inside:
            continue
        members = _members(node, users, results, inside)
        if members:
            kind = next((n.op.name for n in members if n.op.name in SUMS), members[0].op.name)
            group = Group(kind, tuple(members))
            inside.update(dict.fromkeys(members, group))
    return inside


def _members(node: Node, users: dict[Value, list[Node]], results: set[Value], inside: Container[Node]) -> list[Node]:
    op = node.op.name
    if op in ("quant.add", "nn.max_pool", "quant.table", "shape.concat", "shape.reshape"):
        return [node] if _by_itself(node) else []
    members = [node]
    if op == "math.cast":  # codes to i32, to be summed
        if not _codes(node.inputs[0]) or (following := _only(node.output, users, results, "math.reduce_sum")) is None:
            return []
        members.append(following)
    if members[-1].op.name not in SUMS or not _sums(members[-1], members[0]):
        return []
    last = _only(members[-1].output, users, results, "quant.requantize")
    if last is None or not _requantizes(last, members[-1]):
        return []
    members.append(last)
    add = _only(last.output, users, results, "quant.add")
    if add is not None and add not in inside and _by_itself(add) and members[-2].op.name in PRODUCTS:
        members.append(add)  # the layer runs where the sum stands: what is added is there
    return members


def _only(value: Value, users: dict[Value, list[Node]], results: set[Value], op: str) -> Node | None:
    """The one user of a value, if it is that op."""
    found = users.get(value, [])
    return found[0] if len(found) == 1 and value not in results and found[0].op.name == op else None


def _codes(v: Value | None) -> bool:
    """Whether a value is a tensor of 8-bit codes of known size that somebody computes."""
    if (
        v is None
        or not isinstance(v.type, Tensor)
        or not v.type.static
        or (v.node is not None and v.node.constant is not None)
    ):
        return False
    return isinstance(v.type.elem, Int) and v.type.elem.bits == 8


def _constant(v: Value | None) -> bool:
    return v is None or (v.node is not None and v.node.constant is not None)


def _image(v: Value | None) -> bool:
    """[1, C, H, W], [1, C], or rows of channels: [1, T, C]."""
    return v is not None and v.type.rank in (2, 3, 4) and v.type.shape[0] == 1


def channel_axis(v: Value) -> int:
    """Where the channels are."""
    return 2 if v.type.rank == 3 else 1


def _by_itself(node: Node) -> bool:
    op, out = node.op.name, node.output
    values: Sequence[Value | None] = node.inputs[:1] if op == "quant.table" else node.inputs
    if not all(_codes(v) and _image(v) for v in values) or not _codes(out) or not _image(out):
        return False
    if op == "quant.add":
        return (
            all(v is not None and v.type.shape == out.type.shape for v in values)
            and node.inputs[0] is not node.inputs[1]
        )
    if op == "quant.table":
        table = node.inputs[1]
        return _constant(table) and table is not None and table.type.shape == (256,)
    if op == "nn.max_pool":
        return len(node.outputs) == 1 and out.type.rank == 4
    if op == "shape.concat":
        return node.attr("axis") % out.type.rank == channel_axis(out) and len(set(values)) == len(values)
    source = values[0]
    assert source is not None
    if 3 in (source.type.rank, out.type.rank):
        return False
    spatial = source.type.shape[2:]
    flat = out.type.rank == 2 or all(d == 1 for d in out.type.shape[2:])
    return flat and out.type.shape[1] == source.type.shape[1] * (spatial[0] * spatial[1] if spatial else 1)


def _sums(node: Node, first: Node) -> bool:
    op = node.op.name
    x = first.inputs[0]
    if not _codes(x) or not _image(x):
        return False
    if op == "quant.conv":
        return x is not None and x.type.rank == 4 and all(_constant(v) for v in node.inputs[1:])
    if op == "quant.matmul":
        w = node.inputs[1]
        return (
            x is not None
            and x.type.rank in (2, 3)
            and w is not None
            and w.type.rank == 2
            and all(_constant(v) for v in node.inputs[1:])
        )
    if op == "quant.sum_pool":
        return x is not None and x.type.rank == 4
    return first.op.name == "math.cast" and x is not None and x.type.rank == 4 and _spatial(node)


def _spatial(node: Node) -> bool:
    axes = node.attr("axes")
    return axes is not None and sorted(a % 4 for a in axes) == [2, 3]


def _requantizes(node: Node, sums: Node) -> bool:
    axis, factor = node.attr("axis") % sums.output.type.rank, node.inputs[1]
    whole = factor is not None and not factor.type.shape
    return (
        _codes(node.output)
        and all(_constant(v) for v in node.inputs[1:])
        and (whole or axis == channel_axis(sums.output))
    )
