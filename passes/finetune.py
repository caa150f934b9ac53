"""Fine-tuning for polynomial activations: the network learns to live with them, on training data, by torch.

What is trained are the weights and the coefficients of each polynomial in Hermite's basis of its normalised input
(HerPN, Park et al. 2022; AESPA): z = (x - mean) / deviation as calibration saw it. The activation turns from the
original into the polynomial over the first steps; inputs that leave the interval are pulled back by a penalty (PILLAR,
2023); the original network is the teacher (Hinton et al. 2015).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ..ir.diagnostics import error
from ..ir.edit import Editor
from ..ir.graph import Graph, Node, Value
from .definition import Context, define_pass
from .options import option
from .polynomial import ACTIVATIONS, weighted_fit

__all__ = ["Finetune", "finetune"]

LABELS = "labels"
INTERVAL = 4.0  # deviations from the mean; what lies beyond is penalised
CALIBRATED = 1024  # samples that the distribution of each activation's input is taken from


@dataclass(frozen=True)
class Finetune:
    epochs: int = option(1, "passes over the training data")
    batch: int = option(64, "samples in a step")
    rate: float = option(1e-3, "learning rate at its highest")
    degree: Literal[2, 4] = option(2, "of the polynomials")
    penalty: float = option(0.01, "weight of the range penalty")
    distill: float = option(0.5, "weight of the original network's answers against the labels'")
    ramp: float = option(0.3, "part of the steps over which activations turn into polynomials")
    seed: int = option(0, "of the order of samples")

    def __post_init__(self) -> None:
        if min(self.epochs, self.batch) < 1 or self.rate <= 0 or not 0 <= self.ramp <= 1 or not 0 <= self.distill <= 1:
            raise ValueError("epochs and batch are at least 1, rate is positive, ramp and distill are in [0, 1]")


@define_pass("finetune", contract="lossy", options=Finetune)
def finetune(graph: Graph, options: Finetune, context: Context) -> Graph:
    """Turn activations into polynomials and train the network with them, on the calibration data.

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
    if not context.calibration:
        raise error(
            "IG0552", "fine-tuning needs training data", hint="give them as calibration, with an array `labels`"
        )
    if len(graph.inputs) != 1 or len(graph.outputs) != 1:
        raise error("IG0552", "fine-tuning takes models of one input and one output")
    name = graph.inputs[0].name
    x = torch.from_numpy(np.concatenate([np.asarray(b[name], np.float32) for b in context.calibration]))
    labelled = all(LABELS in b for b in context.calibration)
    y = np.concatenate([np.asarray(b[LABELS]).reshape(-1) for b in context.calibration]) if labelled else None
    network = _Network(graph, torch, options.degree)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        network.calibrate(x[:CALIBRATED])
        labels = None if y is None else torch.from_numpy(y.astype(np.int64))
        first, last = _train(network, x, labels, options, torch)
    context.note(f"{len(network.coeffs)} polynomials, loss {first:.4g} to {last:.4g} on {len(x)} samples")
    return network.written()


