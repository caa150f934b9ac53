"""The only door to TVM: every call into it goes through this module.

TVM renames its Python API at each release, so the rest of the backend sees only the functions below. TVM is
imported on first use; importing this module stays cheap.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import platform
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt

ALIGNMENT = 64
"""Bytes: generated code loads arguments with aligned vector instructions of up to this width."""

ISA_NAMES = ("avx512", "avx2", "baseline")

_ISA_FEATURES: Mapping[str, frozenset[str]] = {
    "avx512": frozenset({"avx512f", "avx512dq", "avx512bw", "avx512vl", "avx512cd", "avx2", "fma", "bmi2"}),
    "avx2": frozenset({"avx2", "fma", "bmi2"}),
}
_ISA_MCPU: Mapping[str, str] = {"avx512": "skylake-avx512", "avx2": "haswell", "baseline": "x86-64"}


@functools.cache
def modules() -> SimpleNamespace:
    """TVM and the parts of it in use: `tvm`, `tirx`, `relax`, `script` (TIR statement builders),
    `IRBuilder`.
    """
    # TVM's FFI imports torch whenever it is installed, which costs seconds; a None entry makes that import
    # fail fast.
    hide_torch = "torch" not in sys.modules
    if hide_torch:
        sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        import tvm
        from tvm import relax, tirx
        from tvm.script.ir_builder import IRBuilder
        from tvm.tirx.script.builder import ir as script
    finally:
        if hide_torch:
            del sys.modules["torch"]
    return SimpleNamespace(tvm=tvm, tirx=tirx, relax=relax, script=script, IRBuilder=IRBuilder)


def symbolic_dim(name: str) -> Any:
    """A symbolic dimension, for shapes of kernels and of Relax tensors."""
    return modules().tirx.Var(name, "int64")


# --- targets
# -------------------------------------------------------------------------------------------------------


@functools.cache
def host_cpu_flags() -> frozenset[str]:
    """CPU feature flags as the Linux kernel names them; empty where /proc/cpuinfo does not exist."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("flags"):
                return frozenset(line.partition(":")[2].split())
    except OSError:
        pass
    return frozenset()


