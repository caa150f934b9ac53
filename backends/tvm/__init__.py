"""The target `cpu`: kernels of our own, compiled by TVM. TVM is imported when something is built or loaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...ir.diagnostics import error
from ...ir.graph import Module
from ...ir.target import Target

if TYPE_CHECKING:
    from .program import TvmProgram

__all__ = ["BACKEND", "CpuOptions", "TvmBackend"]


@dataclass(frozen=True)
class CpuOptions:
    """`isa`: native, avx512, avx2 or baseline. `threads`: 0 for all cores. `exact`: see docs/tvm.md."""

    isa: str = "native"
    threads: int = 0
    exact: bool = False


class TvmBackend:
    """See `backends.backend.Backend`."""

    name = "cpu"
    summary = "x86-64 and other CPUs through TVM: AVX-512, AVX2 or baseline code"
    options = CpuOptions
    calibration_steps = 4

    def target(self, options: CpuOptions) -> Target:
        import os

        from .target import CpuTarget

        return CpuTarget(self._isa(options), options.threads or os.cpu_count() or 1)

    def pipeline(self, options: CpuOptions) -> str:
        return "fold,cse,fuse" if options.exact else "fold,cse,subpixel,fuse"

    def figures(self, options: CpuOptions) -> str:
        """See `backends.backend.Calibrated`."""
        from .machine import known_machine

        return known_machine(self._isa(options))[1]

    def calibrate(self, options: CpuOptions, observe: Callable[[str], None]) -> tuple[Path, str]:
        """See `backends.backend.Calibrated`; IG0505 where this machine does not have the instruction set."""
        from . import api
        from .calibrate import calibrate
        from .machine import default_path

        isa = self._isa(options)
        if not api.host_runs(isa):
            hint = f"use cpu:isa={api.host_isa()}"
            raise error("IG0505", f"this machine does not run {isa}, and cannot be measured with it", hint=hint)
        return default_path(isa), calibrate(isa, observe).dumps()

    def build(self, module: Module, options: CpuOptions) -> TvmProgram:
        from . import api
        from .kernels import VECTOR_UNITS
        from .lowering.graph import lower_module
        from .program import TvmProgram

        isa = self._isa(options)
        self._set_threads(options)
        plan = lower_module(module, VECTOR_UNITS[isa], exact=options.exact)
        if plan.module is None:
            return TvmProgram(module, plan, isa)
        executable = api.build_module(plan.module, api.cpu_target(isa))
        return TvmProgram(module, plan, isa, executable=executable)

    def load(self, folder: Path, info: Mapping[str, Any], module: Module, options: CpuOptions) -> TvmProgram:
        from .program import load_program

        self._set_threads(options)
        return load_program(Path(folder), info, module)

    def _isa(self, options: CpuOptions) -> str:
        from . import api

        if options.isa == "native":
            return api.host_isa()
        if options.isa not in api.ISA_NAMES:
            known = ", ".join(("native", *api.ISA_NAMES))
            raise error("IG0504", f"`{options.isa}` is no instruction set of cpu", hint=f"one of {known}")
        return options.isa

    def _set_threads(self, options: CpuOptions) -> None:
        import os

        from . import runtime

        runtime.set_threads(options.threads or os.cpu_count() or 1)


BACKEND = TvmBackend()
