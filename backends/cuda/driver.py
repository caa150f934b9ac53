"""The NVIDIA driver: whether there is one and what it can run; and TVM's CUDA runtime on top of it, or without it.

TVM's CUDA runtime, which also packs machine code into libraries, is linked against libcuda and libcudart. libcudart
comes from PyPI or the toolkit; libcuda belongs to the driver, so that a machine without one gets a library of the same
symbols, each of which answers that there is no device.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import subprocess
import tempfile
from pathlib import Path

from ...ir.diagnostics import error
from ..tvm import runtime
from .toolkit import find_nvcc, packaged

__all__ = ["capability", "gpu_name", "gpu_problem", "load_runtime"]

NO_DEVICE = 100  # CUDA_ERROR_NO_DEVICE
_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*
CUDA = 13  # the version that TVM's runtime is made for, and drivers have to know

_SYMBOLS = (
    "cuDeviceGetName", "cuFuncSetAttribute", "cuGetErrorName", "cuGetErrorString", "cuLaunchKernelEx",
    "cuModuleGetFunction", "cuModuleLoadData", "cuModuleUnload", "cuTensorMapEncodeTiled",
)  # fmt: skip


@functools.cache
def capability() -> tuple[int, int] | str:
    """The compute capability of the first GPU, or why there is none."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "there is no NVIDIA driver (libcuda.so.1)"
    version, device, major, minor = (ctypes.c_int() for _ in range(4))
    if cuda.cuInit(0) or cuda.cuDeviceGet(ctypes.byref(device), 0):
        return "the NVIDIA driver finds no GPU"
    cuda.cuDriverGetVersion(ctypes.byref(version))
    if version.value < CUDA * 1000:
        have = f"{version.value // 1000}.{version.value % 1000 // 10}"
        return f"the NVIDIA driver is for CUDA {have}, and CUDA {CUDA} is needed (driver 580 or later)"
    cuda.cuDeviceGetAttribute(ctypes.byref(major), _MAJOR, device)
    cuda.cuDeviceGetAttribute(ctypes.byref(minor), _MINOR, device)
    return major.value, minor.value


def gpu_problem(arch: str) -> str:
    """Why code for an architecture does not run here, or nothing. Newer GPUs compile its PTX when they load it."""
    found = capability()
    if isinstance(found, str):
        return found
    have = found[0] * 10 + found[1]
    return f"the GPU has compute capability sm_{have}" if have < int(arch.removeprefix("sm_")) else ""


def gpu_name() -> str:
    """What the first GPU is called; empty where there is none."""
    if isinstance(capability(), str):
        return ""
    cuda, device, name = ctypes.CDLL("libcuda.so.1"), ctypes.c_int(), ctypes.create_string_buffer(256)
    cuda.cuDeviceGet(ctypes.byref(device), 0)
    cuda.cuDeviceGetName(name, len(name), device)
    return name.value.decode()


def load_runtime() -> None:
    """Load TVM's CUDA runtime, with a stand-in for the driver where there is none; IG0517 if parts are missing."""
    if runtime.ffi().get_global_func("device_api.cuda", allow_missing=True) is not None:
        return
    if isinstance(capability(), str):
        _load_stand_in()
    cudart = _cudart()
    if cudart is not None:
        ctypes.CDLL(str(cudart), mode=ctypes.RTLD_GLOBAL)
    found = importlib.util.find_spec("tvm")
    assert found is not None and found.submodule_search_locations
    try:
        ctypes.CDLL(str(Path(found.submodule_search_locations[0], "lib", "libtvm_runtime_cuda.so")))
    except OSError as e:
        what = f"TVM's CUDA runtime cannot be loaded: {e}"
        hint = f"pip install 'intaglio[cuda]' brings libcudart.so.{CUDA}, which it needs"
        raise error("IG0517", what, hint=hint) from e


def _cudart() -> Path | None:
    """libcudart of PyPI's package, or of the toolkit that nvcc is from; None leaves it to the system's search."""
    name = f"libcudart.so.{CUDA}"
    found, nvcc = packaged("nvidia-cuda-runtime", name), find_nvcc()
    if found is not None or nvcc is None:
        return found
    folders = [nvcc.resolve().parent.parent, *(p.parent for p in _roots(nvcc))]
    return next((p for f in folders for lib in ("lib64", "lib") if (p := f / lib / name).exists()), None)


def _roots(nvcc: Path) -> list[Path]:
    """Where the toolkit of an nvcc lies that is a script which calls another one."""
    said = subprocess.run([nvcc, "--dryrun", "-x", "cu", "/dev/null"], capture_output=True, text=True, check=False)
    lines = [x.partition("TOP=")[2] for x in said.stderr.splitlines() if "TOP=" in x]
    return [Path(line, "bin") for line in lines]


def _load_stand_in() -> None:
    """Load a libcuda that has no device. The file goes at once: what is loaded needs it no more."""
    with tempfile.TemporaryDirectory(prefix="intaglio-cuda-") as folder:
        source, path = Path(folder, "stub.c"), Path(folder, "libcuda.so.1")
        source.write_text("".join(f"int {name}(void) {{ return {NO_DEVICE}; }}\n" for name in _SYMBOLS))
        command = ["gcc", "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", str(source), "-o", str(path)]
        try:
            subprocess.run(command, capture_output=True, check=True)
        except (OSError, subprocess.CalledProcessError) as e:
            raise error("IG0517", "the target cuda needs gcc on machines without a GPU", hint="install gcc") from e
        ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
