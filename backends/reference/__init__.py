"""The target `reference`: the interpreter. Slow, complete, and by definition right; it runs dynamic shapes too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...ir.graph import Graph, Module, Node
from ...ir.interpret import evaluate
from ...ir.target import Cost, node_cost

__all__ = ["BACKEND", "Options", "Reference"]


@dataclass(frozen=True)
class Options:
    """None: there is one way to be right."""


@dataclass(frozen=True)
class Target:
    """Runs everything; the cost counts operations and bytes, not seconds."""

    name: str = "reference"

    def legal(self, node: Node) -> str:
        return ""

    def cost(self, graph: Graph) -> Cost:
        flops = read = written = 0
        for node in graph.nodes:
            one = node_cost(node)
            flops, read, written = flops + one.flops, read + one.bytes_read, written + one.bytes_written
        return Cost(flops, read, written)


@dataclass(frozen=True)
class Program:
    """The module itself."""

    module: Module

    def run(self, arrays: Sequence[Any]) -> list[Any]:
        return list(evaluate(self.module.main, arrays))

    def save(self, folder: Path) -> dict[str, Any]:
        return {}  # model.ig, which every artifact has, is the program


class Reference:
    """The backend; see the module."""

    name = "reference"
    summary = "the interpreter on NumPy: slow, complete, and by definition right"
    options = Options

    def target(self, options: Options) -> Target:
        return Target()

    def pipeline(self, options: Options) -> str:
        return ""

    def build(self, module: Module, options: Options) -> Program:
        return Program(module)

    def load(self, folder: Path, info: Mapping[str, Any], module: Module, options: Options) -> Program:
        return Program(module)


BACKEND = Reference()
