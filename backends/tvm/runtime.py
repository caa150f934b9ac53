"""The door to TVM's runtime: what it takes to load a compiled module and run it.

This is `tvm_ffi` and libtvm_runtime, 10 MB and a twentieth of a second; the compiler behind `api.py` is twenty times
that, and a program that only runs artifacts never loads it.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib.metadata
import importlib.util
import math
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = [
    "ALIGNMENT",
    "LoadedModule",
    "aligned_copy",
    "aligned_empty",
    "empty_tensor",
    "ffi",
    "hidden_torch",
    "is_aligned",
    "load_library",
    "set_threads",
    "shape_tuple",
    "thread_count",
    "to_numpy",
    "to_tensor",
    "version",
    "without_chatter",
]

ALIGNMENT = 64
"""Bytes: generated code loads arguments with aligned vector instructions of up to this width."""

_CPU, _POOLED = 1, 2  # DLPack's device type, and the allocator that keeps what is freed


@contextlib.contextmanager
def hidden_torch() -> Iterator[None]:
    """Keeps TVM's FFI from importing torch, which it does wherever it is installed, and which costs seconds."""
    hide = "torch" not in sys.modules
    if hide:
        sys.modules["torch"] = None  # type: ignore[assignment]  # makes the import fail at once
    try:
        yield
    finally:
        if hide:
            del sys.modules["torch"]


@functools.cache
def ffi() -> Any:
    """The module `tvm_ffi`, with the runtime's functions in it."""
    with hidden_torch():
        import tvm_ffi
    if "tvm" not in sys.modules:
        found = importlib.util.find_spec("tvm")
        if found is None or not found.submodule_search_locations:
            raise ModuleNotFoundError("no package `tvm`: pip install apache-tvm")
        folder = Path(found.submodule_search_locations[0]) / "lib"
        for name in ("libtvm_runtime", "libtvm_runtime_extra"):
            suffix = "dylib" if sys.platform == "darwin" else "so"
            ctypes.CDLL(str(folder / f"{name}.{suffix}"), mode=ctypes.RTLD_GLOBAL)
    return tvm_ffi


def version() -> str:
    """TVM's version."""
    return importlib.metadata.version("apache-tvm")


# --- modules ----------------------------------------------------------------------------------------------------------

_CHATTER = (b"Scope Saving:", b"Scope Loaded:")  # a line for each constant, as a warning


@contextlib.contextmanager
def without_chatter() -> Iterator[None]:
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


@dataclass(frozen=True)
class LoadedModule:
    """A compiled module bound to the CPU; `call` runs one of its functions on tensors."""

    vm: Any

    def function(self, name: str) -> Any:
        return self.vm[name]

    def call(self, name: str, *args: Any) -> Any:
        return self.vm[name](*args)

    def __call__(self, *args: Any) -> Any:
        return self.vm["main"](*args)

    @contextlib.contextmanager
    def instrumented(self, around: Callable[[str, Callable[[], Any]], None]) -> Iterator[None]:
        """Inside, every kernel is called by `around(name, call)`, which has to call `call` once."""

        def instrument(func: Any, symbol: str, before: bool, result: Any, *operands: Any) -> int:
            if not before or symbol.startswith("vm."):
                return 0  # go on
            around(symbol, lambda: func(*operands))
            return 1  # do not call it again

        self.vm["set_instrument"](instrument)
        try:
            yield
        finally:
            self.vm["set_instrument"](None)


def load_library(path: str | os.PathLike[str], device: str = "cpu") -> LoadedModule:
    """Load what `api.export_library` wrote."""
    module = ffi()
    with without_chatter():
        vm = module.load_module(os.fspath(path))["vm_load_executable"]()
        other = [] if device == "cpu" else [module.device(device, 0).dlpack_device_type(), 0, _POOLED]
        vm["vm_initialization"](*other, _CPU, 0, _POOLED)
        return LoadedModule(vm)


# --- tensors and threads ----------------------------------------------------------------------------------------------


def aligned_empty(shape: Sequence[int], dtype: npt.DTypeLike = np.float32) -> npt.NDArray[Any]:
    """An uninitialised C-ordered array whose data starts at a multiple of `ALIGNMENT`."""
    dtype = np.dtype(dtype)
    size = math.prod(shape) * dtype.itemsize
    raw = np.empty(size + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + size].view(dtype).reshape(tuple(shape))


def aligned_copy(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """A copy that compiled code may read."""
    copy = aligned_empty(array.shape, array.dtype)
    np.copyto(copy, array)
    return copy


def is_aligned(array: npt.NDArray[Any]) -> bool:
    """Whether compiled code may read the array in place."""
    return bool(array.flags.c_contiguous and array.ctypes.data % ALIGNMENT == 0)


def to_tensor(array: npt.NDArray[Any]) -> Any:
    """A tensor over the array's own memory where it is aligned and writable, else over a copy of it."""
    if not array.size:  # NumPy's strides of nothing are not those that compiled code wants to see
        return empty_tensor(array.shape, array.dtype.name)
    if not (is_aligned(array) and array.flags.writeable):
        array = aligned_copy(array)
    return ffi().from_dlpack(array)


def empty_tensor(shape: Sequence[int], dtype: str = "float32") -> Any:
    """An uninitialised tensor on the CPU."""
    module = ffi()
    allocate = module.get_global_func("runtime.TVMTensorAllocWithScope")
    return allocate(module.Shape(tuple(shape)), module.dtype(dtype), module.device("cpu", 0), None)


def on_device(array: npt.NDArray[Any], device: str) -> Any:
    """A copy of an array in the memory of a device."""
    module, host = ffi(), to_tensor(array)
    allocate = module.get_global_func("runtime.TVMTensorAllocWithScope")
    made = allocate(module.Shape(array.shape), module.dtype(array.dtype.name), module.device(device, 0), None)
    module.get_global_func("runtime.TVMTensorCopyFromTo")(host, made)
    return made


def from_device(tensor: Any) -> npt.NDArray[Any]:
    """A copy of a device's tensor."""
    module, host = ffi(), empty_tensor(tensor.shape, str(tensor.dtype))
    module.get_global_func("runtime.TVMTensorCopyFromTo")(tensor, host)
    device = tensor.device
    module.get_global_func("runtime.Device_StreamSync")(device, 0)
    return to_numpy(host)


def to_numpy(tensor: Any) -> npt.NDArray[Any]:
    """A NumPy array over a tensor's memory."""
    return np.from_dlpack(tensor)


def shape_tuple(sizes: Sequence[int]) -> Any:
    """Sizes of symbolic dimensions, as a compiled module takes them."""
    return ffi().Shape(tuple(sizes))


def set_threads(count: int) -> None:
    """Number of threads that parallel loops run on, this thread included; at most the number of cores."""
    if count < 1:
        raise ValueError(f"the number of threads must be at least 1, not {count}")
    # The pool never outgrows the size it is created with, by default half the cores: have it made for all of them,
    # then let the call choose how many work (mode 1: fastest cores first).
    os.environ.setdefault("TVM_NUM_THREADS", str(os.cpu_count() or 1))
    ffi().get_global_func("runtime.config_threadpool")(1, count)


def thread_count() -> int:
    """How many threads parallel loops run on."""
    return int(ffi().get_global_func("runtime.NumThreads")())
