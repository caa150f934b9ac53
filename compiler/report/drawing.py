"""A graph as SVG: boxes for nodes, coloured by what they do, with a bar for their share of the work."""

from __future__ import annotations

import re
from html import escape

from ..outline import Outline, OutlineNode
from .layout import Layout, layout

__all__ = ["LARGEST", "draw", "kind"]

LARGEST = 1500  # nodes; nobody reads a larger drawing
HEIGHT, ROW, GAP = 42.0, 66.0, 26.0
LETTER = 6.9  # average width of a character at 11 px

_KINDS = {
    "nn.conv": "heavy",
    "nn.matmul": "heavy",
    "nn.conv_transpose": "heavy",
    "nn.deform_conv": "heavy",
    "math.einsum": "heavy",
    "input": "port",
    "output": "port",
}
_DIALECTS = {
    "nn": "nn",
    "math": "math",
    "shape": "shape",
    "quant": "quant",
    "approx": "quant",
    "tile": "tile",
    "dyn": "dyn",
}


def kind(op: str) -> str:
    """The colour class of an op."""
    name = op.partition(":")[0]
    return _KINDS.get(name) or _DIALECTS.get(name.partition(".")[0], "math")


def draw(graph: Outline, identity: str) -> str:
    """The drawing, as wide as it needs to be; `identity` tells drawings on one page apart."""
    nodes = [
        *graph.nodes,
        *(OutlineNode("output", name, graph.nodes[at].type, "", (at,)) for name, at in graph.outputs),
    ]
    if len(nodes) > LARGEST:
        return f'<p class="quiet">{len(nodes)} nodes: too many for a drawing that anybody could read.</p>'
    lines = [_lines(n) for n in nodes]
    widths = [max(96.0, 22.0 + LETTER * max(map(len, pair))) for pair in lines]
    placed = layout([n.reads for n in nodes], widths, GAP)
    width, height = placed.width + 2 * GAP, placed.layers * ROW + GAP
    most = max((n.flops for n in nodes), default=0)
    total = sum(n.flops for n in nodes)
    out = [
        f'<svg class="graph" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" height="{height:.0f}" '
        f'role="img" aria-label="graph of {len(nodes)} nodes">',
        f'<defs><marker id="{identity}-tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
        'orient="auto">'
        '<path d="M0 0.8 8 4 0 7.2z" class="tip"/></marker></defs>',
    ]
    for i, node in enumerate(nodes):
        for k, operand in enumerate(node.reads):
            out.append(f'<path class="edge" d="{_edge(placed, i, k, operand)}" marker-end="url(#{identity}-tip)"/>')
    for i, (node, (first, second)) in enumerate(zip(nodes, lines, strict=True)):
        left, top = placed.x[i] - widths[i] / 2 + GAP, _top(placed.layer[i])
        share = node.flops / most if most else 0.0
        bar = _bar(share * (widths[i] - 20)) if share > 0.004 else ""
        out.append(
            f'<g class="node {kind(node.op)}" transform="translate({left:.1f} {top:.1f})">'
            f"<title>{escape(_tip(node, total))}</title>"
            f'<rect class="box" width="{widths[i]:.1f}" height="{HEIGHT:.0f}" rx="7"/>'
            f'<text x="{widths[i] / 2:.1f}" y="17">{escape(first)}</text>'
            f'<text class="type" x="{widths[i] / 2:.1f}" y="31">{escape(second)}</text>{bar}</g>'
        )
    out.append("</svg>")
    return "\n".join(out)


def _bar(width: float) -> str:
    return f'<rect class="load" x="10" y="{HEIGHT - 5:.0f}" width="{width:.1f}" height="2.5" rx="1.2"/>'


def _top(layer: int) -> float:
    return layer * ROW + GAP / 2


def _lines(node: OutlineNode) -> tuple[str, str]:
    """What a box says: the op (or the name of a port), and the type, with scales left out."""
    first = node.name if node.op in ("input", "output") else node.op
    return _short(first, 38), _short(re.sub(r"q<(\w+)[^>]*>", r"q\1", node.type), 38)


def _short(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _tip(node: OutlineNode, total: int) -> str:
    lines = [f"{node.op}  {node.name}".rstrip(), node.type]
    if node.attrs:
        lines.append(_short(node.attrs, 400))
    if node.flops:
        lines.append(f"{node.flops:,} operations ({node.flops / total:.1%}), {node.bytes:,} bytes moved")
    if node.weights:
        lines.append(f"{node.weights:,} bytes of constants")
    return "\n".join(lines)


def _edge(placed: Layout, reader: int, k: int, operand: int) -> str:
    """A smooth path from the bottom of the operand's box through the waypoints to the top of the reader's."""
    x, y = placed.x[operand] + GAP, _top(placed.layer[operand]) + HEIGHT
    path = f"M{x:.1f} {y:.1f}"
    stops = [(px + GAP, _top(level), _top(level) + HEIGHT) for px, level in placed.routes[reader, k]]
    stops.append((placed.x[reader] + GAP, _top(placed.layer[reader]) - 1.0, -1.0))
    for px, enter, leave in stops:
        middle = (y + enter) / 2
        path += f"C{x:.1f} {middle:.1f} {px:.1f} {middle:.1f} {px:.1f} {enter:.1f}"
        if leave > 0:
            path += f"V{leave:.1f}"
        x, y = px, leave
    return path
