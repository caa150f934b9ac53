"""The target `accelerator`: layers mapped optimally to a machine that a file describes, costed, and its programs.

`machine` is a preset or a description; a compiled model carries `mapping.json`, and computes what the interpreter does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...ir.diagnostics import error
from ...ir.graph import Module
from ...ir.target import Target

if TYPE_CHECKING:
    from .program import AcceleratorProgram

__all__ = ["BACKEND", "AcceleratorBackend", "AcceleratorOptions"]

OBJECTIVES = ("edp", "energy", "latency")


@dataclass(frozen=True)
class AcceleratorOptions:
    """`machine`: a preset, or a description (.toml, .yaml of ZigZag, .cfg of SCALE-Sim).

    `objective` of the mappings: edp, energy or latency. `bits`: products are mapped as if their operands had that many;
    0 takes the model's own. `fuse`: layers run in segments whose tensors stay on the chip, where that is better; for a
    model without a program it is told what that would bring.
    """

    machine: str = "gemmini16"
    objective: str = "edp"
    bits: int = 0
    fuse: bool = False


class AcceleratorBackend:
    """See `backends.backend.Backend`."""

    name = "accelerator"
    summary = "a spatial accelerator that a file describes: exact mappings, cycles and energy of every layer"
    options = AcceleratorOptions

    def target(self, options: AcceleratorOptions) -> Target:
        from .target import AcceleratorTarget

        return AcceleratorTarget(self._checked(options))

    def pipeline(self, options: AcceleratorOptions) -> str:
        return "integer{whole},fold,cse,fuse"

    def build(self, module: Module, options: AcceleratorOptions) -> AcceleratorProgram:
        from .deploy import deployed
        from .program import AcceleratorProgram
        from .target import planned

        plan = planned(module.main, self._checked(options))
        assert plan.described is not None
        deployment, why = deployed(module.main, plan.described, options.objective, fuse=options.fuse)
        why = why or (deployment.gain() if deployment is not None else "")
        return AcceleratorProgram(module, replace(plan, notes=(*plan.notes, why)) if why else plan, deployment)

    def load(
        self, folder: Path, info: Mapping[str, Any], module: Module, options: AcceleratorOptions
    ) -> AcceleratorProgram:
        from .program import load_program

        return load_program(Path(folder), info, module)

    def _checked(self, options: AcceleratorOptions) -> AcceleratorOptions:
        if options.objective not in OBJECTIVES:
            raise error(
                "IG0532", f"`{options.objective}` is no objective of a mapping", hint=f"one of {', '.join(OBJECTIVES)}"
            )
        if not 0 <= options.bits <= 64:
            raise error("IG0533", f"products have operands of 1 to 64 bits, not {options.bits}", hint="0: the model's")
        return options


BACKEND = AcceleratorBackend()
