"""A microbenchmark of the machine, some seconds long: what `machine.Machine` holds.

The loops are kernels of our own like any other, so that the figures are what compiled code reaches. One thread is
timed in processor time, several in wall time; the fastest of several runs counts, because everything that disturbs a
run makes it slower.
"""

from __future__ import annotations

import datetime
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ...ir.host import cpu_name
from . import api, runtime
from .kernels import VECTOR_UNITS, VectorUnit
from .kernels.emit import Emitter
from .kernels.lowbit.dot import Bf16Dot, BytesDot, Dot
from .kernels.lowbit.tile import DotTile
from .kernels.tile import RegisterTile
from .machine import Level, Machine, Scaling

__all__ = ["calibrate"]

CHAINS = 12
"""Independent accumulators: enough to hide the latency of a multiply-add on two ports, few enough for 16 registers."""

DOT_TILE = (6, 2)
"""Rows and vectors of the tile of dot products that is timed: as many accumulators as CHAINS."""

STEPS = 1 << 15  # of a compute loop
SECONDS = 0.15  # for one figure, at least
CALLS = 64
BEYOND = 256 << 20  # bytes more than the last cache that are surely in memory
CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
USUAL_CACHES = (32 << 10, 512 << 10, 16 << 20)  # bytes, where the kernel does not tell

Observe = Callable[[str], None]


def calibrate(isa: str, observe: Observe = lambda step: None) -> Machine:
    """Measure this machine with the code of an instruction set. `observe` is told each step as it begins."""
    unit, target = VECTOR_UNITS[isa], api.cpu_target(isa)
    runtime.set_threads(1)
    try:
        observe("arithmetic")
        peaks = {"f32": _peak(unit, target)}
        if unit.vnni:  # without the instruction LLVM takes the products, which are always the same, out of the loop
            peaks["i8"] = _dot_peak(BytesDot(unit), target)
        if unit.bf16:
            peaks["bf16"] = _dot_peak(Bf16Dot(unit), target)
        observe("bandwidths")
        sizes = cache_sizes()
        beyond = min(4 * sizes[-1], sizes[-1] + BEYOND)
        levels = []
        for i, size in enumerate((*sizes, 0)):
            name = "memory" if size == 0 else f"L{i + 1}"
            # half of a cache, so that it is all there; memory is what no cache holds
            footprint = size // 2 if size else beyond
            levels.append(Level(name, size, _bandwidth(footprint, unit, target)))
        observe("calls")
        call, entry = _call(unit, target)
        observe("threads")
        scaling, fork = _threads(unit, target, beyond)
    finally:
        runtime.set_threads(os.cpu_count() or 1)
    day = datetime.date.today().isoformat()
    return Machine(cpu_name(), day, isa, peaks, tuple(levels), call, entry, fork, scaling)


def cache_sizes() -> tuple[int, ...]:
    """Bytes of the first core's data caches, from the nearest outwards."""
    found: dict[int, int] = {}
    for index in sorted(CACHES.glob("index*")):
        try:
            kind, level, size = ((index / name).read_text().strip() for name in ("type", "level", "size"))
        except OSError:
            continue
        unit = {"K": 1 << 10, "M": 1 << 20}.get(size[-1:], 1)
        if kind != "Instruction" and size.rstrip("KM").isdigit():
            found[int(level)] = int(size.rstrip("KM")) * unit
    return tuple(size for _, size in sorted(found.items())) or USUAL_CACHES


# --- kernels ----------------------------------------------------------------------------------------------------------


