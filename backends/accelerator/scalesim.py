"""A machine from SCALE-Sim's configuration (.cfg) and layers from its topologies (.csv), of versions 2 and 3.

    [architecture_presets]
    ArrayHeight: 32
    Dataflow: ws

    Layer, IFMAP Height, IFMAP Width, Filter Height, Filter Width, Channels, Num Filter, Strides,
    Conv1,          224,         224,             7,            7,        3,         64,       2,

    Layer, M, N, K,          products, [M, K] x [K, N]

SCALE-Sim has no pads (images are padded in the file), no groups, and rounds the number of outputs up.
"""

from __future__ import annotations

import configparser
import csv
import difflib
import math
from dataclasses import replace
from pathlib import Path

from ...ir.diagnostics import IntaglioError, Position, error
from .layer import Layer, gemm
from .machine import Level, Machine

__all__ = ["load_machine", "load_topology", "parse_machine", "parse_topology"]

SECTION = "architecture_presets"
KEYS = ("ArrayHeight", "ArrayWidth", "IfmapSramSzkB", "FilterSramSzkB", "OfmapSramSzkB", "Dataflow")
CONV_COLUMNS = 8
GEMM_COLUMNS = 4


def load_machine(path: Path | str) -> Machine:
    """The machine of a configuration; IG0529 names the line that cannot be read."""
    return parse_machine(_text(path), str(path))


def load_topology(path: Path | str) -> list[Layer]:
    """The layers of a topology, convolutions or products."""
    return parse_topology(_text(path), str(path))


def parse_machine(text: str, file: str = "<scalesim>") -> Machine:
    """`load_machine` of a text. Memories have SCALE-Sim's sizes and two copies; energies are not in its files: 0."""
    from .presets import scalesim

    config = configparser.ConfigParser(strict=False, interpolation=None)
    try:
        config.read_string(text, file)
    except configparser.Error as e:
        line = getattr(e, "lineno", None) or (e.errors[0][0] if isinstance(e, configparser.ParsingError) else 1)
        raise _wrong(file, text, line, 1, "this is no configuration of SCALE-Sim: sections in brackets, `key: value`",
                     "see configs/ of SCALE-Sim") from e  # fmt: skip
    if SECTION not in config:
        raise _wrong(file, text, 1, 1, f"the section [{SECTION}] is missing", f"write [{SECTION}]")
    section = config[SECTION]

    def where(key: str) -> int:
        lines = [i for i, t in enumerate(text.splitlines(), 1) if t.strip().lower().startswith(key.lower())]
        return lines[0] if lines else next(i for i, t in enumerate(text.splitlines(), 1) if SECTION in t)

    def number(key: str) -> int:
        value = section.get(key)
        if value is None:
            near = difflib.get_close_matches(key.lower(), list(section), n=1, cutoff=0.8)
            raise _wrong(file, text, where(near[0] if near else SECTION), 1, f"`{key}` is missing",
                         f"is `{near[0]}` meant to be it?" if near else f"add {key}: ...")  # fmt: skip
        if not value.strip().isdigit() or not int(value):
            raise _wrong(file, text, where(key), 1, f"`{key}` is a positive integer, not `{value}`", "write an integer")
        return int(value)

    rows, cols = number("ArrayHeight"), number("ArrayWidth")
    flow = section.get("Dataflow", "").strip()
    if flow not in ("ws", "os", "is"):
        raise _wrong(file, text, where("Dataflow"), 1, f"there is no dataflow `{flow}`", "one of ws, os, is")
    speed = _bandwidth(section, config)
    buffers = [
        Level(name, number(key) * 1024.0, frozenset(x), double_buffer=True)
        for name, key, x in (("ifmap", KEYS[2], "I"), ("filter", KEYS[3], "W"), ("ofmap", KEYS[4], "O"))
    ]
    machine = scalesim(rows, cols, flow, (Level("dram", bandwidth=speed), *buffers))
    name = config.get("general", "run_name", fallback=machine.name).strip(" \"'")
    return replace(machine, name=name)


def _bandwidth(section: configparser.SectionProxy, config: configparser.ConfigParser) -> float:
    """Words per cycle from outside; in mode CALC memories are never waited for."""
    mode = config.get("run_presets", "InterfaceBandwidth", fallback="CALC").strip().upper()
    first = section.get("Bandwidth", "").split(",")[0].strip()
    return float(first) if mode == "USER" and first.replace(".", "", 1).isdigit() and float(first) else math.inf


def parse_topology(text: str, file: str = "<topology>") -> list[Layer]:
    """`load_topology` of a text. The last column of version 3, N:M of the weights, becomes the pattern of the layer."""
    rows = list(csv.reader(text.splitlines()))
    layers = []
    products = bool(rows) and len([c for c in rows[0] if c.strip()]) <= GEMM_COLUMNS + 1 and "filter" not in (
        "".join(rows[0]).lower())  # fmt: skip
    for n, row in enumerate(rows, 1):
        cells = [c.strip() for c in row]
        while cells and not cells[-1]:
            cells.pop()
        if n == 1 or not cells:
            continue
        pattern = cells.pop() if ":" in cells[-1] else ""
        least, what = (GEMM_COLUMNS, "M, N, K") if products else (CONV_COLUMNS, "7 sizes")
        if len(cells) < least:
            raise _wrong(file, text, n, 1, f"a layer has its name and {what}; here are {len(cells)} columns",
                         "one layer a line, columns separated by commas")  # fmt: skip
        sizes = []
        for c, cell in enumerate(cells[1:], 1):
            if not cell.isdigit() or not int(cell):
                column = sum(len(x) + 1 for x in row[:c]) + 1
                raise _wrong(file, text, n, column, f"`{cell}` is no positive integer", "sizes count from 1")
            sizes.append(int(cell))
        layers.append(_layer(cells[0], sizes, products, pattern))
    return layers


def _layer(name: str, sizes: list[int], products: bool, pattern: str) -> Layer:
    density, kind = (1.0, 1.0), ""
    if pattern:
        n, m = (int(p) for p in pattern.split(":"))
        if n < m:
            density, kind = (n / m, 1.0), f"nm:{n}:{m}"
    if products:
        return replace(gemm(name, sizes[0], sizes[2], sizes[1], density=density), pattern=kind)
    height, width, r, s, channels, filters, *strides = sizes
    strides = (strides * 2)[:2]
    p, q = (-(-(i - f) // t) + 1 for i, f, t in zip((height, width), (r, s), strides, strict=True))
    return Layer(name, (1, 1, filters, channels, p, q, r, s), (strides[0], strides[1]), image=(height, width),
                 density=density, pattern=kind)  # fmt: skip


def _text(path: Path | str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise error("IG0529", f"cannot read {path}: {e}", hint="give a file of SCALE-Sim") from e


def _wrong(file: str, text: str, line: int, column: int, message: str, hint: str) -> IntaglioError:
    lines = text.splitlines()
    source = lines[line - 1] if 0 < line <= len(lines) else ""
    return error("IG0529", message, position=Position(file, line, column, 1, source), hint=hint)
