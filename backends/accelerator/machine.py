"""A machine as its description gives it, in base units: bytes, cycles, pJ. Readers: description, zigzag, scalesim.

    levels      memories from the outermost (DRAM) to the innermost; scope "pe" stands in every element of the array
    array       rows x cols elements, the dataflows it can run, cycles that each new tile costs beside its steps
    modes       operand types the multipliers take, multiplications per element and cycle, pJ each
    sparsity    per operand: how it lies in memory, and what the array does about its zeros
    units       non-linear functions beside the array
    model       parameters of a published machine whose timing is a closed form of its own (models/)

`violations` says what is impossible about a machine; each reader turns a violation into a position in its own file.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

__all__ = [
    "Array",
    "DATAFLOWS",
    "Fill",
    "Level",
    "Machine",
    "Mode",
    "Model",
    "OPERANDS",
    "Sparsity",
    "Unit",
    "Unroll",
    "Violation",
    "bits_of",
    "violations",
]

OPERANDS = ("W", "I", "O")
LOOPS = ("N", "G", "K", "C", "P", "Q", "R", "S")


@dataclass(frozen=True)
class Unroll:
    """What an element keeps while the loops run, and which loops rows and columns may be unrolled over."""

    held: frozenset[str]
    rows: tuple[str, ...]
    cols: tuple[str, ...]


DATAFLOWS = {
    "ws": Unroll(frozenset("W"), ("C", "R", "S"), ("K",)),
    "os": Unroll(frozenset("O"), ("N", "P", "Q"), ("K",)),
    "is": Unroll(frozenset("I"), ("C", "R", "S"), ("N", "P", "Q")),
    "rs": Unroll(frozenset("WIO"), ("R", "C", "K"), ("P", "K")),  # Eyeriss: a row of a window a row of the array
    "any": Unroll(frozenset(), LOOPS, LOOPS),
}
"""Dataflows by their usual names: weight, output, input and row stationary."""


@dataclass(frozen=True)
class Fill:
    """Cycles as arithmetic on `row`, `col`: "row+col-2". IG0526 in a description when it is something else."""

    text: str = "0"

    def __post_init__(self) -> None:
        self.cycles(1, 1)

    def cycles(self, rows: int, cols: int) -> int:
        """The value for an array of that size; ValueError when the text is not such arithmetic."""
        try:
            return int(_value(ast.parse(self.text, mode="eval").body, {"row": rows, "col": cols}))
        except (SyntaxError, ZeroDivisionError) as e:
            raise ValueError(f"`{self.text}` cannot be computed") from e


def _value(node: ast.expr, names: dict[str, int]) -> int:
    match node:
        case ast.Constant(value=int() as v) if not isinstance(v, bool):
            return v
        case ast.Name(id=name) if name in names:
            return names[name]
        case ast.BinOp(left=a, op=op, right=b):
            x, y = _value(a, names), _value(b, names)
            match op:
                case ast.Add():
                    return x + y
                case ast.Sub():
                    return x - y
                case ast.Mult():
                    return x * y
                case ast.FloorDiv():
                    return x // y
        case ast.Call(func=ast.Name(id="max" | "min" as f), args=[a, b], keywords=[]):
            return (max if f == "max" else min)(_value(a, names), _value(b, names))
    raise ValueError(f"`{ast.unparse(node)}` is not of row, col, integers, + - * //, max and min")


@dataclass(frozen=True)
class Array:
    """rows x cols processing elements. `unroll` overrides the loops of DATAFLOWS; `bits` says what narrow types gain.

    `bits`: "fixed" (nothing but traffic), "composable" (bit-bricks), "serial_w" (cycles scale with weight bits) or
    "serial" (with both); widths are those of the widest mode.
    """

    rows: int
    cols: int = 1
    dataflows: tuple[str, ...] = ("ws",)
    fill: Fill = field(default_factory=Fill)
    unroll: tuple[tuple[str, Unroll], ...] = ()
    bits: str = "fixed"

    @property
    def elements(self) -> int:
        return self.rows * self.cols

    @property
    def fill_cycles(self) -> int:
        """Cycles of skew and drain for each new tile of the array."""
        return self.fill.cycles(self.rows, self.cols)

    def unrolled(self, dataflow: str) -> Unroll:
        return dict(self.unroll).get(dataflow) or DATAFLOWS[dataflow]


@dataclass(frozen=True)
class Level:
    """One memory. `size` in bytes of one instance; bandwidths in bytes per cycle; energies in pJ per byte.

    `bandwidth` is both directions together, `read_bandwidth` and `write_bandwidth` those of separate ports.
    `word` is the width in bits that partial sums have here; None: that of the operand.
    """

    name: str
    size: float = math.inf
    holds: frozenset[str] = frozenset(OPERANDS)
    bandwidth: float = math.inf
    read_bandwidth: float = math.inf
    write_bandwidth: float = math.inf
    read_energy: float = 0.0
    write_energy: float = 0.0
    burst: int = 1
    latency: int = 0
    banks: int = 1
    double_buffer: bool = False
    word: int | None = None
    scope: str = "chip"  # or "pe"

    @property
    def usable(self) -> float:
        """Bytes that one tile may take: half of a double-buffered memory."""
        return self.size / 2 if self.double_buffer else self.size


@dataclass(frozen=True)
class Mode:
    """Operand types the multipliers take: `macs_per_pe` multiplications per element and cycle at `energy` pJ each."""

    w: str = "i8"
    a: str = "i8"
    macs_per_pe: float = 1.0
    energy: float = 0.0

    @property
    def bits(self) -> tuple[int, int]:
        return bits_of(self.w), bits_of(self.a)


@dataclass(frozen=True)
class Sparsity:
    """How an operand lies in memory (formats.py parses it) and what the array does: "none", "gate" or "skip".

    `energy` in pJ is what finding the operand's non-zeros costs for every multiplication made, on dense data too.
    """

    format: str = "dense"
    action: str = "none"
    energy: float = 0.0


@dataclass(frozen=True)
class Unit:
    """A unit for one non-linear op: kind lut, lut_interp, pwl, poly or exact; `energy` in pJ per element."""

    op: str
    kind: str = "exact"
    lanes: int = 1
    latency: int = 1
    energy: float = 0.0
    segments: int = 0
    entries: int = 0
    bits: int = 8


@dataclass(frozen=True)
class Model:
    """The closed form of a published machine and its parameters; `models/` says what they mean."""

    name: str
    parameters: tuple[tuple[str, float], ...] = ()

    def __getitem__(self, name: str) -> float:
        return dict(self.parameters)[name]


@dataclass(frozen=True)
class Machine:
    """A whole machine. `static` is the energy in pJ that every cycle costs, busy or not."""

    name: str
    array: Array
    levels: tuple[Level, ...]
    clock: float = 1e9  # Hz
    tech: str = ""  # "45nm"
    static: float = 0.0
    modes: tuple[Mode, ...] = (Mode(),)
    sparsity: tuple[tuple[str, Sparsity], ...] = ()
    units: tuple[Unit, ...] = ()
    model: Model | None = None

    def level(self, name: str) -> Level:
        return next(level for level in self.levels if level.name == name)

    def unit(self, op: str) -> Unit | None:
        return next((u for u in self.units if u.op == op), None)

    def sparse(self, operand: str) -> Sparsity:
        return dict(self.sparsity).get(operand, Sparsity())

    def mode(self, w: str, a: str) -> Mode | None:
        """The mode of these types, or the cheapest one that is at least as wide in both."""
        exact = [m for m in self.modes if (m.w, m.a) == (w, a)]
        if exact:
            return exact[0]
        need = bits_of(w), bits_of(a)
        floats = w[0] not in "iu", a[0] not in "iu"
        wide = [
            m
            for m in self.modes
            if m.bits[0] >= need[0] and m.bits[1] >= need[1] and (m.w[0] not in "iu", m.a[0] not in "iu") == floats
        ]
        return min(wide, key=lambda m: (-m.macs_per_pe, m.energy), default=None)

    @property
    def peak(self) -> float:
        """Multiplications per cycle of the fastest mode."""
        return self.array.elements * max(m.macs_per_pe for m in self.modes)


def bits_of(dtype: str) -> int:
    """Bits of "i8", "u4", "f16", "bf16", "f8e4m3"; ValueError for something else."""
    found = re.fullmatch(r"(?:[iuf]|bf)(\d+)(?:e\d+m\d+)?", dtype)
    if not found:
        raise ValueError(f"`{dtype}` is no type: i8, u4, f16, bf16, f8e4m3, ...")
    return int(found[1])


@dataclass(frozen=True)
class Violation:
    """A constraint that a machine breaks; `path` leads to the value in the description: ("level", 1, "size")."""

    path: tuple[str | int, ...]
    code: str
    message: str
    hint: str


def violations(machine: Machine) -> Iterator[Violation]:
    """Everything impossible about a machine: levels that are missing, too small or in the wrong order, dataflows."""
    yield from _levels(machine)
    yield from _dataflows(machine)


def _levels(machine: Machine) -> Iterator[Violation]:
    levels = machine.levels
    if not levels:
        yield Violation((), "IG0524", "a machine needs at least one [[level]], the memory that holds the model",
                        'write [[level]] with name="dram"; size="inf"')  # fmt: skip
        return
    missing = [x for x in OPERANDS if x not in levels[0].holds]
    if missing:
        yield Violation(("level", 0, "holds"), "IG0524",
                        f"no level from outside holds {', '.join(missing)}: the outermost one, {levels[0].name}, "
                        f"must hold W, I and O", 'leave out `holds`, or write holds=["W","I","O"]')  # fmt: skip
    word = max((max(m.bits) for m in machine.modes), default=8) / 8
    for i, level in enumerate(levels):
        copies = 2 if level.double_buffer else 1
        need = math.ceil(word) * len(level.holds) * copies
        if level.size < need:
            holds = ", ".join(sorted(level.holds))
            yield Violation(("level", i, "size"), "IG0525",
                            f"{level.name} is too small: one element of {holds}"
                            f"{' twice (double_buffer)' if copies == 2 else ''} needs {need} B, "
                            f"it has {level.size:g} B", "make it larger, or let it hold fewer operands")  # fmt: skip
        if level.banks > 1 and level.size != math.inf and level.size % level.banks:
            yield Violation(("level", i, "banks"), "IG0525",
                            f"{level.name}: {level.size:g} B do not divide into {level.banks} banks",
                            "choose a number of banks that divides the size")  # fmt: skip
        if i and levels[i - 1].scope == "pe" and level.scope != "pe":
            yield Violation(("level", i, "scope"), "IG0524",
                            f"{level.name} is shared but stands inside {levels[i - 1].name}, which every element has "
                            "for itself", "order the levels from the outermost to the innermost")  # fmt: skip
        for x in sorted(level.holds):
            outer = [o for o in levels[:i] if x in o.holds and o.scope == level.scope]
            if outer and outer[-1].size < level.size:
                yield Violation(("level", i, "size"), "IG0525",
                                f"{level.name} ({level.size:g} B) is larger than {outer[-1].name} "
                                f"({outer[-1].size:g} B), which is outside it and holds {x} too",
                                "order the levels from the outermost to the innermost")  # fmt: skip
                break


def _dataflows(machine: Machine) -> Iterator[Violation]:
    array = machine.array
    private = [level for level in machine.levels if level.scope == "pe"]
    held = frozenset(x for level in private for x in level.holds)
    for name in array.dataflows:
        if name == "rs" and held < frozenset(OPERANDS):
            lack = ", ".join(x for x in OPERANDS if x not in held)
            yield Violation(("array", "dataflow"), "IG0526",
                            f"row stationary keeps rows of W, I and O in every element, and no level of scope "
                            f'"pe" holds {lack}',
                            f'add a [[level]] with scope="pe" and holds {lack}, or another dataflow')  # fmt: skip
        unroll = array.unrolled(name)
        for axis, size, loops in (("row", array.rows, unroll.rows), ("col", array.cols, unroll.cols)):
            if size > 1 and not loops:
                yield Violation(("array", "unroll"), "IG0526",
                                f"dataflow {name} has no loop to unroll over {size} {axis}s",
                                f"give unroll.{axis} a loop, or make {axis} 1")  # fmt: skip
    for x, sparse in machine.sparsity:
        if sparse.action == "skip" and sparse.format == "dense":
            yield Violation(("sparsity", x), "IG0526",
                            f"{x} is dense in memory: its zeros cannot be skipped, only gated",
                            'give it a format (bitmask, rlc:4, csr, nm:2:4), or action="gate"')  # fmt: skip
