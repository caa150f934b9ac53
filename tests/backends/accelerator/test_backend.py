"""The target from model to artifact, report and exports."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import intaglio
from intaglio.backends.accelerator.mapping import Mapping
from intaglio.backends.accelerator.target import machine_named
from intaglio.compiler.api import load_artifact
from intaglio.compiler.cli import main
from intaglio.ir import evaluate
from intaglio.ir.diagnostics import IntaglioError
from intaglio.ir.text import parse, write_file

MODEL = """ig 1
module @small {
  graph @main(%x: f32[1, 3, 17, 17], %w: f32[55, 3, 3, 3], %v: f32[55, 13]) -> (y: f32[1, 13]) {
    %1 = nn.conv(%x, %w) {pads = [1, 1, 1, 1], strides = [2, 2]} : f32[1, 55, 9, 9]
    %2 = math.relu(%1) : f32[1, 55, 9, 9]
    %3 = math.reduce_mean(%2) {axes = [2, 3], keepdims = false} : f32[1, 55]
    %4 = nn.matmul(%3, %v) : f32[1, 13]
    %y = nn.softmax(%4) : f32[1, 13]
    return %y
  }
}
"""

MACHINE = """
[accel]
name = "tiny"
clock = "500 MHz"

[array]
dims = { row = 8, col = 8 }
dataflow = ["ws"]

[[level]]
name = "dram"
size = "inf"
bw = "4 GB/s"
read = "100 pJ/B"
write = "100 pJ/B"

[[level]]
name = "spad"
size = "8 KiB"
read = "6 pJ/B"
write = "6 pJ/B"
holds = ["W", "I"]
double_buffer = true

[[level]]
name = "acc"
size = "4 KiB"
holds = ["O"]
word = "32 b"

