"""Fixing symbolic dimensions: a graph for one size of input, with everything static that can be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..ir.diagnostics import error
from ..ir.dims import Extent, symbols
from ..ir.graph import Graph, Node, Value
from ..ir.interpret import resolve_dynamic
from .definition import Context, define_pass
from .fold import Fold, compute, extents, put_constants
from .options import option
from .rebuild import Rebuild, array_of

__all__ = ["Freeze", "freeze", "free_symbols"]

# Shape arithmetic: enough for any list of extents, far from any weight.
SMALL = Fold(limit=1 << 16, grow=1 << 16, dequantize=0)


@dataclass(frozen=True)
class Freeze:
    sizes: tuple[tuple[str, int], ...] = option((), "the size of the dimension NAME", rest=True)

    def __post_init__(self) -> None:
        for name, size in self.sizes:
            if size < 0:
                raise ValueError(f"{name} = {size} is no size")


@define_pass("freeze", contract="exact", options=Freeze)
def freeze(graph: Graph, options: Freeze, context: Context) -> Graph:
    """Fix symbolic dimensions: those named (`freeze{N=8}`), or without a name all of them at their smallest.

    The smallest size is the lower bound of the dimension's range, and at least 1. Types are inferred anew, shapes that
    the model computes are computed, and a `dyn.apply` whose parameters have become known turns into the op it names.

    Before:

        dim N in 1..64
        graph @main(%x: f32[N, 3]) -> (y: f32[N, 3]) {
          %y = math.relu(%x) : f32[N, 3]
          return %y
        }

    After `freeze{N=8}`:

        graph @main(%x: f32[8, 3]) -> (y: f32[8, 3]) {
          %y = math.relu(%x) : f32[8, 3]
          return %y
        }
    """
    return Rebuild(graph, _sizes(graph, options, context)).finish(_step)


def free_symbols(graph: Graph) -> set[str]:
    """The symbols that the inputs bring in."""
    return {s for v in graph.inputs for s in symbols(v.type.shape)}


def _sizes(graph: Graph, options: Freeze, context: Context) -> dict[str, Extent]:
    free = free_symbols(graph)
    if not options.sizes:
        return {s: max(1, context.dims.get(s, (1, None))[0]) for s in sorted(free)}
    known = free | set(context.dims)
    for name, size in options.sizes:
        if name not in known:
            have = f"it has {', '.join(sorted(known))}" if known else "it has none: every size is fixed already"
            raise error("IG0405", f"the model has no dimension `{name}`", hint=have)
        low, high = context.dims.get(name, (0, None))
        if size < low or (high is not None and size > high):
            limit = f"{low}..{'' if high is None else high}"
            raise error("IG0405", f"{name} = {size} is outside its range {limit}")
    return {name: size for name, size in options.sizes}


def _step(to: Rebuild, node: Node) -> None:
    operands = to.operands(node)
    if node.op.name == "dyn.apply" and (resolved := _resolve(to, node, operands)) is not None:
        to.put(node, resolved)
        return
    if node.op.name != "const":
        found = extents(node, operands)
        if found is None and node.op.name != "dyn.apply":
            found = compute(node, operands, SMALL)
        if found is not None:
            put_constants(to, node, found)
            return
    to.keep(node)


def _resolve(to: Rebuild, node: Node, operands: list[Value | None]) -> tuple[Value, ...] | None:
    """The static op behind a `dyn.apply` whose parameters are constants."""
    count = len(operands) - len(node.attrs["params"])
    parameters: list[Any] = [array_of(v) for v in operands[count:]]
    if any(p is None for p in parameters):
        return None
    op, inputs, attrs = resolve_dynamic(node.attrs, [*operands[:count], *parameters])
    return to.editor.apply(op, inputs, attrs).outputs
