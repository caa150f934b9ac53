"""The runtime of compiled modules: NumPy arrays in and out, and the files of an artifact."""

from __future__ import annotations

import functools
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ...ir.diagnostics import error
from ...ir.graph import Module
from ...ir.interpret import bind_symbols
from ..backend import KernelCost
from . import api, runtime
from .cross import Linker
from .isa import architecture, host_architecture, host_isa, host_runs
from .lowering.elements import array_of
from .lowering.graph import Plan
from .weights import map_weights, write_weights

__all__ = ["TvmProgram", "load_program", "stored_plan"]

LIBRARY = "kernels.so"
WEIGHTS = "weights.bin"
CONSTANTS = "results.npz"
ENTRY = "main"
IN_PLACE = 1 << 13
"""Bytes from which on it is cheaper to wrap an array than to copy it."""


class TvmProgram:
    """A compiled module and the virtual machine that runs it. Calls are serialised: each uses all threads anyway.

    It comes as a library that was loaded, or as an executable, which is loaded when it is first run.
    """

    def __init__(
        self,
        module: Module,
        plan: Plan,
        isa: str,
        library: runtime.LoadedModule | None = None,
        executable: Any = None,
        linker: Linker | None = None,
    ) -> None:
        self.module, self.isa, self.kernels = module, isa, plan.kernels
        self._plan, self._isa, self._library, self._executable = plan, isa, library, executable
        self._linker = linker
        self._weights = [runtime.to_tensor(w) for w in plan.weights]
        self._slots = [_Slot() for _ in module.main.inputs]
        self._sizes = _Sizes(module, plan.symbols) if plan.symbols else None
        self._dtypes = [v.type.dtype for v in module.main.outputs]  # type: ignore[union-attr]
        distinct = {what for kind, what in plan.outputs if kind == "computed"}
        self._single = len(distinct) == 1  # then `main` returns it, and no tuple
        in_order = plan.outputs == tuple(("computed", i) for i in range(len(distinct)))
        self._plain = in_order and all(d.isbuiltin == 1 for d in self._dtypes)
        self._lock = threading.Lock()

    @functools.cached_property
    def loaded(self) -> runtime.LoadedModule | None:
        """What runs; None where nothing is computed."""
        if self._library is None and self._executable is not None:
            if not host_runs(self.isa):
                what = f"the program is compiled for {self.isa}, this machine has {host_isa()}"
                raise error("IG0505", what, hint="save it, and run the artifact on a machine that has it")
            return api.load_executable(self._executable)
        return self._library

    @functools.cached_property
    def _main(self) -> Any:
        return None if self.loaded is None else self.loaded.function(ENTRY)

    def run(self, arrays: Sequence[Any]) -> list[Any]:
        """See `backends.backend.Program`. Results are fresh arrays."""
        computed: Any = ()
        if self._main is not None:
            with self._lock:
                computed = self._main(*self.arguments(arrays))
        if self._single:
            computed = (computed,)
        if self._plain:
            return [self.array(tensor) for tensor in computed]
        results = []
        for (kind, what), dtype in zip(self._plan.outputs, self._dtypes, strict=True):
            if kind == "computed":
                results.append(self.array(computed[what]).view(dtype))
            else:
                results.append(np.array(arrays[what] if kind == "input" else what))
        return results

    def array(self, tensor: Any) -> Any:
        """A result of `main` as an array."""
        return runtime.to_numpy(tensor)

    def arguments(self, arrays: Sequence[Any]) -> list[Any]:
        """What `main` takes: sizes of the symbolic dimensions, inputs, weights. Good until the next call."""
        inputs = map(_Slot.tensor, self._slots, arrays)
        if self._sizes is None:
            return [*inputs, *self._weights]
        return [self._sizes(arrays), *inputs, *self._weights]

    def kernel_costs(self, arrays: Sequence[Any] | None = None) -> list[KernelCost]:
        """See `backends.backend.Profiled`."""
        from .profile import kernel_costs

        with self._lock:
            return kernel_costs(self, arrays)

    def save(self, folder: Path) -> dict[str, Any]:
        """One shared library with kernels and constants; what `load_program` has to know besides."""
        outputs: list[list[Any]] = []
        weights: list[dict[str, Any]] = []
        constants: dict[str, Any] = {}
        for kind, what in self._plan.outputs:
            if kind == "constant":
                constants[str(len(constants))] = array_of(what)
                what = len(constants) - 1
            outputs.append([kind, what])
        if constants:
            np.savez(folder / CONSTANTS, **constants)
        if self._executable is not None or self._library is not None:
            if self._executable is None:
                raise error("IG0505", "a program that was loaded cannot be saved again", hint="copy its folder")
            api.export_library(self._executable, folder / LIBRARY, self._linker)
            weights = write_weights(folder / WEIGHTS, self._plan.weights) if self._plan.weights else []
        return {
            "isa": self._isa,
            "architecture": architecture(self._isa),
            "entry": ENTRY,
            "library": LIBRARY if self._executable is not None else None,
            "symbols": list(self._plan.symbols),
            "outputs": outputs,
            "weights": weights,
            "kernels": [list(k) for k in self._plan.kernels],
            "dtypes": [str(d) for d in self._dtypes],
            "tvm": runtime.version(),
        }


