"""The verifier: a graph is well-formed when every node's types follow from its operands'.

Values are defined before they are used, attributes are of their kinds, written types agree with inferred ones (layout
and memory space are claims of the writer, `?` agrees with every extent), names of inputs and outputs are unique.
"""

from __future__ import annotations

from collections import Counter

from .diagnostics import Diagnostic, IntaglioError
from .dims import same, symbols
from .graph import Graph, Module, Node, Value
from .ops import get
from .types import Cipher, Type

__all__ = ["agrees", "check", "verify"]

LIMIT = 20  # findings reported at once


def agrees(written: Type, inferred: Type) -> bool:
    """Whether a written type can stand for the inferred one."""
    if written is inferred:
        return True
    if isinstance(written, Cipher) or isinstance(inferred, Cipher):
        return False
    if written.elem is not inferred.elem or len(written.shape) != len(inferred.shape):
        return False
    return all(map(same, written.shape, inferred.shape))


def verify(program: Graph | Module) -> None:
    """Raise an `IntaglioError` with all findings (the first 20), or return."""
    found = check(program)
    if found:
        raise IntaglioError.of(found)


def check(program: Graph | Module) -> list[Diagnostic]:
    """The findings, none for a well-formed program."""
    if isinstance(program, Graph):
        return _check_graph(program)
    found: list[Diagnostic] = []
    for name, graph in program.graphs.items():
        found.extend(_check_graph(graph))
        free = {s for v in graph.inputs for s in symbols(v.type.shape)} - set(program.dims)
        if free:
            found.append(Diagnostic("IG0210", f"graph @{name} uses undeclared dimensions {', '.join(sorted(free))}"))
    return found[:LIMIT]


def _check_graph(graph: Graph) -> list[Diagnostic]:
    found: list[Diagnostic] = []
    defined: set[Value | None] = {None, *graph.inputs}
    add, count = defined.add, 1 + len(graph.inputs)
    for node in graph.nodes:
        given: list[Type | None] = []
        for v in node.inputs:
            if v is None:
                given.append(None)
                continue
            if v not in defined:
                found.append(_finding(node, "IG0211", f"`{node.op.name}` reads a value that is not defined before it"))
            given.append(v.type)
        op, outputs = node.op, node.outputs
        try:
            if op.declared is not None:
                op.check_declared(tuple(given), node.attrs, tuple([v.type for v in outputs]))
            else:
                types = op._memo.get((tuple(given), node.attrs)) or op.infer(tuple(given), node.attrs)
                if len(types) != len(outputs):
                    message = f"`{op.name}` has {len(types)} results, {len(outputs)} are written"
                    found.append(_finding(node, "IG0212", message))
                for v, inferred in zip(outputs, types, strict=False):
                    if v.type is not inferred and not agrees(v.type, inferred):
                        message = f"`{op.name}` gives {inferred}, written is {v.type}"
                        found.append(_finding(node, "IG0212", message))
        except IntaglioError as e:
            found.extend(_finding(node, d.code, d.message, d) for d in e.diagnostics)
        if op.name == "dyn.apply":
            found.extend(_check_dynamic(node))
        if "body" in node.attrs and isinstance(node.attrs["body"], Graph):
            found.extend(_check_graph(node.attrs["body"]))
        count += len(outputs)
        for v in outputs:
            add(v)
        if len(found) >= LIMIT:
            return found[:LIMIT]
    if len(defined) != count:
        found.append(Diagnostic("IG0211", f"graph @{graph.name} holds a node or an input twice"))
    if len(graph.output_names) != len(graph.outputs):
        message = f"graph @{graph.name} has {len(graph.outputs)} outputs and {len(graph.output_names)} names for them"
        found.append(Diagnostic("IG0213", message))
    for v in graph.outputs:
        if v not in defined:
            found.append(Diagnostic("IG0211", f"graph @{graph.name} returns a value that it does not define"))
    for kind, names in (("input", [v.name for v in graph.inputs]), ("output", list(graph.output_names))):
        for twice in sorted(n for n, count in Counter(names).items() if count > 1):
            found.append(Diagnostic("IG0213", f"graph @{graph.name} has two {kind}s called `{twice}`"))
    return found[:LIMIT]


def _check_dynamic(node: Node) -> list[Diagnostic]:
    """The op that `dyn.apply` names exists and has the attributes that it computes."""
    try:
        target = get(node.attrs["op"])
    except IntaglioError as e:
        return [_finding(node, d.code, d.message, d) for d in e.diagnostics]
    lacking = [p for p in node.attrs["params"] if p not in target.attrs]
    what = f"`{target.name}` has no attribute `{{}}` for `dyn.apply` to compute"
    return [_finding(node, "IG0204", what.format(p)) for p in lacking]


def _finding(node: Node, code: str, message: str, inner: Diagnostic | None = None) -> Diagnostic:
    notes = inner.notes if inner is not None else ()
    if node.loc is not None:
        notes = (*notes, f"from: {node.loc}")
    label = inner.label if inner is not None else ", ".join("absent" if v is None else str(v.type) for v in node.inputs)
    return Diagnostic(code, message, label=label, notes=notes, hint=inner.hint if inner is not None else "")
