"""The editor: the one mutable thing. It builds graphs and rewrites copies of them.

    e = Editor(name="main")
    x = e.input("x", Tensor((dim("N"), 4), "f32"))
    y = e.emit("math.relu", x)
    e.output(y, "y")
    graph = e.freeze()

Opened on a graph, it copies the nodes' shells, so the graph stays as it was; freezing gives a new graph of the nodes
that reach an output, in topological order. Nothing is checked twice: `emit` infers types, and `freeze` trusts them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .constants import Constant
from .graph import Attrs, Graph, Location, Node, Value, attributes
from .op import Op
from .ops import OPS, get
from .types import Tensor, Type, elem_of

__all__ = ["Editor"]

FEW = 8  # readers that are kept as a tuple: most nodes have one or two, and a dictionary takes four times the memory


def _add_use(node: Node, reader: Any) -> None:
    uses = node.uses
    if type(uses) is dict:
        uses[reader] = None
    elif reader not in uses:
        uses = (*uses, reader)
        node.uses = uses if len(uses) <= FEW else dict.fromkeys(uses)


def _drop_use(node: Node, reader: Any) -> None:
    uses = node.uses
    if type(uses) is dict:
        uses.pop(reader, None)
    else:
        node.uses = tuple([u for u in uses if u is not reader])


class Editor:
    """See the module. `loc` is given to nodes that are emitted without one."""

    __slots__ = ("_consts", "inputs", "loc", "name", "nodes", "output_names", "outputs")

    def __init__(self, graph: Graph | None = None, *, name: str = "main") -> None:
        self.name = graph.name if graph is not None else name
        self.loc: Location | None = None
        self.nodes: list[Node] = []
        self.inputs: list[Value] = []
        self.outputs: list[Value] = []
        self.output_names: list[str] = []
        self._consts: dict[Any, Value] = {}
        if graph is not None:
            self._open(graph)

    def _open(self, graph: Graph) -> None:
        fresh: dict[Value | None, Value] = {}
        for old in graph.inputs:
            fresh[old] = Value(None, old.index, old.type, old.name)
        self.inputs = [fresh[v] for v in graph.inputs]
        twin, nodes, shell, value = fresh.get, self.nodes, Node.__new__, Value.__new__  # __init__ would double the time
        for node in graph.nodes:
            copy = shell(Node)
            copy.op, copy.attrs, copy.loc, copy.uses, copy.ahead = node.op, node.attrs, node.loc, (), True
            copy.inputs = inputs = tuple(map(twin, node.inputs))
            for v in inputs:
                if v is not None and (maker := v.node) is not None:
                    if maker.uses:
                        _add_use(maker, copy)
                    else:
                        maker.uses = (copy,)
            outputs = []
            for v in node.outputs:
                fresh[v] = made = value(Value)
                made.node, made.index, made.type, made.name = copy, v.index, v.type, v.name
                outputs.append(made)
            copy.outputs = tuple(outputs)
            nodes.append(copy)
        self.outputs = [fresh[v] for v in graph.outputs]
        self.output_names = list(graph.output_names)
        for v in self.outputs:
            if v.node is not None:
                _add_use(v.node, self)

    # --- building -----------------------------------------------------------------------------------------------------

    def input(self, name: str, type: Type) -> Value:
        """A new input of the graph."""
        value = Value(None, len(self.inputs), type, name)
        self.inputs.append(value)
        return value

    def output(self, value: Value, name: str = "") -> None:
        """One more output of the graph."""
        self.outputs.append(value)
        self.output_names.append(name or value.name or f"output{len(self.outputs) - 1}")
        if value.node is not None:
            _add_use(value.node, self)

    def apply(
        self,
        op: Op | str,
        inputs: Sequence[Value | None],
        attrs: Attrs | None = None,
        *,
        types: tuple[Type, ...] | None = None,
        loc: Location | None = None,
        names: tuple[str, ...] = (),
    ) -> Node:
        """A new node. Result types are inferred, unless the op's are declared (`types`). Raises IG02xx."""
        op = get(op) if isinstance(op, str) else op
        attrs = attributes({}) if attrs is None else attrs
        operands = tuple(inputs)
        while operands and operands[-1] is None:  # absent trailing operands leave no trace
            operands = operands[:-1]
        given = tuple([None if v is None else v.type for v in operands])
        if op.declared is not None:
            assert types is not None, f"{op.name} needs declared types"
            op.check_declared(given, attrs, types)
        else:
            types = op.infer(given, attrs)
        node = Node(op, operands, attrs, types, loc or self.loc, names)
        node.uses = ()
        for v in operands:
            if v is not None and v.node is not None:
                _add_use(v.node, node)
        self.nodes.append(node)
        return node

    def emit(self, op: Op | str, *inputs: Value | None, name: str = "", **attrs: Any) -> Value:
        """The first result of a new node; attributes as keywords, those equal to the default are dropped."""
        op = get(op) if isinstance(op, str) else op
        return self.apply(op, inputs, attributes(op.normal(attrs)), names=(name,) if name else ()).outputs[0]

    def constant(self, array: Any, name: str = "", type: Type | None = None, dtype: Any = None) -> Value:
        """A constant; small ones (up to 16 elements) are shared when equal. `type` for quantised or laid out data."""
        made = array if isinstance(array, Constant) else Constant(np.asarray(array, dtype=dtype), name)
        data = made.array
        key = None
        if data.size <= 16:
            key = (data.dtype, data.shape, data.tobytes(), type)
            found = self._consts.get(key)
            if found is not None and found.node is not None and found.node.uses is not None:
                return found
        attrs = Attrs({"value": made})  # what `attributes` would make of it, which is called for every weight
        if type is not None:
            value = self.apply(OPS["const"], (), attrs, types=(type,), names=(name,)).outputs[0]
        else:  # right by construction
            node = Node(OPS["const"], (), attrs, (Tensor(data.shape, elem_of(data.dtype)),), self.loc, (name,))
            node.uses = ()
            self.nodes.append(node)
            value = node.outputs[0]
        if key is not None:
            self._consts[key] = value
        return value

    # --- rewriting ----------------------------------------------------------------------------------------------------

    def users(self, value: Value) -> list[Node]:
        """The nodes that read `value` (graph outputs are not nodes)."""
        node = value.node
        readers = node.uses if node is not None else dict.fromkeys(self.nodes)
        return [u for u in readers or () if isinstance(u, Node) and value in u.inputs]

    def replace(self, old: Node, new: Sequence[Value]) -> None:
        """Every use of the results of `old` reads `new` instead; `old` goes, with what only it needed."""
        swap = dict(zip(old.outputs, new, strict=True))
        for user in list(old.uses or ()):
            if user is self:
                self.outputs = [swap.get(v, v) for v in self.outputs]
            else:
                user.inputs = tuple([v if v is None else swap.get(v, v) for v in user.inputs])
            for v in new:
                if v.node is not None:
                    _add_use(v.node, user)
        for before, after in swap.items():
            if before.name and not after.name:
                after.name = before.name
        old.uses = ()
        self.erase(old)

    def replace_value(self, old: Value, new: Value) -> None:
        """Every use of one value reads another; also of a graph input."""
        if old.node is not None:
            self.replace(old.node, [new if v is old else v for v in old.node.outputs])
            return
        for user in self.users(old):
            user.inputs = tuple([new if v is old else v for v in user.inputs])
            if new.node is not None:
                _add_use(new.node, user)
        self.outputs = [new if v is old else v for v in self.outputs]
        if new in self.outputs and new.node is not None:
            _add_use(new.node, self)

    def erase(self, node: Node) -> None:
        """Forget a node without uses, and its operands when this was their last use."""
        stack = [node]
        while stack:
            dead = stack.pop()
            if dead.uses is None or dead.uses:
                continue
            dead.uses = None
            for v in dead.inputs:
                if v is not None and v.node is not None and v.node.uses is not None:
                    _drop_use(v.node, dead)
                    if not v.node.uses:
                        stack.append(v.node)

    def alive(self, node: Node) -> bool:
        """Whether the node has not been erased."""
        return node.uses is not None

    def freeze(self) -> Graph:
        """The finished graph. The editor is not used after that."""
        order: list[Node] = []
        stack = [v.node for v in reversed(self.outputs) if v.node is not None]
        while stack:
            node = stack[-1]
            if node.uses is not None:  # depth-first in the order of outputs and operands; frozen: done
                size = len(stack)
                for v in node.inputs[::-1]:
                    if v is not None and (maker := v.node) is not None and maker.uses is not None:
                        stack.append(maker)
                if len(stack) > size:
                    continue
                node.uses = None
                order.append(node)
            stack.pop()
        return Graph(self.name, tuple(self.inputs), tuple(order), tuple(self.outputs), tuple(self.output_names))
