"""`quantize`: weights and activations as codes of few bits, from calibration data."""

from __future__ import annotations

import fnmatch
import math
from collections import Counter
from collections.abc import Mapping
from typing import Any, cast

import numpy as np

from ...ir.diagnostics import IntaglioError, error
from ...ir.graph import Graph, Node
from ...ir.types import Tensor
from ..canonicalize import Canonicalize, canonicalize
from ..definition import Context, define_pass
from .adaround import learned
from .cache import key_of, recall, remember
from .check import check_calibration
from .dynamic import by_token
from .mixed import allocate, sensitivities
from .plan import Plan, make_plan
from .settings import SIGNALS, Quantize, Weights
from .sweep import Decisions, sweep
from .write import written

__all__ = ["chosen_formats", "mcnemar", "quantize", "refuse_unknown", "tell"]

GIVE = "give inputs of the model, --calibration FILE.npz; or activations=float; or, for transformers, dynamic=token"


@define_pass("quantize", contract="lossy", options=Quantize)
def quantize(graph: Graph, options: Quantize, context: Context) -> Graph:
    """Store weights and activations as codes of few bits, chosen by calibration data.

    Convolutions and products get weights in codes, with a scale per output channel; activations are rounded to codes
    where they are stored: at the network's boundaries, behind every bias and activation function, before sums. The
    result is still computed in floats, between pairs of casts; `integer` makes integer kernels of them. With
    `dynamic=token` only products read codes, whose scales they find as they run, one for each token. Needs calibration
    data for ranges that are fixed, and for methods that look at them. The graph is canonicalised first.

    Before:

        graph @main(%x: f32[4, 2]) -> (y: f32[4]) {
          %w = const [2.0, -254.0] : f32[2]
          %0 = nn.matmul(%x, %w) : f32[4]
          %y = math.relu(%0) : f32[4]
          return %y
        }

    After `quantize{activations=float,scales=minmax}`:

        graph @main(%x: f32[4, 2]) -> (y: f32[4]) {
          %w = const [1, -127] : q<i8, f32, scale=2.0>[2]
          %0 = quant.dequantize(%w) {to = f32} : f32[2]
          %1 = nn.matmul(%x, %0) : f32[4]
          %y = math.relu(%1) : f32[4]
          return %y
        }
    """
    graph = canonicalize.run(graph, Canonicalize(), context)
    plan = make_plan(graph)
    if not plan.layers:
        context.note("no layer has constant weights: nothing is quantised")
        return graph
    tokens = options.dynamic == "token"
    plan = by_token(plan) if tokens else plan
    free = (options.activations == "float" or tokens) and options.method == "round" and options.average is None
    if not context.calibration and not free:
        what = f"`quantize` chooses {_what(options)} by calibration data, and there are none"
        raise error("IG0430", what, hint=GIVE)
    if context.calibration:
        context.notes += check_calibration(graph, context.calibration)
    key = key_of(graph, options, context.calibration) if options.cache and context.calibration else ""
    made = recall(key, context) if key else None
    if made is None:
        before = len(context.notes)
        made = _decide(graph, plan, options, context)
        if key:
            remember(key, made, context, context.notes[before:])
    refuse_unknown(made, context)
    return made


def _decide(graph: Graph, plan: Plan, options: Quantize, context: Context) -> Graph:
    formats = chosen_formats(graph, plan, options, context)
    found = sweep(graph, plan, options, formats, context.calibration, context.stage)
    if options.method == "adaround":
        better = learned(graph, plan, options, found, context.calibration, context.stage)
        found = sweep(graph, plan, options, formats, context.calibration, context.stage, better)
    tell(plan, options, found, context)
    if options.loss is not None and found.loss > options.loss:
        raise _too_lossy(graph, plan, options, formats, found, context)
    return written(graph, plan, found, options if options.dynamic == "token" else None)


def _what(options: Quantize) -> str:
    if options.activations != "float" and options.dynamic != "token":
        return "ranges of activations"
    return "bits of layers" if options.average is not None else "roundings of weights"


def refuse_unknown(graph: Graph, context: Context) -> None:
    """IG0436 where the target cannot read or write the codes."""
    for node in graph.nodes if context.target is not None else ():
        if node.op.name in ("quant.quantize", "quant.dequantize"):
            assert context.target is not None
            reason = context.target.legal(node)
            if reason:
                value = node.inputs[0] if node.op.name == "quant.dequantize" else node.output
                assert value is not None and isinstance(value.type, Tensor)
                what = f"the target `{context.target.name}` does not take codes of type {value.type.elem}"
                raise error("IG0436", what, label=reason, hint="choose other bits, or another target")


