"""What passes may ask of the target `cpu`: what it runs, and roughly what it costs."""

from __future__ import annotations

from ...ir.diagnostics import IntaglioError
from ...ir.dims import UNKNOWN
from ...ir.graph import Graph, Node
from ...ir.target import Cost, node_cost
from ...ir.types import Tensor
from .lowering import LOWERINGS
from .lowering.nodes import check

__all__ = ["CpuTarget"]

# Rough figures of one core, to be replaced by a microbenchmark of the machine at hand.
FLOPS = {"avx512": 1.0e11, "avx2": 5.0e10, "baseline": 1.2e10}
SCALAR_FLOPS = 2.0e9  # what the generic loops reach where no template applies
BANDWIDTH = 2.0e10
CALL = 1.0e-6  # seconds to start a kernel

_FAST = {"nn.matmul", "nn.conv", "tile.kernel"}


class CpuTarget:
    """See `ir.target.Target`."""

    def __init__(self, isa: str) -> None:
        self.name, self.isa = "cpu", isa

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
        """A roofline: for each node the larger of arithmetic and memory traffic, and the start of a kernel."""
        total = Cost(seconds=0.0)
        for node in graph.nodes:
            if node.op.name == "const":
                continue
            cost = node_cost(node)
            peak = FLOPS[self.isa] if node.op.name in _FAST else SCALAR_FLOPS * 4
            seconds = CALL + max(cost.flops / peak, (cost.bytes_read + cost.bytes_written) / BANDWIDTH)
            total = total + Cost(cost.flops, cost.bytes_read, cost.bytes_written, seconds, cost.notes)
        return total
