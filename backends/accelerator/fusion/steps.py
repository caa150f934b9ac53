"""The steps of a graph and the tensors between them: what fusion chooses from.

step     a product with the vector work on its results' way out, or vector work alone (`workload.Work`)
read     of a tensor: as I or W of the product, or by the vector work (V)
layout   (N, G, K, P, Q) of a tensor that a product made: P are its rows. A tensor of another step has the layout
         of its operand where the step works element by element, else none
rowwise  a read whose stripes of rows are those of its step; all other reads need the whole tensor
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..layer import Layer
from ..workload import Work

__all__ = ["Layout", "Read", "Step", "chain", "layout_of", "rowwise"]

Layout = tuple[int, int, int, int, int]


@dataclass(frozen=True)
class Read:
    """`tensor` is the index of the step that makes it, -1 for what comes from outside; `bits` what V reads of it."""

    tensor: int
    role: str
    bits: int = 0
    rowwise: bool = False


@dataclass(frozen=True)
class Step:
    """One unit of work. `bits`: the size of its result; `kept`: the result is one of the graph's."""

    work: Work
    reads: tuple[Read, ...] = ()
    bits: int = 0
    layout: Layout | None = None
    kept: bool = False
    fusible: bool = True

    @property
    def layer(self) -> Layer | None:
        return self.work.layer


def layout_of(layer: Layer) -> Layout:
    n, g, k, _, p, q, _, _ = layer.sizes
    return n, g, k, p, q


def rowwise(layout: Layout | None, layer: Layer) -> bool:
    """Whether a product reads, for a stripe of its rows, the stripe of a tensor of that layout and its halo."""
    if layout is None:
        return False
    n, g, k, p, q = layout
    e = layer.extent
    if layer.kind == "gemm":
        return (n, g, k, p, q) == (e["N"], e["G"], e["C"], e["P"], 1)
    return (n, g * k, p, q) == (e["N"], e["G"] * e["C"], *layer.image)


def chain(works: Sequence[Work]) -> list[Step]:
    """Works that each read the result of the one before as I (vector work: as V)."""
    steps: list[Step] = []
    for i, work in enumerate(works):
        before = steps[-1] if steps else None
        if work.layer is not None:
            tied = before is not None and rowwise(before.layout, work.layer)
            reads: tuple[Read, ...] = (Read(i - 1, "I", 0, tied), Read(-1, "W"))
            layout: Layout | None = layout_of(work.layer)
            bits = work.layer.words("O") * work.layer.bits[2]
        else:
            layout = before.layout if before is not None else None
            read, bits = sum(v.read_bits for v in work.vectors), sum(v.write_bits for v in work.vectors)
            reads = (Read(i - 1, "V", read, layout is not None),)
        steps.append(Step(work, reads, bits, layout, kept=i + 1 == len(works)))
    return steps
