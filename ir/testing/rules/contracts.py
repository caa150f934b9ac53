"""What `bounded` and `lossy` promise, measured.

`bounded`: |new - old| <= abs + rel * |old| (and some rounding) for inputs in the interval. Random numbers rarely hit
the worst one, so from some examples the search climbs: it moves one input at a time and keeps what brings the error
nearer to the bound. Element-wise rules of one input are also run on a dense grid, ends included.

`lossy`: types stay, the error over all drawn examples is within the budget, and goes to 0 as an option of the rule
goes to its limit.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ...graph import Graph
from ...interpret import evaluate
from ...rewrite import Bounded
from .compare import Comparison, _first, _unit, is_float, wide

__all__ = ["METRICS", "climb", "compare_bounded", "dense", "grid_inputs"]

Array = npt.NDArray[Any]

GRID = 100_001
STEPS = 40


def excess(contract: Bounded, a: Sequence[Array], b: Sequence[Array]) -> list[Array]:
    """By how many times the error uses up its bound, element by element."""
    out = []
    with np.errstate(all="ignore"):
        for x, y in zip(a, b, strict=True):
            p, q = wide(x), wide(y)
            difference = np.where((p == q) | (np.isnan(p) & np.isnan(q)), 0.0, np.abs(p - q))
            unit = _unit(x.dtype)
            bound = contract.abs + contract.rel * np.abs(p) + 16 * unit * (np.abs(p) + np.abs(q))
            ratio = np.where(difference == 0, 0.0, difference / np.where(bound == 0, np.finfo(float).tiny, bound))
            out.append(np.where(np.isnan(ratio), np.inf, ratio))
    return out


def compare_bounded(contract: Any, a: Sequence[Array], b: Sequence[Array]) -> Comparison:
    """Of `lossy` rules, only the types are compared here."""
    for i, (x, y) in enumerate(zip(a, b, strict=True)):
        if x.shape != y.shape or x.dtype != y.dtype:
            return Comparison(f"output {i} is {y.dtype}{list(y.shape)} instead of {x.dtype}{list(x.shape)}")
    if isinstance(contract, Bounded):
        for i, ratio in enumerate(excess(contract, a, b)):
            wrong = ratio > 1
            if wrong.any():
                return Comparison(_first(i, a[i], b[i], wrong, f": {ratio.max():.3g} times the bound"))
    return Comparison(compared=sum(x.size for x in a))


def climb(
    contract: Bounded, before: Graph, after: Graph, feeds: Sequence[Array], rng: random.Random
) -> tuple[Array, ...] | None:
    """Inputs where the bound is broken, found by moving uphill; None when the search does not get there."""
    low, high = contract.on or (-30.0, 30.0)
    best = [np.array(x) for x in feeds]
    floats = [i for i, x in enumerate(best) if is_float(x.dtype) and x.size]
    if not floats:
        return None

    def height(arrays: Sequence[Array]) -> float:
        ratios = excess(contract, evaluate(before, arrays), evaluate(after, arrays))
        return max((float(r.max()) for r in ratios if r.size), default=0.0)

    top = height(best)
    width = (high - low) / 4
    for _ in range(STEPS):
        if top > 1:
            return tuple(best)
        i = floats[int(rng.random() * len(floats))]
        trial = np.array(best[i])
        at = int(rng.random() * trial.size)
        move = float(trial.reshape(-1)[at]) + rng.uniform(-width, width)
        trial.reshape(-1)[at] = min(high, max(low, move))
        candidate = [*best[:i], trial, *best[i + 1 :]]
        if (found := height(candidate)) >= top:
            best, top = candidate, found
        else:
            width *= 0.85
    return tuple(best) if top > 1 else None


def grid_inputs(contract: Bounded, graph: Graph) -> tuple[Array, ...] | None:
    """A dense grid for an element-wise graph of one float input and scalar constants; None for any other."""
    if len(graph.inputs) != 1 or not is_float(graph.inputs[0].type.dtype):  # type: ignore[union-attr]
        return None
    for n in graph.nodes:
        constant = n.constant
        if not (n.op.has("elementwise") if constant is None else constant.array.size == 1 and constant.array.ndim == 0):
            return None
    low, high = contract.on or (-1e4, 1e4)
    points = np.linspace(low, high, GRID)
    points[[0, -1]] = low, high
    if contract.on is None:
        points = np.concatenate(
            [points, np.geomspace(1e-30, 1e30, 2000), -np.geomspace(1e-30, 1e30, 2000), [0.0, -0.0]]
        )
    with np.errstate(all="ignore"):
        return (points.astype(graph.inputs[0].type.dtype),)  # type: ignore[union-attr]


def dense(contract: Bounded, before: Graph, after: Graph) -> tuple[str, float] | None:
    """The worst point of the grid when it breaks the bound, and by how much; None when all is well."""
    grid = grid_inputs(contract, before)
    if grid is None or grid_inputs(contract, after) is None:
        return None
    a, b = evaluate(before, grid), evaluate(after, grid)
    for ratio, x, y in zip(excess(contract, a, b), a, b, strict=True):
        if ratio.shape == grid[0].shape and ratio.max() > 1:
            at = int(ratio.argmax())
            return f"at {grid[0][at]!r}: {y[at]!r} instead of {x[at]!r}, {ratio[at]:.3g} times the bound", float(
                grid[0][at]
            )
    return None


def _rel_l2(a: Array, b: Array) -> float:
    size = float(np.sqrt((a * a).sum()))
    return float(np.sqrt(((a - b) ** 2).sum())) / size if size else float(np.abs(b).max(initial=0.0))


METRICS: dict[str, Any] = {
    "rel_l2": _rel_l2,
    "max": lambda a, b: float(np.abs(a - b).max(initial=0.0)),
    "mean": lambda a, b: float(np.abs(a - b).mean()) if a.size else 0.0,
    "rms": lambda a, b: float(np.sqrt(((a - b) ** 2).mean())) if a.size else 0.0,
}
