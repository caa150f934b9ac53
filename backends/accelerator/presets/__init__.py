"""Machines by name. A preset is a description in this folder, or one of a family:

nvdla-32 .. nvdla-2048    the sizes of the primer, with their buffer and DRAM
nvdla-sram                2048 multipliers with a second memory
scalesim-RxC-FLOW         R x C systolic array without memory stalls, FLOW ws, os or is; "scalesim" is 32x32-ws
"""

from __future__ import annotations

import difflib
import math
import re
from dataclasses import replace
from functools import cache
from pathlib import Path

from ....ir.diagnostics import error
from ..description import load_machine
from ..machine import Array, Fill, Level, Machine, Mode, Model

__all__ = ["PRIMER", "names", "preset", "scalesim"]

FOLDER = Path(__file__).parent
GIGABYTE = 1024 * 1e6  # of NVDLA's sheet: a million of its kB

FILLS = {"ws": Fill("2*row + col - 2"), "os": Fill("row + col - 2"), "is": Fill("2*row + col - 2")}
"""Cycles beside its steps that a tile takes: loading where an operand stays, skew and drain."""

PRIMER = {
    2048: (64, 32, 512, 20.0),
    1024: (64, 16, 256, 15.0),
    512: (32, 16, 256, 10.0),
    256: (32, 8, 256, 5.0),
    128: (16, 8, 256, 2.0),
    64: (8, 8, 128, 1.0),
    32: (8, 4, 128, 0.5),
}
"""Multipliers: rows, columns, KiB of buffer, GB/s of DRAM (nvdla.org's primer; rows, columns: nvdla/hw, spec/defs)."""


def names() -> list[str]:
    """The presets, each family once or by its sizes."""
    files = sorted(p.stem for p in FOLDER.glob("*.toml"))
    return [*files, *(f"nvdla-{n}" for n in PRIMER), "nvdla-sram", "scalesim"]


@cache
def preset(name: str) -> Machine:
    """The machine of that name; IG0527 suggests near ones."""
    if (FOLDER / f"{name}.toml").is_file():
        return load_machine(FOLDER / f"{name}.toml")
    if name == "nvdla-sram":
        return _with_sram(preset("nvdla"))
    size = re.fullmatch(r"nvdla-(\d+)", name)
    if size and int(size[1]) in PRIMER:
        return _primer(int(size[1]))
    systolic = re.fullmatch(r"scalesim(?:-(\d+)x(\d+)-(ws|os|is))?", name)
    if systolic and systolic[1] is None:
        return scalesim(32, 32, "ws")
    if systolic and int(systolic[1]) and int(systolic[2]):
        return scalesim(int(systolic[1]), int(systolic[2]), systolic[3])
    near = difflib.get_close_matches(name, names(), n=3)
    hint = f"did you mean {' or '.join(f'`{n}`' for n in near)}?" if near else f"one of {', '.join(names())}"
    raise error("IG0527", f"there is no machine `{name}`", hint=f"{hint} Or give a description (.toml)")


def scalesim(rows: int, cols: int, dataflow: str, levels: tuple[Level, ...] | None = None) -> Machine:
    """A systolic array whose memories never hold it up, as SCALE-Sim counts it; `levels` of a configuration."""
    levels = levels or (
        Level("dram", bandwidth=math.inf, read_energy=100.0, write_energy=100.0),
        Level("ifmap", 64 * 1024.0, frozenset("I"), read_energy=6.0, write_energy=6.0, double_buffer=True),
        Level("filter", 64 * 1024.0, frozenset("W"), read_energy=6.0, write_energy=6.0, double_buffer=True),
        Level("ofmap", 64 * 1024.0, frozenset("O"), read_energy=6.0, write_energy=6.0, double_buffer=True),
    )
    return Machine(
        f"scalesim-{rows}x{cols}-{dataflow}",
        Array(rows, cols, (dataflow,), FILLS[dataflow]),
        levels,
        modes=(Mode("i8", "i8", 1.0, 0.344),),
        model=Model("scalesim"),
    )


def _primer(macs: int) -> Machine:
    """A size of the primer. Only the largest has Winograd (its specification; the 1024 one disables it)."""
    rows, cols, buffer, bandwidth = PRIMER[macs]
    base = preset("nvdla")
    speed = bandwidth * GIGABYTE / base.clock
    levels = tuple(
        replace(v, bandwidth=speed) if v.name == "dram" else replace(v, size=buffer * 1024.0) if v.name == "cbuf" else v
        for v in base.levels
    )
    model = Model("nvdla", (("winograd", float(macs == 2048)), ("fc_batch", 1.0), ("batch", 1.0)))
    return replace(
        base, name=f"nvdla-{macs}", array=replace(base.array, rows=rows, cols=cols), levels=levels, model=model
    )


def _with_sram(base: Machine) -> Machine:
    """2.5 MiB beside DRAM, 25 GB/s each way (the vendor's sheet; its size is inferred, see models/nvdla.py)."""
    speed = 25 * GIGABYTE / base.clock
    sram = Level("cvsram", 2560 * 1024.0, read_bandwidth=speed, write_bandwidth=speed, read_energy=20.0,
                 write_energy=20.0)  # fmt: skip
    model = Model("nvdla", (("winograd", 1.0), ("fc_batch", 16.0), ("batch", 1.0)))
    return replace(base, name="nvdla-sram", levels=(base.levels[0], sram, *base.levels[1:]), model=model)
