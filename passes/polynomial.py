"""Activations become polynomials: what an encrypted model can compute. Fitted where its inputs really lie."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ..ir.diagnostics import error
from ..ir.edit import Editor
from ..ir.graph import Graph, Node, Value
from ..ir.interpret import bind_symbols, run_node
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

    Activations are replaced from the input to the output, and each is fitted on what the polynomials before it give.

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
    found = _fitted(graph, nodes, options, context) if not options.range else {}
    editor = Editor(graph)
    copies = list(editor.nodes)
    for i in nodes:
        node = copies[i]
        low, high, counts, coeffs = found.get(i) or _fit(node, -options.range, options.range, np.ones(BINS), options)
        x = np.linspace(low, high, len(counts))
        gap = np.abs(np.polynomial.polynomial.polyval(x, coeffs) - _function(node)(x))
        rms = float(np.sqrt(np.average(gap**2, weights=counts)))
        where = next(iter(node.loc.sources), node.op.name) if node.loc is not None else node.op.name
        context.note(f"{where}: [{low:.3g}, {high:.3g}], error {gap.max():.3g} at most, {rms:.3g} rms")
        editor.loc = node.loc
        editor.replace(node, [editor.emit("approx.poly", node.inputs[0], coeffs=coeffs)])
    return editor.freeze()


Fit = tuple[float, float, Array, tuple[float, ...]]  # interval, weights on an even grid over it, coefficients


def _fit(node: Node, low: float, high: float, counts: Array, options: Polynomial) -> Fit:
    """The polynomial of an activation on an interval."""
    f = _function(node)
    if options.fit == "remez":
        coeffs = remez(f, low, high, options.degree)
    else:
        coeffs = weighted_fit(f, low, high, options.degree, counts)
    return low, high, counts, tuple(float(f"{c:.7g}") for c in coeffs)


def _function(node: Node) -> Function:
    """What an activation computes, on float64."""

    def f(x: Array) -> Array:
        return np.asarray(run_node(node, [np.asarray(x, np.float64)], {})[0], np.float64)

    return f


def _fitted(graph: Graph, nodes: list[int], options: Polynomial, context: Context) -> dict[int, Fit]:
    """Polynomials for all activations, in the order of the graph: each is fitted on what those before it give."""
    if not context.calibration:
        hint = "add --calibration FILE.npz, or fit on a fixed interval: polynomial{range=8.0}"
        raise error(
            "IG0550", "polynomials are fitted where activations' inputs lie, and nothing tells where", hint=hint
        )
    runs: list[tuple[dict[Value | None, Any], dict[str, int]]] = []
    for batch in context.calibration:
        for sample in _samples(graph, batch):
            sizes: dict[str, int] = {}
            for v, array in zip(graph.inputs, sample, strict=True):
                bind_symbols(v.type.shape, array.shape, sizes)
            runs.append(({None: None, **dict(zip(graph.inputs, sample, strict=True))}, sizes))
    last = {v: node for node in graph.nodes for v in node.inputs if v is not None}
    found: dict[int, Fit] = {}
    with np.errstate(all="ignore"):
        for i, node in enumerate(graph.nodes[: max(nodes) + 1]):
            if i in nodes:
                low, high, counts = _histogram([run[node.inputs[0]] for run, _ in runs], options.guard)
                found[i] = _fit(node, low, high, counts, options)
            for run, sizes in runs:
                operands = [run[v] for v in node.inputs]
                if i in nodes:
                    x = operands[0]
                    run[node.output] = np.polynomial.polynomial.polyval(x, np.array(found[i][3])).astype(x.dtype)
                else:
                    run.update(zip(node.outputs, run_node(node, operands, sizes), strict=True))
                for read in node.inputs:
                    if read is not None and last[read] is node:
                        run.pop(read, None)
    return found


def _histogram(arrays: list[Any], guard: float) -> tuple[float, float, Array]:
    """The guarded interval of an activation's inputs, and their distribution on a grid over it."""
    flat = [np.asarray(a, np.float64).reshape(-1) for a in arrays]
    x = np.concatenate([a[:: max(1, len(a) // 65536)] if len(a) > 1 << 20 else a for a in flat])
    if not np.isfinite(x).all():
        hint = "leave those samples out; if polynomials make them, calibrate on more samples or use a higher degree"
        raise error("IG0432", "nan or infinity at the input of an activation", hint=hint)
    low, high = float(x.min()), float(x.max())
    high = high if high > low else low + 1e-6
    counts = np.histogram(x, BINS, (low, high))[0].astype(np.float64)
    return _widened(low, high, counts, guard * max(high - low, 1e-6))


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
