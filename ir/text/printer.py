"""Programs to text. What `ig.lark` reads, in the one form that printing again gives back."""

from __future__ import annotations

import re
from itertools import count
from json.encoder import encode_basestring_ascii as quoted
from typing import Any

from ..constants import Constant
from ..dims import RESERVED, Dim
from ..graph import NO_ATTRS, Attrs, Graph, Location, Module, Value
from ..types import ELEM_NAMES, Affine, Cipher, Sign, Tensor, Type
from .literal import text_of

__all__ = ["Printer", "symbol_text"]

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*").fullmatch
# names of outputs are bare unless they could be read as something else
_WORDS = RESERVED - ELEM_NAMES
_STEP = "  "


class Printer:
    """Writes one program. `constants` are those that it refers to by name, to be stored beside the text."""

    def __init__(self) -> None:
        self.constants: dict[str, Constant] = {}
        self._names: dict[int, str] = {}  # of constants, by identity
        self._clashes: dict[str, int] = {}  # the number that a name gets when it is wanted again
        self._equal: dict[tuple[str, bytes], str] = {}  # of constants that were given another name, by their own
        self._types: dict[Type, str] = {}
        self.lines: list[str] = []

    @property
    def text(self) -> str:
        return "\n".join(self.lines) + "\n"

    def module(self, module: Module, weights: str | None = None) -> None:
        """A whole file; `weights` names the file of its constants."""
        beside = f" weights({quoted(weights)})" if weights else ""
        self.lines += ["ig 1", f"module {symbol_text(module.name)}{beside} {{"]
        for name, (low, high) in module.dims.items():
            self.lines.append(f"{_STEP}dim {name} in {low}..{'' if high is None else high}")
        for name, graph in module.graphs.items():
            self.graph(graph, f"{_STEP}graph {symbol_text(name)}", _STEP)
        self.lines.append("}")

    def graph(self, graph: Graph, head: str, pad: str) -> None:
        """`head(inputs) -> (outputs) { nodes }` with its closing brace at `pad`."""
        names = _Names()
        inputs = [f"{names.give(v)}: {self.type(v.type)}" for v in graph.inputs]
        outputs = [f"{_label(n)}: {self.type(v.type)}" for n, v in zip(graph.output_names, graph.outputs, strict=True)]
        self.lines.append(f"{head}({', '.join(inputs)}) -> ({', '.join(outputs)}) {{")
        self._nodes(graph, names, pad + _STEP)
        returned = ", ".join(map(names.__getitem__, graph.outputs))
        self.lines += [f"{pad}{_STEP}return {returned}".rstrip(), pad + "}"]

    def _nodes(self, graph: Graph, names: _Names, pad: str) -> None:
        # Half a million nodes a second: everything that repeats is looked up, and the usual case is spelt out here.
        add, look_up, give, types = self.lines.append, names.__getitem__, names.give, self._types
        for node in graph.nodes:
            outputs, attrs, loc = node.outputs, node.attrs, node.loc
            if len(outputs) == 1:
                value = outputs[0]
                left, written = give(value), types.get(value.type) or self.type(value.type)
            else:
                left, written = ", ".join(map(give, outputs)), ", ".join([self.type(v.type) for v in outputs])
            where = "" if loc is None else _location(loc)
            if attrs is NO_ATTRS:
                text = ""
            elif node.op.name == "const" and node.constant is not None:
                add(f"{pad}{left} = const {self.constant(node.constant)} : {written}{where}")
                continue
            else:
                text = attrs.text or self.attributes(attrs, pad)
            inputs = node.inputs
            if inputs and inputs[-1] is None:
                inputs = _present(inputs)
            operands = ", ".join(map(look_up, inputs))
            add(f"{pad}{left} = {node.op.name}({operands}){text} : {written}{where}")

    # --- types and attributes -----------------------------------------------------------------------------------------

    def type(self, t: Type) -> str:
        """A type, with the names its constants have in this text."""
        found = self._types.get(t)
        if found is None:
            found = self._types[t] = str(t) if isinstance(t, Cipher) else self._tensor(t)
        return found

    def _tensor(self, t: Tensor) -> str:
        elem, own = self.elem(t.elem), str(t.elem)
        return elem + str(t)[len(own) :]

    def elem(self, elem: Any) -> str:
        """An element type, likewise."""
        return elem.written(self.reference) if isinstance(elem, (Affine, Sign)) else str(elem)

    def attributes(self, attrs: Attrs, pad: str) -> str:
        """` {k = v}`, remembered in the attributes unless it depends on this text."""
        if not attrs:
            return ""
        text = " " + self._braces(attrs, pad)
        if not any(_depends(v) for v in attrs.values()):
            attrs.text = text
        return text

    def _braces(self, attrs: Attrs, pad: str) -> str:
        return "{" + ", ".join([f"{k} = {self.value(v, pad)}" for k, v in attrs.items()]) + "}"

    def value(self, value: Any, pad: str) -> str:
        """The value of an attribute."""
        if value is None or value is True or value is False:
            return "none" if value is None else "true" if value else "false"
        if isinstance(value, str):
            return quoted(value)
        if isinstance(value, (int, float, Dim)):
            return repr(value)
        if isinstance(value, tuple):
            return f"[{', '.join([self.value(v, pad) for v in value])}]"
        if isinstance(value, Constant):
            return self.reference(value)
        if isinstance(value, Attrs):
            return self._braces(value, pad)
        if isinstance(value, Graph):
            return self._body(value, pad)
        return self.elem(value)

    def _body(self, graph: Graph, pad: str) -> str:
        lines, self.lines = self.lines, []
        named = "" if graph.name in ("", "body") else f" {symbol_text(graph.name)}"
        self.graph(graph, f"graph{named}", pad)
        text, self.lines = "\n".join(self.lines), lines
        return text

    # --- constants ----------------------------------------------------------------------------------------------------

    def constant(self, c: Constant) -> str:
        """The data of a `const` node: small ones in full, the others by name."""
        return text_of(c.array) if c.inline else self.reference(c)

    def reference(self, c: Constant) -> str:
        """`@"name"`: the constant's own name, with a number if another constant has it."""
        found = self._names.get(id(c))
        if found is None:
            own = c.name or f"constant{len(self.constants)}"
            taken = self.constants.get(own)
            if taken is None and own != "__metadata__":  # the one name that a weights file cannot hold
                self.constants[own] = c
            elif taken != c:
                own = self._equal.get((own, c.digest)) or self._numbered(own, c)
            found = self._names[id(c)] = f"@{quoted(own)}"
        return found

    def _numbered(self, own: str, c: Constant) -> str:
        name = next(n for i in count(self._clashes.get(own, 1)) if (n := f"{own}.{i}") not in self.constants)
        self._clashes[own] = int(name.rpartition(".")[2]) + 1
        self.constants[name] = c
        self._equal[own, c.digest] = name
        return name


