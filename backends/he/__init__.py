"""The target `he`: a CKKS circuit that computes on encrypted data. Engines are imported when a program runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ...ir.graph import Graph, Module, Node
from ...ir.target import Cost, node_cost

if TYPE_CHECKING:
    from .program import HeProgram

__all__ = ["BACKEND", "HeBackend", "HeOptions", "HeTarget"]

LEGAL = ("nn.conv", "nn.matmul", "nn.avg_pool", "math.add", "math.mul", "math.reduce_mean", "approx.poly")
SAMPLES = 64  # of the calibration data whose ranges are taken
TRIED = 1  # of them goes through the circuit itself
STRUCTURAL = ("const", "shape.reshape", "shape.squeeze", "shape.unsqueeze", "shape.slice", "shape.pad")


def _option(default: Any, doc: str) -> Any:
    return field(default=default, metadata={"doc": doc})


@dataclass(frozen=True)
class HeOptions:
    """See docs/he.md."""

    engine: Literal["seal", "lattigo", "sim"] = _option("seal", "what computes: seal, lattigo, or sim (no encryption)")
    security: Literal[128, 0] = _option(128, "bits against a classical computer; 0 is for tests, and stamped so")
    ring: int = _option(0, "the ring degree N; 0 for the smallest that does")
    scale: int = _option(0, "log2 of the scale; 0 for the largest that does")
    bootstrap: Literal["auto", "always", "never"] = _option("auto", "bootstraps: where levels are too few otherwise")
    degree: Literal[2, 4, 8] = _option(2, "of the polynomials that stand for activations")
    hoist: bool = _option(False, "rotations of a layer in one call: faster, a key for each (lattigo, sim)")
    cache: int = _option(0, "MB of encoded plaintexts kept for the next sample; 0: a quarter of the usable memory")
    bits: int = _option(6, "of the largest output that must be right on calibration data; 0 to ask nothing")


@dataclass(frozen=True)
class HeTarget:
    """Which ops have an encrypted form. The cost counts operations in the clear; a program says what it will take."""

    name: str = "he"

    def legal(self, node: Node) -> str:
        if node.op.name in (*LEGAL, *STRUCTURAL):
            return ""
        return f"`{node.op.name}` is no sum, product or polynomial"

    def cost(self, graph: Graph) -> Cost:
        total = Cost()
        for node in graph.nodes:
            one = node_cost(node)
            total = Cost(
                total.flops + one.flops, total.bytes_read + one.bytes_read, total.bytes_written + one.bytes_written
            )
        return total


class HeBackend:
    """See `backends.backend.Backend`."""

    name = "he"
    summary = "encrypted data: a CKKS circuit for SEAL or Lattigo; the server sees neither inputs nor results"
    options = HeOptions

    def target(self, options: HeOptions) -> HeTarget:
        return HeTarget()

    def pipeline(self, options: HeOptions) -> str:
        return f"freeze,canonicalize,polynomial{{degree={options.degree}}},fold"

    def build(self, module: Module, options: HeOptions) -> HeProgram:
        return self.build_on(module, options, ())

    def build_on(self, module: Module, options: HeOptions, batches: Sequence[Mapping[str, Any]]) -> HeProgram:
        """See `backends.backend.Sampled`: values are scaled to fit, and the circuit is tried on `sim` (IG0551)."""
        from .compile import compile_graph
        from .gate import check
        from .program import HeProgram

        name = module.main.inputs[0].name
        samples = [x[None] for batch in batches for x in batch.get(name, ())][:SAMPLES]

        made = compile_graph(
            module.main,
            options.engine,
            ring=options.ring or None,
            scale=options.scale or None,
            bootstrap={"auto": None, "always": True, "never": False}[options.bootstrap],
            insecure=options.security == 0,
            hoist=options.hoist,
            samples=samples,
        )
        if options.cache:
            made.circuit.room = options.cache << 20
        if samples and options.bits:
            check(made.circuit, made.interface, samples[:TRIED], bits=options.bits)
        return HeProgram(made.circuit, made.interface)

    def load(self, folder: Path, info: Mapping[str, Any], module: Module, options: HeOptions) -> HeProgram:
        from .program import load_program

        program = load_program(Path(folder), info)
        if options.cache:
            program.circuit.room = options.cache << 20
        return program


BACKEND = HeBackend()