def compute_kernel(unit: VectorUnit, tasks: int, steps: int) -> Any:
    """x f32[2, lanes] -> y f32[tasks, CHAINS, lanes]: chains of multiply-adds, the tasks in parallel."""
    emit, lanes = Emitter(), unit.lanes
    with emit.function():
        x = emit.arg("x", (2, lanes))
        y = emit.arg("y", (tasks, CHAINS, lanes))
        with emit.parallel(tasks) as task:
            chains = RegisterTile(emit, CHAINS, 1, lanes)
            chains.update(lambda acc, i, _: emit.splat(emit.const(float(i)), lanes))
            scale, shift = (x[j, emit.ramp(0, lanes)] for j in (0, 1))
            with emit.serial(steps):
                chains.update(lambda acc, i, _: acc * scale + shift)
            for i in range(CHAINS):
                emit.store(y, (task, i, emit.ramp(0, lanes)), chains[i, 0])
    return emit.func


def dot_kernel(dot: Dot, steps: int) -> Any:
    """x [rows, depth], w [vectors, lanes * depth] -> y [rows, vectors, width]: `steps` times the dot products."""
    emit, (rows, vectors) = Emitter(), DOT_TILE
    with emit.function():
        x = emit.arg("x", (rows, dot.depth), dot.x_dtype)
        w = emit.arg("w", (vectors, dot.lanes * dot.depth), dot.weight_dtype)
        y = emit.arg("y", (rows, vectors, dot.lanes), dot.acc_dtype)
        with emit.llvm(dot.prelude):
            tile = DotTile(emit, dot, rows, vectors)
            with emit.serial(steps):
                tile.step(
                    lambda r: dot.word(emit, lambda j, width: x[r, emit.ramp(j, width)], dot.depth),
                    lambda v: w[v, emit.ramp(0, dot.lanes * dot.depth)],
                )
            sums = tile.finish()
            for r in range(rows):
                for v in range(vectors):
                    emit.store(y, (r, v, emit.ramp(0, dot.lanes)), sums[r, v])
    return emit.func


