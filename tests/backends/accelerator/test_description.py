"""Descriptions: values and defaults in base units, and every mistake at its line with what to do."""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from intaglio.backends.accelerator.description import load_machine, parse_machine
from intaglio.backends.accelerator.machine import Fill
from intaglio.backends.accelerator.spans import scan
from intaglio.backends.accelerator.units import UnitError, quantity
from intaglio.ir.diagnostics import Diagnostic, IntaglioError

DOCUMENT = Path(__file__).resolve().parents[3] / "docs" / "accelerator.md"

EDGE = """\
[accel]
name = "edge16"
clock = "800 MHz"
static = "80 mW"

[array]
dims = { row = 16, col = 8 }
dataflow = ["ws", "os"]
pipeline_fill = "row + col - 2"

[[level]]
name = "dram"
size = "inf"
bw = "16 GB/s"
read = "12.5 pJ/bit"
burst = "64 B"
latency = "60 ns"

[[level]]
name = "spad"
size = "256 KiB"
banks = 4
read_bw = "512 b/cyc"
write = "10 pJ/64b"
double_buffer = true

[[level]]
name = "acc"
size = "64 kB"
holds = "O"
word = "32 b"

[[mode]]
w = "i8"
a = "u8"
energy = "344 fJ"

[[mode]]
w = "i4"
a = "u8"

[sparsity]
W = { format = "nm:2:4", action = "skip" }

[[unit]]
op = "exp"
kind = "pwl"
segments = 16
lanes = 16
energy = "0.8 pJ"
"""


def found(text: str) -> tuple[Diagnostic, ...]:
    with pytest.raises(IntaglioError) as e:
        parse_machine(text, "m.toml")
    for d in e.value.diagnostics:
        assert d.hint, d
    return e.value.diagnostics


def line_of(text: str, part: str) -> int:
    return next(i for i, line in enumerate(text.splitlines(), 1) if part in line)


def test_values_come_in_base_units() -> None:
    m = parse_machine(EDGE)
    assert (m.name, m.clock, m.static) == ("edge16", 8e8, pytest.approx(100.0))
    assert (m.array.rows, m.array.cols, m.array.dataflows, m.array.fill_cycles) == (16, 8, ("ws", "os"), 22)
    dram, spad, acc = m.levels
    assert (dram.size, dram.bandwidth, dram.read_energy, dram.burst, dram.latency) == (math.inf, 20.0, 100.0, 64, 48)
    assert (spad.size, spad.usable, spad.read_bandwidth, spad.write_energy, spad.banks) == (
        2**18, 2**17, 64.0, 1.25, 4)  # fmt: skip
    assert (acc.size, acc.holds, acc.word, acc.read_energy, acc.bandwidth) == (64000, {"O"}, 32, 0.0, math.inf)
    assert m.modes[0].energy == pytest.approx(0.344) and m.modes[0].macs_per_pe == 1
    assert m.sparse("W").format == "nm:2:4" and m.sparse("I").action == "none"
    unit = m.unit("exp")
    assert unit is not None and (unit.segments, unit.lanes, unit.energy) == (16, 16, 0.8)


def test_what_a_mode_leaves_out_comes_from_the_table() -> None:
    fixed = parse_machine(EDGE)
    assert fixed.modes[1].macs_per_pe == 1 and fixed.modes[1].energy == pytest.approx(0.344)
    flexible = parse_machine(EDGE.replace("[array]\n", '[array]\nbits = "composable"\n'))
    assert flexible.modes[1].macs_per_pe == 2 and flexible.modes[1].energy == pytest.approx(0.689 / 2)


def test_the_narrowest_mode_that_is_wide_enough_is_taken() -> None:
    m = parse_machine(EDGE.replace("[array]\n", '[array]\nbits = "composable"\n'))
    assert m.mode("i3", "u4") == m.modes[1]
    assert m.mode("i8", "u4") == m.modes[0]
    assert m.mode("i16", "u8") is None and m.mode("f16", "f16") is None


