"""Costs of operations: measured on a real engine, kept in a file, interpolated; and a file that is none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from intaglio.backends.he import calibrate
from intaglio.backends.he.calibrate import Costs
from intaglio.ir.diagnostics import IntaglioError

TABLE = Costs("seal", 8192, "cpu", "2026-01-01", {"rotate": {0: 1.0, 2: 3.0, 4: 9.0}, "add": {3: 4.0}})


def test_costs_are_interpolated_between_levels_and_go_on_beyond() -> None:
    assert [TABLE.cost("rotate", level) for level in range(6)] == [1.0, 2.0, 3.0, 6.0, 9.0, 12.0]
    assert TABLE.cost("add", 3) == 4.0
    assert TABLE.cost("add", 1) == 2.0  # one level was measured: in proportion to the residues
    assert TABLE.cost("sub", 3) == TABLE.cost("neg", 3) == 4.0
    with pytest.raises(IntaglioError) as e:
        TABLE.cost("bootstrap", 1)
    assert e.value.diagnostics[0].code == "IG0573"


def test_files_keep_everything(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(TABLE.dumps())
    assert calibrate.load(tmp_path / "x.json") == TABLE


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"seconds": {}},
        {"seconds": {"add": {}}},
        {"seconds": {"add": {"0": -1.0}}},
        {"seconds": {"add": {"0": "fast"}}},
        {"seconds": {"add": {"low": 1.0}}},
        {"ring_degree": None},
        None,
    ],
    ids=str,
)
def test_damaged_files_are_told_so_and_never_stop_a_compilation(
    change: dict[str, object] | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = calibrate.default_path("seal", 8192)
    path.parent.mkdir()
    path.write_text("nonsense" if change is None else json.dumps({**json.loads(TABLE.dumps()), **change}))
    with pytest.raises(IntaglioError) as e:
        calibrate.load(path)
    assert e.value.diagnostics[0].code == "IG0573"
    calibrate.known.cache_clear()
    assert calibrate.known("seal", 8192).cpu == "built in"
    path.write_text(TABLE.dumps())
    calibrate.known.cache_clear()
    assert calibrate.known("seal", 8192) == calibrate.read("seal", 8192) == TABLE
    calibrate.known.cache_clear()


@pytest.mark.parametrize("ring", [4096, 8192, 16384, 32768])
def test_chains_that_are_measured_are_secure(ring: int) -> None:
    from intaglio.backends.he import security

    parameters = calibrate.usual(ring)
    security.check(parameters)
    assert parameters.max_level >= 1


def test_every_engine_op_has_a_built_in_figure_that_grows_with_the_level() -> None:
    found = calibrate.built_in("seal", 1 << 14)
    for op in (*calibrate.OPS, *calibrate.OWNER_OPS):
        costs = [found.cost(op, level) for level in range(20)]
        assert costs == sorted(costs)
        assert costs[0] > 0


@pytest.mark.parametrize("engine", ["seal", "lattigo"])
def test_measuring(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibrate, "SECONDS", 1.0)
    steps = list[str]()
    try:
        found = calibrate.measure(engine, 1 << 12, steps.append)
    except IntaglioError as e:
        pytest.skip(f"engine `{engine}`: {e.diagnostics[0].hint}")
    assert len(steps) == calibrate.STEPS
    assert set(found.seconds) >= {"add", "mul_plain", "mul", "rescale", "drop", "rotate", "encode", "encrypt"}
    assert all(0 < s < 10 for table in found.seconds.values() for s in table.values())
    assert "rotate" in found.table()
