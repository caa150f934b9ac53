"""A CUDA device that is none: kernels compiled for the CPU, so that whole programs run without a GPU.

`emulated()` makes TVM's CPU stand in for the device's memory (for the rest of the process), and hands the CUDA source
that TVM generates to g++ with emulator.hpp instead of nvcc. Everything else is what happens with a GPU: the same
kernels, launches and virtual machine.
"""

from __future__ import annotations

import atexit
import functools
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from intaglio.backends import backend
from intaglio.backends.cuda import driver, lower, toolkit
from intaglio.backends.tvm import api

_load_runtime = driver.load_runtime
_LAUNCH = {"blockIdx.x": "grid.x", "blockIdx.y": "grid.y", "blockIdx.z": "grid.z",
           "threadIdx.x": "size.x", "threadIdx.y": "size.y", "threadIdx.z": "size.z"}  # fmt: skip


@contextmanager
def emulated() -> Iterator[None]:
    """While it lasts, modules for CUDA are built for the emulator; `tvm.cuda()` works, its memory is the CPU's."""
    tvm = api.modules().tvm
    _load_runtime()  # before ours takes the place of its device, for it refuses to come second
    build = tvm.get_global_func("target.build.cuda")
    tvm.register_global_func("device_api.cuda", tvm.get_global_func("device_api.cpu"), override=True)

    def emulate(module: Any, target: Any) -> Any:
        source = build(module, target).inspect_source("cuda")
        return tvm.runtime.load_module(str(_library(source, module)))

    tvm.register_global_func("target.build.cuda", emulate, override=True)
    try:
        yield
    finally:
        tvm.register_global_func("target.build.cuda", build, override=True)


def _library(source: str, module: Any) -> Path:
    """A shared library with a packed function for each kernel of a device module."""
    source = re.sub(
        r"extern __shared__ __align__\(\d+\) (\w+) (\w+)\[\];", r"\1* \2 = (\1*)emulated::dynamic_shared;", source
    )
    source = re.sub(r"__shared__ (alignas\(\d+\))", r"\1 static", source)
    parts = ['#include "emulator.hpp"', source]
    for var, func in module.functions.items():
        name = str(func.attrs["global_symbol"]) if "global_symbol" in func.attrs else var.name_hint
        parts.append(_packed(name, source, [str(t) for t in func.attrs["tirx.kernel_launch_params"]]))
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    (folder / "kernels.cpp").write_text("\n".join(parts))
    command = ["g++", *_options(), "-shared", "kernels.cpp", "-o", "kernels.so"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{folder}/kernels.cpp does not compile:\n{done.stderr[:3000]}")
    return folder / "kernels.so"


@functools.cache
def _options() -> tuple[str, ...]:
    """Of g++; the first folder of headers has ours compiled, which is most of the work."""
    folder, here = tempfile.mkdtemp(), Path(__file__).parent
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    includes = [f"-I{p}" for p in (here, *toolkit.include_folders())]
    options = ["-std=c++17", "-O1", "-w", "-fPIC"]
    command = [
        "g++",
        *options,
        *includes,
        "-x",
        "c++-header",
        here / "emulator.hpp",
        "-o",
        f"{folder}/emulator.hpp.gch",
    ]
    subprocess.run(command, check=True)
    return (*options, f"-I{folder}", *includes)


def _packed(name: str, source: str, launch: list[str]) -> str:
    """The function that TVM's host code calls: the kernel's arguments, then the sizes of the launch."""
    declared = re.search(rf"\b{name}\(([^)]*)\);", source)
    assert declared is not None, name
    types = [re.sub(r"(__restrict__)? *\w+$", "", p.strip()) for p in declared[1].split(",") if p.strip()]
    args = [
        f"({t})args[{i}].{'p' if '*' in t else 'd' if t in ('float', 'double') else 'i'}" for i, t in enumerate(types)
    ]
    sizes = [f"{_LAUNCH[tag]} = args[{len(types) + i}].i;" for i, tag in enumerate(launch) if tag in _LAUNCH]
    return f"""
extern "C" int __tvm_ffi_{name}(void*, const Any* args, int32_t count, Any* result) {{
  emulated::Index grid = {{1, 1, 1}}, size = {{1, 1, 1}};
  {" ".join(sizes)}
  emulated::launch(grid, size, [&] {{ {name}({", ".join(args)}); }});
  result->type = 0;
  result->i = 0;
  return 0;
}}"""


def emulator_problem() -> str:
    """Why the emulator cannot be built here, or nothing: it takes g++ and CUDA's headers."""
    if shutil.which("g++") is None:
        return "the emulator of CUDA needs g++"
    return "" if toolkit.find_nvcc() else "the emulator of CUDA needs CUDA's headers: pip install 'intaglio[cuda]'"


class Emulated:
    """The backend `cuda` on the emulator; `templates` are those that the last build used."""

    name = "cuda"

    def __init__(self) -> None:
        self.backend = backend("cuda")
        self.options = self.backend.options
        self.templates: list[str] = []

    def build(self, module: Any, options: Any) -> Any:
        self.templates = []
        code = toolkit.Compiled(b"none", {})
        with emulated(), patch.object(toolkit, "compile_code", return_value=code), self._noted():
            program = self.backend.build(module, options)
        with patch.object(driver, "gpu_problem", return_value=""):
            assert program.loaded is not program
        return program

    @contextmanager
    def _noted(self) -> Iterator[None]:
        """Note the names of the templates that make a kernel."""

        def noted(template: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any) -> Any:
                made = template(*args)
                self.templates += [] if made is None else [template.__name__]
                return made

            return call

        templates = {name: noted(template) for name, template in lower.TEMPLATES.items()}
        with patch.dict(lower.TEMPLATES, templates), patch.object(lower, "attention", noted(lower.attention)):
            yield
