"""Instances of left sides: a graph, arrays for its inputs, and what is special about it.

One in two is the bare pattern. The others have what careless rules trip over: an inner node that something else reads
too, a root with more readers, inputs that other nodes compute, a symbolic first extent (run with two sizes).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ...dims import UNKNOWN, substitute, symbols
from ...edit import Editor
from ...graph import Graph, Value
from ...rewrite.language import Apply
from ...types import Bool, Elem, Float, Int, Tensor
from .drawing import Drawing
from .hints import Hints
from .numbers import array
from .samples import sample
from .tape import Reject

__all__ = ["Instance", "draw_instance", "with_constant"]

Array = npt.NDArray[Any]
SIZES = (2, 3, 1)  # of the symbol N


@dataclass(frozen=True)
class Instance:
    """`feeds` holds one list of input arrays per size of the symbols."""

    graph: Graph
    feeds: tuple[tuple[Array, ...], ...]
    plain: bool  # nothing but the pattern reads its inner nodes: conditions on uses hold


def draw_instance(left: Apply, hints: Hints, choices: Any, floats: Sequence[Elem], nasty: bool) -> Instance:
    """An instance of a left side; raises Reject when the decisions lead to none."""
    d = Drawing(choices, hints, floats, nasty, sample)
    root = d.apply(left)
    assert root.node is not None
    e = d.editor
    for i, v in enumerate(root.node.outputs):
        e.output(v, f"y{i}" if i else "y")
    plain = _variant(d, [v for v in d.inner[:-1] if v is not root], root)
    graph = e.freeze()
    return Instance(graph, _feeds(d, graph), plain)


def _variant(d: Drawing, inner: list[Value], root: Value) -> bool:
    """One more reader, sometimes; whether that leaves the inner nodes to the pattern."""
    kind = d.below(6)
    if kind >= 4 and inner:
        v = d.pick(inner)
        read = _read(d.editor, v) if kind == 5 else v
        d.editor.output(read, "inner")
        return False
    if kind == 3:
        d.editor.output(_read(d.editor, root), "z")
    return True


def _read(e: Editor, v: Value) -> Value:
    """Something that reads a value."""
    elem = v.type.elem  # type: ignore[union-attr]
    op = {Float: "math.neg", Int: "math.neg", Bool: "math.not"}.get(type(elem), "shape.extents")
    return e.emit(op, v)


def _feeds(d: Drawing, graph: Graph) -> tuple[tuple[Array, ...], ...]:
    free = {s for v in graph.inputs for s in symbols(v.type.shape)}
    unknown = any(d is UNKNOWN for v in graph.inputs for d in v.type.shape)
    if d.symbolic and any(symbols(v.type.shape) - free for n in graph.nodes for v in n.outputs):
        raise Reject("no input tells the symbol's size")
    sizes = SIZES[d.below(2) :][:2] if free or unknown else (1,)
    found = []
    for n in sizes:
        arrays = []
        for v in graph.inputs:
            mode, seed, domain = d.data[next(have for have in d.data if have.index == v.index)]
            assert isinstance(v.type, Tensor)
            shape = [n if x is UNKNOWN else substitute(x, {"N": n}) for x in v.type.shape]
            arrays.append(array(shape, v.type.elem, mode, seed, d.nasty, domain, d.hints.numbers))  # type: ignore[arg-type]
        found.append(tuple(arrays))
    return tuple(found)


def with_constant(graph: Graph, at: int, data: Array) -> Graph:
    """The graph with other data in its node `at`, a constant."""
    e = Editor(graph)
    old = e.nodes[at]
    e.replace(old, [e.constant(np.array(data), type=old.outputs[0].type)])
    return e.freeze()
