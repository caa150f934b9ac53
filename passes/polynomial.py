"""Activations become polynomials: what an encrypted model can compute. Fitted where its inputs really lie."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ..ir.diagnostics import error
from ..ir.edit import Editor
from ..ir.graph import Graph, Node
from ..ir.interpret import evaluate, run_node
from .definition import Context, define_pass
from .options import option

__all__ = ["ACTIVATIONS", "Polynomial", "polynomial", "remez", "weighted_fit"]

Array = npt.NDArray[np.float64]
Function = Callable[[Array], Array]

ACTIVATIONS = (
    "math.relu",
    "math.leaky_relu",
    "math.sigmoid",
    "math.tanh",
    "math.softplus",
    "math.erf",
    "math.abs",
    "nn.gelu",
)
BINS = 512
FLOOR = 1e-3  # weight of what was never seen inside the guarded interval, against the mean of what was


@dataclass(frozen=True)
class Polynomial:
    degree: Literal[2, 4, 8] = option(2, "of the polynomials; 2, 4 and 8 cost an encrypted model 1, 2 and 3 levels")
    fit: Literal["weighted", "remez"] = option("weighted", "least squares by how often values occur, or least maximum")
    guard: float = option(0.1, "widens the interval seen in calibration, as a part of its length on either side")
    range: float = option(0.0, "fit on [-range, range] instead of calibrating")

    def __post_init__(self) -> None:
        if self.guard < 0 or self.range < 0:
            raise ValueError("guard and range are not negative")


@define_pass("polynomial", contract="lossy", options=Polynomial)
def polynomial(graph: Graph, options: Polynomial, context: Context) -> Graph:
    """Replace activations by polynomials fitted on the values that calibration sees.

    `weighted` takes the distribution of the inputs into account (least squares in Chebyshev's basis), `remez` gives the
    least maximal error (Remez's exchange). What lies outside the guarded interval is as wrong as polynomials are there.

    Before:

        graph @main(%x: f32[2]) -> (y: f32[2]) {
          %y = math.relu(%x) : f32[2]
          return %y
        }

    After `polynomial{fit=remez,range=4.0}`:

        graph @main(%x: f32[2]) -> (y: f32[2]) {
          %y = approx.poly(%x) {coeffs = [0.25, 0.5, 0.125]} : f32[2]
          return %y
        }
    """
    nodes = [i for i, n in enumerate(graph.nodes) if n.op.name in ACTIVATIONS]
    if not nodes:
        return graph
    seen = {} if options.range else _histograms(graph, nodes, context)
    editor = Editor(graph)
    copies = list(editor.nodes)
    for i in nodes:
        node = copies[i]
        low, high, counts = seen.get(i, (-options.range, options.range, np.ones(BINS)))
        if not options.range:
            margin = options.guard * max(high - low, 1e-6)
            low, high, counts = _widened(low, high, counts, margin)
        f = _function(node)
        if options.fit == "remez":
            coeffs = remez(f, low, high, options.degree)
        else:
            coeffs = weighted_fit(f, low, high, options.degree, counts)
        x = np.linspace(low, high, len(counts))
        gap = np.abs(np.polynomial.polynomial.polyval(x, coeffs) - f(x))
        rms = float(np.sqrt(np.average(gap**2, weights=counts)))
        where = next(iter(node.loc.sources), node.op.name) if node.loc is not None else node.op.name
        context.note(f"{where}: [{low:.3g}, {high:.3g}], error {gap.max():.3g} at most, {rms:.3g} rms")
        editor.loc = node.loc
        editor.replace(
            node, [editor.emit("approx.poly", node.inputs[0], coeffs=tuple(float(f"{c:.7g}") for c in coeffs))]
        )
    return editor.freeze()


def _function(node: Node) -> Function:
    """What an activation computes, on float64."""

    def f(x: Array) -> Array:
        return np.asarray(run_node(node, [np.asarray(x, np.float64)], {})[0], np.float64)

    return f


def _histograms(graph: Graph, nodes: list[int], context: Context) -> dict[int, tuple[float, float, Array]]:
    """The interval and the distribution of each activation's input."""
    if not context.calibration:
        hint = "add --calibration FILE.npz, or fit on a fixed interval: polynomial{range=8.0}"
        raise error(
            "IG0550", "polynomials are fitted where activations' inputs lie, and nothing tells where", hint=hint
        )
    index = {graph.nodes[i]: i for i in nodes}
    values: dict[int, list[Array]] = {i: [] for i in nodes}
    source = {graph.nodes[i].inputs[0]: i for i in nodes}

    def observe(node: Node, results: tuple[Any, ...]) -> None:
        for v, array in zip(node.outputs, results, strict=True):
            if v in source:
                flat = np.asarray(array, np.float64).reshape(-1)
                for i in [i for n, i in index.items() if n.inputs[0] is v]:
                    values[i].append(flat[:: max(1, len(flat) // 65536)] if len(flat) > 1 << 20 else flat)

    for batch in context.calibration:
        for sample in _samples(graph, batch):
            evaluate(graph, sample, observe=observe)
    found = {}
    for i, parts in values.items():
        x = np.concatenate(parts) if parts else np.zeros(1)
        if not np.isfinite(x).all():
            raise error("IG0432", "nan or infinity at the input of an activation", hint="leave those samples out")
        low, high = float(x.min()), float(x.max())
        high = high if high > low else low + 1e-6
        found[i] = (low, high, np.histogram(x, BINS, (low, high))[0].astype(np.float64))
    return found


def _samples(graph: Graph, batch: Any) -> list[list[Any]]:
    """A batch in pieces of the size that the graph takes."""
    arrays = [np.asarray(batch[v.name]) for v in graph.inputs]
    sizes = [v.type.shape[0] if v.type.shape else 1 for v in graph.inputs]
    if not arrays or not all(isinstance(n, int) and n and len(a) % n == 0 for a, n in zip(arrays, sizes, strict=True)):
        return [arrays]
    count = len(arrays[0]) // int(sizes[0])  # type: ignore[arg-type]
    return [[a[i * n : (i + 1) * n] for a, n in zip(arrays, sizes, strict=True)] for i in range(count)]


def _widened(low: float, high: float, counts: Array, margin: float) -> tuple[float, float, Array]:
    """The interval with a margin on either side, and the counts on a grid over it."""
    centres = low + (np.arange(len(counts)) + 0.5) * (high - low) / len(counts)
    wide = np.linspace(low - margin, high + margin, BINS)
    spread = np.interp(wide, centres, counts, left=0.0, right=0.0)
    return low - margin, high + margin, spread + FLOOR * counts.mean()


def weighted_fit(f: Function, low: float, high: float, degree: int, weights: Array) -> Array:
    """The coefficients, lowest first, of the polynomial of least weighted squares; weights are on an even grid."""
    from numpy.polynomial import Chebyshev, Polynomial

    x = np.linspace(low, high, len(weights))
    found = Chebyshev.fit(x, f(x), degree, domain=[low, high], w=np.sqrt(weights))
    return np.asarray(found.convert(kind=Polynomial, domain=[-1, 1], window=[-1, 1]).coef, np.float64)


def remez(f: Function, low: float, high: float, degree: int, iterations: int = 50) -> Array:
    """The coefficients, lowest first, of the polynomial of least maximal error on [low, high] (Remez 1934).

    The exchange is that of all local extrema on a dense grid; it ends when the error is level to 1e-9 of itself.
    """
    from numpy.polynomial import Chebyshev, Polynomial, chebyshev

    grid = np.cos(np.linspace(np.pi, 0, 8001))
    values = f((low + high) / 2 + (high - low) / 2 * grid)
    points = np.round(np.linspace(0, len(grid) - 1, degree + 2)).astype(int)
    coeffs = np.zeros(degree + 1)
    for _ in range(iterations):
        t = grid[points]
        system = np.hstack([chebyshev.chebvander(t, degree), ((-1.0) ** np.arange(degree + 2))[:, None]])
        # an even function leaves the system singular in the odd coefficients, which then are 0
        solution = np.linalg.lstsq(system, values[points], rcond=None)[0]
        coeffs, level = solution[:-1], abs(solution[-1])
        gap = values - chebyshev.chebval(grid, coeffs)
        worst = np.abs(gap).max()
        if worst <= level * (1 + 1e-9) + 1e-15:
            break
        after = _extrema(gap, degree + 2)
        if after is None or np.array_equal(after, points):
            break
        points = after
    found = Chebyshev(coeffs, domain=[low, high])
    return np.asarray(found.convert(kind=Polynomial, domain=[-1, 1], window=[-1, 1]).coef, np.float64)


def _extrema(gap: Array, count: int) -> npt.NDArray[np.int64] | None:
    """Where the error is largest between its changes of sign, `count` of them that follow each other."""
    signs = np.sign(gap)
    starts = np.flatnonzero(np.diff(signs) != 0) + 1
    parts = np.split(np.arange(len(gap)), starts)
    peaks = [int(p[np.argmax(np.abs(gap[p]))]) for p in parts if np.any(gap[p])]
    while len(peaks) > count:
        if len(peaks) - count == 1 or abs(gap[peaks[0]]) < abs(gap[peaks[-1]]):
            smaller = 0 if abs(gap[peaks[0]]) < abs(gap[peaks[-1]]) else -1
            peaks.pop(smaller)
        else:
            peaks.pop()
    return np.array(peaks) if len(peaks) == count else None