class _Slot:
    """Where an input is passed: in its own memory if compiled code can read that, else in memory that is kept."""

    def __init__(self) -> None:
        self._shape: tuple[int, ...] | None = None
        self._memory: Any = None
        self._tensor: Any = None

    def tensor(self, given: npt.NDArray[Any]) -> Any:
        array = array_of(given)
        if array.nbytes >= IN_PLACE and array.flags.writeable and runtime.is_aligned(array):
            return runtime.to_tensor(array)
        if array.shape != self._shape:
            if not array.size:
                return runtime.to_tensor(array)
            self._shape, self._memory = array.shape, runtime.aligned_empty(array.shape, array.dtype)
            self._tensor = runtime.to_tensor(self._memory)
        np.copyto(self._memory, array)
        return self._tensor


class _Sizes:
    """The sizes of the symbolic dimensions, read off the inputs' shapes."""

    def __init__(self, module: Module, symbols: Sequence[str]) -> None:
        self._symbols = tuple(symbols)
        self._shapes = [v.type.shape for v in module.main.inputs]
        plain = {str(d): (i, axis) for i, shape in enumerate(self._shapes) for axis, d in enumerate(shape)}
        self._places = [plain.get(s) for s in self._symbols]
        self._last: tuple[list[int], Any] = ([], None)

    def __call__(self, arrays: Sequence[Any]) -> Any:
        if None not in self._places:  # every symbol is the whole extent of some axis
            found = [arrays[p[0]].shape[p[1]] for p in self._places if p is not None]
        else:
            sizes: dict[str, int] = {}
            for shape, a in zip(self._shapes, arrays, strict=True):
                bind_symbols(shape, a.shape, sizes)
            found = [sizes[s] for s in self._symbols]
        if found != self._last[0]:
            self._last = (found, runtime.shape_tuple(found))
        return self._last[1]


def load_program(folder: Path, info: Mapping[str, Any], module: Module) -> TvmProgram:
    """The program that `save` wrote; IG0505 when this machine or this TVM cannot run it."""
    isa, have, here = info["isa"], host_isa(), host_architecture()
    built_for = info.get("architecture", here)
    if built_for != here or not host_runs(isa):
        what = f"the artifact is compiled for {isa} ({built_for}), this machine has {have} ({here})"
        raise error("IG0505", what, hint=f"compile the model again with --target cpu:isa={have}")
    plan = stored_plan(folder, info, module)
    loaded = None if info["library"] is None else runtime.load_library(folder / info["library"])
    return TvmProgram(module, plan, isa, loaded)


def stored_plan(folder: Path, info: Mapping[str, Any], module: Module) -> Plan:
    """What `save` recorded of the plan; IG0505 when it was compiled with another TVM."""
    version = runtime.version()
    if info["library"] is not None and info["tvm"] != version:
        what = f"the artifact is compiled with TVM {info['tvm']}, installed is {version}"
        raise error("IG0505", what, hint="compile the model again, or install the version it was compiled with")
    stored = np.load(folder / CONSTANTS) if any(kind == "constant" for kind, _ in info["outputs"]) else {}
    outputs: list[tuple[str, Any]] = []
    for (kind, what), v in zip(info["outputs"], module.main.outputs, strict=True):
        outputs.append((kind, stored[str(what)].view(v.type.dtype) if kind == "constant" else what))  # type: ignore[union-attr]
    weights = map_weights(folder / WEIGHTS, info["weights"]) if info["weights"] else ()
    kernels = tuple((name, position) for name, position in info.get("kernels", ()))
    return Plan(None, tuple(info["symbols"]), tuple(outputs), tuple(weights), kernels)
