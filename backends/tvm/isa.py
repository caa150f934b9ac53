"""Instruction sets: their names, the machines that have them, and how LLVM is asked for them. No TVM in here."""

from __future__ import annotations

import functools
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = [
    "ISAS",
    "ISA_NAMES",
    "Isa",
    "architecture",
    "host_architecture",
    "host_cpu_flags",
    "host_isa",
    "host_runs",
    "llvm_spec",
]


@dataclass(frozen=True)
class Isa:
    """One instruction set.

    `flags` are what the Linux kernel calls the features that it takes, `cpu` and `attributes` what LLVM is told: the
    processor to tune for, and what is added to its instructions. No `architecture`: that of the machine at hand.
    """

    architecture: str
    cpu: str = ""
    attributes: tuple[str, ...] = ()
    flags: frozenset[str] = frozenset()


_AVX2 = frozenset({"avx2", "fma", "bmi2"})
_AVX512 = _AVX2 | {"avx512f", "avx512dq", "avx512bw", "avx512vl", "avx512cd"}
_VNNI = _AVX512 | {"avx512_vnni"}
_BF16 = _VNNI | {"avx512_bf16", "avx512_vpopcntdq"}
_WIDE = "-prefer-256-bit"  # Skylake's tuning prefers 256-bit vectors; explicit 512-bit ones need the preference lifted

ISAS: Mapping[str, Isa] = {
    "avx512_bf16": Isa(
        "x86_64", "skylake-avx512", (_WIDE, "+avx512vnni", "+avx512bf16", "+avx512vpopcntdq"), flags=_BF16
    ),
    "avx512_vnni": Isa("x86_64", "skylake-avx512", (_WIDE, "+avx512vnni"), flags=_VNNI),
    "avx512": Isa("x86_64", "skylake-avx512", (_WIDE,), flags=_AVX512),
    "avx2_vnni": Isa("x86_64", "haswell", ("+avxvnni",), flags=_AVX2 | {"avx_vnni"}),
    "avx2": Isa("x86_64", "haswell", flags=_AVX2),
    "neon": Isa("aarch64", "cortex-a72", ("+neon",)),
    "baseline": Isa(""),
}
"""Widest first; `kernels.VECTOR_UNITS` has the registers of each. See docs/tvm.md for the processors."""

ISA_NAMES = tuple(ISAS)


def host_architecture() -> str:
    """The architecture of this machine as LLVM names it: x86_64, aarch64."""
    name = platform.machine().lower()
    return {"amd64": "x86_64", "arm64": "aarch64"}.get(name, name)


def architecture(isa: str) -> str:
    """The architecture that code for an instruction set is for."""
    return ISAS[isa].architecture or host_architecture()


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


def host_runs(isa: str) -> bool:
    """Whether this machine executes code for an instruction set."""
    return architecture(isa) == host_architecture() and ISAS[isa].flags <= host_cpu_flags()


def host_isa() -> str:
    """The widest of `ISA_NAMES` that this machine executes."""
    return next(name for name in ISA_NAMES if host_runs(name))


def llvm_spec(isa: str, cores: int | None = None) -> dict[str, Any]:
    """The description of the target that TVM takes."""
    spec: dict[str, Any] = {"kind": "llvm", "num-cores": cores or os.cpu_count() or 1}
    found = ISAS[isa]
    if architecture(isa) != host_architecture():
        spec["mtriple"] = f"{architecture(isa)}-linux-gnu"
    cpu = found.cpu or ("x86-64" if architecture(isa) == "x86_64" else "")
    if cpu:
        spec["mcpu"] = cpu
    if found.attributes:
        spec["mattr"] = list(found.attributes)
    return spec
