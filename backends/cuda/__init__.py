"""The target `cuda`: kernels of our own for NVIDIA GPUs, compiled by TVM and nvcc. Compiling takes no GPU."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...ir.diagnostics import error
from ...ir.graph import Module
from ...ir.target import Target

if TYPE_CHECKING:
    from .program import CudaProgram

__all__ = ["BACKEND", "CudaBackend", "CudaOptions"]


def _option(default: Any, doc: str) -> Any:
    return field(default=default, metadata={"doc": doc})


@dataclass(frozen=True)
class CudaOptions:
    """See docs/cuda.md."""

    arch: str = _option("sm_80", "the oldest GPU that has to run it: sm_80, sm_86, sm_89, sm_90, sm_100, sm_120")
    fp16: bool = _option(False, "products of f32 are computed of operands rounded to f16, with sums in f32")
    exact: bool = _option(False, "each sum in one plain order, no tensor cores: slow, for comparing")


class CudaBackend:
    """See `backends.backend.Backend`."""

    name = "cuda"
    summary = "NVIDIA GPUs from Ampere on through TVM and nvcc: tensor cores; compiles without a GPU"
    options = CudaOptions

    def target(self, options: CudaOptions) -> Target:
        from .target import CudaTarget

        return CudaTarget(self._arch(options))

    def pipeline(self, options: CudaOptions) -> str:
        return "fold,cse,fuse" if options.exact else "integer,fold,cse,subpixel,fuse"

    def build(self, module: Module, options: CudaOptions) -> CudaProgram:
        from ..tvm import api
        from ..tvm.lowering.graph import lower_module
        from . import driver
        from .bind import SIMT, bind_module
        from .lower import Lowering
        from .program import CudaProgram
        from .source import complete
        from .toolkit import Compiled, check_nvcc, compile_code

        arch = self._arch(options)
        plan = lower_module(module, SIMT, exact=True, lower=Lowering(fp16=options.fp16, exact=options.exact))
        if plan.module is None:
            return CudaProgram(module, plan, arch)
        compiled: list[Compiled] = []

        def compile(source: str) -> bytes:
            compiled.append(compile_code(source, arch))
            return compiled[-1].code

        check_nvcc()
        driver.load_runtime()
        with api.cuda_compiler(complete, compile):
            executable = api.build_module(bind_module(plan.module), api.cuda_target(arch))
        code, resources = (compiled[-1].code, compiled[-1].kernels) if compiled else (b"", {})
        return CudaProgram(module, plan, arch, executable=executable, code=code, resources=resources)

    def load(self, folder: Path, info: Mapping[str, Any], module: Module, options: CudaOptions) -> CudaProgram:
        from .program import load_program

        return load_program(Path(folder), info, module)

    def _arch(self, options: CudaOptions) -> str:
        from .toolkit import ARCHITECTURES

        if options.arch not in ARCHITECTURES:
            known = ", ".join(ARCHITECTURES)
            raise error("IG0504", f"`{options.arch}` is no architecture of cuda", hint=f"one of {known}")
        return options.arch


BACKEND = CudaBackend()
