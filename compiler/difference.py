"""Structural differences of modules: which nodes came, went, or changed.

Names of values and locations are labels and do not count; ops, attributes, types, wiring and the data of constants do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence

from ..ir.graph import Graph, Module, Node, Value
from .outline import attrs_text

__all__ = ["difference"]


def difference(a: Module, b: Module) -> list[str]:
    """Lines for a person: `-` for what only `a` has, `+` for what only `b` has, `~` for nodes of both that changed."""
    lines: list[str] = []
    if dict(a.dims) != dict(b.dims):
        lines += [f"- dims {_dims(a.dims)}", f"+ dims {_dims(b.dims)}"]
    for name in dict.fromkeys([*a.graphs, *b.graphs]):
        if name not in b.graphs or name not in a.graphs:
            lines.append(f"{'-' if name in a.graphs else '+'} graph @{name}")
        elif a.graphs[name] != b.graphs[name]:
            lines += [f"  graph @{name}", *_graphs(a.graphs[name], b.graphs[name])]
    return lines


def _dims(dims: Mapping[str, tuple[int, int | None]]) -> str:
    return (
        ", ".join(f"{k} in {low}..{'' if high is None else high}" for k, (low, high) in sorted(dims.items())) or "none"
    )


def _graphs(a: Graph, b: Graph) -> Iterator[str]:
    left, right = _names(a), _names(b)
    yield from _ports("input", [f"{v.name}: {v.type}" for v in a.inputs], [f"{v.name}: {v.type}" for v in b.inputs])
    matcher = difflib.SequenceMatcher(
        None, [_key(n) for n in a.nodes], [_key(n) for n in b.nodes], autojunk=len(a.nodes) > 4000
    )
    other: dict[Value | None, Value | None] = {None: None, **dict(zip(a.inputs, b.inputs, strict=False))}
    gone = came = changed = same = 0
    for what, i, j, k, m in matcher.get_opcodes():
        if what == "equal":
            for old, new in zip(a.nodes[i:j], b.nodes[k:m], strict=True):
                other.update(zip(old.outputs, new.outputs, strict=True))
                changes = []
                if [other.get(v, v) for v in old.inputs] != list(new.inputs):
                    changes.append(f"reads {_operands(new, right)}")
                if _types(old) != _types(new):
                    changes.append(f"is {_types(new)}")
                changed, same = changed + bool(changes), same + (not changes)
                if changes:
                    yield f"~ {_text(old, left)}  now {', '.join(changes)}"
            continue
        gone, came = gone + j - i, came + m - k
        yield from (f"- {_text(n, left)}" for n in a.nodes[i:j])
        yield from (f"+ {_text(n, right)}" for n in b.nodes[k:m])
    yield from _ports("output", _outputs(a), _outputs(b))
    if [other.get(v) for v in a.outputs] != list(b.outputs):
        yield f"~ return {', '.join(left[v] for v in a.outputs)}  now {', '.join(right[v] for v in b.outputs)}"
    yield f"  {gone} nodes gone, {came} new, {changed} changed, {same} the same"


def _outputs(graph: Graph) -> list[str]:
    return [f"{n}: {v.type}" for n, v in zip(graph.output_names, graph.outputs, strict=True)]


def _ports(kind: str, a: Sequence[str], b: Sequence[str]) -> Iterator[str]:
    if list(a) != list(b):
        yield from (f"- {kind} {text}" for text in a if text not in b)
        yield from (f"+ {kind} {text}" for text in b if text not in a)


def _key(node: Node) -> tuple[object, ...]:
    return (node.op.name, node.attrs, len(node.inputs), len(node.outputs))


def _names(graph: Graph) -> dict[Value, str]:
    """What to call each value: its own name, or its number."""
    names: dict[Value, str] = {}
    for v in (*graph.inputs, *(v for n in graph.nodes for v in n.outputs)):
        names[v] = f"%{v.name or len(names)}"
    return names


def _text(node: Node, names: Mapping[Value, str]) -> str:
    left = ", ".join(names[v] for v in node.outputs)
    attrs = attrs_text(node.attrs)
    return f"{left} = {node.op.name}{_operands(node, names)}{f' {{{attrs}}}' if attrs else ''} : {_types(node)}"


def _types(node: Node) -> str:
    return ", ".join(str(v.type) for v in node.outputs)


def _operands(node: Node, names: Mapping[Value, str]) -> str:
    return f"({', '.join('_' if v is None else names[v] for v in node.inputs)})" if node.inputs else ""
