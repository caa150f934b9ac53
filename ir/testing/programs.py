"""Whole random programs."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import numpy as np

from ..graph import Graph
from .growth import Array, Growth, data, tensor
from .recipes import RECIPES

__all__ = ["graphs", "random_graph"]


class _Random:
    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.queue: list[float] = []

    def below(self, n: int) -> int:
        if not self.queue:
            self.queue = self.rng.random(4096).tolist()
        return int(self.queue.pop() * n)


class _Drawn:
    def __init__(self, draw: Any) -> None:
        self.draw = draw

    def below(self, n: int) -> int:
        return self.draw(st.integers(0, n - 1)) if n > 1 else 0


def random_graph(rng: np.random.Generator, nodes: int, *, named: bool = True) -> Graph:
    """A graph of about `nodes` nodes; `named` gives some values odd names and locations."""
    grown = Growth(_Random(rng), RECIPES, named=named)
    while len(grown.editor.nodes) < nodes:
        grown.step()
    return grown.finish()


@st.composite
def graphs(draw: Any, max_nodes: int = 12, *, named: bool = True) -> tuple[Graph, list[Array]]:
    """Graphs of at most about `max_nodes` steps, each with arrays for its inputs."""
    grown = Growth(_Drawn(draw), RECIPES, named=named)
    for _ in range(draw(st.integers(1, max_nodes))):
        grown.step()
    graph = grown.finish()
    sizes = {"N": 1 + draw(st.integers(0, 2))}
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    shapes = [tuple(d if isinstance(d, int) else sizes["N"] for d in v.type.shape) for v in graph.inputs]
    return graph, [data(rng, s, tensor(v).elem) for s, v in zip(shapes, graph.inputs, strict=True)]
