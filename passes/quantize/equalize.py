"""`equalize`: channels rescaled between layers, so that one scale fits them all (Nagel et al. 2019, section 4.1).

Two layers with an activation function between them for which f(s x) = s f(x): what the first one multiplies by 1/s_i in
channel i, the second one multiplies by s_i. With s_i = sqrt(r1_i / r2_i) the ranges r1 of the first layer's output
channels and r2 of the second one's input channels become equal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...ir.graph import Graph, Node, Value
from ..canonicalize import Canonicalize, canonicalize
from ..definition import Context, define_pass
from ..options import option
from ..rebuild import array_of
from .absorb import absorbed, movable, unclipped
from .constants import with_constants
from .evaluate import evaluate
from .plan import Layer, Plan, bias_of, make_plan
from .sweep import chunks

__all__ = ["equalize"]

ROUNDS = 20  # over all pairs: a scale that moves through a layer moves the next pair's
STILL = 1e-3  # all scales this close to 1: nothing moves any more
CLIPS = frozenset({"math.minimum"})


@dataclass(frozen=True)
class Equalize:
    dead: bool = option(True, "channels that are 0 for all calibration data get weights of 0")
    absorb: bool = option(False, "what a channel never falls below goes into the next layer's bias (section 4.1.3)")
    unclip: bool = option(False, "drop upper clips that the calibration data do not come near: ReLU6 becomes ReLU")
    samples: int = option(256, "how many samples of the calibration data are looked at")


@dataclass(frozen=True)
class Pair:
    """Two layers with nothing but an activation function between them; `limit` is where that clips, if it does."""

    first: Layer
    second: Layer
    between: tuple[Node, ...]
    limit: float | None


@define_pass("equalize", contract="real", options=Equalize)
def equalize(graph: Graph, options: Equalize, context: Context) -> Graph:
    """Rescale channels between layers, so that weights of one tensor have like ranges.

    Computes the same, and makes weights ready for a scale per tensor. A clip such as ReLU6 has to stay where it is: a
    channel that reaches it in the calibration data keeps its scale, the others may grow up to it; without data, pairs
    of layers with a clip between them are left alone. `absorb` and `unclip` hold for inputs like the data: biases that
    only widen the range of activations move on, clips that do nothing go. The graph is canonicalised first.

    Before:

        graph @main(%x: f32[4, 2]) -> (y: f32[4]) {
          %w = const [1.0, -127.25] : f32[2]
          %0 = nn.matmul(%x, %w) : f32[4]
          %y = math.relu(%0) : f32[4]
          return %y
        }

    After `equalize`:

        graph @main(%x: f32[4, 2]) -> (y: f32[4]) {
          %w = const [1.0, -127.25] : f32[2]
          %0 = nn.matmul(%x, %w) : f32[4]
          %y = math.relu(%0) : f32[4]
          return %y
        }
    """
    graph = canonicalize.run(graph, Canonicalize(), context)
    if options.unclip and context.calibration:
        graph, dropped = unclipped(graph, context.calibration, options.samples)
        context.note(f"{dropped} clips dropped that the calibration data do not come near")
    plan = make_plan(graph)
    pairs = _pairs(graph, plan)
    seen = _extremes(graph, pairs, context.calibration, options.samples) if context.calibration else {}
    tops = {n: top for n, (_, top) in seen.items()}
    pairs = [p for p in pairs if p.limit is None or p.first.node in tops]
    arrays = {layer.node: layer.weights for p in pairs for layer in (p.first, p.second)}
    biases = {layer.node: _bias(layer, plan) for p in pairs for layer in (p.first, p.second)}
    silenced = 0
    if options.dead:
        for p in pairs:
            silenced += _silence(p, tops.get(p.first.node), arrays, biases)
    if options.absorb:
        count = sum(_absorb(p, *seen[p.first.node], arrays, biases) for p in pairs if p.first.node in seen)
        context.note(f"biases of {count} channels absorbed by the next layer")
    for _ in range(ROUNDS):
        moved = max((_balance(p, tops.get(p.first.node), arrays, biases) for p in pairs), default=0.0)
        if moved < STILL:
            break
    context.note(f"{len(pairs)} pairs of layers equalised, {silenced} channels that are always 0 silenced")
    return _written(graph, plan, pairs, arrays, biases)


def _pairs(graph: Graph, plan: Plan) -> list[Pair]:
    uses, outputs = graph.uses(), set(graph.outputs)
    found = []
    for layer in plan.layers.values():
        held = bias_of(layer, plan)
        value: Value = (plan.biases.get(layer.node) or layer.node).output
        if layer.is_conv and held is None and len(layer.node.inputs) > 2:
            continue  # a bias that is computed
        between: list[Node] = []
        limit: float | None = None
        while len(uses.get(value, ())) == 1 and value not in outputs:
            reader, operand = uses[value][0]
            if reader in plan.layers and operand == 0:
                if plan.layers[reader].is_conv == layer.is_conv and layer.weights.ndim > 1:
                    found.append(Pair(layer, plan.layers[reader], tuple(between), limit))
                break
            clip = array_of(reader.inputs[1]) if reader.op.name in CLIPS else None
            if clip is not None and clip.size == 1 and clip.reshape(-1)[0] > 0 and operand == 0 and between:
                limit = float(clip.reshape(-1)[0])
            elif reader.op.name != "math.relu":
                break
            between.append(reader)
            value = reader.output
    return found


def _extremes(
    graph: Graph, pairs: Sequence[Pair], batches: Sequence[Mapping[str, Any]], samples: int
) -> dict[Node, tuple[Any, Any]]:
    """The smallest and the largest output of each channel of first layers, before it is clipped: f32[M] each."""
    wanted: dict[Node, Layer] = {}
    for p in pairs:
        holder = (
            next((v.node for v in p.between[0].inputs[:1] if v is not None and v.node), None) if p.between else None
        )
        wanted[holder or p.first.node] = p.first
    found: dict[Node, tuple[Any, Any]] = {}

    def observe(node: Node, results: tuple[Any, ...]) -> None:
        layer = wanted.get(node)
        if layer is not None:
            axis = 1 if layer.is_conv else results[0].ndim - 1
            rest = tuple(i for i in range(results[0].ndim) if i != axis)
            low, top = results[0].min(axis=rest), results[0].max(axis=rest)
            before = found.get(layer.node, (low, top))
            found[layer.node] = np.minimum(before[0], low), np.maximum(before[1], top)

    for arrays in chunks(graph, batches, samples):
        evaluate(graph, arrays, observe)
    return found


def _bias(layer: Layer, plan: Plan) -> Any:
    held = bias_of(layer, plan)
    if held is None:
        return None
    array = array_of(held[0].inputs[held[1]])
    return np.broadcast_to(array, (layer.weights.shape[layer.axis],)).astype(np.float32)


def _silence(p: Pair, top: Any, arrays: dict[Node, Any], biases: dict[Node, Any]) -> int:
    """Weights of channels that the activation function always makes 0 only widen the range of the others."""
    if top is None or not p.between:
        return 0
    dead = top <= 0
    if not dead.any():
        return 0
    arrays[p.first.node] = np.where(_along(dead, p.first), np.float32(0), arrays[p.first.node])
    if biases[p.first.node] is not None:
        biases[p.first.node] = np.where(dead, np.float32(0), biases[p.first.node])
    return int(dead.sum())


def _absorb(p: Pair, low: Any, top: Any, arrays: dict[Node, Any], biases: dict[Node, Any]) -> int:
    """relu(x) = relu(x - c) + c where x is never below c > 0: the first bias loses c, the second layer adds it."""
    first, second = p.first.node, p.second.node
    rectified = any(n.op.name == "math.relu" for n in p.between)
    if p.limit is not None or not rectified or biases[first] is None or biases[second] is None:
        return 0
    c = np.maximum(low, 0)
    if not movable(p.second) or not c.any():
        return 0
    biases[first] = biases[first] - c
    biases[second] = biases[second] + absorbed(c, arrays[second], p.second)
    top -= c
    return int(np.count_nonzero(c))


def _balance(p: Pair, top: Any, arrays: dict[Node, Any], biases: dict[Node, Any]) -> float:
    """Scale one pair; says how far the largest scale was from 1."""
    first, second = arrays[p.first.node], arrays[p.second.node]
    r1 = np.abs(first).max(axis=tuple(i for i in range(first.ndim) if i != p.first.axis))
    r2 = _inputs(second, p.second)
    live = (r1 > 0) & (r2 > 0)
    s = np.where(live, np.sqrt(np.where(live, r1, 1) / np.where(live, r2, 1)), 1.0)
    if p.limit is not None:
        # nothing may grow beyond the clip, nothing that reaches it may move
        s = np.where(top >= p.limit, 1.0, np.maximum(s, np.maximum(top, 0) / p.limit))
        top /= s
    arrays[p.first.node] = (first / _along(s, p.first)).astype(np.float32)
    if biases[p.first.node] is not None:
        biases[p.first.node] = (biases[p.first.node] / s).astype(np.float32)
    arrays[p.second.node] = _scaled_inputs(second, p.second, s).astype(np.float32)
    return float(np.abs(np.log(s)).max())


def _along(s: Any, layer: Layer) -> Any:
    """A number per output channel, to broadcast against the weights."""
    return s.reshape([-1 if i == layer.axis else 1 for i in range(layer.weights.ndim)])


def _inputs(w: Any, layer: Layer) -> Any:
    """The largest magnitude of the weights that read each input channel."""
    if not layer.is_conv:
        return np.abs(w).max(axis=tuple(range(1, w.ndim)))
    m = np.abs(layer.matrix(w)).max(axis=1)  # [G, C/G * window]
    return m.reshape(layer.groups * w.shape[1], -1).max(axis=1)


def _scaled_inputs(w: Any, layer: Layer, s: Any) -> Any:
    if not layer.is_conv:
        return w * s.reshape(-1, *[1] * (w.ndim - 1))
    per = s.reshape(layer.groups, 1, w.shape[1], *[1] * (w.ndim - 2))
    return (w.reshape(layer.groups, -1, *w.shape[1:]) * per).reshape(w.shape)


def _written(
    graph: Graph, plan: Plan, pairs: Sequence[Pair], arrays: Mapping[Node, Any], biases: Mapping[Node, Any]
) -> Graph:
    changed: dict[tuple[Node, int], Any] = {}
    for p in pairs:
        for layer in (p.first, p.second):
            changed[layer.node, 1] = arrays[layer.node]
            held = bias_of(layer, plan)
            if held is not None and biases.get(layer.node) is not None:
                changed[held] = biases[layer.node]
    return with_constants(graph, changed)