[[mode]]
w = "i8"
a = "i8"
energy = "0.3 pJ"
"""


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("INTAGLIO_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "tiny.toml"
    path.write_text(MACHINE, encoding="utf-8")
    return str(path)


@pytest.fixture
def compiled(machine: str) -> Any:
    return intaglio.compile(parse(MODEL), "accelerator", machine=machine)


def test_it_computes_what_the_model_means(compiled: Any) -> None:
    rng = np.random.default_rng(0)
    arrays = {v.name: rng.standard_normal(v.type.shape).astype(np.float32) for v in compiled.module.main.inputs}
    expected = intaglio.compile(parse(MODEL), "reference")(**arrays)
    found = compiled(**arrays)
    for a, b in zip(found, expected, strict=True):
        assert np.array_equal(a, b)


def test_an_artifact_holds_the_mappings(compiled: Any, tmp_path: Path) -> None:
    compiled.save(tmp_path / "out")
    data = json.loads((tmp_path / "out" / "mapping.json").read_text(encoding="utf-8"))
    products = [s for s in data["steps"] if "mapping" in s]
    assert len(products) == 2 and data["cycles"] == sum(s["cycles"] for s in data["steps"])
    assert data["energy_pj"] == pytest.approx(sum(s["energy_pj"] for s in data["steps"]))
    for s in products:
        assert str(Mapping.from_json(s["mapping"])).startswith("[dram]")
        c = s["certificate"]
        assert c["points"] == c["evaluated"] + c["over_capacity"] + c["bounded"] and c["bound"] == c["optimum"]
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["cost"]["seconds"] == pytest.approx(data["cycles"] / 500e6)
    assert any("costed as if quantised to i8 x i8" in n for n in manifest["cost"]["notes"])
    rows = list(csv.DictReader((tmp_path / "out" / "layers.csv").open(encoding="utf-8")))
    assert len(rows) == len(data["steps"]) and float(rows[0]["cycles"]) == data["steps"][0]["cycles"]
    again = load_artifact(tmp_path / "out")
    assert again.program.mapping() == data
    assert [k.predicted for k in again.kernel_costs()] == [s["cycles"] / 500e6 for s in data["steps"]]


def test_mappings_in_the_form_of_timeloop(compiled: Any, tmp_path: Path) -> None:
    compiled.save(tmp_path / "out")
    text = (tmp_path / "out" / "mapping.timeloop.yaml").read_text(encoding="utf-8")
    first = text.split("---")[1]
    assert "  - target: dram\n    type: temporal\n" in first and "type: spatial" in first
    factors: dict[str, int] = {}
    for line in first.splitlines():
        if line.startswith("    factors: "):
            for item in line.removeprefix("    factors: ").split():
                name, value = item.split("=")
                factors[name] = factors.get(name, 1) * int(value.split(",")[0])
    extents = {"M": 55, "C": 3, "P": 9, "Q": 9, "R": 3, "S": 3, "N": 1, "G": 1}
    assert all(factors[d] >= n for d, n in extents.items())  # edges: the last factor of `4,3` says how many are left
    assert first.count("permutation: ") == first.count("factors: ")


def test_the_report_shows_where_energy_and_cycles_go(compiled: Any) -> None:
    page = compiled.report()
    for title in ("Roofline", "Energy by memory and operand", "Where the cycles go", "What if"):
        assert f"<h2>{title}</h2>" in page
    assert page.count("<circle") == 2  # one point a product
    assert "bitmask, skip" in page and "rows of" not in page


def test_narrow_weights_are_a_question_of_options(machine: str) -> None:
    wide = intaglio.compile(parse(MODEL), "accelerator", machine=machine)
    narrow = intaglio.compile(parse(MODEL), "accelerator", machine=machine, bits=4)
    assert narrow.program.mapping()["energy_pj"] < wide.program.mapping()["energy_pj"]
    least = intaglio.compile(parse(MODEL), "accelerator", machine=machine, objective="energy")
    assert least.program.mapping()["energy_pj"] <= wide.program.mapping()["energy_pj"]


@pytest.mark.parametrize(
    ("options", "code"),
    [({"objective": "area"}, "IG0532"), ({"bits": 99}, "IG0533"), ({"machine": "no.toml"}, "IG0520")],
)
def test_wrong_options_are_refused(options: dict[str, Any], code: str, machine: str) -> None:
    with pytest.raises(IntaglioError, match=code):
        intaglio.compile(parse(MODEL), "accelerator", **{"machine": machine, **options})


def test_a_damaged_artifact_is_refused(compiled: Any, machine: str) -> None:
    from intaglio.backends.accelerator.program import load_program

    folder = Path(machine).parent
    (folder / "mapping.json").write_text('{"version": 7, "steps": []}', encoding="utf-8")
    with pytest.raises(IntaglioError, match="IG0534"):
        load_program(folder, {}, compiled.module)


def test_a_memory_of_a_few_bytes_gets_a_part_of_the_array(machine: str) -> None:
    Path(machine).write_text(MACHINE.replace('"8 KiB"', '"8 B"').replace('"4 KiB"', '"8 B"'), encoding="utf-8")
    compiled = intaglio.compile(parse(MODEL), "accelerator", machine=machine)
    spatial = [
        s["mapping"][side] for s in compiled.program.mapping()["steps"] for side in ("rows", "cols") if "mapping" in s
    ]
    assert spatial and all(sum(side.values()) <= 2 for side in spatial), spatial


def test_presets_are_machines() -> None:
    assert machine_named("gemmini16").array.rows == 16


INTEGER = """ig 1
module @integer {
  graph @main(%x: u8[1, 4, 9, 9]) -> (y: u8[1, 6, 9, 9]) {
    %w = const @"w" : i8[6, 4, 3, 3]
    %m = const 1500000000 : i32[]
    %s = const 40 : i32[]
    %0 = quant.conv(%x, %w) {pads = [1, 1, 1, 1], zero = 9} : i32[1, 6, 9, 9]
    %y = quant.requantize(%0, %m, %s) {to = u8, zero = 100} : u8[1, 6, 9, 9]
    return %y
  }
}
"""


def test_an_integer_model_runs_as_a_program(machine: str, tmp_path: Path) -> None:
    """Compiled, saved and loaded: bit for bit the interpreter's result, with simulated beside predicted cycles."""
    rng = np.random.default_rng(0)
    module = parse(INTEGER, weights={"w": rng.integers(-128, 128, (6, 4, 3, 3)).astype(np.int8)})  # type: ignore[arg-type]
    compiled = intaglio.compile(module, "accelerator", machine=machine)
    x = rng.integers(0, 256, (1, 4, 9, 9)).astype(np.uint8)
    (expected,) = evaluate(module.main, [x])
    compiled.save(tmp_path / "out")
    again = load_artifact(tmp_path / "out")
    for one in (compiled, again):
        np.testing.assert_array_equal(one.run({"x": x})["y"], expected)
        (cost,) = one.kernel_costs(measure=True)
        assert cost.measured is not None
        assert abs(cost.predicted / cost.measured - 1) < 0.05
        assert "simulated" in one.program.simulation()
    trace = json.loads((tmp_path / "out" / "trace.json").read_text())
    assert {e["name"] for e in trace["traceEvents"] if e["ph"] == "X"} >= {"load", "conv", "req"}


def test_a_damaged_program_is_refused(machine: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    module = parse(INTEGER, weights={"w": rng.integers(-128, 128, (6, 4, 3, 3)).astype(np.int8)})  # type: ignore[arg-type]
    intaglio.compile(module, "accelerator", machine=machine).save(tmp_path / "out")
    path = tmp_path / "out" / "program0.bin"
    data = bytearray(path.read_bytes())
    data[80] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(IntaglioError, match="IG0507"):
        load_artifact(tmp_path / "out")


def test_fusion_is_told_beside_the_plan(machine: str) -> None:
    """`fuse=true`: the segments and what they would take, never more than one by one."""
    plain = intaglio.compile(parse(MODEL), "accelerator", machine=machine, objective="energy").program.mapping()
    fused = intaglio.compile(parse(MODEL), "accelerator", machine=machine, objective="energy", fuse=True)
    found = fused.program.mapping()
    assert "fused" not in plain
    assert found["energy_pj"] == plain["energy_pj"]
    assert found["fused"]["energy_pj"] <= plain["energy_pj"] * (1 + 1e-9)
    assert found["fused"]["segments"]
    assert any("segments of several steps" in note for note in found["notes"])


def test_compile_says_why_there_is_no_program(machine: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_file(parse(MODEL), tmp_path / "model.ig")
    code = main(
        [
            "compile",
            str(tmp_path / "model.ig"),
            "--target",
            f"accelerator:machine={machine}",
            "-o",
            str(tmp_path / "out"),
        ]
    )
    assert code == 0
    assert "note    no program: only integer graphs" in capsys.readouterr().out