def _too_lossy(
    graph: Graph, plan: Plan, options: Quantize, formats: Mapping[Node, Weights], found: Decisions, context: Context
) -> IntaglioError:
    """IG0435: the layers that should keep more bits, the most sensitive ones first."""
    assert options.loss is not None
    each = sensitivities(graph, plan, options, context.calibration, only=formats)
    losses = sorted(((max(v.values(), default=0.0), plan.layers[n].name) for n, v in each.items()), reverse=True)
    left, named = sum(loss for loss, _ in losses), []
    for loss, name in losses:
        if math.sqrt(max(left, 0.0)) <= options.loss / 2:
            break
        named.append(f"{name} ({math.sqrt(loss):.3g})")
        left -= loss
    what = f"the outputs are off by {found.loss:.3g} on the calibration data, more than loss={options.loss:g}"
    if not named:
        hint = "weights are not to blame: give activations more bits, or other ranges"
    else:
        hint = "keep layers in higher precision: keep=[" + ", ".join(n.partition(" ")[0] for n in named) + "]"
    notes = [f"error of the outputs by one layer alone: {', '.join(named)}"] if named else []
    return error("IG0435", what, hint=hint, notes=notes)


def chosen_formats(graph: Graph, plan: Plan, options: Quantize, context: Context) -> Mapping[Node, Weights]:
    """How the weights of each layer are stored."""
    formats: dict[Node, Weights] = {}
    names = {layer.name for layer in plan.layers.values()}
    for pattern in options.keep:
        if not fnmatch.filter(names, pattern):
            have = ", ".join(sorted(names)[:8])
            raise error("IG0406", f"`quantize{{keep=[{pattern}]}}` names no layer", hint=f"there are {have}")
    fixed: dict[Node, int] = {}
    for node, layer in plan.layers.items():
        kept = any(fnmatch.fnmatchcase(layer.name, p) for p in options.keep)
        wide = 8 if kept else options.edges if layer.first or layer.last else 0
        formats[node] = _wider(options.weights, wide)
        if wide and formats[node] != options.weights:
            fixed[node] = wide
    if options.average is not None:
        losses = sensitivities(graph, plan, options, context.calibration)
        formats = allocate(plan, losses, options, fixed)
        listed = ", ".join(f"{plan.layers[n].name} {b}" for n, b in formats.items())
        context.note(f"bits by sensitivity: {listed}")
    return formats


def _wider(weights: Weights, bits: int) -> Weights:
    """The format of a layer that is to have that many bits at least; 0: no matter."""
    if isinstance(weights, int):
        return cast(Weights, max(weights, bits))
    return weights if weights in ("fp8", "float") or not bits else cast(Weights, bits)


def tell(plan: Plan, options: Quantize, found: Decisions, context: Context) -> None:
    """What was done, for the ledger."""
    counts = Counter(r.format.name for r in found.weights.values())
    bits = sum(r.format.bits * r.codes.size for r in found.weights.values())
    size = sum(r.codes.size for r in found.weights.values())
    kinds = ", ".join(f"{n} {'layer' if n == 1 else 'layers'} in {_words(f)}" for f, n in counts.items())
    coded = f"{len(found.points)} activations in codes"
    if options.dynamic == "token":
        coded = f"{len(plan.coded)} of {len(plan.layers)} layers read codes with a scale for each token"
    context.note(f"{kinds}; {bits / max(size, 1):.2f} bits a weight; {coded}")
    told = [e for e in found.errors if math.isfinite(e.sqnr)]
    if told:
        context.note(SIGNALS + "; ".join(f"{e.layer} ({e.format}) {e.sqnr:.1f}" for e in told))
    if found.answers is not None and context.calibration:
        context.note(_answers(*found.answers, context))
    if found.constant:
        context.note(f"constant for all calibration data: {', '.join(found.constant[:5])}")


def _answers(old: Any, new: Any, context: Context) -> str:
    """How many answers changed; with labels, how many were right, and whether that may be chance."""
    changed = int(np.count_nonzero(old != new))
    text = f"{changed} of {len(old)} answers changed on the calibration data"
    labels = [np.asarray(b["labels"]).reshape(-1) for b in context.calibration if "labels" in b]
    right = np.concatenate(labels)[: len(old)] if labels else np.zeros(0)
    if len(right) != len(old):
        return text
    lost = int(np.count_nonzero((old == right) & (new != right)))
    won = int(np.count_nonzero((old != right) & (new == right)))
    return text + f": {lost} for the worse, {won} for the better, McNemar's p = {mcnemar(lost, won):.3g}"


def mcnemar(lost: int, won: int) -> float:
    """Two-sided exact p: how likely two equally good networks differ on so unequal numbers of samples."""
    n, k = lost + won, min(lost, won)
    return min(1.0, 2 * sum(math.comb(n, i) for i in range(k + 1)) / 2**n)


def _words(name: str) -> str:
    return f"{name} bits" if name.isdigit() else name
