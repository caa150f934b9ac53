"""A machine from ZigZag's hardware YAML (KULeuven-MICAS/zigzag, zigzag/inputs/hardware), of version 2 or 3.

    r_cost, w_cost            pJ for an access of the port's full width: pJ per byte here
    ports                     version 3: a list with bandwidth_max in bits; version 2: r_bw and w_bw
    served_dimensions         all: shared by the array; none: one in every element; some: one in every row or column,
                              read as one memory of all their capacity and bandwidth
    operands I1, I2, O        inputs, weights, outputs
    dimensions of the array   the first are rows, all others columns; any loop may be unrolled over them

Memory costs that CACTI would have to find (`auto_cost_extraction`) and arrays that compute in memory are not read.
"""

from __future__ import annotations

import math
from pathlib import Path as File
from typing import Any

from ...ir.diagnostics import Diagnostic, IntaglioError, Position, error
from .machine import Array, Level, Machine, Mode, violations

__all__ = ["load_machine", "parse_machine"]

OPERANDS = {"I1": "I", "I2": "W", "O": "O"}
UNBOUNDED = 1e9  # bits; what ZigZag writes for a DRAM without limit is 1e10


def load_machine(path: File | str) -> Machine:
    """The machine of a hardware YAML; IG0528 names the line that cannot be read."""
    try:
        text = File(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise error("IG0528", f"cannot read {path}: {e}", hint="give a hardware YAML of ZigZag") from e
    return parse_machine(text, str(path))


def parse_machine(text: str, file: str = "<zigzag>") -> Machine:
    """`load_machine` of a text."""
    try:
        import yaml
    except ModuleNotFoundError as e:
        raise error("IG0528", "reading YAML needs PyYAML", hint="pip install 'intaglio[zigzag]'") from e
    lines = text.splitlines()
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        data = yaml.safe_load(text)
    except yaml.YAMLError as e:
        mark = getattr(e, "problem_mark", None)
        at = _position(file, lines, mark.line, mark.column) if mark else None
        raise error("IG0528", f"this is no YAML: {getattr(e, 'problem', e)}", position=at,
                    hint="give a hardware YAML of ZigZag") from e  # fmt: skip
    return _Reader(file, lines, root, data).machine()


def _position(file: str, lines: list[str], line: int, column: int) -> Position:
    return Position(file, line + 1, column + 1, 1, lines[line] if line < len(lines) else "")


class _Reader:
    """One file: `data` as plain values, `root` the same with the places."""

    def __init__(self, file: str, lines: list[str], root: Any, data: Any) -> None:
        self.file, self.lines, self.root, self.data = file, lines, root, data

    def machine(self) -> Machine:
        memories = self.get("memories", kind=dict)
        array = self.get("operational_array", kind=dict)
        if array.get("is_imc"):
            raise self.wrong(("operational_array", "is_imc"), "arrays that compute in memory have no description here",
                             "choose a machine with multipliers")  # fmt: skip
        dims = self.get("operational_array", "dimensions", kind=list)
        sizes = self.get("operational_array", "sizes", kind=list)
        if len(dims) != len(sizes) or not all(isinstance(s, int) and s > 0 for s in sizes):
            message = f"sizes are {len(dims)} positive integers, one for each of {', '.join(map(str, dims))}"
            raise self.wrong(("operational_array", "sizes"), message, "give every dimension its size")
        size = dict(zip(dims, sizes, strict=True))
        read = [self.level(name, size) for name in memories]
        levels = [v for v in reversed(read) if v is not None]  # ZigZag writes the innermost first
        levels.sort(key=lambda v: v.scope == "pe")
        w, a = (array.get("input_precision") or [8, 8])[::-1][:2]
        energy = array.get("unit_energy", 0.0)
        machine = Machine(
            name=str(self.data.get("name", File(self.file).stem)),
            array=Array(sizes[0], math.prod(sizes[1:]), ("any",)),
            levels=tuple(levels),
            modes=(Mode(f"i{w}", f"i{a}", 1.0, float(energy)),),
        )
        found = [Diagnostic("IG0528", v.message, self.place(("memories",)), hint=v.hint) for v in violations(machine)]
        if found:
            raise IntaglioError.of(found)
        return machine

    def level(self, name: str, size: dict[str, int]) -> Level | None:
        path = ("memories", name)
        memory = self.get(*path, kind=dict)
        if memory.get("auto_cost_extraction"):
            raise self.wrong((*path, "auto_cost_extraction"), f"the costs of {name} would come from CACTI",
                             "write r_cost and w_cost")  # fmt: skip
        holds = frozenset(OPERANDS[x] for x in self.get(*path, "operands", kind=list) if x in OPERANDS)
        if not holds:
            return None  # scales of ZigZag's version 2
        served = self.get(*path, "served_dimensions", kind=list)
        alone = [d for d in size if d not in served]
        copies = 1 if not served or not alone else math.prod(size[d] for d in alone)
        bits = self.number((*path, "size"))
        read, write, shared = self.widths(path, memory)
        word = bits * copies / 8
        return Level(
            name=name,
            size=math.inf if bits >= UNBOUNDED and len(holds) == 3 else word,
            holds=holds,
            bandwidth=copies * read / 8 if shared else math.inf,
            read_bandwidth=math.inf if shared else copies * read / 8,
            write_bandwidth=math.inf if shared else copies * write / 8,
            read_energy=self.number((*path, "r_cost")) / read * 8,
            write_energy=self.number((*path, "w_cost")) / write * 8,
            scope="pe" if not served else "chip",
        )

    def widths(self, path: tuple[str, ...], memory: dict[str, Any]) -> tuple[float, float, bool]:
        """Bits per access of reads and writes, and whether one port does both."""
        if "r_bw" in memory:
            shared = not memory.get("r_port")
            return self.number((*path, "r_bw")), self.number((*path, "w_bw")), shared
        read = write = 0.0
        shared = False
        for i, port in enumerate(self.get(*path, "ports", kind=list)):
            kind = port.get("type") if isinstance(port, dict) else None
            width = self.number((*path, "ports", i, "bandwidth_max"))
            if kind not in ("read", "write", "read_write"):
                raise self.wrong((*path, "ports", i, "type"), f"a port is no `{kind}`", "read, write or read_write")
            if "read" in kind:
                read = max(read, width)
            if "write" in kind:
                write = max(write, width)
            shared = shared or kind == "read_write"
        if not read or not write:
            raise self.wrong((*path, "ports"), "a memory is read and written", "add a port for the other direction")
        return read, write, shared

    def get(self, *path: Any, kind: type) -> Any:
        """The value at a path; IG0528 where it is missing or of another kind."""
        value = self.data
        for i, part in enumerate(path):
            if not isinstance(value, (dict, list)) or (isinstance(value, dict) and part not in value):
                raise self.wrong(path[:i], f"`{part}` is missing", f"add {part}: to this part of the file")
            value = value[part]
        if not isinstance(value, kind):
            wanted = "a table" if kind is dict else "a list"
            raise self.wrong(path, f"`{path[-1]}` is {wanted}", "see ZigZag's own inputs/hardware")
        return value

    def number(self, path: tuple[Any, ...]) -> float:
        value = self.get(*path, kind=object)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value < 0:
            raise self.wrong(path, f"`{path[-1]}` is a number from 0, not `{value}`", "write a number without a unit")
        return float(value)

    def place(self, path: tuple[Any, ...]) -> Position | None:
        """Where the value at a path stands, or the nearest around it."""
        node = self.root
        for part in path:
            if node is None or not isinstance(node.value, list):
                break
            if isinstance(part, int):
                node = node.value[part]
            else:
                node = next((v for k, v in node.value if k.value == part), node)
        return _position(self.file, self.lines, node.start_mark.line, node.start_mark.column) if node else None

    def wrong(self, path: tuple[Any, ...], message: str, hint: str) -> IntaglioError:
        return error("IG0528", message, position=self.place(path), hint=hint)
