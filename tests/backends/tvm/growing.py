"""What tests that grow random graphs share: choices from a seed, and the comparison with the interpreter."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from intaglio.compiler.api import compile as compile_model
from intaglio.ir import Editor, Graph, Module, evaluate
from intaglio.ir.dims import symbols

__all__ = ["Choices", "check", "pairs"]


class Choices:
    """A graph in the making, and what decides about it."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.e = Editor()

    def pick(self, *options: Any) -> Any:
        return options[self.rng.integers(len(options))]

    def chance(self, p: float) -> bool:
        return bool(self.rng.random() < p)


def pairs(graph: Graph, inputs: Sequence[Any], isa: str = "native", exact: bool = False) -> Iterator[tuple[Any, Any]]:
    """Each output as the CPU computes it and as the interpreter does, of one dtype."""
    dims = {name: (1, None) for v in graph.inputs for name in symbols(v.type.shape)}  # type: ignore[union-attr]
    compiled = compile_model(Module("m", {"main": graph}, dims), "cpu", isa=isa, threads=1, exact=exact)
    with np.errstate(all="ignore"):
        want = evaluate(graph, inputs, check=True)
    for got, expected in zip(compiled.program.run(inputs), want, strict=True):
        assert got.dtype == expected.dtype
        yield got, expected


def check(graph: Graph, inputs: Sequence[Any], isa: str = "native", exact: bool = False) -> None:
    """The outputs are the interpreter's, bit for bit."""
    for got, want in pairs(graph, inputs, isa, exact):
        np.testing.assert_array_equal(got, want)
