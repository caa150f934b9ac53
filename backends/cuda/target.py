"""What passes may ask of the target `cuda`: it runs what `cpu` runs; its costs are a roofline of the data sheets."""

from __future__ import annotations

from dataclasses import replace

from ...ir.graph import Graph, Node
from ...ir.target import Cost, node_cost
from ..tvm.target import CpuTarget

__all__ = ["CudaTarget", "kernel_seconds"]

# Dense tensor-core f16 and memory of the A100, A10, L4, H100, B200 and RTX 5090, of which half can be had.
_PEAKS = {
    "sm_80": (312e12, 2.0e12),
    "sm_86": (125e12, 0.6e12),
    "sm_89": (121e12, 0.3e12),
    "sm_90": (989e12, 3.35e12),
    "sm_100": (2250e12, 8.0e12),
    "sm_120": (210e12, 1.8e12),
}
_SHARE = 0.5
_LAUNCH = 3e-6  # seconds to start a kernel


def kernel_seconds(node: Node, arch: str) -> tuple[float, str]:
    """The longer of arithmetic and memory traffic, and the start of a kernel; and which of them it is."""
    flops, bandwidth = (peak * _SHARE for peak in _PEAKS[arch])
    cost = node_cost(node)
    arithmetic, memory = cost.flops / flops, (cost.bytes_read + cost.bytes_written) / bandwidth
    bound = "start" if max(arithmetic, memory) < _LAUNCH else "arithmetic" if arithmetic > memory else "memory"
    return _LAUNCH + max(arithmetic, memory), bound


class CudaTarget(CpuTarget):
    """See `ir.target.Target`. Not calibrated: there is no machine at hand when one compiles for another."""

    def __init__(self, arch: str) -> None:
        super().__init__("baseline")
        self.name, self.arch = "cuda", arch

    def cost(self, graph: Graph) -> Cost:
        """The sum over the nodes, each as one kernel."""
        total = Cost(seconds=0.0)
        for node in graph.nodes:
            if node.op.name != "const":
                total = total + replace(node_cost(node), seconds=kernel_seconds(node, self.arch)[0])
        return total
