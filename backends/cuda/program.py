"""The runtime of modules compiled for CUDA: NumPy arrays in and out, everything between on the GPU."""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...ir.diagnostics import error
from ...ir.graph import Module
from ..backend import KernelCost
from ..tvm import api, runtime
from ..tvm.isa import host_architecture
from ..tvm.lowering.elements import array_of
from ..tvm.lowering.graph import Plan
from ..tvm.profile import ops_of
from ..tvm.program import ENTRY, LIBRARY, TvmProgram, stored_plan
from . import driver
from .target import kernel_seconds
from .toolkit import Resources

__all__ = ["CODE", "HOST", "CudaProgram", "load_program"]

HOST = "baseline"  # what the code that launches the kernels is compiled for
CODE = "kernels.fatbin"
RUNS = 11


class CudaProgram(TvmProgram):
    """A module compiled for an architecture. It is built and saved anywhere; to run it takes a GPU: IG0515.

    `code` is the machine code, a fatbin for cuobjdump and profilers; `resources` are registers, shared memory and
    spills of its kernels, by name.
    """

    def __init__(
        self,
        module: Module,
        plan: Plan,
        arch: str,
        *,
        executable: Any = None,
        path: Path | None = None,
        code: bytes = b"",
        resources: Mapping[str, Resources] | None = None,
    ) -> None:
        super().__init__(module, plan, HOST, executable=executable)
        self.arch, self.code, self.resources, self._path = arch, code, resources or {}, path

    @functools.cached_property
    def loaded(self) -> runtime.LoadedModule | None:
        if self._executable is None and self._path is None:
            return None
        problem = driver.gpu_problem(self.arch)
        if problem:
            hint = "run the artifact on a machine with such a GPU, or compile for --target cpu"
            raise error("IG0515", f"code for {self.arch} does not run here: {problem}", hint=hint)
        driver.load_runtime()
        if self._path is not None:
            return runtime.load_library(self._path, "cuda")
        return api.load_executable(self._executable, "cuda")

    @functools.cached_property
    def _constants(self) -> list[Any]:
        return [runtime.on_device(w, "cuda") for w in self._plan.weights]

    def arguments(self, arrays: Sequence[Any]) -> list[Any]:
        """What `main` takes, on the GPU; weights stay there from call to call."""
        sizes = [] if self._sizes is None else [self._sizes(arrays)]
        return [*sizes, *(runtime.on_device(array_of(a), "cuda") for a in arrays), *self._constants]

    def array(self, tensor: Any) -> Any:
        return runtime.from_device(tensor)

    def kernel_costs(self, arrays: Sequence[Any] | None = None) -> list[KernelCost]:
        """See `backends.backend.Profiled`. Measured kernel by kernel, each from an idle GPU to an idle one."""
        found = []
        for name, position in self.kernels:
            node = self.module.main.nodes[position]
            seconds, bound = kernel_seconds(node, self.arch) if position >= 0 else (0.0, "")
            found.append(KernelCost(name, ops_of(node) if position >= 0 else ("copy",), seconds, bound=bound))
        if arrays is None or self.loaded is None:
            return found
        with self._lock:
            times = self._measured(self.loaded, self.arguments(arrays))
        return [replace(cost, measured=seconds) for cost, seconds in zip(found, times, strict=True)]

    def _measured(self, loaded: runtime.LoadedModule, arguments: list[Any]) -> list[float]:
        """Medians of the seconds of each kernel over some runs."""
        wait, device = runtime.ffi().get_global_func("runtime.Device_StreamSync"), runtime.ffi().device("cuda", 0)
        main, ours = loaded.function(ENTRY), {name for name, _ in self.kernels}
        runs: list[list[float]] = []

        def around(name: str, call: Callable[[], Any]) -> None:
            wait(device, 0)
            start = time.perf_counter()
            call()
            wait(device, 0)
            if name in ours:  # what else is called computes shapes
                runs[-1].append(time.perf_counter() - start)

        with loaded.instrumented(around):
            for _ in range(RUNS):
                runs.append([])
                main(*arguments)
        return [statistics.median(of_one) for of_one in zip(*runs, strict=True)]

    def save(self, folder: Path) -> dict[str, Any]:
        resources = {name: vars(r) for name, r in self.resources.items()}
        if self.code:
            (folder / CODE).write_bytes(self.code)
        return {**super().save(folder), "arch": self.arch, "resources": resources}


def load_program(folder: Path, info: Mapping[str, Any], module: Module) -> CudaProgram:
    """The program that `save` wrote; its kernels are loaded when it is first run. IG0505 on another kind of machine."""
    if info["architecture"] != host_architecture():
        what = f"the artifact is for GPUs of {info['architecture']} machines, this one is {host_architecture()}"
        raise error("IG0505", what, hint="compile the model again here")
    path = None if info["library"] is None else folder / LIBRARY
    resources = {name: Resources(**r) for name, r in info["resources"].items()}
    return CudaProgram(module, stored_plan(folder, info, module), info["arch"], path=path, resources=resources)
