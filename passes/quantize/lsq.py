"""The graph as a network of torch whose weights and steps are learned: LSQ (Esser et al. 2020). Needs torch.

Forward, numbers are rounded as `quant.quantize` rounds them; backward, rounding counts as the identity, and clipping
as what it is, so that a step learns from what it rounds and from what it clips. All steps of Adam have about the same
length whatever the gradient, so everything is learned in units of its own: a weight in steps of its channel, a step by
its exponent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ...ir.constants import Constant
from ...ir.graph import Graph, Value
from ...ir.types import Affine
from .plan import Layer, Plan
from .round import Rounded
from .sweep import Decisions
from .torch_ops import forward

__all__ = ["Data", "Network", "error_of", "train"]

SLOW = 0.1  # rate of steps and biases against that of weights: they act on many numbers at once
LEAST_BIAS = 1e-3  # unit of biases that are 0 so far


@dataclass(frozen=True)
class Data:
    """Inputs of the graph, one array each; what the original answers, and what is right, if somebody knows."""

    inputs: tuple[Any, ...]
    answers: Any
    labels: Any = None

    def __len__(self) -> int:
        return len(self.answers)


class Network:
    """`found` in torch, its weights, steps and biases to be learned. `target` is the value that is compared."""

    def __init__(self, graph: Graph, plan: Plan, found: Decisions, target: Value) -> None:
        import torch

        self.graph, self.plan, self.found, self.target = graph, plan, found, target
        self.constants: dict[Value | None, Any] = {None: None}
        self.nodes = [n for n in graph.nodes if n.constant is None]
        for n in graph.nodes:
            if n.constant is not None:
                self.constants[n.output] = torch.from_numpy(np.array(n.constant.array))
        self.weights = {n: _Weights(plan.layers[n], r) for n, r in found.weights.items()}
        self.biases = {n: _Bias(b) for n, b in found.biases.items()}
        roots = {plan.root(v): elem for v, elem in found.points.items()}
        self.steps = {v: _Step(elem) for v, elem in roots.items()}

    def run(self, inputs: Sequence[Any]) -> Any:
        """The target for some inputs, torch tensors."""
        values: dict[Value | None, Any] = dict(zip(self.graph.inputs, inputs, strict=True))
        weights = {n: w.rounded() for n, w in self.weights.items()}
        biases = {n: b.real() for n, b in self.biases.items()}
        return forward(self.nodes, self.plan, values, self.constants, weights, biases, self._encoded)[self.target]

    def parameters(self, rate: float) -> list[dict[str, Any]]:
        """Groups for an optimizer."""
        slow = [b.units for b in self.biases.values()] + [s.exponent for s in self.steps.values()]
        slow += [w.exponent for w in self.weights.values()]
        return [
            {"params": [w.units for w in self.weights.values()], "lr": rate},
            {"params": slow, "lr": rate * SLOW},
        ]

    def decisions(self) -> Decisions:
        """What has been learned, as the sweep gives it."""
        return replace(
            self.found,
            points={v: self.steps[self.plan.root(v)].elem() for v in self.found.points},
            weights={n: w.result() for n, w in self.weights.items()},
            biases={n: b.real().detach().numpy() for n, b in self.biases.items()},
        )

    def _encoded(self, v: Value, y: Any) -> Any:
        return self.steps[self.plan.root(v)].encoded(y) if v in self.found.points else None


def train(network: Network, data: Data, *, epochs: int, batch: int, rate: float, distill: float, seed: int) -> None:
    """Let the network answer like the original, and, `distill` being less than 1, like the labels.

    The rate falls along half a cosine. The same seed gives the same network.
    """
    import torch

    steps = -(-len(data) // batch) * epochs
    optimizer = torch.optim.Adam(network.parameters(rate))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    random = np.random.default_rng(seed)
    scale = float(np.mean(np.square(data.answers))) or 1.0
    for _ in range(epochs):
        order = random.permutation(len(data))
        for at in range(0, len(data), batch):
            rows = order[at : at + batch]
            y = network.run([torch.from_numpy(a[rows]) for a in data.inputs])
            loss = (y - torch.from_numpy(data.answers[rows])).square().mean() / scale
            if data.labels is not None and distill < 1:
                right = torch.from_numpy(data.labels[rows])
                loss = distill * loss + (1 - distill) * torch.nn.functional.cross_entropy(y, right)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()


def error_of(network: Network, data: Data, batch: int) -> float:
    """|y - y'| / |y| over all data."""
    import torch

    noise = 0.0
    with torch.no_grad():
        for at in range(0, len(data), batch):
            y = network.run([torch.from_numpy(a[at : at + batch]) for a in data.inputs]).numpy()
            noise += float(np.sum(np.square(y - data.answers[at : at + batch]), dtype=np.float64))
    return float(np.sqrt(noise / max(float(np.sum(np.square(data.answers), dtype=np.float64)), 1e-30)))