def host_isa() -> str:
    """The widest of `ISA_NAMES` that this machine executes."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return "baseline"
    for name in ("avx512", "avx2"):
        if _ISA_FEATURES[name] <= host_cpu_flags():
            return name
    return "baseline"


def cpu_target(isa: str | None = None, *, cores: int | None = None) -> Any:
    """An LLVM target for an instruction set of `ISA_NAMES` (default: this machine's widest)."""
    isa = isa or host_isa()
    if isa not in ISA_NAMES:
        raise ValueError(f"unknown instruction set {isa!r}; expected one of {', '.join(ISA_NAMES)}")
    spec: dict[str, Any] = {"kind": "llvm", "num-cores": cores or os.cpu_count() or 1}
    if platform.machine().lower() in ("x86_64", "amd64"):
        spec["mcpu"] = _ISA_MCPU[isa]
        if isa == "avx512":
            # Skylake's LLVM tuning prefers 256-bit vectors; explicit 512-bit vectors need the preference
            # lifted.
            spec["mattr"] = ["-prefer-256-bit"]
    return modules().tvm.target.Target(spec)


# --- building and loading
# ------------------------------------------------------------------------------------------


def opaque_pipeline() -> Any:
    """Relax passes that lower a main function made of `call_tir` only and leave the PrimFuncs' schedules
    alone.
    """
    api = modules()
    t = api.relax.transform
    return api.tvm.transform.Sequential(
        [
            t.ToNonDataflow(),
            t.RemovePurityChecking(),
            t.CallTIRRewrite(),
            t.StaticPlanBlockMemory(),
            t.LowerAllocTensor(),
            t.KillAfterLastUse(),
            t.LowerRuntimeBuiltin(),
            t.ComputePrimValue(),
            t.VMShapeLower(),
            t.AttachGlobalSymbol(),
        ]
    )


def build_module(module: Any, target: Any) -> Any:
    """Compile an IRModule of a Relax main and scheduled PrimFuncs into an executable."""
    return modules().relax.build(module, target, relax_pipeline=opaque_pipeline())


def build_kernel(func: Any, target: Any) -> Any:
    """Compile one PrimFunc alone; returns a callable on TVM tensors (inputs, extras, output)."""
    tvm = modules().tvm
    module = tvm.IRModule({"main": func.with_attr("global_symbol", "main")})
    return tvm.compile(module, target)["main"]


def kernel_assembly(func: Any, target: Any) -> str:
    """The assembly text of one PrimFunc, for checks on spills and instruction choice."""
    tvm = modules().tvm
    module = tvm.IRModule({"main": func.with_attr("global_symbol", "main")})
    return str(tvm.compile(module, target).mod.inspect_source("asm"))


def single_call_module(func: Any, arg_shapes: Sequence[tuple[Any, ...]], out_shape: tuple[Any, ...]) -> Any:
    """An IRModule whose `main(*args)` calls one fp32 PrimFunc: the smallest thing `build_module` accepts."""
    api = modules()
    relax = api.relax
    builder = relax.BlockBuilder()
    args = [relax.Var(f"arg{i}", relax.TensorType(s, "float32")) for i, s in enumerate(arg_shapes)]
    kernel = builder.add_func(func, "kernel")
    with builder.function("main", args):
        with builder.dataflow():
            result = builder.emit_output(relax.call_tir(kernel, args, relax.TensorType(out_shape, "float32")))
        builder.emit_func_output(result)
    return builder.get()


_CHATTER = (b"Scope Saving:", b"Scope Loaded:")  # a line for each constant, as a warning


@contextlib.contextmanager
def _without_chatter() -> Iterator[None]:
    """TVM's C++ side warns of nothing when it writes and reads constants; whatever else it says is passed on."""
    try:
        stderr = os.dup(2)
    except OSError:  # a process without a standard error: nobody to be spared
        yield
        return
    with tempfile.TemporaryFile() as said:
        sys.stderr.flush()
        os.dup2(said.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(stderr, 2)
            said.seek(0)
            for line in said:
                if not any(c in line for c in _CHATTER):
                    os.write(stderr, line)
            os.close(stderr)


def export_library(executable: Any, path: str | os.PathLike[str]) -> None:
    """Write an executable of `build_module` as a shared library."""
    with _without_chatter():
        executable.export_library(os.fspath(path))


@dataclass(frozen=True)
class LoadedModule:
    """A compiled module bound to the CPU; `call` runs one of its functions on TVM tensors."""

    vm: Any

    def call(self, name: str, *args: Any) -> Any:
        return self.vm[name](*args)

    def __call__(self, *args: Any) -> Any:
        return self.vm["main"](*args)


def load_library(path: str | os.PathLike[str]) -> LoadedModule:
    """Load what `export_library` wrote."""
    api = modules()
    with _without_chatter():
        return LoadedModule(api.relax.VirtualMachine(api.tvm.runtime.load_module(os.fspath(path)), api.tvm.cpu()))


def load_executable(executable: Any) -> LoadedModule:
    """Bind an executable of `build_module` in this process, without a file."""
    api = modules()
    return LoadedModule(api.relax.VirtualMachine(executable, api.tvm.cpu()))


# --- tensors and threads
# -------------------------------------------------------------------------------------------


def aligned_empty(shape: Sequence[int], dtype: npt.DTypeLike = np.float32) -> npt.NDArray[Any]:
    """An uninitialised C-ordered array whose data starts at a multiple of `ALIGNMENT`."""
    dtype = np.dtype(dtype)
    size = math.prod(shape) * dtype.itemsize
    raw = np.empty(size + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + size].view(dtype).reshape(tuple(shape))


def is_aligned(array: npt.NDArray[Any]) -> bool:
    """Whether compiled code may read the array in place."""
    return bool(array.flags.c_contiguous and array.ctypes.data % ALIGNMENT == 0)


def to_tensor(array: npt.NDArray[Any]) -> Any:
    """A TVM tensor over an array: shares its memory where the array is aligned and writable, copies it
    otherwise.
    """
    runtime = modules().tvm.runtime
    if is_aligned(array) and array.flags.writeable and array.size:
        return runtime.from_dlpack(array)
    return runtime.tensor(np.ascontiguousarray(array))


def empty_tensor(shape: Sequence[int], dtype: str = "float32") -> Any:
    """An uninitialised TVM tensor on the CPU."""
    return modules().tvm.runtime.empty(tuple(shape), dtype)


def to_numpy(tensor: Any) -> npt.NDArray[Any]:
    """A NumPy array over a TVM tensor's memory (a copy where sharing is impossible)."""
    try:
        return np.from_dlpack(tensor)
    except (BufferError, RuntimeError, TypeError):
        return np.asarray(tensor.numpy())


def set_threads(count: int) -> None:
    """Number of threads that parallel loops run on, this thread included; at most the number of cores."""
    if count < 1:
        raise ValueError(f"the number of threads must be at least 1, not {count}")
    # The pool never outgrows the size it is created with, by default half the cores: have it made for all of
    # them, then let the call choose how many work (mode 1: fastest cores first).
    os.environ.setdefault("TVM_NUM_THREADS", str(os.cpu_count() or 1))
    modules().tvm.get_global_func("runtime.config_threadpool")(1, count)
