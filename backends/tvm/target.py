"""What passes may ask of the target `cpu`: what it runs, and what that should cost."""

from __future__ import annotations

from dataclasses import replace

from ...ir.diagnostics import IntaglioError
from ...ir.dims import UNKNOWN
from ...ir.graph import Graph, Node
from ...ir.target import Cost, node_cost
from ...ir.types import Tensor
from .cost import estimates
from .lowering import LOWERINGS
from .lowering.nodes import check
from .machine import Machine, known_machine

__all__ = ["CpuTarget"]


class CpuTarget:
    """See `ir.target.Target`. `machine` overrides the figures that are known of this one."""

    def __init__(self, isa: str, threads: int = 1, machine: Machine | None = None) -> None:
        self.name, self.isa, self.threads = "cpu", isa, threads
        self._machine = machine

    @property
    def machine(self) -> tuple[Machine, str]:
        """The figures that costs are computed with, and where they are from."""
        return known_machine(self.isa) if self._machine is None else (self._machine, self._machine.note())

    def legal(self, node: Node) -> str:
        """Why the node does not compile, or nothing."""
        if node.op.name == "const":
            return ""
        body = node.attrs.get("body")
        nodes = body.nodes if isinstance(body, Graph) else (node,)
        for inner in nodes:
            reason = "" if inner.op.name == "const" else self._reason(inner)
            if reason:
                return reason
        return ""

    def _reason(self, node: Node) -> str:
        values = [v for v in (*node.inputs, *node.outputs) if v is not None]
        if not all(isinstance(v.type, Tensor) for v in values):
            return f"`{node.op.name}` works on ciphertexts"
        if any(UNKNOWN in v.type.shape for v in values):
            return f"`{node.op.name}` has a data-dependent shape"
        if node.op.name not in LOWERINGS:
            return f"there is no lowering for `{node.op.name}`"
        try:
            check(node)
        except IntaglioError as e:
            return e.diagnostics[0].message
        return ""

    def cost(self, graph: Graph) -> Cost:
        """The sum over the nodes, each as one kernel (see `cost.py`), and the start of the program."""
        machine, note = self.machine
        total = Cost(seconds=machine.entry, notes=(note,))
        for node, found in estimates(graph, machine, self.threads):
            total = total + replace(node_cost(node), seconds=found.seconds)
        return total
