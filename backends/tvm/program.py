"""The runtime of compiled modules: NumPy arrays in and out, and the files of an artifact."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...ir.diagnostics import error
from ...ir.graph import Module
from ...ir.interpret import bind_symbols
from . import api
from .lowering.elements import array_of
from .lowering.graph import Plan

__all__ = ["TvmProgram", "load_program"]

LIBRARY = "kernels.so"
CONSTANTS = "results.npz"
ENTRY = "main"


class TvmProgram:
    """A compiled module and the virtual machine that runs it. Calls are serialised: each uses all threads anyway."""

    def __init__(
        self, module: Module, plan: Plan, isa: str, loaded: api.LoadedModule | None, executable: Any = None
    ) -> None:
        self._plan, self._isa, self._executable = plan, isa, executable
        self._main = None if loaded is None else loaded.vm[ENTRY]
        self._sizes = _Sizes(module, plan.symbols) if plan.symbols else None
        self._dtypes = [v.type.dtype for v in module.main.outputs]  # type: ignore[union-attr]
        self._lock = threading.Lock()

    def run(self, arrays: Sequence[Any]) -> list[Any]:
        """See `backends.backend.Program`. Results are fresh arrays."""
        computed: Any = ()
        if self._main is not None:
            args = [_tensor(array_of(a)) for a in arrays]
            if self._sizes is not None:
                args.insert(0, self._sizes(arrays))
            with self._lock:
                computed = self._main(*args)
        results = []
        for (kind, what), dtype in zip(self._plan.outputs, self._dtypes, strict=True):
            if kind == "computed":
                array = api.to_numpy(computed[what])
                results.append(array if array.dtype == dtype else array.view(dtype))
            else:
                results.append(np.array(arrays[what] if kind == "input" else what))
        return results

    def save(self, folder: Path) -> dict[str, Any]:
        """One shared library with kernels and constants; what `load_program` has to know besides."""
        outputs: list[list[Any]] = []
        constants: dict[str, Any] = {}
        for kind, what in self._plan.outputs:
            if kind == "constant":
                constants[str(len(constants))] = array_of(what)
                what = len(constants) - 1
            outputs.append([kind, what])
        if constants:
            np.savez(folder / CONSTANTS, **constants)
        if self._main is not None:
            if self._executable is None:
                raise error("IG0505", "a program that was loaded cannot be saved again", hint="copy its folder")
            api.export_library(self._executable, folder / LIBRARY)
        return {
            "isa": self._isa,
            "entry": ENTRY,
            "library": LIBRARY if self._main is not None else None,
            "symbols": list(self._plan.symbols),
            "outputs": outputs,
            "dtypes": [str(d) for d in self._dtypes],
            "tvm": str(api.modules().tvm.__version__),
        }


class _Sizes:
    """The sizes of the symbolic dimensions, read off the inputs' shapes."""

    def __init__(self, module: Module, symbols: Sequence[str]) -> None:
        self._symbols = tuple(symbols)
        self._shapes = [v.type.shape for v in module.main.inputs]
        plain = {str(d): (i, axis) for i, shape in enumerate(self._shapes) for axis, d in enumerate(shape)}
        self._places = [plain.get(s) for s in self._symbols]
        self._tuple = api.modules().tvm.runtime.ShapeTuple

    def __call__(self, arrays: Sequence[Any]) -> Any:
        if None not in self._places:  # every symbol is the whole extent of some axis
            return self._tuple([arrays[p[0]].shape[p[1]] for p in self._places if p is not None])
        sizes: dict[str, int] = {}
        for shape, a in zip(self._shapes, arrays, strict=True):
            bind_symbols(shape, a.shape, sizes)
        return self._tuple([sizes[s] for s in self._symbols])


def _tensor(array: Any) -> Any:
    """What the virtual machine takes: the array's own memory where it is aligned and ours to write, else a copy."""
    if api.is_aligned(array) and array.flags.writeable and array.size:
        return api.to_tensor(array)
    copy = api.aligned_empty(array.shape, array.dtype)
    np.copyto(copy, array)
    return api.to_tensor(copy) if copy.size and copy.ndim else api.modules().tvm.runtime.tensor(copy)


def load_program(folder: Path, info: Mapping[str, Any], module: Module) -> TvmProgram:
    """The program that `save` wrote; IG0505 when this machine or this TVM cannot run it."""
    isa, have = info["isa"], api.host_isa()
    if api.ISA_NAMES.index(isa) < api.ISA_NAMES.index(have):
        what = f"the artifact is compiled for {isa}, this machine has {have}"
        raise error("IG0505", what, hint=f"compile the model again with --target cpu:isa={have}")
    loaded = None
    if info["library"] is not None:
        version = str(api.modules().tvm.__version__)
        if info["tvm"] != version:
            what = f"the artifact is compiled with TVM {info['tvm']}, installed is {version}"
            raise error("IG0505", what, hint="compile the model again, or install the version it was compiled with")
        loaded = api.load_library(folder / info["library"])
    stored = np.load(folder / CONSTANTS) if any(kind == "constant" for kind, _ in info["outputs"]) else {}
    outputs: list[tuple[str, Any]] = []
    for (kind, what), v in zip(info["outputs"], module.main.outputs, strict=True):
        outputs.append((kind, stored[str(what)].view(v.type.dtype) if kind == "constant" else what))  # type: ignore[union-attr]
    return TvmProgram(module, Plan(None, tuple(info["symbols"]), tuple(outputs)), isa, loaded)
