"""Converters of control flow whose course is known: branches always taken, loops of a known length (unrolled)."""

from __future__ import annotations

from typing import Any

from ....ir.graph import Value
from .call import Call, converter

UNROLL_LIMIT = 1024  # iterations


@converter("If")
def if_(c: Call) -> Any:
    condition = c.array(0)
    if condition is None:
        raise c.needs("the condition of a branch", 0)
    branch = "then_branch" if bool(condition.reshape(-1)[0]) else "else_branch"
    return c.importer.inline(_graph(c, branch), c.scope, c.outer)


def _graph(c: Call, name: str) -> Any:
    """The body in an attribute."""
    graph = c.attrs.get(name)
    if not hasattr(graph, "node"):
        raise c.fail(f"has no graph `{name}`")
    return graph


@converter("Scan")
def scan(c: Call) -> Any:
    """state, slices -> state, slices: one copy of the body for each slice along the scanned axis."""
    if c.version < 9:
        raise c.fail("has the batched meaning of opset 8, which is not supported", "IG0104")
    graph, count = _graph(c, "body"), c.attr("num_scan_inputs", 0)
    if not 0 <= count <= len(c):
        raise c.fail(f"scans {count} of {len(c)} inputs")
    states = [c[i] for i in range(len(c) - count)]
    scanned = [c[i] for i in range(len(c) - count, len(c))]
    axes = c.ints("scan_input_axes") or (0,) * count
    backwards = c.ints("scan_input_directions") or (0,) * count
    if len(axes) != count or len(backwards) != count:
        raise c.fail(f"scans {count} inputs, with {len(axes)} axes and {len(backwards)} directions")
    length = scanned[0].type.shape[c.axis(axes[0], len(scanned[0].type.shape))] if scanned else 0
    if not isinstance(length, int) or length > UNROLL_LIMIT:
        raise c.fail(f"runs {length} times, unrolled are known lengths up to {UNROLL_LIMIT}", "IG0104")
    collected: list[list[Value]] = [[] for _ in range(len(graph.output) - len(states))]
    for step in range(length):
        slices = []
        for v, axis, back in zip(scanned, axes, backwards, strict=True):
            at = length - 1 - step if back else step
            piece = c.emit("shape.slice", v, starts=(at,), stops=(at + 1,), axes=(axis,))
            slices.append(c.emit("shape.squeeze", piece, axes=(axis,)))
        results = _iterate(c, graph, [*states, *slices])
        states, produced = list(results[: len(states)]), results[len(states) :]
        for line, v in zip(collected, produced, strict=True):
            line.append(v)
    out_axes = c.ints("scan_output_axes") or (0,) * len(collected)
    out_back = c.ints("scan_output_directions") or (0,) * len(collected)
    stacked = [
        _stack(c, line[::-1] if back else line, axis)
        for line, axis, back in zip(collected, out_axes, out_back, strict=True)
    ]
    return (*states, *stacked)


@converter("Loop")
def loop(c: Call) -> Any:
    """A counted loop: trip count known, condition never made false by the body as far as the importer can tell."""
    graph = _graph(c, "body")
    trips = c.numbers(0)
    if c.has(0) and trips is None:
        raise c.needs("how often it loops", 0)
    if trips is None or trips[0] > UNROLL_LIMIT:
        raise c.fail(f"loops without a known count, or more than {UNROLL_LIMIT} times", "IG0104")
    going = c.array(1) if c.has(1) else None
    if c.has(1) and going is None:
        raise c.needs("whether it starts to loop", 1)
    states = [c[i] for i in range(2, len(c))]
    collected: list[list[Value]] = [[] for _ in range(len(graph.output) - 1 - len(states))]
    active = going is None or bool(going.reshape(-1)[0])
    for step in range(trips[0] if active else 0):
        condition, *results = _iterate(c, graph, [c.constant(step, "int64"), c.constant(True), *states])
        states = list(results[: len(states)])
        for line, v in zip(collected, results[len(states) :], strict=True):
            line.append(v)
        known = condition.node.constant if condition.node is not None else None
        if known is None:
            raise c.fail("computes whether to go on", "IG0104")
        if not bool(known.array.reshape(-1)[0]):
            break
    return (*states, *[_stack(c, line, 0) for line in collected])


def _iterate(c: Call, graph: Any, values: list[Value]) -> tuple[Value, ...]:
    if len(graph.input) != len(values):
        raise c.fail(f"body takes {len(graph.input)} inputs, {len(values)} are given")
    scope = {**c.scope, **{info.name: v for info, v in zip(graph.input, values, strict=True)}}
    return c.importer.inline(graph, scope, c.outer)


def _stack(c: Call, parts: list[Value], axis: int) -> Value:
    if not parts:
        raise c.fail("collects nothing: the loop does not run", "IG0104")
    return c.emit("shape.concat", *[c.emit("shape.unsqueeze", p, axes=(axis,)) for p in parts], axis=axis)
