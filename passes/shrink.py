"""Dropping activations, so that the linear layers around them become one: fewer levels for an encrypted model.

The idea is DepthShrinker's (Fu et al. 2022): what a network of fewer activations loses is little, if they are the right
ones. Here an activation turns into the line that comes closest to it, channel by channel, on what calibration data make
of its inputs; so its network goes on working without training, and a later `finetune` starts near its goal.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ..ir.diagnostics import error
from ..ir.edit import Editor
from ..ir.graph import Graph, Node, Value
from ..ir.interpret import bind_symbols, run_node
from ..ir.types import Tensor
from .definition import Context, define_pass
from .options import option
from .polynomial import ACTIVATIONS

__all__ = ["Shrink", "levels", "shrink"]

Array = npt.NDArray[Any]

LINEAR = ("nn.conv", "nn.matmul", "nn.avg_pool", "math.reduce_mean", "math.mul", "math.add", "math.sub")
HELD = 1 << 30  # bytes of all values of the model on all samples


@dataclass(frozen=True)
class Shrink:
    levels: int = option(0, "the most that an encrypted model may take; 0 to go by `drop`")
    drop: int = option(0, "how many activations go")
    degree: Literal[2, 4, 8] = option(2, "of the polynomials that the other activations will become")
    samples: int = option(64, "of the calibration data, on which losses are measured")

    def __post_init__(self) -> None:
        if self.levels < 0 or self.drop < 0 or not self.levels + self.drop:
            raise ValueError("say how many `levels` the model may take, or how many activations to `drop`")
        if self.samples < 1:
            raise ValueError("samples are at least 1")


@define_pass("shrink", contract="lossy", options=Shrink)
def shrink(graph: Graph, options: Shrink, context: Context) -> Graph:
    """Drop activations, those first that the result depends on least, until a model takes few enough levels.

    In every step each activation left is tried: it becomes a line (a factor and a constant for every channel, by least
    squares on what calibration sees), and the one goes whose line changes the outputs least, in mean squares, for each
    level that it saves. Only those on a longest way through the model are tried. What was dropped without need, as
    later ones shortened its way too, comes back.

    Levels are those of encrypted models: one for all that is linear between two activations, 1, 2 or 3 for an
    activation that becomes a polynomial of degree 2, 4 or 8. The backend `he` merges what is linear.

    Before:

        graph @main(%x: f32[2]) -> (y: f32[2]) {
          %0 = math.mul(%x, %x) : f32[2]
          %y = math.mul(%0, %0) : f32[2]
          return %y
        }

    After `shrink{levels=4}`:

        graph @main(%x: f32[2]) -> (y: f32[2]) {
          %0 = math.mul(%x, %x) : f32[2]
          %y = math.mul(%0, %0) : f32[2]
          return %y
        }
    """
    found = [node for node in graph.nodes if _droppable(node)]
    if _enough(graph, (), options):
        return graph
    if not context.calibration:
        raise error("IG0553", "which activations to drop is measured, and there is nothing to measure on", hint=HINT)
    if options.drop > len(found) or not _enough(graph, found, options):
        least = levels(graph, found, options.degree)
        what = f"{len(found)} activations can be dropped; without them all, the model takes {least} levels"
        raise error("IG0553", what, hint="ask for more levels, or drop fewer")
    run = _Run(graph, context, options.samples)
    dropped: dict[Node, _Line] = {}
    while not _enough(graph, dropped, options):
        now = levels(graph, dropped, options.degree)
        tried: dict[Node, _Line] = {}
        for node in found:
            if node not in dropped and (options.drop or _longest(graph, dropped, node, options.degree)):
                tried[node] = run.line(node)
        saved = {node: now - levels(graph, {*dropped, node}, options.degree) for node in tried}
        best = min(tried, key=lambda node: tried[node].loss / max(saved[node], 1))
        dropped[best] = tried[best]
        run.drop(best, tried[best])
        context.stage(f"{len(dropped)} dropped, {levels(graph, dropped, options.degree)} levels")
    for node in sorted(dropped, key=lambda n: -dropped[n].loss):
        rest = dropped.keys() - {node}
        if not options.drop and _enough(graph, rest, options):
            del dropped[node]
    return _written(graph, dropped, options, context)


HINT = "add --calibration FILE.npz"


def _droppable(node: Node) -> bool:
    return node.op.name in (*ACTIVATIONS, "approx.poly")


def _enough(graph: Graph, dropped: Collection[Node], options: Shrink) -> bool:
    if options.drop:
        return len(dropped) >= options.drop
    return levels(graph, dropped, options.degree) <= options.levels


def _written(graph: Graph, dropped: Mapping[Node, _Line], options: Shrink, context: Context) -> Graph:
    numbers = [i for i, node in enumerate(graph.nodes) if node in dropped]
    editor = Editor(graph)
    copies = list(editor.nodes)
    for i in numbers:
        node, line = copies[i], dropped[graph.nodes[i]]
        editor.loc = node.loc
        x = node.inputs[0]
        assert x is not None and isinstance(x.type, Tensor)
        scaled = editor.emit("math.mul", x, editor.constant(line.factor.astype(x.type.dtype)))
        editor.replace(node, [editor.emit("math.add", scaled, editor.constant(line.constant.astype(x.type.dtype)))])
        where = next(iter(node.loc.sources), node.op.name) if node.loc is not None else node.op.name
        context.note(f"{where}: dropped, {line.loss:.2%} of the outputs' variance")
    before, after = levels(graph, (), options.degree), levels(graph, dropped, options.degree)
    context.note(f"{len(dropped)} activations dropped, {before} to {after} levels")
    return editor.freeze()


# --- levels ---------------------------------------------------------------------------------------------------------


def levels(graph: Graph, dropped: Collection[Node], degree: int, dear: Node | None = None) -> int:
    """What the longest way through the model takes without those activations, all that is linear between two others
    merged; `dear` takes one more than it does."""
    at: dict[Value, tuple[int, bool]] = dict.fromkeys(graph.inputs, (0, False))  # is it linear: another layer is free
    for node in graph.nodes:
        given = [at[v] for v in node.inputs if v is not None and v in at]
        if not given:
            continue
        most = max(level for level, _ in given)
        if _droppable(node) and node not in dropped:
            made = most + _depth(node, degree) + (node is dear), False
        elif node.op.name == "math.mul" and len(given) == 2:
            made = most + 1, False
        elif node.op.name in ("math.add", "math.sub") and len(given) == 1:  # a bias
            made = given[0]
        elif node.op.name in LINEAR or node in dropped:
            made = max(level + (not linear) for level, linear in given), True
        else:
            made = max(given, key=lambda g: (g[0] + (not g[1]), g[0]))
        at.update(dict.fromkeys(node.outputs, made))
    return max((at[v][0] for v in graph.outputs if v in at), default=0)


def _depth(node: Node, degree: int) -> int:
    if node.op.name == "approx.poly":
        degree = max(2, len(node.attr("coeffs")) - 1)
    return math.ceil(math.log2(degree))


def _longest(graph: Graph, dropped: Collection[Node], node: Node, degree: int) -> bool:
    """Whether a longest way goes through an activation."""
    return levels(graph, dropped, degree, dear=node) > levels(graph, dropped, degree)


# --- losses ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Line:
    """What an activation turns into, [C, 1, 1] or []; `loss` is the squared error of the outputs by their variance."""

    factor: Array
    constant: Array
    loss: float = 0.0


class _Run:
    """All values of the model on samples, with what was dropped so far."""

    def __init__(self, graph: Graph, context: Context, count: int) -> None:
        self.graph = graph
        self.lines: dict[Node, _Line] = {}
        self.runs: list[tuple[dict[Value | None, Any], dict[str, int]]] = []
        room = max(1, HELD // sum(_size(v) for node in graph.nodes if node.constant is None for v in node.outputs))
        for given in _batches(graph, context.calibration, min(count, room)):
            sizes: dict[str, int] = {}
            for v, array in zip(graph.inputs, given, strict=True):
                bind_symbols(v.type.shape, array.shape, sizes)
            self.runs.append(({None: None, **dict(zip(graph.inputs, given, strict=True))}, sizes))
        for held, sizes in self.runs:
            held.update(self._after(held, sizes, list(graph.nodes)))
        self.right = [self._outputs(held) for held, _ in self.runs]
        every = np.concatenate([y.reshape(-1) for y in self.right])
        self.variance = max(float(every.var()), 1e-30)

    def _outputs(self, held: Mapping[Value | None, Any]) -> Array:
        return np.concatenate([np.asarray(held[v], np.float64).reshape(-1) for v in self.graph.outputs])

    def _after(
        self, held: Mapping[Value | None, Any], sizes: Mapping[str, int], nodes: Sequence[Node]
    ) -> dict[Value | None, Any]:
        """What these nodes, in their order, give on what is held."""
        made: dict[Value | None, Any] = {}
        with np.errstate(all="ignore"):
            for node in nodes:
                operands = [made.get(v, held.get(v)) for v in node.inputs]
                line = self.lines.get(node)
                if line is None:
                    made.update(zip(node.outputs, run_node(node, operands, sizes), strict=True))
                else:
                    x: Any = operands[0]
                    made[node.output] = (x * line.factor + line.constant).astype(x.dtype)
        return made

    def _below(self, node: Node) -> list[Node]:
        """The node and all that depends on it."""
        seen, found = set(node.outputs), [node]
        for other in self.graph.nodes[self.graph.nodes.index(node) + 1 :]:
            if any(v in seen for v in other.inputs):
                seen.update(other.outputs)
                found.append(other)
        return found

    def line(self, node: Node) -> _Line:
        """The line that is closest to an activation, and what it does to the outputs."""
        inputs = [np.asarray(held[node.inputs[0]], np.float64) for held, _ in self.runs]
        results = [np.asarray(run_node(node, [x], {})[0], np.float64) for x in inputs]
        x, y = (np.concatenate([_channels(a) for a in arrays], axis=1) for arrays in (inputs, results))
        middle = x.mean(axis=1, keepdims=True)
        spread = ((x - middle) ** 2).mean(axis=1)
        factor = ((x - middle) * y).mean(axis=1) / np.maximum(spread, 1e-30)
        constant = y.mean(axis=1) - factor * middle[:, 0]
        shape = (-1, 1, 1) if inputs[0].ndim == 4 else ()
        found = _Line(factor.reshape(shape), constant.reshape(shape))
        below, wrong = self._below(node), 0.0
        self.lines[node] = found
        for (held, sizes), right in zip(self.runs, self.right, strict=True):
            wrong += float(((self._outputs({**held, **self._after(held, sizes, below)}) - right) ** 2).sum())
        del self.lines[node]
        return replace(found, loss=wrong / self.variance / sum(map(len, self.right)))

    def drop(self, node: Node, line: _Line) -> None:
        self.lines[node] = line
        below = self._below(node)
        for held, sizes in self.runs:
            held.update(self._after(held, sizes, below))


def _channels(x: Array) -> Array:
    """[channels, rest] of images, [1, all] of anything else."""
    return x.swapaxes(0, 1).reshape(x.shape[1], -1) if x.ndim == 4 else x.reshape(1, -1)


def _size(v: Value) -> int:
    """Bytes of one sample."""
    extents = [d for d in v.type.shape[1:] if isinstance(d, int)]
    return 4 * math.prod(extents)


def _batches(graph: Graph, calibration: Sequence[Mapping[str, Any]], count: int) -> list[list[Array]]:
    """At most `count` samples, in pieces of the size that the graph takes."""
    arrays = [np.concatenate([np.asarray(b[v.name]) for b in calibration])[:count] for v in graph.inputs]
    first = graph.inputs[0].type.shape[0]
    each = first if isinstance(first, int) else len(arrays[0])
    return [[a[i : i + each] for a in arrays] for i in range(0, len(arrays[0]) - each + 1, max(1, each))]
