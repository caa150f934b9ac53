"""What each kernel of a program takes: predicted by the cost model, and measured where it runs.

A kernel is measured in its place: what the one before has left in the caches is there, weights are where the last run
has left them. The clock is that of the calling thread where it works alone, so that other work on the machine does not
count; it shows about half a microsecond more than a kernel takes, for the call from here.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ...ir.graph import Graph, Node
from ..backend import KernelCost
from . import runtime
from .cost import estimate, footprint
from .kernels import VECTOR_UNITS
from .machine import Machine, known_machine

if TYPE_CHECKING:
    from .program import TvmProgram

__all__ = ["kernel_costs", "measure_kernels", "predict_kernels"]

SECONDS = 0.5
RUNS = (5, 200)  # at least, at most


def kernel_costs(program: TvmProgram, arrays: Sequence[Any] | None = None) -> list[KernelCost]:
    """Predictions for every kernel in the order of the calls, with measurements if there are inputs."""
    costs = predict_kernels(program, known_machine(program.isa)[0], runtime.thread_count())
    if arrays is None:
        return costs
    times = measure_kernels(program, arrays)
    assert [name for name, _ in times] == [c.name for c in costs], "the program calls what it was not built of"
    return [replace(c, measured=seconds) for c, (_, seconds) in zip(costs, times, strict=True)]


def predict_kernels(program: TvmProgram, machine: Machine, threads: int = 1) -> list[KernelCost]:
    """What the cost model says of each kernel; of copies between kernels it says nothing (0)."""
    graph = program.module.main
    whole = footprint(graph, VECTOR_UNITS[machine.isa])
    found = []
    for name, position in program.kernels:
        if position < 0:
            found.append(KernelCost(name, ("copy",), 0.0))
            continue
        node = graph.nodes[position]
        e = estimate(node, machine, threads, whole)
        found.append(KernelCost(name, ops_of(node), e.seconds, bound=e.bound))
    return found


def measure_kernels(program: TvmProgram, arrays: Sequence[Any]) -> list[tuple[str, float]]:
    """Name and median seconds of each kernel, in the order of the calls, over some half a second of runs."""
    if program.loaded is None:
        return []
    main, args = program.loaded.function("main"), program.arguments(arrays)
    clock = time.thread_time if runtime.thread_count() == 1 else time.perf_counter
    reading = min(-(clock() - clock()) for _ in range(100))
    ours = {name for name, _ in program.kernels}  # what else is called computes shapes
    runs: list[list[tuple[str, float]]] = []

    def around(name: str, call: Callable[[], Any]) -> None:
        start = clock()
        call()
        end = clock()
        if name in ours:
            runs[-1].append((name, max(end - start - reading, 0.0)))

    with program.loaded.instrumented(around):
        start = time.perf_counter()
        least, most = RUNS
        while len(runs) < least or (len(runs) < most and time.perf_counter() - start < SECONDS):
            runs.append([])
            main(*args)
    return [(calls[0][0], statistics.median(seconds for _, seconds in calls)) for calls in zip(*runs, strict=True)]


def ops_of(node: Node) -> tuple[str, ...]:
    """The ops of a kernel, constants left out."""
    body = node.attrs.get("body")
    nodes = body.nodes if isinstance(body, Graph) else (node,)
    return tuple(n.op.name for n in nodes if n.op.name != "const")
