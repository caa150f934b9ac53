"""Artifacts for another architecture than this machine's: finding the linker that puts them together.

LLVM compiles for any processor; a shared library for it takes a linker that knows the architecture.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass

from ...ir.diagnostics import error
from .isa import architecture, host_architecture

__all__ = ["Linker", "linker_for"]


@dataclass(frozen=True)
class Linker:
    """A compiler driver that links, and the options that it takes for it."""

    command: str
    options: tuple[str, ...] = ()


def linker_for(isa: str) -> Linker | None:
    """What links code for an instruction set; None for this machine's own linker, IG0511 where there is none."""
    wanted = architecture(isa)
    if wanted == host_architecture():
        return None
    for vendor in ("", "-unknown", "-none"):
        found = shutil.which(f"{wanted}{vendor}-linux-gnu-gcc")
        if found:
            return Linker(found)
    clang = shutil.which("clang")
    if clang and shutil.which("ld.lld"):
        # No libraries: the process that loads the code has the C library and libm.
        return Linker(clang, (f"--target={wanted}-linux-gnu", "-fuse-ld=lld", "-nostdlib"))
    debian = wanted.replace("_", "-")
    hint = f"install {wanted}-linux-gnu-gcc (Debian and Ubuntu: apt install gcc-{debian}-linux-gnu), or clang and lld"
    raise error("IG0511", f"there is no linker for {isa} ({wanted}) on this machine", hint=hint)
