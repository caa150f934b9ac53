"""Fine-tuning for polynomial activations: the network learns to live with them, on training data, by torch.

What is trained are the weights and the coefficients of each polynomial in Hermite's basis of its normalised input
(HerPN, Park et al. 2022; AESPA): z = (x - mean) / deviation. The recipe, each part of which keeps squares of squares
from exploding:

* Convolutions are normalised by batch while they learn, and so is the input of every polynomial, by one mean and one
  deviation. For the last part of the steps (`settle`) moments stay as they are, for that is how the network is used.
* The activation turns from the original into the polynomial over the first steps (`ramp`); inputs beyond four
  deviations are pulled back by a penalty (PILLAR, 2023), those beyond six are cut off while training, and only then.
* The original network is the teacher (Hinton et al. 2015), on the very images, turned and moved, that pupils see.
* The result is the moving average over the last part, with normalisations folded into the weights.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ...ir.diagnostics import error
from ...ir.graph import Graph
from ..definition import Context, define_pass
from ..options import option
from ..polynomial import ACTIVATIONS
from .network import Network
from .train import train

__all__ = ["Finetune", "finetune"]

LABELS = "labels"
LATER = ("guard", "data", "checkpoint")  # options that a checkpoint does not depend on
CALIBRATED = 1024  # samples that the distribution of each activation's input is taken from


@dataclass(frozen=True)
class Finetune:
    epochs: int = option(1, "passes over the training data")
    batch: int = option(64, "samples in a step")
    rate: float = option(1e-3, "learning rate at its highest; it falls as a cosine")
    degree: Literal[2, 4] = option(2, "of the polynomials")
    penalty: float = option(2.0, "weight of the range penalty")
    distill: float = option(0.5, "weight of the original network's answers against the labels'")
    ramp: float = option(0.3, "part of the steps over which activations turn into polynomials")
    settle: float = option(0.25, "part of the steps, the last, in which moments are fixed and weights averaged")
    average: float = option(0.998, "decay of the average in a step; 0 takes the last weights")
    guard: int = option(0, "steps after the epochs that pull in values that are still out of range")
    augment: Literal["none", "flip", "crop"] = option("none", "images are turned left to right, and moved by 4 pixels")
    precision: Literal["float32", "bfloat16"] = option("float32", "of values in training; weights are float32")
    data: str = option("", "a file .npz of training data, if they are not the calibration data")
    checkpoint: str = option("", "a file that is written after each epoch; a run that finds it goes on from there")
    seed: int = option(0, "of the order of samples and of what is done to them")

    def __post_init__(self) -> None:
        shares = (self.ramp, self.settle, self.distill, self.average)
        if (
            min(self.epochs, self.batch, self.guard + 1) < 1
            or self.rate <= 0
            or not all(0 <= share <= 1 for share in shares)
        ):
            what = "epochs and batch are at least 1, rate is positive, ramp, settle, distill and average are in [0, 1]"
            raise ValueError(what)


@define_pass("finetune", contract="lossy", options=Finetune)
def finetune(graph: Graph, options: Finetune, context: Context) -> Graph:
    """Turn activations into polynomials and train the network with them, on the calibration data or those of a file.

    With an array `labels` among the data the loss is cross-entropy and distillation, without it distillation alone. The
    result has `approx.poly` in place of activations, which `he` compiles; the same seed gives the same network. Without
    activations there is nothing to train:

    Before:

        graph @main(%x: f32[2]) -> (y: f32[2]) {
          %y = math.mul(%x, %x) : f32[2]
          return %y
        }

    After `finetune{degree=2}`:

        graph @main(%x: f32[2]) -> (y: f32[2]) {
          %y = math.mul(%x, %x) : f32[2]
          return %y
        }
    """
    if not any(node.op.name in (*ACTIVATIONS, "approx.poly") for node in graph.nodes):
        return graph
    try:
        import torch
    except ImportError as e:
        raise error("IG0552", f"fine-tuning needs torch: {e}", hint="pip install 'intaglio[torch]'") from None
    if len(graph.inputs) != 1 or len(graph.outputs) != 1:
        raise error("IG0552", "fine-tuning takes models of one input and one output")
    x, y = _data(graph, options, context)
    network = Network(graph, torch, options.degree, options.precision == "bfloat16")
    checkpoint = Path(options.checkpoint) if options.checkpoint else None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        network.calibrate(torch.from_numpy(x[:CALIBRATED]))
        labels = None if y is None else torch.from_numpy(y)
        losses = train(
            network,
            torch.from_numpy(x),
            labels,
            options,
            torch,
            checkpoint,
            _identity(graph, options, x),
            context.stage,
        )
    count = len(network.activations)
    context.note(f"{count} polynomials, loss of an epoch {losses[0]:.4g} to {losses[-1]:.4g} on {len(x)} samples")
    return network.written()


def _data(graph: Graph, options: Finetune, context: Context) -> tuple[Any, Any]:
    """Inputs [samples, ...] in f32, and labels or None."""
    name, shape = graph.inputs[0].name, graph.inputs[0].type.shape
    batches: Sequence[Mapping[str, Any]] = context.calibration
    if options.data:
        try:
            with np.load(options.data) as given:
                batches = [{k: given[k] for k in given.files if k in (name, LABELS)}]
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as e:
            hint = f"numpy.savez with an array `{name}`, and `labels`"
            raise error("IG0552", f"`{options.data}` holds no training data: {e}", hint=hint) from None
        if name not in batches[0]:
            raise error("IG0552", f"`{options.data}` has no array `{name}`", hint="name it as the model's input")
    if not batches:
        hint = "give them as calibration, or by finetune{data=FILE.npz}, with an array `labels`"
        raise error("IG0552", "fine-tuning needs training data", hint=hint)
    x = _joined([np.asarray(b[name], np.float32) for b in batches])
    if x.shape[1:] != tuple(shape[1:]):
        what = f"training data of shape {list(x.shape[1:])} for a model that takes {list(shape[1:])}"
        raise error("IG0552", what, hint="samples come first, and are prepared as the model wants them")
    if not all(LABELS in b for b in batches):
        return x, None
    y = _joined([np.asarray(b[LABELS]).reshape(-1) for b in batches]).astype(np.int64)
    classes = graph.outputs[0].type.shape[-1]
    if len(y) != len(x) or y.min() < 0 or (isinstance(classes, int) and y.max() >= classes):
        what = f"{len(y)} labels up to {y.max(initial=0)} for {len(x)} samples and {classes} classes"
        raise error("IG0552", what, hint="one class for each sample, counted from 0")
    return x, y


def _joined(parts: list[Any]) -> Any:
    """One array; that of a single batch is not copied: training sets are large."""
    return np.ascontiguousarray(parts[0] if len(parts) == 1 else np.concatenate(parts))


def _identity(graph: Graph, options: Finetune, x: Any) -> str:
    """What a run is told apart from others by: the network, the options, the data."""
    found = hashlib.sha256(
        repr([(f.name, getattr(options, f.name)) for f in fields(options) if f.name not in LATER]).encode()
    )
    found.update(f"{x.shape}".encode() + x[:: max(1, len(x) // 64)].tobytes())
    for node in graph.nodes:
        found.update(node.op.name.encode() if node.constant is None else node.constant.array.tobytes())
    return found.hexdigest()
