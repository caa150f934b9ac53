"""Values, nodes, graphs, modules: the program, frozen.

A `Graph` is a list of `Node`s in topological order; each node applies an `Op` to `Value`s and defines new ones. Nothing
here is changed after it was built: passes make a new graph through the one mutable thing, the `Editor` (edit.py).
Graphs compare structurally: names and locations are labels, operations, types, attributes and wiring are content.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from .constants import Constant
from .dims import Dim
from .types import Type

if TYPE_CHECKING:
    from .op import Op

__all__ = ["NO_ATTRS", "Attrs", "Graph", "Location", "Module", "Node", "Value", "attributes"]


@dataclass(frozen=True, slots=True)
class Location:
    """Where a node came from: `sources` name nodes of the imported model, `rules` the rewrites since then."""

    sources: tuple[str, ...] = ()
    rules: tuple[str, ...] = ()

    def fuse(self, other: Location | None, rule: str = "") -> Location:
        """The location of a node that replaces the nodes of both."""
        sources, rules = self.sources, self.rules
        if other is not None and other is not self:
            sources += tuple(s for s in other.sources if s not in sources)
            rules += tuple(r for r in other.rules if r not in rules)
        return Location(sources, rules if not rule or rule in rules else (*rules, rule))

    def __str__(self) -> str:
        text = ", ".join(f'"{s}"' for s in self.sources)
        return text + (f", last rewritten by {self.rules[-1]}" if self.rules else "")


class Attrs(Mapping[str, Any]):
    """A node's attributes: immutable, hashable, interned by `attributes()`; only those that differ from the default."""

    __slots__ = ("_data", "_hash", "text")
    text: str | None  # printer's cache

    def __init__(self, data: dict[str, Any]) -> None:
        self._data = data
        self._hash: int | None = None
        self.text = None

    def __getitem__(self, key: str) -> Any:
        return self._data[key]

    def get(self, key: str, default: Any = None) -> Any:
        return self._data.get(key, default)

    def __iter__(self) -> Iterator[str]:
        return iter(self._data)

    def __len__(self) -> int:
        return len(self._data)

    def keys(self) -> Any:  # makes **attrs fast: no per-key __getitem__ through Mapping's views
        return self._data.keys()

    def items(self) -> Any:
        return self._data.items()

    def __hash__(self) -> int:
        if self._hash is None:
            self._hash = hash(tuple(self._data.items()))
        return self._hash

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        return isinstance(other, Attrs) and _key(self) == _key(other)

    def __repr__(self) -> str:
        return f"Attrs({self._data})"


NO_ATTRS = Attrs({})
_ATTRS: dict[Any, Attrs] = {}


def _key(value: Any) -> Any:
    """What is equal exactly when two attribute values are: 1, 1.0 and True differ, also inside of lists."""
    if isinstance(value, tuple):
        return (tuple, *map(_key, value))
    if isinstance(value, Attrs):
        return (Attrs, *[(k, _key(v)) for k, v in value.items()])
    if isinstance(value, float):
        return (float, value.hex())  # -0.0 and nan included
    return (type(value), value)


def attributes(data: Mapping[str, Any]) -> Attrs:
    """The interned `Attrs` of `data`, sorted by name, lists made tuples."""
    if not data:
        return NO_ATTRS
    frozen = {k: _freeze(data[k]) for k in sorted(data)}
    if any(map(_own, frozen.values())):
        return Attrs(frozen)
    key = tuple((k, _key(v)) for k, v in frozen.items())
    found = _ATTRS.get(key)
    if found is None:
        found = _ATTRS[key] = Attrs(frozen)
    return found


def _own(value: Any) -> bool:
    """Whether a value is not shared with equal ones: hashing constants reads all weights, and bodies have labels."""
    return isinstance(value, (Constant, Graph)) or (isinstance(value, Attrs) and any(map(_own, value.values())))


def _freeze(value: Any) -> Any:
    return tuple(_freeze(v) for v in value) if isinstance(value, (list, tuple)) else value


class Value:
    """A tensor in the program: result `index` of `node`, or a graph input when `node` is None. `name` is a label."""

    __slots__ = ("index", "name", "node", "type")

    def __init__(self, node: Node | None, index: int, type: Type, name: str = "") -> None:
        self.node, self.index, self.type, self.name = node, index, type, name

    def __repr__(self) -> str:
        return f"%{self.name or '?'}: {self.type}"


class Node:
    """One application of an op. Absent optional operands are None. Its results are `outputs`.

    `uses` belongs to the editor that holds the node: its readers, as a tuple or, if many, as the keys of a dictionary;
    None when the node is frozen. `ahead` belongs to the rewriting driver: it has not looked at the node yet.
    """

    __slots__ = ("ahead", "attrs", "inputs", "loc", "op", "outputs", "uses")

    def __init__(
        self,
        op: Op,
        inputs: tuple[Value | None, ...],
        attrs: Attrs,
        types: tuple[Type, ...],
        loc: Location | None = None,
        names: tuple[str, ...] = (),
    ) -> None:
        self.op, self.inputs, self.attrs, self.loc = op, inputs, attrs, loc
        self.uses: Any = None
        self.ahead = False
        self.outputs = tuple([Value(self, i, t, names[i] if i < len(names) else "") for i, t in enumerate(types)])

    @property
    def output(self) -> Value:
        """The first (usually the only) result."""
        return self.outputs[0]

    @property
    def constant(self) -> Constant | None:
        """The data if this is a `const` node."""
        value = self.attrs.get("value") if self.op.name == "const" else None
        return value if isinstance(value, Constant) else None

    def attr(self, name: str) -> Any:
        """The attribute, or its default."""
        return self.attrs.get(name, self.op.defaults.get(name))

    def __repr__(self) -> str:
        return f"<{self.op.name} {dict(self.attrs)} {[v.type for v in self.outputs]}>"


