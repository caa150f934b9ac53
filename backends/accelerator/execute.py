"""A compiled graph: programs of the accelerator, and what the host does before, between and after them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...ir.graph import Graph, Node, Value
from ...ir.interpret import run_node
from .emit.groups import Stage, stages
from .emit.network import Fusion, Map, Program, program_of
from .emit.tensors import Tensor
from .formats import DENSE, Format
from .hierarchy import Hierarchy
from .simulate.functional import simulate

__all__ = ["Executable", "borders", "emitted", "run_program"]


@dataclass(frozen=True)
class Executable:
    """The stages of a graph in order; `programs[i]` is None where stage i is the host's."""

    graph: Graph
    stages: tuple[Stage, ...]
    borders: tuple[tuple[tuple[Value, ...], tuple[Value, ...]], ...]
    programs: tuple[Program | None, ...]

    def run(self, arrays: Sequence[Any]) -> list[Any]:
        """Outputs of the graph, the accelerator's part bit for bit as its programs compute it."""
        known: dict[Value, Any] = dict(zip(self.graph.inputs, arrays, strict=True))
        for stage, (inputs, outputs), program in zip(self.stages, self.borders, self.programs, strict=True):
            if program is None:
                for node in stage.nodes:
                    _host(node, known)
                continue
            found = run_program(program, [known[v] for v in inputs])
            known.update(zip(outputs, found, strict=True))
        return [_value(v, known) for v in self.graph.outputs]


def emitted(
    graph: Graph, machine: Hierarchy, find: Map, form: Format = DENSE, fusion: Fusion | None = None
) -> Executable:
    """Emit what of the graph the machine runs; the host does the rest. Sparse weights are stored in `form`.

    With `fusion` layers run in segments whose tensors stay on the chip, where that is better.
    """
    parts = stages(graph)
    around = borders(graph, parts)
    programs: list[Program | None] = []
    for stage, (inputs, outputs) in zip(parts, around, strict=True):
        programs.append(program_of(stage, inputs, outputs, machine, find, form, fusion) if stage.groups else None)
    return Executable(graph, tuple(parts), tuple(around), tuple(programs))


def borders(graph: Graph, parts: Sequence[Stage]) -> list[tuple[tuple[Value, ...], tuple[Value, ...]]]:
    """Of each stage of the accelerator what goes in and what comes out; nothing of the host's."""
    return [_border(graph, parts, i) if stage.groups else ((), ()) for i, stage in enumerate(parts)]


def _border(graph: Graph, parts: Sequence[Stage], number: int) -> tuple[tuple[Value, ...], tuple[Value, ...]]:
    """What a stage takes from the others and what they (or the caller) take from it."""
    mine = [n for g in parts[number].groups for n in g.nodes]
    made = {v for n in mine for v in n.outputs}
    inputs = dict.fromkeys(v for n in mine for v in n.inputs if v is not None and v not in made and not _constant(v))
    others = [
        n for i, p in enumerate(parts) if i != number for n in (*p.nodes, *(n for g in p.groups for n in g.nodes))
    ]
    wanted = {v for n in others for v in n.inputs} | set(graph.outputs)
    return tuple(inputs), tuple(v for n in mine for v in n.outputs if v in wanted)


def run_program(program: Program, arrays: Sequence[Any]) -> list[Any]:
    """One run on the functional simulator; arrays in the graph's layout, codes of 8 bits."""
    dram = np.zeros(program.dram, np.uint8)
    dram[: len(program.constants)] = np.frombuffer(program.constants, np.uint8)
    for tensor, array in zip(program.inputs, arrays, strict=True):
        data = np.asarray(array).reshape(tensor.shape)
        if tensor.strides is not None:
            _seen(dram, tensor)[:] = data
            continue
        if data.ndim == 4:  # channels last
            data = np.moveaxis(data, 1, -1)
        raw = np.frombuffer(np.ascontiguousarray(data).tobytes(), np.uint8)
        dram[tensor.base : tensor.base + len(raw)] = raw
    simulate(program.queues, dram, program.local)
    return [_taken(dram, t) for t in program.outputs]


def _seen(dram: Any, t: Tensor) -> Any:
    """A tensor of rows in DRAM."""
    assert t.strides is not None
    dtype = np.dtype(f"{'i' if t.signed else 'u'}{t.bits // 8}")
    size = sum((n - 1) * s for n, s in zip(t.shape, t.strides, strict=True)) + dtype.itemsize
    return np.lib.stride_tricks.as_strided(dram[t.base : t.base + size].view(dtype), t.shape, t.strides)


def _taken(dram: Any, t: Tensor) -> Any:
    if t.strides is not None:
        return _seen(dram, t).copy()
    raw = dram[t.base : t.base + math.prod(t.shape)].view(np.int8 if t.signed else np.uint8)
    if len(t.shape) != 4:
        return raw.reshape(t.shape).copy()
    n, c, h, w = t.shape
    return np.ascontiguousarray(np.moveaxis(raw.reshape(n, h, w, c), -1, 1))


def _host(node: Node, known: dict[Value, Any]) -> None:
    found = run_node(node, [None if v is None else _value(v, known) for v in node.inputs], {})
    known.update(zip(node.outputs, found, strict=True))


def _value(v: Value, known: Mapping[Value, Any]) -> Any:
    return v.node.constant.array if _constant(v) and v.node is not None and v.node.constant is not None else known[v]


def _constant(v: Value) -> bool:
    return v.node is not None and v.node.constant is not None
