"""Measured tuning: the best plans of each product and convolution are run, and the fastest is taken.

Kernels are measured one by one, in turns, on operands of their own. Weights are there several times, as large together
as what a whole run of the program goes through: as in the program, they come from the cache that holds all of that.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ...ir.constants import Constant
from ...ir.graph import Graph, Node, Value
from . import api, runtime
from .cost import footprint
from .kernels import VECTOR_UNITS, VectorUnit
from .kernels.layout import PLAIN, Layout
from .kernels.tile import RANKED
from .lowering.group import group_of
from .lowering.kernel import Call, lower_node
from .tuning import Choice, Store, signature

__all__ = ["Tuner"]

TUNED = {"nn.conv", "nn.matmul"}
ROUNDS = 11
TURN = 1e-3  # seconds
WORTH = 0.97  # of the time of the plan that is predicted to be best: less is not worth another choice
COPIES = 32  # of weights, at most
MOST = 64 << 20  # bytes of all the copies


class Tuner:
    """Lowers nodes as `lower_node` does, each by the plan that was the fastest."""

    def __init__(self, graph: Graph, isa: str, store: Store) -> None:
        self._target, self._store = api.cpu_target(isa), store
        self._through = footprint(graph, VECTOR_UNITS[isa])

    def __call__(
        self,
        node: Node,
        constants: Mapping[Value, Constant],
        unit: VectorUnit,
        *,
        exact: bool = False,
        layouts: Mapping[Value, Layout] | None = None,
        wanted: Layout = PLAIN,
    ) -> Call:
        def plan(rank: int) -> Call:
            return lower_node(node, constants, unit, exact=exact, layouts=layouts, wanted=wanted, rank=rank)

        first = plan(0)
        group = group_of(node, constants)
        if exact or not group.nodes or group.nodes[0].op.name not in TUNED:
            return first
        key = signature(node, constants, layouts or {}, wanted)
        choice = self._store.get(key)
        if choice is None:
            calls = [first]
            for rank in range(1, RANKED):
                other = plan(rank)
                if any(api.same_function(other.func, c.func) for c in calls):
                    break  # there are no more plans, or none at all
                calls.append(other)
            choice = self._measured(calls)
            self._store.put(key, choice)
        return first if choice.rank == 0 else plan(choice.rank)

    def _measured(self, calls: Sequence[Call]) -> Choice:
        if len(calls) == 1:
            return Choice(0, (0.0,))
        runs = [self._runner(call) for call in calls]
        clock = time.process_time if runtime.thread_count() == 1 else time.perf_counter
        start = clock()
        runs[0](1)
        times = max(1, int(TURN / max(clock() - start, 1e-7)))
        rounds: list[list[float]] = [[] for _ in runs]
        for _ in range(ROUNDS):
            for run, found in zip(runs, rounds, strict=True):
                start = clock()
                run(times)
                found.append((clock() - start) / times)
        seconds = tuple(statistics.median(found[1:]) for found in rounds)
        best = min(range(len(seconds)), key=seconds.__getitem__)
        return Choice(best if seconds[best] < WORTH * seconds[0] else 0, seconds)

    def _runner(self, call: Call) -> Callable[[int], None]:
        """A function that runs the kernel so many times."""
        compiled = api.build_kernel(call.func, self._target)
        shapes = api.parameters(call.func)
        known = [not isinstance(o, Value) for o in call.operands]
        known += [False] * (len(shapes) - len(known))
        weights = sum(np.zeros(0, d).itemsize * int(np.prod(s)) for (s, d), k in zip(shapes, known, strict=True) if k)
        copies = max(1, min(COPIES, min(self._through, MOST) // max(weights, 1)))
        moved = [None if k else _tensor(s, d) for (s, d), k in zip(shapes, known, strict=True)]
        sets = [
            [m if m is not None else _tensor(s, d) for m, (s, d) in zip(moved, shapes, strict=True)]
            for _ in range(copies)
        ]
        turns: Iterator[list[Any]] = itertools.cycle(sets)

        def run(times: int) -> None:
            for _ in range(times):
                compiled(*next(turns))

        run(2)
        return run


def _tensor(shape: tuple[int, ...], dtype: str) -> Any:
    """An operand: numbers of a size that keeps sums far from overflow and from denormals."""
    array = runtime.aligned_empty(shape, dtype)
    array[...] = 1 if np.dtype(dtype).kind != "f" else 0.01
    return runtime.to_tensor(array)