class Graph:
    """A closed function: `outputs` computed from `inputs` by `nodes` in topological order."""

    __slots__ = ("_digest", "inputs", "name", "nodes", "output_names", "outputs")

    def __init__(
        self,
        name: str,
        inputs: tuple[Value, ...],
        nodes: tuple[Node, ...],
        outputs: tuple[Value, ...],
        output_names: tuple[str, ...] = (),
    ) -> None:
        self.name, self.inputs, self.nodes, self.outputs = name, tuple(inputs), tuple(nodes), tuple(outputs)
        self.output_names = tuple(output_names) or tuple(v.name or f"output{i}" for i, v in enumerate(self.outputs))
        self._digest: str | None = None

    @property
    def digest(self) -> str:
        """A hash of the content: ops, attributes, types, wiring, constants; not names or locations."""
        if self._digest is None:
            self._digest = _digest(self)
        return self._digest

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Graph) and (self is other or self.digest == other.digest)

    def __hash__(self) -> int:
        return hash(self.digest)

    def __str__(self) -> str:
        from .text import print_graph  # the one convenience that looks downstream: print(graph)

        return print_graph(self)

    def uses(self) -> dict[Value, list[tuple[Node, int]]]:
        """Where each value is read: (node, operand index); graph outputs are not listed."""
        found: dict[Value, list[tuple[Node, int]]] = {}
        for node in self.nodes:
            for i, v in enumerate(node.inputs):
                if v is not None:
                    found.setdefault(v, []).append((node, i))
        return found

    def constants(self) -> Iterator[Constant]:
        """Every constant tensor of the graph, those of types and bodies included."""
        seen: set[int] = set()
        for c in _constants(self):
            if id(c) not in seen:
                seen.add(id(c))
                yield c


def _constants(graph: Graph) -> Iterator[Constant]:
    for v in graph.inputs:
        yield from _type_constants(v.type)
    for node in graph.nodes:
        yield from _attribute_constants(node.attrs)
        for v in node.outputs:
            yield from _type_constants(v.type)


def _attribute_constants(value: Any) -> Iterator[Constant]:
    if isinstance(value, Constant):
        yield value
    elif isinstance(value, Graph):
        yield from _constants(value)
    elif isinstance(value, (Attrs, tuple)):
        for v in value.values() if isinstance(value, Attrs) else value:
            yield from _attribute_constants(v)
    else:
        yield from _type_constants(value)


def _type_constants(value: Any) -> Iterator[Constant]:
    elem = getattr(value, "elem", value)
    for name in ("scale", "zero"):
        c = getattr(elem, name, None)
        if isinstance(c, Constant):
            yield c


def _content(value: Any) -> bytes:
    """Bytes that are equal exactly when two attribute values are."""
    if isinstance(value, Constant):
        return b"c" + value.digest
    if isinstance(value, Graph):
        return b"g" + value.digest.encode()
    if isinstance(value, tuple):
        return b"(" + b",".join(_content(v) for v in value) + b")"
    if isinstance(value, float):
        return b"f" + value.hex().encode()
    if isinstance(value, Dim):
        return b"d" + value.text.encode()
    if isinstance(value, Attrs):
        return b"a" + b",".join(k.encode() + b"=" + _content(v) for k, v in value.items())
    named = list(_type_constants(value))
    if named:  # a per-channel type prints the constant's name; its content is what counts
        fields = [(f, getattr(value, f)) for f in value._fields]
        return b"t" + b",".join(f.encode() + _content(v) for f, v in fields)
    return f"{type(value).__name__}:{value!r}".encode()


def _digest(graph: Graph) -> str:
    h = hashlib.blake2b(digest_size=16)
    number: dict[Value, int] = {}
    for v in graph.inputs:
        number[v] = len(number)
        h.update(b"i" + _content(v.type))
    for node in graph.nodes:
        wires = [-1 if v is None else number[v] for v in node.inputs]
        h.update(f"n{node.op.name}{wires}".encode())
        for k, a in node.attrs.items():
            h.update(k.encode() + b"=" + _content(a))
        for v in node.outputs:
            number[v] = len(number)
            h.update(_content(v.type))
    h.update(f"o{[number[v] for v in graph.outputs]}{graph.output_names}".encode())
    return h.hexdigest()


@dataclass(frozen=True)
class Module:
    """A program: its graphs by name (`main` is the entry) and the ranges of its symbolic dimensions (None: no end)."""

    name: str
    graphs: Mapping[str, Graph]
    dims: Mapping[str, tuple[int, int | None]] = field(default_factory=dict)

    @property
    def main(self) -> Graph:
        return self.graphs["main"]

    @property
    def digest(self) -> str:
        parts = [f"{n}:{g.digest}" for n, g in sorted(self.graphs.items())] + [repr(sorted(self.dims.items()))]
        return hashlib.blake2b("\n".join(parts).encode(), digest_size=16).hexdigest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Module) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def with_main(self, graph: Graph) -> Module:
        return replace(self, graphs={**self.graphs, "main": graph})

    def constants(self) -> Iterator[Constant]:
        seen: set[int] = set()
        for graph in self.graphs.values():
            for c in graph.constants():
                if id(c) not in seen:
                    seen.add(id(c))
                    yield c

    def __str__(self) -> str:
        from .text import print_module

        return print_module(self)
