"""Removing what is computed twice, for nothing, or could be computed now."""

from __future__ import annotations

from typing import Any

from ..ir.edit import Editor
from ..ir.graph import Graph, Node, Value
from .definition import Context, define_pass
from .fold import Fold, fold
from .options import NoOptions

__all__ = ["cleanup", "cse", "dce"]


@define_pass("cse", contract="exact")
def cse(graph: Graph) -> Graph:
    """Compute equal things once: nodes with the same op, attributes and operands become one; so do equal constants.

    Before:

        graph @main(%x: f32[2]) -> (y: f32[2]) {
          %a = math.exp(%x) : f32[2]
          %b = math.exp(%x) : f32[2]
          %y = math.add(%a, %b) : f32[2]
          return %y
        }

    After `cse`:

        graph @main(%x: f32[2]) -> (y: f32[2]) {
          %a = math.exp(%x) : f32[2]
          %y = math.add(%a, %a) : f32[2]
          return %y
        }
    """
    editor = Editor(graph)
    first: dict[Any, Node] = {}
    for node in editor.nodes:
        if not editor.alive(node):
            continue
        same = first.setdefault(_key(node), node)
        if same is not node:
            if same.loc is not None:
                same.loc = same.loc.fuse(node.loc)
            editor.replace(node, same.outputs)
    return editor.freeze()


def _key(node: Node) -> tuple[Any, ...]:
    # Operands are replaced before their users are reached, so equal computations read the same values.
    operands: tuple[Value | None, ...] = node.inputs
    return (node.op.name, operands, node.attrs, tuple(v.type for v in node.outputs))


@define_pass("dce", contract="exact")
def dce(graph: Graph) -> Graph:
    """Drop what no output depends on.

    Before:

        graph @main(%x: f32[2]) -> (y: f32[2]) {
          %a = math.exp(%x) : f32[2]
          %y = math.relu(%x) : f32[2]
          return %y
        }

    After `dce`:

        graph @main(%x: f32[2]) -> (y: f32[2]) {
          %y = math.relu(%x) : f32[2]
          return %y
        }
    """
    return Editor(graph).freeze()


@define_pass("cleanup", contract="exact", options=Fold)
def cleanup(graph: Graph, options: Fold, context: Context) -> Graph:
    """Constant folding, then common subexpressions, without what no output depends on.

    `fold` and `cse` in one, with the options of `fold`; both drop dead code on the way.

    Before:

        graph @main(%x: f32[2]) -> (y: f32[2]) {
          %a = const [1.0, 2.0] : f32[2]
          %b = const [3.0, 4.0] : f32[2]
          %c = math.add(%a, %b) : f32[2]
          %0 = math.mul(%x, %c) : f32[2]
          %1 = math.add(%b, %a) : f32[2]
          %2 = math.mul(%x, %1) : f32[2]
          %y = math.sub(%0, %2) : f32[2]
          return %y
        }

    After `cleanup`:

        graph @main(%x: f32[2]) -> (y: f32[2]) {
          %c = const [4.0, 6.0] : f32[2]
          %0 = math.mul(%x, %c) : f32[2]
          %y = math.sub(%0, %0) : f32[2]
          return %y
        }
    """
    return cse.run(fold.run(graph, options, context), NoOptions(), context)