def read_kernel(unit: VectorUnit, tasks: int, size: int, times: int) -> Any:
    """x f32[tasks, size] -> y f32[tasks, CHAINS, lanes]: sums of everything, `times` over, the tasks in parallel.

    `size` is a multiple of CHAINS * lanes.
    """
    emit, lanes = Emitter(), unit.lanes
    step = CHAINS * lanes
    with emit.function():
        x = emit.arg("x", (tasks, size))
        y = emit.arg("y", (tasks, CHAINS, lanes))
        with emit.parallel(tasks) as task:
            chains = RegisterTile(emit, CHAINS, 1, lanes)
            chains.fill()
            with emit.serial(times), emit.serial(size // step) as block:
                chains.update(lambda acc, i, _: acc + x[task, emit.ramp(block * step + i * lanes, lanes)])
            for i in range(CHAINS):
                emit.store(y, (task, i, emit.ramp(0, lanes)), chains[i, 0])
    return emit.func


def copy_kernel(unit: VectorUnit) -> Any:
    """x f32[lanes] -> y f32[lanes]: a kernel that does next to nothing."""
    emit, lanes = Emitter(), unit.lanes
    with emit.function():
        x, y = emit.arg("x", (lanes,)), emit.arg("y", (lanes,))
        emit.store(y, (emit.ramp(0, lanes),), x[emit.ramp(0, lanes)])
    return emit.func


# --- figures ----------------------------------------------------------------------------------------------------------


def _peak(unit: VectorUnit, target: Any) -> float:
    """Operations a second of one thread."""
    return _operations(unit, 1) / _fastest(_ready(compute_kernel(unit, 1, STEPS), unit, 1, _coefficients(unit), target))


def _dot_peak(dot: Dot, target: Any) -> float:
    """Operations a second of one thread in dot products of small numbers."""
    rows, vectors = DOT_TILE
    kernel = api.build_kernel(dot_kernel(dot, STEPS), target)
    x, w = (
        runtime.to_tensor(_aligned(np.ones(shape, dtype)))
        for shape, dtype in (((rows, dot.depth), dot.x_dtype), ((vectors, dot.lanes * dot.depth), dot.weight_dtype))
    )
    y = runtime.empty_tensor((rows, vectors, dot.lanes), dot.acc_dtype)
    return 2 * rows * vectors * dot.lanes * dot.depth * STEPS / _fastest(lambda: kernel(x, w, y))


def _aligned(array: Any) -> Any:
    made = runtime.aligned_empty(array.shape, array.dtype)
    made[...] = array
    return made


def _operations(unit: VectorUnit, tasks: int) -> int:
    return 2 * unit.lanes * CHAINS * STEPS * tasks


def _coefficients(unit: VectorUnit) -> Any:
    """A scale below 1: chains that neither overflow nor reach the denormal numbers, which are slow."""
    return np.repeat(np.array([[0.5], [1.0]], np.float32), unit.lanes, axis=1)


def _bandwidth(footprint: int, unit: VectorUnit, target: Any, tasks: int = 1, clock: Any = time.process_time) -> float:
    """Bytes a second that `tasks` threads read together from `footprint` bytes."""
    step = CHAINS * unit.lanes
    size = max(1, footprint // (4 * step * tasks)) * step
    times = max(1, (4 << 20) // (4 * size * tasks))  # 4 MB at least, to be long beside the call
    func = _ready(read_kernel(unit, tasks, size, times), unit, tasks, np.ones((tasks, size), np.float32), target)
    return 4 * size * times * tasks / _fastest(func, clock)


def _ready(func: Any, unit: VectorUnit, tasks: int, x: Any, target: Any) -> Callable[[], Any]:
    """A kernel with its arguments."""
    kernel = api.build_kernel(func, target)
    given, made = runtime.to_tensor(_aligned(x)), runtime.empty_tensor((tasks, CHAINS, unit.lanes))
    return lambda: kernel(given, made)


def _fastest(run: Callable[[], Any], clock: Callable[[], float] = time.process_time) -> float:
    """Seconds of the fastest run."""
    run()
    best, end = float("inf"), time.perf_counter() + SECONDS
    while time.perf_counter() < end:
        start = clock()
        run()
        best = min(best, clock() - start)
    return best


def _call(unit: VectorUnit, target: Any) -> tuple[float, float]:
    """Seconds of a call of a kernel from a program, and of a run of a program, beside the kernels' work."""
    x = runtime.to_tensor(runtime.aligned_empty((unit.lanes,)))
    times = []
    for count in (1, CALLS):
        module = api.chain_module(copy_kernel(unit), (unit.lanes,), count)
        program = api.load_executable(api.build_module(module, target)).vm["main"]
        times.append(_fastest(lambda program=program: [program(x) for _ in range(100)]) / 100)  # type: ignore[misc]
    call = max((times[1] - times[0]) / (CALLS - 1), 1e-9)
    return call, max(times[0] - call, 1e-9)


def _threads(unit: VectorUnit, target: Any, footprint: int) -> tuple[tuple[Scaling, ...], float]:
    """The scaling for 1, 2, 4, ... threads, and the seconds that a parallel loop of two or more costs."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    counts = sorted({1, cores, *(1 << i for i in range(cores.bit_length()) if 1 << i <= cores)})
    one, found, fork = (0.0, 0.0), [], 1e-6
    for count in counts:
        runtime.set_threads(count)
        spent = _fastest(
            _ready(compute_kernel(unit, count, STEPS), unit, count, _coefficients(unit), target), time.perf_counter
        )
        rates = (_operations(unit, count) / spent, _bandwidth(footprint, unit, target, count, time.perf_counter))
        one = rates if count == 1 else one
        found.append(Scaling(count, rates[0] / one[0], rates[1] / one[1]))
        if count > 1:
            empty = _ready(compute_kernel(unit, count, 1), unit, count, _coefficients(unit), target)
            alone = _ready(compute_kernel(unit, 1, 1), unit, 1, _coefficients(unit), target)
            fork = max(_fastest(empty, time.perf_counter) - _fastest(alone, time.perf_counter), 1e-9)
    return tuple(found), fork
