"""The target `cpu`: kernels of our own, compiled by TVM. TVM is imported when something is built or loaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...ir.diagnostics import error
from ...ir.graph import Module
from ...ir.target import Target
from .isa import ISA_NAMES, host_isa, host_runs

if TYPE_CHECKING:
    from .lowering.graph import Plan
    from .program import TvmProgram

__all__ = ["BACKEND", "CpuOptions", "TvmBackend"]


def _option(default: Any, doc: str) -> Any:
    return field(default=default, metadata={"doc": doc})


@dataclass(frozen=True)
class CpuOptions:
    """See docs/tvm.md."""

    isa: str = _option("native", f"instruction set: native (the widest of this machine), {', '.join(ISA_NAMES)}")
    threads: int = _option(0, "threads of parallel loops; 0 for all cores")
    exact: bool = _option(False, "each sum in one plain order, no Winograd: slow, for comparing")
    tune: bool = _option(False, "measure the best plans of each product and convolution, and keep what was fastest")


class TvmBackend:
    """See `backends.backend.Backend`."""

    name = "cpu"
    summary = "x86-64 and ARM CPUs through TVM: AVX-512, AVX2, NEON or baseline code"
    options = CpuOptions
    calibration_steps = 4

    def target(self, options: CpuOptions) -> Target:
        import os

        from .target import CpuTarget

        return CpuTarget(self._isa(options), options.threads or os.cpu_count() or 1)

    def pipeline(self, options: CpuOptions) -> str:
        return "fold,cse,fuse" if options.exact else "integer,fold,cse,subpixel,fuse"

    def figures(self, options: CpuOptions) -> str:
        """See `backends.backend.Calibrated`."""
        from .machine import known_machine

        return known_machine(self._isa(options))[1]

    def calibrate(self, options: CpuOptions, observe: Callable[[str], None]) -> tuple[Path, str]:
        """See `backends.backend.Calibrated`; IG0505 where this machine does not have the instruction set."""
        from .calibrate import calibrate
        from .machine import default_path

        isa = self._isa(options)
        if not host_runs(isa):
            hint = f"use cpu:isa={host_isa()}"
            raise error("IG0505", f"this machine does not run {isa}, and cannot be measured with it", hint=hint)
        return default_path(isa), calibrate(isa, observe).dumps()

    def build(self, module: Module, options: CpuOptions) -> TvmProgram:
        from . import api
        from .cross import linker_for
        from .kernels import VECTOR_UNITS
        from .lowering.graph import lower_module
        from .program import TvmProgram

        isa = self._isa(options)
        linker = linker_for(isa)
        self._set_threads(options)
        if options.tune:
            plan = self._tuned(module, isa, options)
        else:
            plan = lower_module(module, VECTOR_UNITS[isa], exact=options.exact)
        if plan.module is None:
            return TvmProgram(module, plan, isa)
        executable = api.build_module(plan.module, api.cpu_target(isa))
        return TvmProgram(module, plan, isa, executable=executable, linker=linker)

    def _tuned(self, module: Module, isa: str, options: CpuOptions) -> Plan:
        """The module lowered with measurements, which are kept; IG0505 where this machine cannot make them."""
        from .kernels import VECTOR_UNITS
        from .lowering.graph import lower_module
        from .runtime import thread_count
        from .tuner import Tuner
        from .tuning import Store, machine_key, store_path

        if not host_runs(isa):
            hint = "compile without tune, or on a machine that has it"
            raise error("IG0505", f"this machine does not run {isa}, and cannot measure its kernels", hint=hint)
        store = Store(store_path(isa), machine_key(thread_count()))
        try:
            tuner = Tuner(module.main, isa, store)
            return lower_module(module, VECTOR_UNITS[isa], exact=options.exact, lower=tuner)
        finally:
            store.save()

    def load(self, folder: Path, info: Mapping[str, Any], module: Module, options: CpuOptions) -> TvmProgram:
        from .program import load_program

        self._set_threads(options)
        return load_program(Path(folder), info, module)

    def _isa(self, options: CpuOptions) -> str:
        if options.isa == "native":
            return host_isa()
        if options.isa not in ISA_NAMES:
            known = ", ".join(("native", *ISA_NAMES))
            raise error("IG0504", f"`{options.isa}` is no instruction set of cpu", hint=f"one of {known}")
        return options.isa

    def _set_threads(self, options: CpuOptions) -> None:
        import os

        from . import runtime

        runtime.set_threads(options.threads or os.cpu_count() or 1)


BACKEND = TvmBackend()
