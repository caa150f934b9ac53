"""NVIDIA's compiler: where nvcc is, and what it and ptxas say of a source. Needs no GPU."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import re
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ...ir.diagnostics import error

__all__ = [
    "ARCHITECTURES",
    "Compiled",
    "Resources",
    "check_nvcc",
    "compile_code",
    "find_nvcc",
    "find_tool",
    "include_folders",
    "opcodes",
    "packaged",
]

ARCHITECTURES = ("sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120")
"""From Ampere on: the kernels use asynchronous copies and the tensor cores' m16n8k16 instruction."""

INSTALL = "pip install 'intaglio[cuda]' brings one, and no GPU is needed; or put nvcc of CUDA 13 on PATH"


@dataclass(frozen=True)
class Resources:
    """What ptxas gives one kernel: registers a thread; bytes of stack and of spills a thread; static shared memory."""

    registers: int
    stack: int
    spills: int
    shared: int


@dataclass(frozen=True)
class Compiled:
    """Machine code and the resources of each kernel in it."""

    code: bytes
    kernels: Mapping[str, Resources]


# --- where things are -------------------------------------------------------------------------------------------------


def packaged(package: str, name: str) -> Path | None:
    """A file of an installed package, by its name."""
    try:
        files = importlib.metadata.files(package) or ()
    except importlib.metadata.PackageNotFoundError:
        return None
    return next((p for f in files if f.name == name and (p := Path(str(f.locate()))).exists()), None)


@functools.cache
def find_tool(name: str) -> Path | None:
    """A program of the toolkit: in CUDA_HOME or CUDA_PATH, on PATH, or in NVIDIA's package of PyPI; or None."""
    for variable in ("CUDA_HOME", "CUDA_PATH"):
        path = Path(os.environ.get(variable, "/nonexistent"), "bin", name)
        if path.exists():
            return path
    found = shutil.which(name)
    return Path(found) if found else packaged(f"nvidia-cuda-{name}", name)


def find_nvcc() -> Path | None:
    return find_tool("nvcc")


def check_nvcc() -> Path:
    """nvcc, or IG0514."""
    nvcc = find_nvcc()
    if nvcc is None:
        raise error("IG0514", "the target cuda needs NVIDIA's compiler nvcc, and there is none", hint=INSTALL)
    return nvcc


def include_folders() -> list[Path]:
    """Where CUDA's headers are, for a C++ compiler."""
    nvcc = find_nvcc()
    if nvcc is None:
        return []
    said = subprocess.run(
        [nvcc, "--dryrun", "-x", "cu", os.devnull], capture_output=True, text=True, check=False
    ).stderr
    return [Path(p) for p in re.findall(r'"-I([^"]+)"', "\n".join(x for x in said.splitlines() if "INCLUDES=" in x))]


# --- compiling --------------------------------------------------------------------------------------------------------


def compile_code(source: str, arch: str) -> Compiled:
    """Machine code for an architecture such as `sm_90`, and PTX for later ones.

    Raises IG0514 without nvcc, IG0516 when it fails.
    """
    nvcc, virtual = check_nvcc(), arch.replace("sm", "compute")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "kernels.cu").write_text(source)
        options = ["-O3", "-std=c++17", f"-gencode=arch={virtual},code=[{arch},{virtual}]", "-fatbin", "-Xptxas", "-v"]
        command = [str(nvcc), "kernels.cu", *options]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode:
            first = next((x for x in done.stderr.splitlines() if "error" in x), done.stderr.strip()[:200])
            hint = f"does this nvcc ({nvcc}) know the architecture? see `nvcc --list-gpu-code`"
            raise error("IG0516", f"nvcc failed: {first}", hint=hint)
        return Compiled(Path(folder, "kernels.fatbin").read_bytes(), _resources(done.stdout + done.stderr))


def _resources(said: str) -> dict[str, Resources]:
    """Read the report of `ptxas -v`."""
    kernels: dict[str, Resources] = {}
    name, stack, spills = "", 0, 0
    for line in said.splitlines():
        if (entry := re.search(r"Compiling entry function '(\w+)'", line)) is not None:
            name, stack, spills = entry[1], 0, 0
        elif (
            frame := re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill", line)
        ) is not None:
            stack, spills = int(frame[1]), int(frame[2]) + int(frame[3])
        elif (used := re.search(r"Used (\d+) registers", line)) is not None:
            shared = re.search(r"(\d+) bytes smem", line)
            kernels[name] = Resources(int(used[1]), stack, spills, 0 if shared is None else int(shared[1]))
    return kernels


def opcodes(code: bytes) -> dict[str, Counter[str]] | None:
    """How often each machine instruction occurs in each kernel of what `compile_code` made; None without cuobjdump.

    An instruction goes by its name up to the first dot (`HMMA`, `LDGSTS`), and by its whole name.
    """
    cuobjdump, nvdisasm = find_tool("cuobjdump"), find_tool("nvdisasm")
    if cuobjdump is None or nvdisasm is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "kernels.fatbin")
        path.write_bytes(code)
        environment = {**os.environ, "PATH": f"{nvdisasm.parent}{os.pathsep}{os.environ.get('PATH', '')}"}
        command = [str(cuobjdump), "-sass", str(path)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    found: dict[str, Counter[str]] = {}
    for line in done.stdout.splitlines():
        if (function := re.search(r"Function : (\w+)", line)) is not None:
            current = found.setdefault(function[1], Counter())
        elif (made := re.match(r"\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+ )?\s*([A-Z][\w.]*)", line)) is not None:
            current.update({made[1], made[1].partition(".")[0]})
    return found
