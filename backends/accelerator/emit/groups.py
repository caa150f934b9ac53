"""What of an integer graph the accelerator runs, as layers: a product with what follows it on its way to memory.

quant.conv | quant.matmul | quant.sum_pool | a spatial sum   then quant.requantize   then quant.add, or not
quant.add, quant.table, nn.max_pool                          by themselves
shape.concat of channels, shape.reshape                      names for parts of tensors that others write
everything else on rows of integers                          softmax, norms, changes of scale: rowwise.py
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass, field

from ....ir.graph import Graph, Node, Value
from ....ir.types import Int, Tensor
from .rowwise import named, ordered, rowwise, wide

__all__ = ["PRODUCTS", "Group", "Stage", "channel_axis", "stages"]

PRODUCTS = {"quant.conv", "quant.matmul"}
SUMS = {*PRODUCTS, "quant.sum_pool", "math.reduce_sum"}
IMAGES = {"quant.conv", "quant.sum_pool", "nn.max_pool"}
FLAT = {*IMAGES, "shape.concat", "math.reduce_sum", "shape.reshape"}
"""Ops of images, and kinds of groups whose tensors of four axes are images: these lie channels last."""


@dataclass(frozen=True)
class Group:
    """Nodes that become one layer; `kind` is the op of the first that computes.

    Others are `rows`, work on rows, `product`, of two activations or to more than 8 bits, and `name`, another shape for
    rows. `results` are what others read of it.
    """

    kind: str
    nodes: tuple[Node, ...]
    results: tuple[Value, ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        if not self.results:
            object.__setattr__(self, "results", (self.nodes[-1].output,))

    @property
    def output(self) -> Value:
        """Its result, the last one where there are several."""
        return self.results[-1]

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
    for members in _units(graph, inside):
        node = members[-1]
        group = inside.get(node)
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


def _units(graph: Graph, inside: dict[Node, Group]) -> list[tuple[Node, ...]]:
    """Groups, and the nodes in none, in an order in which they can run."""
    seen: set[Node] = set()
    units = []
    for node in graph.nodes:
        members = inside[node].nodes if node in inside else (node,)
        if node.op.name != "const" and members[-1] not in seen:
            seen.add(members[-1])
            units.append(members)
    return ordered(graph, units)


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
            kind = "product" if kind == "quant.matmul" and not _fixed(members[0], members[1]) else kind
            group = Group(kind, tuple(members))
            inside.update(dict.fromkeys(members, group))
    _rows(graph, users, results, inside)
    return inside


def _rows(graph: Graph, users: dict[Value, list[Node]], results: set[Value], inside: dict[Node, Group]) -> None:
    """What works on rows, where no tensor is an image: these lie channels last, which is another order."""
    images = _images(graph, users, inside)
    for node in graph.nodes:
        if node not in inside and named(node, images):
            inside[node] = Group("name", (node,))
    for members in rowwise(graph, {n: g.nodes for n, g in inside.items()}, images):
        mine = set(members)
        made = [n.output for n in members if n.output in results or any(u not in mine for u in users.get(n.output, ()))]
        group = Group("rows", members, tuple(made))
        inside.update(dict.fromkeys(members, group))
    _drop(users, inside)


def _drop(users: dict[Value, list[Node]], inside: dict[Node, Group]) -> None:
    """Names that only the host reads and writes are its own."""
    names = [n for n, g in inside.items() if g.kind == "name"]
    used = {n for n, g in inside.items() if g.kind != "name"}
    more = True
    while more:
        near = [n for n in names if n not in used and used & {n.inputs[0].node, *users.get(n.output, ())}]  # type: ignore[union-attr]
        used.update(near)
        more = bool(near)
    for node in names:
        if node not in used:
            del inside[node]


def _images(graph: Graph, users: dict[Value, list[Node]], inside: dict[Node, Group]) -> set[Value]:
    """Values of four axes that are images for who makes or reads them, and what is added to these."""
    found: set[Value] = set()
    look = [v for v in (*graph.inputs, *(o for n in graph.nodes for o in n.outputs)) if v.type.rank == 4]
    for v in look:
        around = [n for n in (v.node, *users.get(v, ())) if n is not None]
        if any(n.op.name in IMAGES or (n in inside and inside[n].kind in FLAT) for n in around):
            found.add(v)
    sums = {g for g in inside.values() if g.kind in ("quant.add", "quant.table")}
    more = True
    while more:
        values = [
            {v for n in g.nodes for v in (*n.inputs, *n.outputs) if v is not None and v.type.rank == 4} for g in sums
        ]
        larger = found.union(*(s for s in values if s & found))
        more, found = len(larger) > len(found), larger
    return found


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
    narrow = members[-2].op.name in PRODUCTS and _codes(last.output) and _image(last.output)
    if add is not None and add not in inside and narrow and _by_itself(add) and not _batched(members[-2]):
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


def _fixed(product: Node, requantize: Node) -> bool:
    """Whether a product is one of rows of channels by constants, to codes."""
    x, w = product.inputs[:2]
    return _codes(requantize.output) and _image(x) and x is not None and x.type.rank < 4 and _constant(w)


def _batched(node: Node) -> bool:
    """Whether a product has more than rows and columns: heads."""
    return node.op.name == "quant.matmul" and node.output.type.rank == 4


def _product(node: Node) -> bool:
    """Products of two activations, [1, heads, rows, depth] by [1, heads, depth, columns], or without heads."""
    a, b, *bias = node.inputs
    if a is None or b is None or not _codes(a) or not _codes(b) or not all(map(_constant, bias)):
        return False
    left, right = a.type.shape, b.type.shape
    if len(left) == len(right) == 2:
        return True
    return len(left) == len(right) in (3, 4) and left[0] == right[0] == 1 and left[:-2] == right[:-2]


def _sums(node: Node, first: Node) -> bool:
    op = node.op.name
    x = first.inputs[0]
    if op == "quant.matmul" and _product(node):
        return True
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
    if sums.op.name == "quant.matmul" and wide(node.output) and node.output.type.elem.bits <= 32:  # type: ignore[union-attr]
        return all(_constant(v) for v in node.inputs[1:]) and (whole or axis == sums.output.type.rank - 1)
    return (
        _codes(node.output)
        and all(_constant(v) for v in node.inputs[1:])
        and (whole or axis == channel_axis(sums.output))
    )
