"""Whether two graphs compute the same, in the sense of `exact` and of `real`.

`exact`: the same bits, nan for nan. `real`: equal over the reals, so what may differ is rounding, and how much that is
depends on the numbers. The yardstick is stochastic arithmetic (Vignes 2004): both graphs run again with every
input and every computed float changed by a few units of its last place (1e-10 of it in f64, a million times its own
rounding), all upwards, all downwards, and at random. What that does to a result bounds what rounding can do to it,
cancellation and discontinuities included; a difference of more than 16 times as much is no rounding. A mistake is
some 10^8 times larger than the yardstick in f64. Integers and booleans have no rounding: they are compared exactly,
unless floats decide over them and the perturbed runs disagree too.

Over the reals there is neither inf nor nan: where the left side has one, `real` asks nothing; where the right
side alone has one, the rule is wrong (in f16 and bf16 it may have overflowed: nothing is asked either).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from ...graph import Graph, Value
from ...interpret import bind_symbols, run_node

__all__ = ["Comparison", "compare_exact", "compare_real", "is_float", "perturbed", "wide"]

Array = npt.NDArray[Any]
Outputs = Sequence[Array]

RUNS = 6
SAFETY = 16.0
F64_STEP = 1e-10


class Comparison:
    """The verdict on two lists of results: `what` is empty when they agree; `compared` counts numbers looked at."""

    def __init__(self, what: str = "", compared: int = 0) -> None:
        self.what, self.compared = what, compared


def is_float(dtype: np.dtype[Any]) -> bool:
    return dtype.kind == "f" or (dtype.kind == "V" and "float" in dtype.name)


def wide(x: Array) -> Array:
    """Any numbers as f64."""
    if x.dtype.kind == "V":
        x = x.astype(np.float32)
    return x.astype(np.float64)


def compare_exact(a: Outputs, b: Outputs) -> Comparison:
    for i, (x, y) in enumerate(zip(a, b, strict=True)):
        if x.shape != y.shape or x.dtype != y.dtype:
            return Comparison(f"output {i} is {y.dtype}{list(y.shape)} instead of {x.dtype}{list(x.shape)}")
        if x.tobytes() == y.tobytes():
            continue
        if not is_float(x.dtype):
            return Comparison(_first(i, x, y, np.asarray(x != y)))
        p, q = wide(x), wide(y)
        nan = np.isnan(p)
        wrong = np.where(nan | np.isnan(q), nan != np.isnan(q), (p != q) | (np.signbit(p) != np.signbit(q)))
        if wrong.any():
            return Comparison(_first(i, x, y, wrong))
    return Comparison(compared=sum(x.size for x in a))


def _first(i: int, x: Array, y: Array, wrong: Array, note: str = "") -> str:
    at = tuple(int(k) for k in np.argwhere(wrong)[0])
    where = f"[{', '.join(map(str, at))}]" if at else ""
    return f"output {i}{where} is {y[at]} instead of {x[at]}{note}"


def compare_real(before: Graph, after: Graph, feeds: Outputs, a: Outputs, b: Outputs) -> Comparison:
    compared, suspects = 0, []
    for i, (x, y) in enumerate(zip(a, b, strict=True)):
        if x.shape != y.shape or x.dtype != y.dtype:
            return Comparison(f"output {i} is {y.dtype}{list(y.shape)} instead of {x.dtype}{list(x.shape)}")
        compared += int(np.isfinite(wide(x)).sum()) if is_float(x.dtype) else x.size
        if x.tobytes() != y.tobytes():
            suspects.append(i)
    if not suspects:
        return Comparison(compared=compared)
    spread: list[Array] | None = None
    for i in suspects:
        x, y = wide(a[i]), wide(b[i])
        floating = is_float(a[i].dtype)
        asked = np.isfinite(x) if floating else np.ones(x.shape, bool)
        if floating and a[i].dtype.itemsize <= 2:
            asked &= np.isfinite(y)
        with np.errstate(all="ignore"):
            difference = np.where(x == y, 0.0, np.abs(x - y))
            difference = np.where(np.isfinite(difference), difference, np.inf)
            unit = _unit(a[i].dtype)
            wrong = asked & (difference > 4 * unit * np.abs(x))
            if not wrong.any():
                continue
            if spread is None:
                spread = _spread(before, after, feeds, a, b)
            allowed = SAFETY * spread[i] + 4 * unit * np.abs(x) + (_smallest(a[i].dtype) if floating else 0)
            wrong &= ~(difference <= allowed)
        if wrong.any():
            at = tuple(np.argwhere(wrong)[0])
            note = f"; rounding explains {allowed[at]:.2g}" if floating else ""
            return Comparison(_first(i, a[i], b[i], wrong, note))
    return Comparison(compared=compared)


def _unit(dtype: np.dtype[Any]) -> float:
    return float(ml_dtypes.finfo(dtype).eps) if is_float(dtype) else 0.0  # type: ignore[no-untyped-call]


def _smallest(dtype: np.dtype[Any]) -> float:
    """Results below the normal range lose digits."""
    return float(ml_dtypes.finfo(dtype).tiny) * 4  # type: ignore[no-untyped-call]


def _spread(before: Graph, after: Graph, feeds: Outputs, a: Outputs, b: Outputs) -> list[Array]:
    """How far perturbed runs of both graphs move from their results."""
    out = [np.zeros(x.shape) for x in a]
    with np.errstate(all="ignore"):
        for graph, base in ((before, a), (after, b)):
            for run in range(RUNS):
                for i, y in enumerate(perturbed(graph, feeds, run)):
                    x, z = wide(base[i]), wide(y)
                    moved = np.where(x == z, 0.0, np.abs(x - z))
                    finite = np.isfinite(x) & ~np.isfinite(z)  # a discontinuity within reach
                    out[i] = np.maximum(out[i], np.where(finite, np.inf, np.where(np.isfinite(moved), moved, 0.0)))
    return out


def perturbed(graph: Graph, feeds: Outputs, run: int) -> list[Array]:
    """The outputs with every float moved a little: run 0 up, run 1 down, others at random."""
    rng = np.random.default_rng(run)
    env: dict[Value | None, Any] = {None: None}
    sizes: dict[str, int] = {}
    for v, x in zip(graph.inputs, feeds, strict=True):
        bind_symbols(v.type.shape, x.shape, sizes)
        env[v] = _moved(x, run, rng)
    with np.errstate(all="ignore"):
        for node in graph.nodes:
            results = run_node(node, [env[v] for v in node.inputs], sizes)
            for v, x in zip(node.outputs, results, strict=True):
                still = node.op.has("structural") and node.inputs
                env[v] = x if still else _moved(x, run, rng)
    return [env[v] for v in graph.outputs]


def _moved(x: Array, run: int, rng: Any) -> Array:
    if not is_float(x.dtype):
        return x
    step = F64_STEP if x.dtype.itemsize == 8 else 4 * _unit(x.dtype)
    signs: Any = 1.0 if run == 0 else -1.0 if run == 1 else rng.choice([-1.0, 1.0], x.shape)
    return np.asarray((wide(x) * (1 + step * signs)).astype(x.dtype))