WRONG: list[tuple[str, str, str, str, str]] = [
    # what is replaced, by what, code, the marked line, words of the report
    ('"16 GB/s"', '"16 gb/s"', "IG0521", "gb/s", "GB/s"),
    ('"16 GB/s"', '"16"', "IG0521", "bw = ", "no unit"),
    ('"16 GB/s"', "16", "IG0521", "bw = ", "no unit"),
    ('"256 KiB"', '"256 pJ"', "IG0521", "256 pJ", "an energy, not a size"),
    ('"256 KiB"', '"-1 B"', "IG0521", "-1 B", "negative"),
    ('"800 MHz"', '"800 MHx"', "IG0521", "MHx", "MHz"),
    ('"60 ns"', '"inf"', "IG0521", "latency", "never infinite"),
    ("banks = 4", "bnks = 4", "IG0522", "bnks", "`banks`"),
    ("[[unit]]", "[[unti]]", "IG0522", "[[unti]]", "`unit`"),
    ('"ws", "os"', '"ws", "oss"', "IG0522", "oss", "`os`"),
    ('kind = "pwl"', 'kind = "plw"', "IG0522", "plw", "`pwl`"),
    ("W = { format", "X = { format", "IG0522", "X = ", "operand `X`"),
    ('"skip"', '"skpi"', "IG0522", "skpi", "`skip`"),
    ('name = "edge16"\n', "", "IG0523", "[accel]", "no `name`"),
    ("banks = 4", "banks = 0", "IG0523", "banks", "an integer from 1"),
    ("double_buffer = true", 'double_buffer = "yes"', "IG0523", "double_buffer", "true or false"),
    ('w = "i4"', 'w = "int4"', "IG0523", "int4", "a type"),
    ('name = "acc"', 'name = "spad"', "IG0523", "spad", "already"),
    ("nm:2:4", "nm:5:4", "IG0523", "nm:5:4", "N is between 1 and M"),
    ("nm:2:4", "bitmsk", "IG0523", "bitmsk", "`bitmask`"),
    ("[sparsity]", "[[sparsity]]", "IG0523", "[[sparsity]]", "one table"),
    ("[[mode]]", "[mode]", "IG0520", "[mode]", ""),
    ('name = "edge16"', 'name = "edge16', "IG0520", "edge16", "no TOML"),
    ('size = "inf"', 'size = "inf"\nholds = ["W", "I"]', "IG0524", "holds = [", "must hold W, I and O"),
    ('"64 kB"', '"0.5 B"', "IG0525", "0.5 B", "too small: one element of O needs 1 B"),
    ('"64 kB"', '"1 MiB"', "IG0525", "1 MiB", "larger than spad"),
    ("banks = 4", "banks = 3", "IG0525", "banks", "do not divide into 3 banks"),
    ('["ws", "os"]', '["rs"]', "IG0526", '["rs"]', 'no level of scope "pe" holds W, I, O'),
    ('"row + col - 2"', '"row ** 2"', "IG0526", "row ** 2", "row, col, integers"),
    ('"row + col - 2"', '"__import__(1)"', "IG0526", "__import__", "row, col, integers"),
    ("nm:2:4", "dense", "IG0526", "dense", "cannot be skipped"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "code", "marked", "words"), WRONG, ids=lambda v: str(v)[:20])
def test_a_mistake_is_reported_at_its_line(old: str, new: str, code: str, marked: str, words: str) -> None:
    assert old in EDGE
    text = EDGE.replace(old, new)
    matching = [d for d in found(text) if d.code == code]
    assert matching, [d.render() for d in found(text)]
    d = matching[0]
    assert d.position is not None
    if code != "IG0520":
        wanted = [i for i, line in enumerate(text.splitlines(), 1) if marked in line]
        assert d.position.line in wanted
        assert d.position.source == text.splitlines()[d.position.line - 1]
    assert words in d.message + " " + d.hint


def test_all_mistakes_are_reported_together() -> None:
    text = EDGE.replace("16 GB/s", "16 gb/s").replace("banks", "bnks").replace('"os"', '"oss"').replace("pwl", "plw")
    assert [d.code for d in found(text)] == ["IG0522", "IG0521", "IG0522", "IG0522"]


def test_a_shared_level_inside_a_private_one() -> None:
    text = EDGE.replace('name = "spad"', 'name = "spad"\nscope = "pe"')
    (d,) = found(text)
    assert d.code == "IG0524" and "acc is shared but stands inside spad" in d.message


def test_no_levels_at_all() -> None:
    (d,) = found('[accel]\nname = "x"\n[array]\ndims = { row = 4 }\n')
    assert d.code == "IG0524" and "at least one" in d.message


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(IntaglioError) as e:
        load_machine(tmp_path / "none.toml")
    assert e.value.diagnostics[0].code == "IG0520"


