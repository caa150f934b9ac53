"""A quick evaluator for calibration: convolutions and products in f32 through BLAS, everything else by the interpreter.

The interpreter sums in f64, which is what a reference should do and what takes ten times as long here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ...ir.graph import Graph, Node, Value
from ...ir.interpret import bind_symbols, run_node

__all__ = ["columns", "convolve", "evaluate", "run"]

WORK = 1 << 22  # elements of one block of columns: what the second-level cache and the page tables like


def run(node: Node, arrays: list[Any], symbols: Mapping[str, int]) -> tuple[Any, ...]:
    """The results of a node, to f32 rounding those of the interpreter."""
    if node.op.name == "nn.conv" and arrays[0].dtype == np.float32 and arrays[0].ndim == 4 and arrays[0].size:
        x, w, *b = arrays
        return (convolve(x, w, b[0] if b else None, node),)
    if node.op.name == "nn.matmul" and all(a.dtype == np.float32 and a.ndim >= 2 for a in arrays):
        return (np.matmul(*arrays),)
    if node.op.name == "tile.kernel":
        return evaluate(node.attrs["body"], arrays)
    return run_node(node, arrays, symbols)


def evaluate(
    graph: Graph, inputs: Sequence[Any], observe: Callable[[Node, tuple[Any, ...]], None] | None = None
) -> tuple[Any, ...]:
    """The outputs of a graph for `inputs`; values are released after their last use.

    `observe(node, results)` is called after each node.
    """
    values: dict[Value | None, Any] = {None: None, **dict(zip(graph.inputs, inputs, strict=True))}
    symbols: dict[str, int] = {}
    for v, array in zip(graph.inputs, inputs, strict=True):
        bind_symbols(v.type.shape, array.shape, symbols)
    last = {v: node for node in graph.nodes for v in node.inputs if v is not None}
    kept = set(graph.outputs)
    with np.errstate(all="ignore"):
        for node in graph.nodes:
            results = run(node, [values[v] for v in node.inputs], symbols)
            values.update(zip(node.outputs, results, strict=True))
            if observe is not None:
                observe(node, results)
            for operand in node.inputs:
                if operand is not None and last[operand] is node and operand not in kept:
                    values.pop(operand, None)
    return tuple(values[v] for v in graph.outputs)


def convolve(x: Any, w: Any, b: Any, node: Node) -> Any:
    """`nn.conv` in two dimensions: x f32[N, C, H, W], w f32[M, C/g, P, Q], with the attributes of `node`."""
    groups, m = int(node.attr("g")), w.shape[0]
    n = x.shape[0]
    if groups == x.shape[1] == m and w.shape[1] == 1:
        y = _depthwise(x, w, node)
    else:
        matrix = np.ascontiguousarray(w.reshape(groups, m // groups, -1))
        step = max(1, WORK // max(1, x[0].size * math.prod(w.shape[2:])))
        parts = []
        for at in range(0, n, step):
            cols, size = columns(x[at : at + step], w.shape[2:], node)
            some = cols.reshape(cols.shape[0], groups, -1, cols.shape[-1])
            parts.append(np.matmul(matrix, some).reshape(len(some), m, *size))
        y = np.concatenate(parts) if len(parts) > 1 else parts[0]
    if b is not None:
        y += b.reshape(-1, 1, 1)
    return y


def columns(x: Any, kernel: Sequence[int], node: Node) -> tuple[Any, tuple[int, int]]:
    """im2col: [N, C * P * Q, H' * W'] and (H', W'); a view of `x` where the window is a single element."""
    x, place, size = _windows(x, kernel, node)
    n, c = x.shape[:2]
    if tuple(kernel) == (1, 1):
        return x[place(0, 0)].reshape(n, c, -1), size
    made = np.empty((n, c, kernel[0] * kernel[1], *size), x.dtype)
    for k, (i, j) in enumerate(np.ndindex(*kernel)):
        made[:, :, k] = x[place(i, j)]
    return made.reshape(n, c * kernel[0] * kernel[1], -1), size


def _depthwise(x: Any, w: Any, node: Node) -> Any:
    made = []
    for one in x:  # an image at a time stays in the cache
        padded, place, _ = _windows(one[None], w.shape[2:], node)
        y: Any = None
        for i, j in np.ndindex(*w.shape[2:]):
            term = padded[place(i, j)] * w[:, :, i, j].reshape(1, -1, 1, 1)
            y = term if y is None else np.add(y, term, out=y)
        made.append(y)
    return np.concatenate(made)


def _windows(x: Any, kernel: Sequence[int], node: Node) -> tuple[Any, Any, tuple[int, int]]:
    """The padded input, the index of what window element (i, j) sees, and the size of the result."""
    strides, gaps = node.attr("strides") or (1, 1), node.attr("dilations") or (1, 1)
    pads = tuple(node.attr("pads") or (0, 0, 0, 0))
    if any(pads):
        x = np.pad(x, [(0, 0), (0, 0), (pads[0], pads[2]), (pads[1], pads[3])])
    size = tuple((x.shape[2 + i] - gaps[i] * (kernel[i] - 1) - 1) // strides[i] + 1 for i in range(2))

    def place(i: int, j: int) -> tuple[slice, ...]:
        ends = [
            slice(a * gaps[d], a * gaps[d] + (size[d] - 1) * strides[d] + 1, strides[d]) for d, a in enumerate((i, j))
        ]
        return slice(None), slice(None), *ends

    return x, place, (size[0], size[1])
