"""A machine from its description in TOML: typed, every quantity with its unit, errors at the line of the value.

    [accel]
    name = "edge16"
    clock = "800 MHz"

    [[level]]
    name = "dram"
    size = "inf"
    bw = "16 GB/s"

`schema.py` lists the tables and keys, docs/accelerator.md explains them. All errors of a file are reported together.
"""

from __future__ import annotations

import contextlib
import difflib
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...ir.diagnostics import Diagnostic, IntaglioError, Position, error
from . import spans
from .bits import mac_energy, macs_per_cycle
from .formats import KINDS, parse_format
from .machine import (
    DATAFLOWS,
    OPERANDS,
    Array,
    Fill,
    Level,
    Machine,
    Mode,
    Model,
    Sparsity,
    Unit,
    Unroll,
    bits_of,
    violations,
)
from .schema import DIMS, MODELS, SCHEMA, UNROLL, Key
from .units import UnitError, quantity

__all__ = ["load_machine", "parse_machine"]

TABLES = ("accel", "array", "level", "mode", "sparsity", "unit", "model")
REPEATED = ("level", "mode", "unit")
WANTED = {
    "flag": "true or false",
    "count": "an integer from 1",
    "number": "a number from 0",
    "type": "a type such as i8, u4, f16",
    "words": "text or a list of texts",
    "text": "text",
}
"""What a value of a kind is, for messages; the other kinds are quantities."""


