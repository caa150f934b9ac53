"""Files of ZigZag and SCALE-Sim: what they mean in base units, and mistakes at their line."""

from __future__ import annotations

import math

import pytest

from intaglio.backends.accelerator.models.systolic import layer_cycles
from intaglio.backends.accelerator.scalesim import load_topology, parse_machine, parse_topology
from intaglio.backends.accelerator.zigzag import parse_machine as parse_zigzag
from intaglio.ir.diagnostics import Diagnostic, IntaglioError

ZIGZAG = """\
name: small
memories:
  reg_w:
    size: 8
    r_cost: 0.01
    w_cost: 0.02
    latency: 1
    operands: [I2]
    ports:
      - name: r_port_1
        type: read
        bandwidth_min: 8
        bandwidth_max: 8
        allocation: [I2 tl]
      - name: w_port_1
        type: write
        bandwidth_min: 8
        bandwidth_max: 8
        allocation: [I2 fh]
    served_dimensions: []
  reg_o:
    size: 16
    r_cost: 0.021
    w_cost: 0.021
    operands: [O]
    ports:
      - {name: rw, type: read_write, bandwidth_min: 16, bandwidth_max: 16}
    served_dimensions: [D1]
  sram:
    size: 8388608
    r_cost: 100
    w_cost: 130
    operands: [I1, O]
    ports:
      - {name: r, type: read, bandwidth_min: 64, bandwidth_max: 512}
      - {name: w, type: write, bandwidth_min: 64, bandwidth_max: 256}
    served_dimensions: [D1, D2]
  dram:
    size: 10000000000
    r_cost: 700
    w_cost: 750
    operands: [I1, I2, O]
    ports:
      - {name: rw, type: read_write, bandwidth_min: 64, bandwidth_max: 64}
    served_dimensions: [D1, D2]
operational_array:
  unit_energy: 0.04
  unit_area: 1
  dimensions: [D1, D2]
  sizes: [32, 16]
"""

OLD = """\
name: old
memories:
  dram:
    size: 10000000000
    r_bw: 64
    w_bw: 64
    r_cost: 700
    w_cost: 750
    r_port: 0
    w_port: 0
    rw_port: 1
    operands: [I1, I2, O]
    served_dimensions: [D1, D2]
operational_array: {unit_energy: 0.5, dimensions: [D1, D2], sizes: [14, 12]}
"""

CONFIG = """\
[general]
run_name = example

[architecture_presets]
ArrayHeight:    32
ArrayWidth:     16
IfmapSramSzkB:   64
FilterSramSzkB:  32
OfmapSramSzkB:   16
IfmapOffset:    0
Dataflow : ws
Bandwidth : 10
MemoryBanks: 1

[run_presets]
InterfaceBandwidth: USER
"""

TOPOLOGY = """\
Layer name, IFMAP Height, IFMAP Width, Filter Height, Filter Width, Channels, Num Filter, Strides,
Conv1, 224, 224, 7, 7, 3, 64, 2,
Conv2, 56, 58, 3, 3, 64, 64, 1, 2,

FC, 1, 1, 1, 1, 512, 1000, 1, 1:4,
"""


@pytest.fixture(autouse=True)
def _yaml() -> None:
    pytest.importorskip("yaml")


def wrong_zigzag(old: str, new: str) -> Diagnostic:
    assert old in ZIGZAG
    with pytest.raises(IntaglioError) as e:
        parse_zigzag(ZIGZAG.replace(old, new), "hw.yaml")
    assert e.value.diagnostics[0].code == "IG0528" and e.value.diagnostics[0].hint
    return e.value.diagnostics[0]


def test_zigzag_memories_come_outermost_first_in_bytes() -> None:
    m = parse_zigzag(ZIGZAG)
    assert [v.name for v in m.levels] == ["dram", "sram", "reg_o", "reg_w"]
    dram, sram, reg_o, reg_w = m.levels
    assert (dram.size, dram.bandwidth, dram.read_energy, dram.write_energy) == (math.inf, 8.0, 87.5, 93.75)
    assert (sram.size, sram.read_bandwidth, sram.write_bandwidth, sram.holds) == (2**20, 64.0, 32.0, {"I", "O"})
    assert sram.read_energy == pytest.approx(100 / 64) and sram.write_energy == pytest.approx(130 / 32)
    assert (reg_w.scope, reg_w.size, reg_w.read_energy) == ("pe", 1.0, pytest.approx(0.01))
    # one register for every column of 32 elements: 16 of them, read as one memory
    assert (reg_o.scope, reg_o.size, reg_o.bandwidth, reg_o.read_energy) == ("chip", 32.0, 32.0, pytest.approx(0.0105))
    assert (m.array.rows, m.array.cols, m.modes[0].energy) == (32, 16, 0.04)


