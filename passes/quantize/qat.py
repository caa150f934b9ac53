"""`qat`: a network trained in codes, from what `quantize` would have made of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ...ir.diagnostics import error
from ...ir.graph import Graph, Value
from ..canonicalize import Canonicalize, canonicalize
from ..definition import Context, define_pass
from ..options import option
from .check import check_calibration
from .evaluate import evaluate
from .lsq import Data, Network, error_of, train
from .plan import make_plan
from .quantize import chosen_formats, refuse_unknown, tell
from .settings import Quantize
from .sweep import chunks, sweep
from .torch_ops import supported
from .write import written

__all__ = ["qat"]

LABELS = "labels"
ALL = 1 << 30


@dataclass(frozen=True)
class Qat:
    weights: Literal[8, 6, 5, 4, 3, 2, "ternary"] = option(4, "bits of weights, or `ternary`")
    activations: Literal[8, 4, 2, "float"] = option(8, "bits of activations that products read, others have 8")
    per: Literal["channel", "tensor"] = option("channel", "what weights share a scale")
    edges: Literal[8, 6, 5, 4, 3, 2] = option(8, "bits of the first and the last layer, if the others have fewer")
    keep: tuple[str, ...] = option((), "layers whose weights keep 8 bits, * and ? are wild")
    epochs: int = option(4, "passes over the calibration data")
    batch: int = option(64, "samples of a step")
    lr: float = option(0.01, "how far a weight may move in a step at first, in units of its codes")
    distill: float = option(0.5, "with `labels` among the data: the original's share of what is aimed at")
    seed: int = option(0, "of the order of samples")
    samples: int = option(1024, "how many samples the start is chosen by, without training")

    def __post_init__(self) -> None:
        if min(self.epochs, self.batch, self.samples) < 1:
            raise ValueError("epochs, batch and samples are at least 1")
        if self.lr <= 0 or not 0 <= self.distill <= 1:
            raise ValueError("lr is positive, distill is from 0 to 1")


@define_pass("qat", contract="lossy", options=Qat)
def qat(graph: Graph, options: Qat, context: Context) -> Graph:
    """Quantise like `quantize{method=gptq}`, then train weights and steps on the calibration data.

    Quantization-aware training with learned step sizes (LSQ); the original is the teacher, and with an array `labels`
    among the data these are aimed at too. What is trained rounds by the rules of the result, so the result is what was
    trained. Where training without labels makes the answers no better, the start is kept. Takes thousands of samples,
    and torch; the same seed gives the same network. The graph is canonicalised first; without layers that have constant
    weights nothing else is done.

    Before:

        graph @main(%x: f32[4, 2]) -> (y: f32[4, 2]) {
          %0 = math.relu(%x) : f32[4, 2]
          %y = math.relu(%0) : f32[4, 2]
          return %y
        }

    After `qat{weights=4,epochs=2}`:

        graph @main(%x: f32[4, 2]) -> (y: f32[4, 2]) {
          %y = math.relu(%x) : f32[4, 2]
          return %y
        }
    """
    graph = canonicalize.run(graph, Canonicalize(), context)
    plan = make_plan(graph)
    if not plan.layers:
        context.note("no layer has constant weights: nothing is quantised")
        return graph
    try:
        import torch
    except ImportError:
        raise error("IG0437", "`qat` needs torch", hint="pip install 'intaglio[train]'") from None
    if not context.calibration:
        what = "`qat` trains on calibration data, and there are none"
        raise error("IG0430", what, hint="give inputs of the model, and `labels` if there are any")
    context.notes += check_calibration(graph, context.calibration)
    _check(graph)
    start = Quantize(
        weights=options.weights, activations=options.activations, per=options.per, edges=options.edges,
        keep=options.keep, method="gptq", samples=options.samples,
    )  # fmt: skip
    formats = chosen_formats(graph, plan, start, context)
    found = sweep(graph, plan, start, formats, context.calibration, context.stage)
    target = _compared(graph.outputs[0])
    data = _data(graph, target, context.calibration)
    network = Network(graph, plan, found, target)
    before = error_of(network, data, options.batch)
    context.stage(f"{options.epochs} epochs of {len(data)} samples")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        train(
            network, data, epochs=options.epochs, batch=options.batch, rate=options.lr,
            distill=options.distill, seed=options.seed,
        )  # fmt: skip
    after = error_of(network, data, options.batch)
    tell(plan, start, found, context)
    context.note(f"trained on {len(data)} samples: the outputs are off by {after:.3g}, before {before:.3g}")
    made = written(graph, plan, network.decisions() if after < before or data.labels is not None else found)
    refuse_unknown(made, context)
    return made


def _check(graph: Graph) -> None:
    """IG0440 for what torch cannot be asked for."""
    unknown = sorted({n.op.name for n in graph.nodes if n.constant is None and not supported(n)})
    if unknown or len(graph.outputs) != 1:
        what = f"`{unknown[0]}` cannot be trained" if unknown else "`qat` takes models of one output"
        notes = [f"so cannot {', '.join(f'`{n}`' for n in unknown[1:])}"] if unknown[1:] else []
        raise error("IG0440", what, notes=notes, hint="`quantize{method=gptq}` needs no training")


def _compared(output: Value) -> Value:
    """What teacher and student are compared by: logits rather than what softmax makes of them."""
    node = output.node
    if node is not None and node.op.name == "nn.softmax" and node.inputs[0] is not None:
        return node.inputs[0]
    return output


def _data(graph: Graph, target: Value, batches: Sequence[Mapping[str, Any]]) -> Data:
    """All samples, with the original's answers."""
    parts, answers = chunks(graph, batches, ALL), []

    for arrays in parts:
        seen: dict[Value, Any] = {}
        evaluate(graph, arrays, lambda node, results: seen.update(zip(node.outputs, results, strict=True)))  # noqa: B023
        answers.append(seen[target])
    inputs = tuple(np.concatenate([p[i] for p in parts]) for i in range(len(graph.inputs)))
    answer = np.concatenate(answers)
    labels = None
    if all(LABELS in b for b in batches) and answer.ndim == 2:
        labels = np.concatenate([np.asarray(b[LABELS]).reshape(-1) for b in batches]).astype(np.int64)
        if len(labels) != len(answer) or labels.min() < 0 or labels.max() >= answer.shape[1]:
            what = f"`labels` are {len(labels)} numbers up to {labels.max()} for {len(answer)} answers"
            label = f"the model tells {answer.shape[1]} classes apart"
            raise error("IG0440", what, label=label, hint="one class for each sample, counted from 0")
    return Data(inputs, answer, labels)