def _straight(x: Any) -> Any:
    """Rounded, with the gradient of the identity."""
    return x + (x.round() - x).detach()


class _Step:
    """The step of a point, and of all points tied to it; the zero point stays."""

    def __init__(self, elem: Affine) -> None:
        import torch

        self.given = elem
        self.start = torch.tensor(np.float32(elem.scale))  # type: ignore[arg-type]
        self.exponent = torch.zeros((), requires_grad=True)

    def scale(self) -> Any:
        return self.start * self.exponent.exp()

    def encoded(self, x: Any) -> Any:
        low, high = self.given.store.range  # type: ignore[union-attr]
        scale, zero = self.scale(), self.given.zero
        return (_straight(x / scale).clamp(low - zero, high - zero)) * scale  # type: ignore[operator]

    def elem(self) -> Affine:
        e = self.given
        return Affine(e.store, e.real, float(self.scale().detach()), e.zero, e.axis, e.group)


class _Weights:
    """The weights of a layer in integer codes: they start from what has been rounded so far, in the same scales."""

    def __init__(self, layer: Layer, made: Rounded) -> None:
        import torch

        self.layer, self.made = layer, made
        elem: Any = made.elem
        scale = elem.scale.array if isinstance(elem.scale, Constant) else np.float32(elem.scale)
        self.start = torch.from_numpy(np.array(scale, np.float32))
        self.zero = torch.from_numpy(np.array(made.zero, np.float32))
        self.unit = torch.from_numpy(np.array(made.scale, np.float32))
        # from the middle of what rounds to a code: nothing flips before it has seen a number of gradients
        self.units = (torch.from_numpy(np.array(made.real, np.float32)) / self.unit).requires_grad_()
        self.exponent = torch.zeros_like(self.start, requires_grad=True)

    def scale(self) -> Any:
        """In the shape of the element type's."""
        return self.start * self.exponent.exp()

    def spread(self) -> Any:
        """The scale, to broadcast against the weights."""
        scale, elem = self.scale(), self.made.elem
        if elem.axis is None:  # type: ignore[union-attr]
            return scale
        if elem.group is not None:  # type: ignore[union-attr]
            return scale.repeat_interleave(elem.group, 0)[: len(self.unit)]  # type: ignore[union-attr]
        return scale.reshape([-1 if i == elem.axis else 1 for i in range(self.unit.ndim)])  # type: ignore[union-attr]

    def rounded(self) -> Any:
        form, scale = self.made.format, self.spread()
        codes = _straight(self.units * self.unit / scale)
        return (codes + self.zero).clamp(form.low, form.high).sub(self.zero) * scale

    def result(self) -> Rounded:
        made, form = self.made, self.made.format
        w = (self.units * self.unit).detach().numpy()
        scale = np.ascontiguousarray(np.broadcast_to(self.spread().detach().numpy(), w.shape))
        real = form.round(w, scale, made.zero)
        e: Any = made.elem
        rows = self.scale().detach().numpy()
        held = Constant(rows, e.scale.name) if isinstance(e.scale, Constant) else float(rows)
        elem = Affine(e.store, e.real, held, e.zero, e.axis, e.group)
        codes = np.ascontiguousarray(form.codes(w, scale, made.zero))
        return replace(made, codes=codes, elem=elem, real=real, target=w, scale=scale)


class _Bias:
    def __init__(self, bias: Any) -> None:
        import torch

        start = np.array(bias, np.float32)
        self.unit = max(float(np.abs(start).mean()), LEAST_BIAS)
        self.units = torch.from_numpy(start / np.float32(self.unit)).requires_grad_()

    def real(self) -> Any:
        return self.units * self.unit