def test_the_older_form_of_zigzag() -> None:
    m = parse_zigzag(OLD)
    assert (m.array.rows, m.array.cols, m.levels[0].bandwidth) == (14, 12, 8.0)


@pytest.mark.parametrize(
    ("old", "new", "marked", "words"),
    [
        ("r_cost: 700", "r_cost: cheap", "cheap", "not `cheap`"),
        ("sizes: [32, 16]", "sizes: [32]", "sizes", "2 positive integers"),
        ("    size: 16\n", "", "r_cost: 0.021", "`size` is missing"),
        ("type: read_write, bandwidth_min: 16", "type: both, bandwidth_min: 16", "both", "`both`"),
        ("unit_area: 1", "is_imc: true", "is_imc", "compute in memory"),
        ("operands: [I1, O]", "auto_cost_extraction: true\n    operands: [I1, O]", "auto_cost", "CACTI"),
        ("[I1, I2, O]", "[I1, I2]", "reg_w", "must hold W, I and O"),
        ("sizes: [32, 16]", "sizes: [32, 16", "", "no YAML"),
    ],
)
def test_mistakes_in_zigzag_files(old: str, new: str, marked: str, words: str) -> None:
    d = wrong_zigzag(old, new)
    assert words in d.message + d.hint
    assert d.position is not None and marked in d.position.source, d.render()


def test_scalesim_configuration() -> None:
    m = parse_machine(CONFIG)
    assert (m.name, m.array.rows, m.array.cols, m.array.dataflows) == ("example", 32, 16, ("ws",))
    assert [v.size for v in m.levels[1:]] == [65536, 32768, 16384]
    assert m.levels[0].bandwidth == 10
    assert parse_machine(CONFIG.replace("USER", "CALC")).levels[0].bandwidth == math.inf


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ("ArrayWidth:     16", "ArrayWidth: wide", 6, "positive integer"),
        ("ArrayWidth: ", "ArrayWdth: ", 6, "`ArrayWidth` is missing"),
        ("Dataflow : ws", "Dataflow : rs", 11, "no dataflow `rs`"),
        ("[architecture_presets]", "[architecture]", 1, "is missing"),
        ("ArrayHeight:    32", "ArrayHeight", 5, "no configuration"),
    ],
)
def test_mistakes_in_scalesim_configurations(old: str, new: str, line: int, words: str) -> None:
    with pytest.raises(IntaglioError) as e:
        parse_machine(CONFIG.replace(old, new), "s.cfg")
    (d,) = e.value.diagnostics
    assert d.code == "IG0529" and words in d.message and d.hint
    assert d.position is not None and d.position.line == line, d.render()


def test_scalesim_topology() -> None:
    first, second, third = parse_topology(TOPOLOGY)
    assert first.sizes == (1, 1, 64, 3, 110, 110, 7, 7)  # 109.5 outputs are rounded up, as SCALE-Sim does
    assert second.sizes == (1, 1, 64, 64, 54, 29, 3, 3) and second.strides == (1, 2)
    assert third.pattern == "nm:1:4" and third.density == (0.25, 1.0)
    (product,) = parse_topology("Layer, M, N, K,\nQKT, 128, 64, 256,\n")
    assert product.macs == 128 * 64 * 256
    assert layer_cycles(parse_machine(CONFIG), product) == 8 * 4 * (64 + 16 + 128 - 2) - 1


@pytest.mark.parametrize(
    ("old", "new", "line", "column"),
    [("224, 7", "2x4, 7", 2, 12), ("58, 3, 3, 64, 64, 1, 2,", "58,", 3, 1), ("512", "0", 5, 15)],
)
def test_mistakes_in_topologies(old: str, new: str, line: int, column: int) -> None:
    with pytest.raises(IntaglioError) as e:
        parse_topology(TOPOLOGY.replace(old, new, 1), "t.csv")
    (d,) = e.value.diagnostics
    assert d.code == "IG0529" and d.position is not None
    assert (d.position.line, abs(d.position.column - column) <= 1) == (line, True), d.render()


def test_a_file_that_is_not_there() -> None:
    with pytest.raises(IntaglioError, match="IG0529"):
        load_topology("none.csv")