def load_machine(path: Path | str) -> Machine:
    """The machine that a file describes; an `IntaglioError` of all that is wrong with it (IG0520 to IG0526)."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise error("IG0520", f"cannot read the machine description {path}: {e}",
                    hint="give a TOML file, or the name of a preset") from e  # fmt: skip
    return parse_machine(text, str(path))


def parse_machine(text: str, file: str = "<machine>") -> Machine:
    """`load_machine` of a text; `file` is what positions are reported in."""
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as e:
        found = re.search(r"\(at line (\d+), column (\d+)\)", str(e))
        lines = text.splitlines() or [""]
        line, column = (int(found[1]), int(found[2])) if found else (len(lines), len(lines[-1]) + 1)
        at = Position(file, line, column, 1, lines[line - 1] if line <= len(lines) else "")
        raise error("IG0520", f"this is no TOML: {re.sub(r' *[(]at .*', '', str(e))}", position=at,
                    hint="one key a line, text in double quotes") from e  # fmt: skip
    return _Reader(tables, spans.scan(file, text)).machine()


class _Reader:
    """One file being read; `found` collects what is wrong with it."""

    def __init__(self, tables: dict[str, Any], places: spans.Spans) -> None:
        self.tables = tables
        self.places = places
        self.found: list[Diagnostic] = []
        self.clock = 1e9

    def machine(self) -> Machine:
        """The machine, or all that is wrong."""
        for name in self.tables:
            if name not in TABLES:
                self.unknown((name,), name, TABLES, "table")
            elif name not in REPEATED and not isinstance(self.tables[name], dict):
                self.say("IG0523", (name,), f"[[{name}]] is one table", f"write [{name}]")
        for name in ("accel", "array"):
            if name not in self.tables:
                self.say("IG0523", (), f"the table [{name}] is missing", f"write [{name}]")
        with contextlib.suppress(UnitError):  # bandwidths and powers need the clock; a wrong one is reported below
            self.clock = quantity(self.raw("accel").get("clock", "1 GHz"), "clock") or 1e9
        accel = self.table("accel")
        array = self.array()
        machine = Machine(
            name=accel["name"],
            array=array,
            levels=tuple(self.level(i) for i in range(self.count("level"))),
            clock=self.clock,
            tech=accel["tech"],
            static=accel["static"],
            modes=self.modes(array),
            sparsity=self.sparsity(),
            units=tuple(self.unit(i) for i in range(self.count("unit"))),
            model=self.model(),
        )
        self.twice(machine)
        if not self.found:
            for v in violations(machine):
                self.say(v.code, v.path, v.message, v.hint)
        if self.found:
            raise IntaglioError.of(self.found)
        return machine

    # tables

    def array(self) -> Array:
        a = self.table("array")
        dims = self.keys(("array", "dims"), a["dims"] or {}, DIMS)
        given = self.raw("array").get("unroll", {})
        fill = Fill()
        try:
            fill = Fill(a["pipeline_fill"])
        except ValueError as e:
            self.say("IG0526", ("array", "pipeline_fill"), str(e), 'write cycles such as "row+col-2"')
        unroll: tuple[tuple[str, Unroll], ...] = ()
        if isinstance(given, dict) and given:
            loops = self.keys(("array", "unroll"), given, UNROLL)
            unroll = tuple(
                (d, Unroll(DATAFLOWS[d].held, loops["row"] or DATAFLOWS[d].rows, loops["col"] or DATAFLOWS[d].cols))
                for d in a["dataflow"]
            )
        return Array(dims["row"], dims["col"], a["dataflow"], fill, unroll, a["bits"])

    def level(self, i: int) -> Level:
        t = self.keys(("level", i), self.raw("level", i), SCHEMA["level"])
        return Level(
            name=t["name"],
            size=t["size"],
            holds=frozenset(t["holds"]),
            bandwidth=t["bw"],
            read_bandwidth=t["read_bw"],
            write_bandwidth=t["write_bw"],
            read_energy=t["read"],
            write_energy=t["write"],
            burst=max(1, int(t["burst"])),
            latency=round(t["latency"]),
            banks=t["banks"],
            double_buffer=t["double_buffer"],
            word=int(t["word"]) or None,
            scope=t["scope"],
        )

    def modes(self, array: Array) -> tuple[Mode, ...]:
        """The modes; without any, 8 bits. What a mode leaves out comes from bits.py."""
        rows = [self.keys(("mode", i), self.raw("mode", i), SCHEMA["mode"]) for i in range(self.count("mode"))]
        rows = rows or [{"w": "i8", "a": "i8", "macs_per_pe": 0, "energy": None}]
        whole = [m for m in rows if m["w"][0] in "iu" and m["a"][0] in "iu"]
        widest = (max((bits_of(m["w"]) for m in whole), default=8), max((bits_of(m["a"]) for m in whole), default=8))
        modes = []
        for m in rows:
            w, a, floating = bits_of(m["w"]), bits_of(m["a"]), m not in whole
            rate = 1.0 if floating else macs_per_cycle(array.bits, w, a, widest)
            energy = m["energy"]
            if energy is None:
                energy = mac_energy(array.bits, w, a, floating, widest)
            modes.append(Mode(m["w"], m["a"], m["macs_per_pe"] or rate, energy))
        return tuple(modes)

    def sparsity(self) -> tuple[tuple[str, Sparsity], ...]:
        out = []
        for x, table in self.raw("sparsity").items():
            path = ("sparsity", x)
            if x not in OPERANDS:
                self.unknown(path, x, OPERANDS, "operand")
                continue
            t = self.keys(path, table, SCHEMA["sparsity"])
            try:
                parse_format(t["format"])
            except ValueError as e:
                near = difflib.get_close_matches(t["format"].split(":")[0], KINDS, n=1)
                self.say("IG0523", (*path, "format"), str(e),
                         f"did you mean `{near[0]}`?" if near else f"one of {', '.join(KINDS)}")  # fmt: skip
            out.append((x, Sparsity(t["format"], t["action"], t["energy"])))
        return tuple(out)

    def unit(self, i: int) -> Unit:
        t = self.keys(("unit", i), self.raw("unit", i), SCHEMA["unit"])
        return Unit(t["op"], t["kind"], t["lanes"], round(t["latency"]), t["energy"], t["segments"], t["entries"],
                    int(t["bits"]))  # fmt: skip

    def model(self) -> Model | None:
        table = dict(self.raw("model"))
        if not table:
            return None
        name = table.pop("kind", None)
        if name not in MODELS:
            self.unknown(("model", "kind"), str(name), tuple(MODELS), "model")
            return None
        values = self.keys(("model",), table, MODELS[name])
        return Model(name, tuple((k, float(v)) for k, v in values.items()))

    # values

    def raw(self, table: str, i: int | None = None) -> dict[str, Any]:
        """A table as tomllib gives it; empty when it is missing or no table."""
        value = self.tables.get(table, {})
        if i is not None:
            value = value[i]
        return value if isinstance(value, dict) else {}

    def count(self, table: str) -> int:
        value = self.tables.get(table, [])
        if isinstance(value, list):
            return len(value)
        self.say("IG0523", (table,), f"[{table}] is a list of tables", f"write [[{table}]]")
        return 0

    def table(self, name: str) -> dict[str, Any]:
        return self.keys((name,), self.raw(name), SCHEMA[name], name in self.tables)

    def keys(self, path: spans.Path, table: object, schema: Mapping[str, Key], complain: bool = True) -> dict[str, Any]:
        """The values of a table in base units, defaults filled in."""
        if not isinstance(table, dict):
            self.say("IG0523", path, f"`{path[-1]}` is a table", "write { key = value, ... }")
            table, complain = {}, False
        for key in table:
            if key not in schema:
                self.unknown((*path, key), key, tuple(schema), "key")
        out = {}
        for name, key in schema.items():
            if name in table:
                out[name] = self.value((*path, name), key, table[name])
                continue
            if key.default is None and complain:
                where = f"[[{path[0]}]]" if path[0] in REPEATED else f"[{'.'.join(map(str, path))}]"
                self.say("IG0523", path, f"{where} has no `{name}`", f"add {name} = ...")
            out[name] = self.blank(key) if key.default is None else self.value((*path, name), key, key.default)
        return out

    def blank(self, key: Key) -> Any:
        """Stands in for a value that is missing or wrong, so that reading goes on."""
        return {"text": "?", "type": "i8", "words": key.choices[:1], "count": 1, "flag": False, "dims": {"row": 1}}.get(
            key.kind, 1.0
        )

    def value(self, path: spans.Path, key: Key, given: Any) -> Any:
        """One value of its kind in base units."""
        match key.kind:
            case "dims" | "unroll":
                return given
            case "flag":
                right = isinstance(given, bool)
            case "count":
                right = isinstance(given, int) and not isinstance(given, bool) and given >= 1
            case "number":
                right = isinstance(given, (int, float)) and not isinstance(given, bool) and given >= 0
            case "type":
                right = isinstance(given, str) and _is_type(given)
            case "words":
                words = (given,) if isinstance(given, str) else given
                right = isinstance(words, (list, tuple)) and all(isinstance(w, str) for w in words)
                if right:
                    wrong = [w for w in words if w not in key.choices]
                    for w in wrong:
                        self.unknown(path, w, key.choices, str(path[-1]), value=True)
                    return tuple(w for w in words if w in key.choices) or self.blank(key)
            case "text":
                right = isinstance(given, str)
                if right and key.choices and given not in key.choices:
                    self.unknown(path, given, key.choices, str(path[-1]), value=True)
                    return key.default if key.default is not None else "?"
            case _:
                return self.quantity(path, key, given)
        if not right:
            wanted = WANTED[key.kind]
            self.say("IG0523", path, f"`{path[-1]}` is {wanted}, not `{given}`", f"write {wanted}")
            return self.blank(key)
        return given

    def quantity(self, path: spans.Path, key: Key, given: object) -> Any:
        if given == "" and key.default == "":
            return None
        try:
            return quantity(given, key.kind, self.clock)
        except UnitError as e:
            hint = e.hint if e.hint.startswith("write") else f"did you mean {e.hint}"
            self.say("IG0521", path, f"`{path[-1]}`: {e}", hint)
            return self.blank(key)

    # findings

    def twice(self, machine: Machine) -> None:
        """Names that are given to two levels, or two units for one op."""
        for table, key, names in (
            ("level", "name", [level.name for level in machine.levels]),
            ("unit", "op", [u.op for u in machine.units]),
        ):
            for i, name in enumerate(names):
                if name in names[:i]:
                    first = self.places.position((table, names.index(name), key)).line
                    self.say("IG0523", (table, i, key), f"there is a {table} `{name}` in line {first} already",
                             "choose another name")  # fmt: skip

    def unknown(self, path: spans.Path, name: str, known: tuple[str, ...], what: str, value: bool = False) -> None:
        near = difflib.get_close_matches(name, known, n=2)
        hint = f"did you mean {' or '.join(f'`{n}`' for n in near)}?" if near else f"one of {', '.join(known)}"
        position = self.places.position(path, value)
        self.found.append(Diagnostic("IG0522", f"there is no {what} `{name}`", position, hint=hint))

    def say(self, code: str, path: spans.Path, message: str, hint: str) -> None:
        self.found.append(Diagnostic(code, message, self.places.position(path), hint=hint))


def _is_type(text: str) -> bool:
    try:
        return bits_of(text) > 0
    except ValueError:
        return False
