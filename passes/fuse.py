"""Fusion: which nodes become one kernel is decided in the IR, not by the backend."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ..ir.dims import UNKNOWN
from ..ir.edit import Editor
from ..ir.graph import Graph, Location, Node, Value, attributes
from ..ir.types import Tensor
from .attention import attention_group
from .definition import define_pass
from .integer_attention import integer_attention_group
from .options import option
from .rows import row_group

__all__ = ["Fuse", "fuse"]

_INTEGER = {"quant.conv", "quant.matmul", "quant.sum_pool", "quant.sign_matmul"}
"""Sums in int32, which end as bytes."""

_HEAVY = {"nn.conv", "nn.conv_transpose", "nn.matmul", "nn.max_pool", "nn.avg_pool", "nn.layer_norm", "nn.softmax"}
_HEAVY |= _INTEGER
"""What a group may start with beside elementwise ops: kernels that finish one element at a time, with work to spare."""

_ALSO_ELEMENTWISE = {"nn.gelu", "nn.batch_norm", "quant.requantize", "quant.add", "quant.table"}
"""Not elementwise in every operand, but one element of the result needs one element of the first operand."""

_DIAMOND = 12
"""Nodes looked at for a chain that forks to come together again, as in `x * sigmoid(x)`."""


@dataclass(frozen=True)
class Fuse:
    max: int = option(32, "nodes in a group")

    def __post_init__(self) -> None:
        if self.max < 1:
            raise ValueError("a group has at least one node")


@define_pass("fuse", contract="exact", options=Fuse)
def fuse(graph: Graph, options: Fuse) -> Graph:
    """Group a product, convolution, pool or norm with the elementwise ops after it, and chains of elementwise ops.

    A group grows along a value as long as nothing outside reads it, so each group has one result, and no path leaves
    a group and comes back: there are no cycles. It ends where the shape changes. A group that starts with a heavy op
    keeps its element type, unless that is a sum of integers. Other operands, constants among them, are operands of the
    group. Attention, two products of f32 or of bytes with a softmax between them, is one group with its scale, its
    mask and the transposes around it. So are reductions of the last axis with what is elementwise around them, such as
    RMS norm.

    Before:

        graph @main(%x: f32[8, 4], %w: f32[4, 4], %r: f32[8, 4]) -> (y: f32[8, 4]) {
          %h = nn.matmul(%x, %w) : f32[8, 4]
          %s = math.add(%h, %r) : f32[8, 4]
          %y = math.relu(%s) : f32[8, 4]
          return %y
        }

    After `fuse`:

        graph @main(%x: f32[8, 4], %w: f32[4, 4], %r: f32[8, 4]) -> (y: f32[8, 4]) {
          %y = tile.kernel(%x, %w, %r) {body = graph @y(
            %x0: f32[8, 4], %x1: f32[4, 4], %x2: f32[8, 4]) -> (y: f32[8, 4]) {
            %h = nn.matmul(%x0, %x1) : f32[8, 4]
            %s = math.add(%h, %x2) : f32[8, 4]
            %y = math.relu(%s) : f32[8, 4]
            return %y
          }} : f32[8, 4]
          return %y
        }
    """
    groups = _Groups(graph, options.max)
    return _rebuilt(graph, groups.find())


class _Groups:
    def __init__(self, graph: Graph, limit: int) -> None:
        self.graph, self.limit = graph, limit
        self.position = {node: i for i, node in enumerate(graph.nodes)}
        self.users: dict[Value, list[Node]] = {}
        for node in graph.nodes:
            for v in dict.fromkeys(node.inputs):
                if v is not None:
                    self.users.setdefault(v, []).append(node)
        self.results = set(graph.outputs)
        self.taken: set[Node] = set()

    def find(self) -> list[list[Node]]:
        """The groups of two nodes or more, in the order of their first nodes."""
        groups: list[list[Node]] = []
        for node in self.graph.nodes:  # before the reductions that it has in it are taken for work along rows
            if node.op.name == "math.div":
                self._take(integer_attention_group(node, self.users, self.results), groups)
        for node in self.graph.nodes:
            if node.op.name == "nn.softmax":
                self._take(attention_group(node, self.users, self.results), groups)
            else:
                self._take(row_group(node, self.users, self.results, self.position), groups)
        for node in self.graph.nodes:
            if node in self.taken or not _starts(node):
                continue
            members = self._grow(node)
            if len(members) > 1:
                self.taken.update(members)
                groups.append(members)
        return groups

    def _take(self, group: set[Node], groups: list[list[Node]]) -> None:
        if group and len(group) <= self.limit and not group & self.taken:
            self.taken.update(group)
            groups.append(sorted(group, key=self.position.__getitem__))

    def _grow(self, start: Node) -> list[Node]:
        """The longest chain from `start` that may end here: a heavy op wants its own element type back."""
        members, kept = [start], 1
        shape, elem = _shape(start), _elem(start)
        while True:
            more = self._absorb(members[-1].output, shape, self.limit - len(members))
            if not more:
                return members[:kept]
            members.extend(more)
            if start.op.name not in _HEAVY - _INTEGER or _elem(members[-1]) is elem:
                kept = len(members)

    def _absorb(self, value: Value, shape: object, room: int) -> list[Node]:
        """The next nodes, up to the first that ends with one open value; none if there are no such nodes."""
        if value in self.results:
            return []
        inside: list[Node] = []
        waiting: dict[Node, None] = dict.fromkeys(self.users.get(value, ()))
        while waiting and len(inside) < min(room, _DIAMOND):
            node = min(waiting, key=self.position.__getitem__)
            del waiting[node]
            if node in self.taken or not _follows(node, shape):
                return []
            inside.append(node)
            if not waiting:
                return inside
            if node.output in self.results:
                return []
            waiting.update(dict.fromkeys(self.users.get(node.output, ())))
        return []


def _shape(node: Node) -> object:
    return node.output.type.shape


def _elem(node: Node) -> object:
    type = node.output.type
    return type.elem if isinstance(type, Tensor) else None


def _tensors(node: Node) -> bool:
    """Whether the node works on tensors whose extents are known or symbolic."""
    values = [v for v in (*node.inputs, *node.outputs) if v is not None]
    return all(isinstance(v.type, Tensor) and UNKNOWN not in v.type.shape for v in values)


def _elementwise(node: Node) -> bool:
    return (node.op.has("elementwise") or node.op.name in _ALSO_ELEMENTWISE) and len(node.outputs) == 1


def _starts(node: Node) -> bool:
    return (node.op.name in _HEAVY or _elementwise(node)) and _tensors(node)


def _follows(node: Node, shape: object) -> bool:
    return _elementwise(node) and _shape(node) == shape and _tensors(node)


def _rebuilt(graph: Graph, groups: Iterable[list[Node]]) -> Graph:
    """The graph with each group as one node, in the place of the group's last node."""
    last = {members[-1]: members for members in groups}
    gone = {node for members in last.values() for node in members}
    editor = Editor(name=graph.name)
    now: dict[Value | None, Value | None] = {None: None}
    for v in graph.inputs:
        now[v] = editor.input(v.name, v.type)
    for node in graph.nodes:
        members = last.get(node)
        if members is not None:
            now[node.output] = _kernel(editor, members, now)
        elif node not in gone:
            names = tuple(v.name for v in node.outputs)
            types = tuple(v.type for v in node.outputs)
            made = editor.apply(
                node.op, [now[v] for v in node.inputs], node.attrs, types=types, loc=node.loc, names=names
            )
            for old, new in zip(node.outputs, made.outputs, strict=True):
                new.type = old.type  # may say more than what is inferred
                now[old] = new
    for v, name in zip(graph.outputs, graph.output_names, strict=True):
        found = now[v]
        assert found is not None
        editor.output(found, name)
    return editor.freeze()


def _kernel(editor: Editor, members: list[Node], now: dict[Value | None, Value | None]) -> Value:
    """The group as a `tile.kernel`; its body names its inputs as the values outside are named."""
    result = members[-1].output
    produced = {node.output for node in members}
    operands = list(dict.fromkeys(v for node in members for v in node.inputs if v is not None and v not in produced))
    body = Editor(name=result.name or "kernel")
    inside: dict[Value | None, Value | None] = {None: None}
    for i, v in enumerate(operands):
        inside[v] = body.input(f"x{i}", v.type)
    loc: Location | None = None
    for node in members:
        types = tuple(v.type for v in node.outputs)
        made = body.apply(
            node.op, [inside[v] for v in node.inputs], node.attrs, types=types, loc=node.loc, names=(node.output.name,)
        )
        made.output.type = node.output.type
        inside[node.output] = made.output
        loc = loc.fuse(node.loc) if loc is not None else node.loc
    last = inside[result]
    assert last is not None
    body.output(last, "y")
    attrs = attributes({"body": body.freeze()})
    made = editor.apply(
        "tile.kernel", [now[v] for v in operands], attrs, types=(result.type,), loc=loc, names=(result.name,)
    )
    return made.output
