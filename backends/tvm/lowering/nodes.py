"""Looking nodes up in the table of lowerings: whether they are in it, and what it makes of them."""

from __future__ import annotations

from collections.abc import Sequence

from ....ir.graph import Node, Value
from . import LOWERINGS
from .context import Context
from .problems import data_dependent, refused, static_only
from .tensor import Lazy

__all__ = ["check", "run_nodes"]


def check(node: Node) -> None:
    """Whether the table has the op, and knows enough of its extents."""
    lowering = LOWERINGS.get(node.op.name)
    if lowering is None:
        if node.op.has("dynamic"):
            raise data_dependent(node)
        raise refused(node, "there is no lowering for it")
    if lowering.static:
        types = [v.type for v in (*node.inputs, *node.outputs) if v is not None]
        if not all(t.static for t in types):
            raise static_only(node, lowering.static)


def run_nodes(ctx: Context, nodes: Sequence[Node], env: dict[Value, Lazy]) -> None:
    """Lower nodes one after the other; `env` has what they read, and gets what they compute."""
    for node in nodes:
        ctx.node = node
        results = LOWERINGS[node.op.name](ctx, node, *[None if v is None else env[v] for v in node.inputs])
        env.update(zip(node.outputs, results, strict=True))
