"""Rounding learned segment by segment: AdaRound's variables, BRECQ's targets, QDrop's inputs. Needs torch.

A weight becomes s (n + h) with h in [0, 1] free at first and driven to 0 or 1 (Nagel et al. 2020); it begins with
what GPTQ has chosen. All layers of a segment learn together from the segment's output in the original (Li et al.
2021), on the inputs that the network quantised so far gives; half of these, at random, are left as in the original (Wei
et al. 2022).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ...ir.diagnostics import error
from ...ir.graph import Graph, Node, Value
from .plan import Layer, Plan
from .round import Rounded
from .segments import Segment, compute, segments
from .settings import Quantize
from .sweep import Decisions, bound_symbols, chunks, encoded
from .torch_ops import forward, supported

__all__ = ["learned"]

BATCH = 32
RATE = 3e-2  # of Adam, for the variables of rounding
WARM = 0.2  # of the steps before rounding is pressed for
PRESSURE = 0.1
DROP = 0.5
START = 0.3  # how far from decided variables begin
GAMMA, ZETA = -0.1, 1.1  # the sigmoid is stretched, so that 0 and 1 are reached


def learned(
    graph: Graph,
    plan: Plan,
    options: Quantize,
    found: Decisions,
    batches: Sequence[Mapping[str, Any]],
    observe: Callable[[str], None] | None = None,
) -> dict[Node, Rounded]:
    """Better codes for the layers of `found`, in the same scales. IG0437 where torch is not installed."""
    try:
        import torch
    except ImportError:
        raise error("IG0437", "method=adaround needs torch", hint="pip install 'intaglio[train]'") from None
    torch.manual_seed(0)
    inputs = chunks(graph, batches, options.samples)
    symbols = [bound_symbols(graph, arrays) for arrays in inputs]
    constants: dict[Value | None, Any] = {None: None}
    constants.update({n.output: n.constant.array for n in graph.nodes if n.constant is not None})
    original = [arrays[0] for arrays in inputs]
    elem = found.points.get(graph.inputs[0]) if graph.inputs else None
    seen = [x if elem is None else encoded(x, elem) for x in original]
    made: dict[Node, Rounded] = {}
    for segment in segments(graph, plan):
        targets = [
            compute(segment, {**constants, segment.source: x}, s) for x, s in zip(original, symbols, strict=True)
        ]
        task = _Segment(segment, plan, found, constants)
        if task.layers and all(supported(n) for n in segment.nodes):
            if observe is not None:
                observe(", ".join(plan.layers[n].name for n in task.layers))
            before = task.error(seen, targets)
            task.train(np.concatenate(original), np.concatenate(seen), np.concatenate(targets), options.steps)
            if task.error(seen, targets) < before:
                made.update(task.rounded())
            else:  # nothing was learned that helps
                task.soft = {}
        seen = [task.forward(x) for x in seen]
        original = targets
    return made


class _Segment:
    """One segment in torch: its layers' weights as functions of the variables, points rounded straight through."""

    def __init__(self, segment: Segment, plan: Plan, found: Decisions, constants: Mapping[Value | None, Any]) -> None:
        import torch

        self.segment, self.plan, self.found = segment, plan, found
        self.layers = {
            n: found.weights[n] for n in segment.nodes if n in found.weights and found.weights[n].format.integer
        }
        self.constants = {v: torch.from_numpy(np.array(a)) for v, a in constants.items() if a is not None}
        self.fixed = {n: torch.from_numpy(np.array(r.real)) for n, r in found.weights.items() if n in segment.nodes}
        self.biases = {n: torch.from_numpy(np.array(b)) for n, b in found.biases.items() if n in segment.nodes}
        self.soft: dict[Node, _Rounding] = {}

    def train(self, original: Any, seen: Any, target: Any, steps: int) -> None:
        import torch

        self.soft = {n: _Rounding(self.plan.layers[n], r) for n, r in self.layers.items()}
        optimizer = torch.optim.Adam([r.v for r in self.soft.values()], RATE)
        x, x_seen, y = (torch.from_numpy(np.ascontiguousarray(a)) for a in (original, seen, target))
        scale = float(y.square().mean()) or 1.0
        for step in range(steps):
            rows = torch.randint(len(x), (min(BATCH, len(x)),))
            mixed = torch.where(torch.rand_like(x[rows]) < DROP, x[rows], x_seen[rows])
            loss = (self._run(mixed, drop=True) - y[rows]).square().mean() / scale
            done = (step / steps - WARM) / (1 - WARM)
            if done > 0:
                beta = 2 + 18 * 0.5 * (1 + np.cos(done * np.pi))  # from 20 to 2: first only the undecided feel it
                count = sum(r.v.numel() for r in self.soft.values())
                loss = loss + PRESSURE * sum(r.undecided(beta) for r in self.soft.values()) / count
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    def rounded(self) -> dict[Node, Rounded]:
        return {n: r.result() for n, r in self.soft.items()}

    def forward(self, x: Any) -> Any:
        """The segment's output as codes, with hard rounding."""
        y = self._hard(x)
        elem = self.found.points.get(self.segment.target)
        return y if elem is None else encoded(y, elem)

    def error(self, seen: Sequence[Any], targets: Sequence[Any]) -> float:
        """Squared error of the outputs with hard rounding."""
        return sum(float(np.sum((self._hard(x) - y) ** 2)) for x, y in zip(seen, targets, strict=True))

    def _hard(self, x: Any) -> Any:
        import torch

        with torch.no_grad():
            return self._run(torch.from_numpy(np.ascontiguousarray(x)), hard=True).numpy()

    def _run(self, x: Any, *, drop: bool = False, hard: bool = False) -> Any:
        target = self.segment.target
        weights = {n: w if n not in self.soft else self.soft[n].weights(hard) for n, w in self.fixed.items()}

        def encode(v: Value, y: Any) -> Any:
            elem = None if v is self.segment.source or v is target else self.found.points.get(v)
            return None if elem is None else _through(y, elem, drop)

        nodes = self.segment.nodes
        values: dict[Value | None, Any] = {self.segment.source: x}
        return forward(nodes, self.plan, values, self.constants, weights, self.biases, encode)[target]