class _Names(dict[Value | None, str]):
    """What the values of one graph are called."""

    def __init__(self) -> None:
        super().__init__({None: "_"})
        self.taken: set[str] = set()
        self.clashes: dict[str, int] = {}  # the number that a name gets when it is wanted again
        self.count = 0

    def __missing__(self, value: Value | None) -> str:
        return "%undefined"  # of an ill-formed graph: it can be printed, and reading it says what is wrong

    def give(self, value: Value) -> str:
        """A new name for `value`: its own, its own with a number when that is taken, or the next number."""
        own = value.name
        if not own:
            text = f"%{self.count}"
            self.count += 1
        else:
            text = f"%{own}" if _IDENTIFIER(own) else f"%{quoted(own)}"
            while text in self.taken:
                number = self.clashes[own] = self.clashes.get(own, 0) + 1
                numbered = f"{own}.{number}"
                text = f"%{numbered}" if _IDENTIFIER(numbered) else f"%{quoted(numbered)}"
            self.taken.add(text)
        self[value] = text
        return text


def _present(inputs: tuple[Value | None, ...]) -> tuple[Value | None, ...]:
    """The operands without absent ones at the end."""
    while inputs and inputs[-1] is None:
        inputs = inputs[:-1]
    return inputs


def _depends(value: Any) -> bool:
    """Whether the text of an attribute value depends on the text around it: on names of constants, on indentation."""
    if isinstance(value, tuple):
        return any(map(_depends, value))
    if isinstance(value, Attrs):
        return any(map(_depends, value.values()))
    if isinstance(value, (Affine, Sign)):
        return isinstance(value.scale, Constant) or isinstance(getattr(value, "zero", None), Constant)
    return isinstance(value, (Constant, Graph))


def _location(loc: Location) -> str:
    sources, rules = loc.sources, loc.rules
    if len(sources) == 1 and not rules:
        return f" loc({quoted(sources[0])})"
    text = ", ".join(map(quoted, sources))
    if rules:
        text += f"{' ' if text else ''}via {', '.join(map(quoted, rules))}"
    return f" loc({text})"


def symbol_text(name: str) -> str:
    return f"@{name}" if _IDENTIFIER(name) else f"@{quoted(name)}"


def _label(name: str) -> str:
    return name if _IDENTIFIER(name) and name not in _WORDS else quoted(name)