def _train(network: _Network, x: Any, labels: Any, options: Finetune, torch: Any) -> tuple[float, float]:
    """The mean loss in the first and the last tenth of the steps."""
    functional = torch.nn.functional
    parameters = [*network.weights.values(), *network.coeffs.values()]
    optimiser = torch.optim.Adam(parameters, options.rate)
    per_epoch = -(-len(x) // options.batch)
    steps = per_epoch * options.epochs
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    random = np.random.default_rng(options.seed)
    losses: list[float] = []
    for _ in range(options.epochs):
        order = random.permutation(len(x))
        for i in range(per_epoch):
            chosen = torch.from_numpy(order[i * options.batch : (i + 1) * options.batch])
            share = min(1.0, (len(losses) + 1) / max(1.0, options.ramp * steps))
            with torch.no_grad():
                teacher = network.run(x[chosen], 0.0, original=True)[0]
            out, outside = network.run(x[chosen], share)
            kept = 1.0 if labels is None else options.distill
            loss = options.penalty * outside
            if kept:
                loss = loss + kept * functional.kl_div(
                    functional.log_softmax(out, -1),
                    functional.log_softmax(teacher, -1),
                    log_target=True,
                    reduction="batchmean",
                )
            if labels is not None and kept < 1:
                loss = loss + (1 - kept) * functional.cross_entropy(out, labels[chosen])
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimiser.step()
            schedule.step()
            losses.append(float(loss.detach()))
    tenth = max(1, steps // 10)
    return float(np.mean(losses[:tenth])), float(np.mean(losses[-tenth:]))


class _Network:
    """The graph in torch. Constants that are operands of layers are trained; teachers keep the originals."""

    def __init__(self, graph: Graph, torch: Any, degree: int) -> None:
        self.graph, self.torch, self.degree = graph, torch, degree
        self.constants: dict[Value | None, Any] = {}
        self.weights: dict[Value | None, Any] = {}
        self.coeffs: dict[Node, Any] = {}
        self.normal: dict[Node, tuple[float, float]] = {}
        for node in graph.nodes:
            if node.constant is not None:
                self.constants[node.output] = torch.from_numpy(np.array(node.constant.array))
        for node in graph.nodes:
            if node.op.name in ("nn.conv", "nn.matmul", "math.add"):
                for v in node.inputs[1:] if node.op.name == "nn.conv" else node.inputs:
                    if v in self.constants and self.constants[v].is_floating_point():
                        self.weights[v] = self.constants[v].clone().requires_grad_()

    def run(self, x: Any, share: float, original: bool = False, observe: Any = None) -> tuple[Any, Any]:
        """The output and the range penalty; `share` is that of the polynomials in the activations."""
        torch = self.torch
        held: dict[Value | None, Any] = {None: None, **self.constants, self.graph.inputs[0]: x}
        if not original:
            held.update(self.weights)
        penalty = torch.zeros(())
        for node in self.graph.nodes:
            if node.constant is not None:
                continue
            operands = [held[v] for v in node.inputs]
            if node.op.name in ACTIVATIONS:
                if observe is not None:
                    observe(node, operands[0])
                y = self._activation(node, operands[0]) if original or share < 1 else None
                if not original:
                    mean, deviation = self.normal[node]
                    z = (operands[0] - mean) / deviation
                    penalty = penalty + torch.relu(z.abs() - INTERVAL).square().mean()
                    smooth = sum(c * h for c, h in zip(self.coeffs[node], self._hermite(z), strict=True))
                    y = smooth if y is None else share * smooth + (1 - share) * y
                held[node.output] = y
            else:
                held[node.output] = self._layer(node, operands)
        return held[self.graph.outputs[0]], penalty

    def _hermite(self, z: Any) -> list[Any]:
        """Hermite's polynomials, normalised: orthonormal where z is normally distributed."""
        found = [self.torch.ones_like(z), z, (z * z - 1) / 2**0.5]
        if self.degree == 4:
            found += [(z**3 - 3 * z) / 6**0.5, (z**4 - 6 * z * z + 3) / 24**0.5]
        return found

    def calibrate(self, x: Any) -> None:
        """Mean, deviation and first coefficients of each activation."""

        def observe(node: Node, values: Any) -> None:
            flat = values.double().reshape(-1).numpy()
            mean, deviation = float(flat.mean()), float(max(flat.std(), 1e-6))
            f = lambda v: self._activation(node, self.torch.from_numpy(mean + deviation * v)).numpy()  # noqa: E731
            counts = np.histogram((flat - mean) / deviation, 512, (-INTERVAL, INTERVAL))[0].astype(float)
            fitted = weighted_fit(f, -INTERVAL, INTERVAL, self.degree, counts + 1e-3 * counts.mean())
            start = np.polynomial.hermite_e.poly2herme(fitted)
            scale = np.sqrt([1.0, 1.0, 2.0, 6.0, 24.0])[: len(start)]
            self.normal[node] = (mean, deviation)
            self.coeffs[node] = self.torch.from_numpy((start * scale).astype(np.float32)).requires_grad_()

        with self.torch.no_grad():
            self.run(x, 0.0, original=True, observe=observe)

    def _activation(self, node: Node, x: Any) -> Any:
        functional = self.torch.nn.functional
        functions: Mapping[str, Callable[[Any], Any]] = {
            "math.relu": self.torch.relu,
            "math.leaky_relu": lambda v: functional.leaky_relu(v, node.attr("alpha")),
            "math.sigmoid": self.torch.sigmoid,
            "math.tanh": self.torch.tanh,
            "math.softplus": functional.softplus,
            "math.erf": self.torch.erf,
            "math.abs": self.torch.abs,
            "nn.gelu": functional.gelu,
        }
        return functions[node.op.name](x)

    def _layer(self, node: Node, x: list[Any]) -> Any:
        functional, name, batch = self.torch.nn.functional, node.op.name, len(x[0]) if x[0] is not None else 0
        if name == "nn.conv" and x[1].ndim == 4:
            top, left, bottom, right = node.attr("pads") or (0, 0, 0, 0)
            padded = functional.pad(x[0], (left, right, top, bottom))
            bias = x[2] if len(x) > 2 else None
            return functional.conv2d(padded, x[1], bias, tuple(node.attr("strides") or (1, 1)), groups=node.attr("g"))
        if name == "nn.matmul":
            return x[0] @ x[1]
        if name == "math.add":
            return x[0] + x[1]
        if name == "math.mul":
            return x[0] * x[1]
        if name == "math.reduce_mean":
            return x[0].mean(tuple(node.attr("axes")), keepdim=node.attr("keepdims"))
        if name == "shape.reshape":
            return x[0].reshape(batch, *[int(d) for d in node.output.type.shape[1:]])  # type: ignore[arg-type]
        if name == "shape.slice" and tuple(node.attr("axes")) == (2, 3) and not any(node.attr("starts")):
            down, right = node.attr("steps") or (1, 1)
            return x[0][:, :, ::down, ::right]
        if name == "shape.pad" and len(node.attr("pads")) == 8:
            p = node.attr("pads")
            return functional.pad(x[0], (p[3], p[7], p[2], p[6], p[1], p[5]))
        if name == "approx.poly":
            return sum(c * x[0] ** i for i, c in enumerate(node.attr("coeffs")))
        notes = (f"from: {node.loc}",) if node.loc is not None else ()
        raise error("IG0552", f"`{name}` cannot be trained here", notes=notes, hint="run `canonicalize` before")

    def written(self) -> Graph:
        """The graph with what was learnt."""
        editor = Editor(self.graph)
        for old, node in zip(self.graph.nodes, list(editor.nodes), strict=True):
            editor.loc = old.loc
            if old.constant is not None and old.output in self.weights:
                learnt = self.weights[old.output].detach().numpy()
                editor.replace(node, [editor.constant(np.array(learnt), f"{old.constant.name}.tuned")])
            elif old in self.coeffs:
                coeffs = tuple(float(f"{c:.8g}") for c in self._monomials(old))
                editor.replace(node, [editor.emit("approx.poly", node.inputs[0], coeffs=coeffs)])
        return editor.freeze()

    def _monomials(self, node: Node) -> Any:
        from numpy.polynomial import Polynomial, hermite_e

        c = self.coeffs[node].detach().double().numpy()
        plain = hermite_e.herme2poly(c / np.sqrt([1.0, 1.0, 2.0, 6.0, 24.0])[: len(c)])
        mean, deviation = self.normal[node]
        inside: Any = Polynomial([-mean / deviation, 1 / deviation])
        return np.asarray(Polynomial(plain)(inside).coef, np.float64)
