"""What the cost model knows of a machine: peak, bandwidths, the price of a call; and the file that keeps it.

`intaglio targets --calibrate` measures the figures (`calibrate.py`) and writes them to `default_path(isa)`. Where that
file is missing, there are built-in ones, those of one server.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...ir.diagnostics import IntaglioError, error
from ...ir.host import cache_folder, cpu_name
from .kernels import VECTOR_UNITS

__all__ = [
    "Level",
    "Machine",
    "Scaling",
    "built_in",
    "default_path",
    "known_machine",
    "read_machine",
]

FORMAT = 1
HINT = "`intaglio targets --calibrate` measures this machine"


@dataclass(frozen=True)
class Level:
    """One level of the memory hierarchy: bytes it holds (0: no limit), bytes a second that one core reads from it."""

    name: str
    size: int
    bandwidth: float


@dataclass(frozen=True)
class Scaling:
    """How many times one thread's arithmetic and memory bandwidth `threads` of them have together."""

    threads: int
    compute: float
    memory: float


@dataclass(frozen=True)
class Machine:
    """Figures of one core, unless they say otherwise.

    `peaks` are operations a second by element type, a multiplication and an addition counted as two. `levels` go from
    the nearest outwards; the last one has no limit. `call` is what a kernel costs beside its work, `entry` what one run
    of a program does, `fork` what a parallel loop does: seconds.
    """

    cpu: str
    date: str
    isa: str
    peaks: Mapping[str, float]
    levels: tuple[Level, ...]
    call: float
    entry: float
    fork: float
    scaling: tuple[Scaling, ...] = (Scaling(1, 1.0, 1.0),)
    calibrated: bool = True

    def level(self, footprint: float) -> Level:
        """The nearest level that holds so many bytes beside what else is in it."""
        return next((x for x in self.levels if x.size == 0 or footprint <= 0.75 * x.size), self.levels[-1])

    def scaled(self, threads: int) -> Scaling:
        """The scaling measured for the most threads that are not more than these."""
        return max((s for s in self.scaling if s.threads <= threads), key=lambda s: s.threads)

    def note(self) -> str:
        """Where the figures are from, in a line."""
        if self.calibrated:
            return f"figures of {self.cpu}, measured on {self.date}"
        return f"built-in figures for {self.isa}, not calibrated: {HINT}"

    def dumps(self) -> str:
        data = dataclasses.asdict(self)
        del data["calibrated"]
        return json.dumps({"format": FORMAT, **data}, indent=1, ensure_ascii=False) + "\n"


def built_in(isa: str) -> Machine:
    """An AMD EPYC of the year 2024 (Zen 5), as `calibrate` found it with the code of each width of vectors."""
    peak, nearest = {"avx512": (2.6e11, 4.9e11), "avx2": (1.3e11, 2.6e11)}.get(isa.partition("_")[0], (6.6e10, 1.3e11))
    levels = (
        Level("L1", 48 << 10, nearest),
        Level("L2", 1 << 20, min(2.5e11, nearest)),
        Level("L3", 32 << 20, min(1.1e11, nearest)),
        Level("memory", 0, 4.0e10),
    )
    unit, peaks = VECTOR_UNITS[isa], {"f32": peak}
    if unit.vnni:  # four products of bytes in the place of one of f32
        peaks["i8"] = 4 * peak
    if unit.bf16:
        peaks["bf16"] = 2 * peak
    return Machine("built in", "", isa, peaks, levels, 0.2e-6, 0.6e-6, 3e-6, calibrated=False)


def default_path(isa: str) -> Path:
    """Where the figures are kept."""
    return cache_folder() / f"machine-{isa}.json"


def known_machine(isa: str) -> tuple[Machine, str]:
    """The figures to use for an instruction set, and what a person should know of them.

    A file that is damaged, or of another processor, is no reason not to compile: built-in figures stand in.
    """
    path, usual = default_path(isa), built_in(isa)
    try:
        if not path.exists():
            return usual, usual.note()
        found = read_machine(path)
        if (found.isa, found.cpu) != (isa, cpu_name()):
            what = f"`{path}` is of another processor ({found.cpu}, {found.isa})"
            return usual, f"{usual.note()}; {what}"
        return found, found.note()
    except (IntaglioError, OSError) as e:
        what = e.diagnostics[0].message if isinstance(e, IntaglioError) else str(e)
        return usual, f"{usual.note()}; {what}"


def read_machine(path: Path) -> Machine:
    """Read what `Machine.dumps` wrote. IG0001: no such file; IG0513: damaged, or of another version."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise error("IG0001", f"`{path}` cannot be read: {e}") from None
    try:
        data = json.loads(text)
        if data["format"] != FORMAT:
            what = f"`{path}` has format version {data['format']!r}, this version of intaglio reads {FORMAT}"
            raise error("IG0513", what, hint=HINT)
        return _machine(data)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as e:
        what = f"`{path}` does not hold the figures of a machine ({type(e).__name__}: {e})"
        raise error("IG0513", what, hint=HINT) from None


def _machine(data: Mapping[str, Any]) -> Machine:
    levels = tuple(Level(str(x["name"]), _size(x["size"]), _positive(x["bandwidth"])) for x in data["levels"])
    if not levels or levels[-1].size != 0:
        raise ValueError("the last of `levels` must be memory, of size 0")
    scaling = tuple(
        Scaling(_size(x["threads"]), _positive(x["compute"]), _positive(x["memory"])) for x in data["scaling"]
    )
    if 1 not in {s.threads for s in scaling}:
        raise ValueError("`scaling` must have an entry for one thread")
    peaks = {str(k): _positive(v) for k, v in data["peaks"].items()}
    if "f32" not in peaks:
        raise ValueError("`peaks` must have an entry f32")
    call, entry, fork = (_positive(data[k]) for k in ("call", "entry", "fork"))
    cpu, date, isa = (str(data[k]) for k in ("cpu", "date", "isa"))
    return Machine(cpu, date, isa, peaks, levels, call, entry, fork, scaling)


def _positive(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        raise ValueError(f"{value!r} is no positive number")
    return float(value)


def _size(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"{value!r} is no count")
    return value
