"""What emission makes: a program, the layers that it consists of, and what became of the segments of a fused plan."""

from __future__ import annotations

from dataclasses import dataclass

from ..isa.instructions import Instruction, Queue
from ..layer import Layer
from ..mapping import Mapping
from .stream import Writer
from .tensors import Tensor

__all__ = ["Piece", "Program", "Told", "counts"]


@dataclass(frozen=True)
class Piece:
    """A layer of the program, or a band of it: instructions `start[q]` to `stop[q]` of each queue.

    A program that is only to be timed has one piece for several bands that are alike: `times` of them.
    """

    name: str
    op: str
    layer: Layer | None
    mapping: Mapping | None
    start: dict[Queue, int]
    stop: dict[Queue, int]
    segment: int = -1  # of the fused segments of its program
    times: int = 1


@dataclass(frozen=True)
class Told:
    """A segment of the fused plan: `why` it does not run together, if it does not.

    `predicted`, `alone` and `together`: cycles and bits of DRAM by the plan, and by the event simulator for the program
    of its layers one by one and fused.
    """

    names: tuple[str, ...]
    way: str
    predicted: tuple[float, float]
    alone: tuple[float, float] = (0.0, 0.0)
    together: tuple[float, float] = (0.0, 0.0)
    why: str = ""


@dataclass(frozen=True)
class Program:
    """What runs: instructions by queue, the constants at the start of DRAM, and the sizes of both memories in bytes.

    `tensors` bytes of DRAM hold activations, `least` is what lives at the worst moment: no packing needs less.
    `segments`: what fusion chose, and what became of it.
    """

    queues: dict[Queue, list[Instruction]]
    constants: bytes
    dram: int
    local: int
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    pieces: tuple[Piece, ...] = ()
    tensors: int = 0
    least: int = 0
    segments: tuple[Told, ...] = ()


def counts(writer: Writer) -> dict[Queue, int]:
    """Where each queue is."""
    return {q: len(writer.queues[q]) for q in Queue}
