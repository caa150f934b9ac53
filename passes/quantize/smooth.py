"""`smooth`: outliers of activations moved into weights, before products of transformers (Xiao et al. 2023)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...ir.diagnostics import error
from ...ir.graph import Graph, Node, Value
from ..canonicalize import Canonicalize, canonicalize
from ..definition import Context, define_pass
from ..options import option
from ..rebuild import array_of
from .constants import with_constants
from .evaluate import evaluate
from .plan import make_plan
from .sweep import chunks

__all__ = ["smooth"]


@dataclass(frozen=True)
class Smooth:
    alpha: float = option(0.5, "how much of the activations' spread the weights take over, from 0 to 1")
    samples: int = option(256, "how many samples of the calibration data are looked at")

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise ValueError("alpha is from 0 to 1")


@define_pass("smooth", contract="real", options=Smooth)
def smooth(graph: Graph, options: Smooth, context: Context) -> Graph:
    """Divide channels behind layer norms by s, multiply the rows of the products that read them: SmoothQuant.

    s_j = max|X_j|^alpha / max|W_j|^(1 - alpha): a channel with outliers no longer widens the range of all others. Only
    norms that nothing but products with constant weights reads; the others cannot be changed without an op more. Needs
    calibration data, and does nothing where no layer norm is of that kind.

    Before:

        graph @main(%x: f32[4, 2]) -> (y: f32[4]) {
          %w = const [1.0, -127.25] : f32[2]
          %y = nn.matmul(%x, %w) : f32[4]
          return %y
        }

    After `smooth`:

        graph @main(%x: f32[4, 2]) -> (y: f32[4]) {
          %w = const [1.0, -127.25] : f32[2]
          %y = nn.matmul(%x, %w) : f32[4]
          return %y
        }
    """
    graph = canonicalize.run(graph, Canonicalize(), context)
    readers = _norms(graph)
    if not readers:
        context.note("no layer norm is read by products alone")
        return graph
    if not context.calibration:
        raise error("IG0430", "`smooth` needs calibration data, and there are none", hint="give inputs of the model")
    tops = _tops(graph, set(readers), context.calibration, options.samples)
    changed: dict[tuple[Node, int], Any] = {}
    for norm, products in readers.items():
        rows = np.max([np.abs(array_of(p.inputs[1])).max(axis=1) for p in products], axis=0)
        x, w = np.maximum(tops[norm], 1e-5), np.maximum(rows, 1e-5)
        s = (x**options.alpha / w ** (1 - options.alpha)).astype(np.float32)
        for i, v in enumerate(norm.inputs[1:], 1):
            if v is not None:
                changed[norm, i] = array_of(v) / s
        for p in products:
            changed[p, 1] = array_of(p.inputs[1]) * s[:, None]
    context.note(f"{len(readers)} layer norms smoothed into {sum(map(len, readers.values()))} products")
    return with_constants(graph, changed)


def _norms(graph: Graph) -> dict[Node, list[Node]]:
    """Layer norms over the last axis with constant parameters, and the products that alone read them."""
    plan, uses, outputs = make_plan(graph), graph.uses(), set[Value](graph.outputs)
    found: dict[Node, list[Node]] = {}
    for node in graph.nodes:
        if node.op.name != "nn.layer_norm" or node.output in outputs:
            continue
        constants = [array_of(v) for v in node.inputs[1:] if v is not None]
        plain = all(c is not None and c.shape == node.output.type.shape[-1:] for c in constants)
        readers = uses.get(node.output, [])
        if plain and readers and all(n in plan.layers and i == 0 and n.op.name == "nn.matmul" for n, i in readers):
            found[node] = [n for n, _ in readers]
    return found


def _tops(graph: Graph, norms: set[Node], batches: Sequence[Mapping[str, Any]], samples: int) -> dict[Node, Any]:
    """The largest magnitude of each channel."""
    found: dict[Node, Any] = {}

    def observe(node: Node, results: tuple[Any, ...]) -> None:
        if node in norms:
            top = np.abs(results[0]).max(axis=tuple(range(results[0].ndim - 1)))
            found[node] = np.maximum(found.get(node, top), top)

    for arrays in chunks(graph, batches, samples):
        evaluate(graph, arrays, observe)
    return found