def test_dimensions_of_the_report() -> None:
    (d,) = found(EDGE.replace('"16 GB/s"', '"16 gb/s"'))
    assert d.render() == (
        "error[IG0521]: `bw`: there is no unit `gb/s`\n"
        "  --> m.toml:14:6\n"
        '14 | bw = "16 gb/s"\n'
        "   |      ^^^^^^^^^\n"
        "   = help: did you mean GB/s or Gb/s?"
    )


@pytest.mark.parametrize(
    ("text", "dimension", "clock", "value"),
    [
        ("inf", "size", 1e9, math.inf), ("2 MiB", "size", 1e9, 2**21), ("8 b", "size", 1e9, 1.0),
        ("34 GB/s", "bandwidth", 7e8, 34e9 / 7e8), ("192 b/cyc", "bandwidth", 5e8, 24.0),
        ("6 pJ/B", "access", 1e9, 6.0), ("1 nJ/b", "access", 1e9, 8000.0), ("100 pJ/64b", "access", 1e9, 12.5),
        ("2 us", "time", 2e8, 400.0), ("0", "energy", 1e9, 0.0), ("20 mW", "power", 2e8, 100.0),
        ("1_000 B", "size", 1e9, 1000.0), ("1e3 kHz", "clock", 1e9, 1e6),
    ],
)  # fmt: skip
def test_quantities(text: str, dimension: str, clock: float, value: float) -> None:
    assert quantity(text, dimension, clock) == pytest.approx(value)


@given(st.text(max_size=12), st.sampled_from(["size", "bandwidth", "access", "time", "power", "energy", "bits"]))
def test_any_text_is_a_quantity_or_an_error_with_a_hint(text: str, dimension: str) -> None:
    try:
        value = quantity(text, dimension)
    except UnitError as e:
        assert e.hint
    else:
        assert value >= 0


@given(st.integers(1, 300), st.integers(1, 300))
def test_fill_is_arithmetic(rows: int, cols: int) -> None:
    assert Fill("2*row + max(col, 3) - 2 // 1").cycles(rows, cols) == 2 * rows + max(cols, 3) - 2


keys = st.text("abcdefgh_-19", min_size=1, max_size=6)
scalars: st.SearchStrategy[Any] = st.one_of(
    st.integers(-99, 99), st.booleans(), st.text("ab#[]{}=,\"'\\ é", max_size=8)
)
values = st.recursive(scalars, lambda v: st.lists(v, max_size=3) | st.dictionaries(keys, v, max_size=3), max_leaves=6)


def _write(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return f"'{value}'" if "'" not in value and len(value) % 2 else f'"{escaped}"'
    if isinstance(value, list):
        return "[" + ",\n ".join(map(_write, value)) + "]"
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{k} = {_write(v)}" for k, v in value.items()) + " }"
    return str(value)


@given(st.dictionaries(keys, values, max_size=4), st.dictionaries(keys, values, max_size=3))
def test_spans_find_every_value(table: dict[str, Any], other: dict[str, Any]) -> None:
    text = "# [no table]\n[top] # = \n" + "".join(f"{k} = {_write(v)} # end\n" for k, v in table.items())
    text += "".join(f"\n[[list]]\n{k}={_write(v)}\n" for k, v in other.items())
    read = tomllib.loads(text)
    spans = scan("x.toml", text)

    def visit(path: tuple[str | int, ...], value: Any, check: Callable[[Any, Any], None]) -> None:
        offset, length = spans.values[path]
        check(tomllib.loads(f"v = {text[offset : offset + length]}")["v"], value)
        for k, v in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
            visit((*path, k), v, check)

    def same(a: Any, b: Any) -> None:
        assert a == b

    for k, v in read.get("top", {}).items():
        visit(("top", k), v, same)
    for i, t in enumerate(read.get("list", [])):
        for k, v in t.items():
            visit(("list", i, k), v, same)


def test_the_page_shows_a_machine_that_reads() -> None:
    blocks = re.findall(r"```toml\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    assert blocks
    assert parse_machine(blocks[0], str(DOCUMENT)).levels


def test_the_page_runs() -> None:
    blocks = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    assert blocks
    for block in blocks:
        exec(compile(block, str(DOCUMENT), "exec"), {"__name__": "page"})
