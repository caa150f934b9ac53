"""Measured tuning: the plan of each rank is right, choices are kept in a file, found again, and survive its damage."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tvm")

from intaglio.backends import backend
from intaglio.backends.tvm import CpuOptions, tuner, tuning
from intaglio.backends.tvm.isa import host_architecture, host_isa
from intaglio.backends.tvm.kernels.kernel import VECTOR_UNITS
from intaglio.backends.tvm.kernels.layout import Blocked
from intaglio.backends.tvm.kernels.tile import RANKED, choose_tile
from intaglio.backends.tvm.tuning import Choice, Store, machine_key, signature, store_path
from intaglio.ir import Editor, IntaglioError, Module, Tensor, dim, evaluate
from intaglio.passes.fuse import fuse

CPU = backend("cpu")


def random(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("INTAGLIO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def network() -> Module:
    """Direct, Winograd and pointwise convolutions, and a product; the batch is symbolic."""
    e = Editor()
    y = e.input("x", Tensor((dim("N"), 3, 20, 20), "f32"))
    for i, (o, k, stride) in enumerate(((32, 3, 2), (32, 3, 1), (48, 1, 1))):
        c = y.type.shape[1]  # type: ignore[union-attr]
        weight = e.constant(random(o, c, k, k, seed=i) / np.float32((c * k * k) ** 0.5))
        y = e.emit("math.relu", e.emit("nn.conv", y, weight, pads=(k // 2,) * 4, strides=(stride, stride)))
    y = e.emit("math.reduce_mean", y, axes=(2, 3), keepdims=False)
    e.output(e.emit("nn.matmul", y, e.constant(random(48, 10))), "y")
    return Module("m", {"main": fuse(e.freeze())}, {"N": (1, None)})


def compare(program: Any, module: Module) -> None:
    x = random(2, 3, 20, 20)
    for got, want in zip(program.run([x]), evaluate(module.main, [x]), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


# --- choices ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rank", range(RANKED))
def test_the_plan_of_every_rank_is_right(rank: int, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = []

    def choose(self: Any, calls: Any) -> Choice:
        measured.append(len(calls))
        return Choice(min(rank, len(calls) - 1), (1.0,) * len(calls))

    monkeypatch.setattr(tuner.Tuner, "_measured", choose)
    module = network()
    compare(CPU.build(module, CpuOptions(tune=True)), module)
    assert len(measured) == 4
    assert max(measured) == RANKED


def test_what_was_measured_is_not_measured_again(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = network()
    compare(CPU.build(module, CpuOptions(tune=True, threads=1)), module)
    stored = json.loads(store_path(host_isa()).read_text())
    assert store_path(host_isa()).parent == cache
    assert [p.name for p in cache.iterdir()] == [f"tuning-{host_isa()}.json"]
    (choices,) = stored["machines"].values()
    assert len(choices) == 4
    for choice in choices.values():
        assert 0 <= choice["plan"] < len(choice["seconds"]) <= RANKED

    def fail(self: Any, calls: Any) -> Choice:
        raise AssertionError("measured again")

    monkeypatch.setattr(tuner.Tuner, "_measured", fail)
    compare(CPU.build(module, CpuOptions(tune=True, threads=1)), module)
    monkeypatch.setattr(tuning, "machine_key", lambda threads: "another machine")
    with pytest.raises(AssertionError):
        CPU.build(module, CpuOptions(tune=True, threads=1))


def test_exact_code_has_no_plans(cache: Path) -> None:
    module = network()
    compare(CPU.build(module, CpuOptions(tune=True, exact=True)), module)
    assert not cache.exists()


@pytest.mark.skipif(host_architecture() == "aarch64", reason="this machine runs neon")
def test_another_machine_cannot_be_measured(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("intaglio.backends.tvm.cross.linker_for", lambda isa: None)
    with pytest.raises(IntaglioError) as e:
        CPU.build(network(), CpuOptions(isa="neon", tune=True))
    assert e.value.diagnostics[0].code == "IG0505"
    assert "without tune" in e.value.diagnostics[0].hint


def test_ranked_tiles_are_different_ones() -> None:
    unit = VECTOR_UNITS["avx512"]
    tiles = [choose_tile(128, 24, unit, rank) for rank in range(RANKED)]
    assert len(set(tiles)) == RANKED
    assert choose_tile(128, 24, unit, 99) == tiles[-1]
    assert choose_tile(1, 1, unit, 2) == (1, 1)


def test_a_signature_tells_kernels_apart() -> None:
    def node(stride: int, channels: int = 32) -> tuple[Any, Any]:
        e = Editor()
        weight = e.constant(random(16, channels, 3, 3))
        y = e.emit("nn.conv", e.input("x", Tensor((1, channels, 8, 8), "f32")), weight, strides=(stride, stride))
        e.output(e.emit("math.relu", y), "y")
        graph = fuse(e.freeze())
        constants = {n.output: n.constant for n in graph.nodes if n.constant is not None}
        return next(n for n in graph.nodes if n.constant is None), constants

    def text(node_: tuple[Any, Any], blocked: bool = False) -> str:
        found, constants = node_
        layouts = {v: Blocked(16) for v in found.inputs if blocked and v not in constants}
        return signature(found, constants, layouts, Blocked(16))

    assert text(node(1)) == text(node(1))
    assert len({text(node(1)), text(node(2)), text(node(1, 16)), text(node(1), blocked=True)}) == 4
    assert "nn.conv" in text(node(1)) and "math.relu" in text(node(1))


# --- the file ---------------------------------------------------------------------------------------------------------


def test_stores_of_several_processes_are_merged(tmp_path: Path) -> None:
    path = tmp_path / "a" / "tuning.json"
    one, other, third = Store(path, "A"), Store(path, "A"), Store(path, "B")
    one.put("conv", Choice(1, (2e-3, 1e-3)))
    other.put("matmul", Choice(0, (1e-3,)))
    third.put("conv", Choice(0, (5e-3, 6e-3)))
    for store in (one, other, third):
        store.save()
    found = Store(path, "A")
    assert found.get("conv") == Choice(1, (2e-3, 1e-3))
    assert found.get("matmul") == Choice(0, (1e-3,))
    assert Store(path, "B").get("conv") == Choice(0, (5e-3, 6e-3))
    assert Store(path, "C").get("conv") is None
    assert [p.name for p in path.parent.iterdir()] == ["tuning.json"]


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "[]", "null", "\x00", '{"format": 99, "machines": {}}', '{"format": 1}',
        '{"format": 1, "machines": []}',
        '{"format": 1, "machines": {"A": {"conv": 3}}}',
        '{"format": 1, "machines": {"A": {"conv": {"plan": 3, "seconds": [1.0]}}}}',
        '{"format": 1, "machines": {"A": {"conv": {"plan": true, "seconds": [1.0, 2.0]}}}}',
        '{"format": 1, "machines": {"A": {"conv": {"plan": 0, "seconds": ["x"]}}}}',
    ],
)  # fmt: skip
def test_a_damaged_file_is_ignored_with_a_warning(text: str, tmp_path: Path) -> None:
    path = tmp_path / "tuning.json"
    path.write_text(text)
    with pytest.warns(UserWarning, match=r"tuning\.json` is ignored"):
        store = Store(path, "A")
    assert store.get("conv") is None
    store.put("conv", Choice(0, (1.0,)))
    with pytest.warns(UserWarning, match="is ignored"):
        store.save()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Store(path, "A").get("conv") == Choice(0, (1.0,))


def test_a_folder_that_cannot_be_written_costs_a_warning(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store = Store(tmp_path / "file" / "tuning.json", "A")
    store.put("conv", Choice(0, (1.0,)))
    with pytest.warns(UserWarning, match="not kept"):
        store.save()


def test_the_key_of_a_machine() -> None:
    assert "1 thread," in machine_key(1)
    assert "2 threads," in machine_key(2)
