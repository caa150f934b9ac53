"""What generated matchers call to build the right side: nodes with locations, folded when all is constant."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

from ..constants import INLINE_LIMIT
from ..edit import Editor
from ..graph import NO_ATTRS, Attrs, Location, Node, Value, attributes
from ..interpret import run_node
from ..op import Op
from ..ops import OPS
from ..types import Float, Int, Tensor, Type

__all__ = ["Match", "call", "enter", "filled", "node", "scalar"]

_FOLD = (Float, Int)


def enter(e: Editor, rule: Any, nodes: Sequence[Node]) -> None:
    """New nodes carry the locations of those they replace, and the rule's name."""
    found: Location | None = None
    for n in nodes:
        if n.loc is not None:
            found = n.loc if found is None else found.fuse(n.loc)
    e.loc = (found or Location()).fuse(None, rule.name)


def node(e: Editor, op: Op, inputs: Sequence[Value | None], attrs: Mapping[str, Any]) -> Node:
    """A node, or the constant it comes to. Weights are folded too: a rule that combines constants means the result."""
    made = attributes(op.normal(attrs)) if attrs else NO_ATTRS
    if inputs and all([v is None or _plain_constant(v) for v in inputs]):
        found = _constant(e, op, inputs, made)
        if found is not None:
            return found
    return e.apply(op, inputs, made)


def _constant(e: Editor, op: Op, inputs: Sequence[Value | None], attrs: Attrs) -> Node | None:
    """The constant that an op on constants comes to; None when only running the program can tell."""
    if op.declared is not None or op.has("dynamic"):
        return None
    types = op.infer(tuple([None if v is None else v.type for v in inputs]), attrs)
    if len(types) != 1 or not types[0].static:
        return None
    arrays = [None if v is None else v.node.attrs["value"].array for v in inputs]  # type: ignore[union-attr]
    with np.errstate(all="ignore"):
        (array,) = run_node(Node(op, tuple(inputs), attrs, types), arrays, {})
    name = next((v.node.attrs["value"].name for v in inputs if v is not None), "")  # type: ignore[union-attr]
    return e.constant(np.ascontiguousarray(array).reshape(array.shape), name, types[0]).node


def _plain_constant(v: Value) -> bool:
    return v.node is not None and v.node.op is OPS["const"] and isinstance(v.type.elem, _FOLD)  # type: ignore[union-attr]


def scalar(e: Editor, like: Value, number: float) -> Value:
    """A number as a constant of the element type of `like`."""
    return e.constant(np.asarray(number).astype(like.type.dtype))  # type: ignore[union-attr]


def filled(e: Editor, type: Type, number: float) -> Value:
    """A number in every element of a type."""
    assert isinstance(type, Tensor)
    value = e.constant(np.asarray(number).astype(type.dtype))
    if not type.shape:
        return value
    shape = [d for d in type.shape if isinstance(d, int)]
    if len(shape) < len(type.shape) or int(np.prod(shape)) > INLINE_LIMIT:
        return e.apply(OPS["shape.full"], (value,), attributes({"shape": type.shape})).outputs[0]
    return e.constant(np.full(shape, number).astype(type.dtype))


class Match(SimpleNamespace):
    """What a Python right side gets: the names of its pattern, `root`, and `emit`/`constant` to build with."""

    editor: Editor
    root: Node

    def emit(self, op: str, *inputs: Value | None, **attrs: Any) -> Value:
        """The first result of a new node (a constant when all operands are)."""
        return node(self.editor, OPS[op], inputs, attrs).outputs[0]

    def constant(self, array: Any, name: str = "", type: Type | None = None) -> Value:
        return self.editor.constant(array, name, type)


def call(rule: Any, e: Editor, n: Node, bound: Mapping[str, Any]) -> tuple[Value, ...] | None:
    """Run a Python right side; None when it declines."""
    options = {k: v for k, v in rule.options.items() if k in inspect.signature(rule.right).parameters}
    result = rule.right(Match(editor=e, **{**bound, "root": n}), **options)
    if result is None:
        return None
    return result if isinstance(result, tuple) else (result,)