def _through(x: Any, elem: Any, drop: bool) -> Any:
    """Rounded to codes, with the gradient of clipping; with `drop` half of the elements are not."""
    import torch

    low, high = elem.store.range
    y = torch.clamp(x / elem.scale + elem.zero, low, high)
    y = (y + (torch.round(y) - y).detach() - elem.zero) * elem.scale
    return torch.where(torch.rand_like(x) < DROP, x, y) if drop else y


class _Rounding:
    """The variables of one layer."""

    def __init__(self, layer: Layer, made: Rounded) -> None:
        import torch

        self.made = made
        arrays = (made.target, made.real, made.scale, made.zero)
        w, real, scale, zero = (torch.from_numpy(np.array(a, np.float32)) for a in arrays)
        self.scale, self.zero = scale, zero
        # from GPTQ's choice, the alternative being its neighbour on the other side of the weight
        up = real > w
        self.floor = torch.round(real / scale) - up.float()
        p = (torch.where(up, 1 - START, START) - GAMMA) / (ZETA - GAMMA)
        self.v = torch.log(p / (1 - p)).requires_grad_()

    def share(self) -> Any:
        import torch

        return torch.clamp(torch.sigmoid(self.v) * (ZETA - GAMMA) + GAMMA, 0, 1)

    def weights(self, hard: bool) -> Any:
        import torch

        h = (self.v >= 0).float() if hard else self.share()
        form = self.made.format
        return (torch.clamp(self.floor + h + self.zero, form.low, form.high) - self.zero) * self.scale

    def undecided(self, beta: float) -> Any:
        return (1 - (2 * self.share() - 1).abs().pow(beta)).sum()

    def result(self) -> Rounded:
        import torch

        with torch.no_grad():
            real = self.weights(hard=True).numpy().astype(np.float32)
        made = self.made
        codes = made.format.codes(real, made.scale, made.zero)
        return replace(made, codes=np.ascontiguousarray(codes), real=real)
