"""The cost model: the figures of a machine and their file, estimates that follow from them, kernels told apart.

No test asserts a time; what is asserted of measurements is their shape.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("tvm")

import intaglio
from intaglio.backends import backend
from intaglio.backends.backend import Calibrated, Profiled
from intaglio.backends.tvm import api, calibrate, cost, runtime
from intaglio.backends.tvm.isa import host_isa
from intaglio.backends.tvm.kernels import VECTOR_UNITS
from intaglio.backends.tvm.kernels.lowbit.dot import Bf16Dot, BytesDot
from intaglio.backends.tvm.machine import (
    Level,
    Machine,
    Scaling,
    built_in,
    default_path,
    known_machine,
    read_machine,
)
from intaglio.backends.tvm.target import CpuTarget
from intaglio.compiler.api import compile as compile_model
from intaglio.compiler.api import load_artifact
from intaglio.compiler.commands import targets
from intaglio.ir import Editor, Graph, IntaglioError, Module, Tensor, dim, evaluate
from intaglio.ir.host import cpu_name
from intaglio.ir.target import node_cost
from intaglio.passes.fuse import fuse

CPU = backend("cpu")
UNIT = VECTOR_UNITS["avx512"]
LEVELS = (Level("L1", 1 << 15, 400.0), Level("L2", 1 << 20, 200.0), Level("memory", 0, 50.0))
MACHINE = Machine(
    cpu="a machine", date="2026-01-01", isa="avx512", peaks={"f32": 1000.0}, levels=LEVELS,
    call=1e-6, entry=1e-5, fork=2e-6, scaling=(Scaling(1, 1.0, 1.0), Scaling(4, 3.5, 2.0)),
)  # fmt: skip


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of the test's own; the file of figures in it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return default_path("avx512")


def only_node(op: str, *shapes: tuple[int, ...], weights: int = 0, **attrs: Any) -> Graph:
    """A graph of one op; the last `weights` operands are constants."""
    e = Editor()
    operands = []
    for i, shape in enumerate(shapes):
        if i >= len(shapes) - weights:
            operands.append(e.constant(np.zeros(shape, np.float32), f"w{i}"))
        else:
            operands.append(e.input(f"x{i}", Tensor(shape, "f32")))
    e.output(e.emit(op, *operands, **attrs), "y")
    return e.freeze()


def the_estimate(graph: Graph, machine: Machine = MACHINE, threads: int = 1) -> cost.Estimate:
    ((_, found),) = cost.estimates(graph, machine, threads)
    return found


# --- the file ---------------------------------------------------------------------------------------------------------


def test_file_says_what_the_machine_is(tmp_path: Path) -> None:
    path = tmp_path / "machine.json"
    path.write_text(MACHINE.dumps(), encoding="utf-8")
    assert read_machine(path) == MACHINE
    data = json.loads(MACHINE.dumps())
    assert (data["format"], data["cpu"], data["date"], data["isa"]) == (1, "a machine", "2026-01-01", "avx512")
    assert data["levels"][-1] == {"name": "memory", "size": 0, "bandwidth": 50.0}


BAD = {
    "not JSON": "{",
    "not UTF-8 at all": "\udcff",
    "no object": "[1]",
    "another version": MACHINE.dumps().replace('"format": 1', '"format": 99'),
    "no peak": MACHINE.dumps().replace('"f32"', '"f64"'),
    "a negative bandwidth": MACHINE.dumps().replace("400.0", "-400.0"),
    "a bandwidth that is text": MACHINE.dumps().replace("400.0", '"fast"'),
    "not a number": MACHINE.dumps().replace("1e-06", "NaN"),
    "caches only": MACHINE.dumps().replace('"size": 0', '"size": 7'),
    "nothing for one thread": MACHINE.dumps().replace('"threads": 1', '"threads": 2'),
}


@pytest.mark.parametrize("text", BAD.values(), ids=BAD)
def test_damaged_file(text: str, cache: Path) -> None:
    """Reading it is a diagnostic; compiling goes on with the built-in figures, and says why."""
    cache.parent.mkdir(parents=True)
    cache.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(IntaglioError) as caught:
        read_machine(cache)
    (said,) = caught.value.diagnostics
    assert said.code in ("IG0513", "IG0001")
    assert str(cache) in said.message
    machine, note = known_machine("avx512")
    assert machine == built_in("avx512")
    assert "not calibrated" in note
    assert str(cache) in note


def test_which_figures_are_used(cache: Path) -> None:
    assert known_machine("avx512") == (built_in("avx512"), built_in("avx512").note())
    with pytest.raises(IntaglioError, match="cannot be read"):
        read_machine(cache)
    cache.parent.mkdir(parents=True)
    cache.write_text(MACHINE.dumps(), encoding="utf-8")
    assert "another processor" in known_machine("avx512")[1]
    ours = replace(MACHINE, cpu=cpu_name())
    cache.write_text(ours.dumps(), encoding="utf-8")
    assert known_machine("avx512") == (ours, f"figures of {cpu_name()}, measured on 2026-01-01")
    assert known_machine("avx2")[0] == built_in("avx2")
    graph = only_node("math.add", (8,), (8,))
    assert CpuTarget("avx512").cost(graph) == CpuTarget("avx512", machine=ours).cost(graph)
    assert "not calibrated" in CpuTarget("avx2").cost(graph).notes[0]


@pytest.mark.parametrize("isa", VECTOR_UNITS)
def test_every_instruction_set_has_figures(isa: str) -> None:
    machine = built_in(isa)
    assert not machine.calibrated
    assert machine.isa == isa
    rates = [level.bandwidth for level in machine.levels]
    assert rates == sorted(rates, reverse=True)


# --- measuring --------------------------------------------------------------------------------------------------------


def test_calibrate(monkeypatch: pytest.MonkeyPatch, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command writes what `read_machine` reads, where it is found again."""
    monkeypatch.setattr(calibrate, "SECONDS", 0.002)
    monkeypatch.setattr(calibrate, "BEYOND", 1 << 20)
    isa = host_isa()
    before = runtime.thread_count()
    assert targets.run(argparse.Namespace(calibrate=f"cpu:isa={isa}", output=None)) == 0
    runtime.set_threads(before)
    found, note = known_machine(isa)
    assert found == read_machine(default_path(isa))
    assert (found.isa, found.cpu, found.calibrated) == (isa, cpu_name(), True)
    assert "measured on" in note
    assert [level.size > 0 for level in found.levels] == [True] * (len(found.levels) - 1) + [False]
    assert {s.threads for s in found.scaling} >= {1}
    assert f"wrote {default_path(isa)}" in capsys.readouterr().out
    assert targets.run(argparse.Namespace(calibrate=None, output=None)) == 0
    assert note in capsys.readouterr().out


def test_interrupted_calibration_leaves_the_old_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "machine.json"
    path.write_text(MACHINE.dumps(), encoding="utf-8")

    def broken(self: Machine) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(calibrate, "calibrate", lambda isa, observe: MACHINE)
    monkeypatch.setattr(Machine, "dumps", broken)
    with pytest.raises(KeyboardInterrupt):
        targets.run(argparse.Namespace(calibrate=f"cpu:isa={host_isa()}", output=path))
    assert [p.name for p in tmp_path.iterdir()] == ["machine.json"]
    monkeypatch.undo()
    assert read_machine(path) == MACHINE


def test_what_cannot_be_calibrated(tmp_path: Path) -> None:
    assert isinstance(CPU, Calibrated)
    assert not isinstance(backend("reference"), Calibrated)
    for wanted, output, code in (("reference", None, "IG0002"), (None, tmp_path / "x", "IG0002")):
        with pytest.raises(IntaglioError) as caught:
            targets.run(argparse.Namespace(calibrate=wanted, output=output))
        assert caught.value.diagnostics[0].code == code
    assert not list(tmp_path.iterdir())


def test_the_loops_compute_what_they_should() -> None:
    """A loop that the compiler has taken apart would measure something else."""
    isa = host_isa()
    unit, target = VECTOR_UNITS[isa], api.cpu_target(isa)
    size, times = calibrate.CHAINS * unit.lanes * 5, 3

    def run(func: Any, x: Any, shape: tuple[int, ...]) -> Any:
        given, made = runtime.aligned_empty(x.shape), runtime.aligned_empty(shape)
        given[...] = x
        api.build_kernel(func, target)(runtime.to_tensor(given), runtime.to_tensor(made))
        return made

    x = np.random.default_rng(0).integers(-8, 8, (2, size)).astype(np.float32)
    y = run(calibrate.read_kernel(unit, 2, size, times), x, (2, calibrate.CHAINS, unit.lanes))
    want = times * x.reshape(2, 5, calibrate.CHAINS, unit.lanes).sum(1)
    np.testing.assert_array_equal(y, want)
    pair = np.repeat(np.float32([[0.5], [1.0]]), unit.lanes, axis=1)
    y = run(calibrate.compute_kernel(unit, 2, 7), pair, (2, calibrate.CHAINS, unit.lanes))
    starts = np.arange(calibrate.CHAINS, dtype=np.float64)
    want = np.broadcast_to((starts * 0.5**7 + 2 * (1 - 0.5**7))[None, :, None], y.shape)
    np.testing.assert_allclose(y, want, rtol=1e-6)
    np.testing.assert_array_equal(run(calibrate.copy_kernel(unit), pair[0], (unit.lanes,)), pair[0])


def test_the_dot_products_that_are_timed() -> None:
    isa = host_isa()
    unit, target = VECTOR_UNITS[isa], api.cpu_target(isa)
    rng = np.random.default_rng(0)
    rows, vectors = calibrate.DOT_TILE
    for dot in (BytesDot(unit), Bf16Dot(unit)):
        x, w = (
            runtime.aligned_copy(rng.integers(0, 9, shape).astype(np.float32))
            for shape in ((rows, dot.depth), (vectors, unit.lanes * dot.depth))
        )
        want = 3 * np.einsum("rd,vld->rvl", x, w.reshape(vectors, unit.lanes, dot.depth))
        if isinstance(dot, Bf16Dot):
            given = [runtime.aligned_copy((a.view(np.uint32) >> 16).astype(np.uint16)) for a in (x, w)]
        else:
            given = [runtime.aligned_copy(a.astype(dtype)) for a, dtype in ((x, dot.x_dtype), (w, dot.weight_dtype))]
        y = runtime.aligned_empty((rows, vectors, unit.lanes), dot.acc_dtype)
        api.build_kernel(calibrate.dot_kernel(dot, 3), target)(*map(runtime.to_tensor, (*given, y)))
        np.testing.assert_array_equal(y, want)


# --- estimates --------------------------------------------------------------------------------------------------------


def test_product_bound_by_arithmetic() -> None:
    found = the_estimate(
        only_node("nn.matmul", (512, 512), (512, 512), weights=1), replace(MACHINE, peaks={"f32": 10.0})
    )
    efficiency = cost.tile_efficiency(512, 512, UNIT)
    assert 0.5 < efficiency <= 1
    assert found.bound == "arithmetic"
    assert found.seconds == pytest.approx(2 * 512**3 / (10.0 * efficiency) + MACHINE.call)


def test_product_bound_by_weights() -> None:
    """One row reads 4 MB of weights, which no cache holds, for two operations an element."""
    found = the_estimate(
        only_node("nn.matmul", (1, 1024), (1024, 1024), weights=1), replace(MACHINE, peaks={"f32": 1e9})
    )
    assert found.bound == "memory"
    assert found.memory == pytest.approx((4 * 1024 * 1024 + 4 * 2 * 1024) / 50.0)


def test_weights_lie_where_the_whole_program_fits() -> None:
    graph = only_node("nn.matmul", (4, 64), (64, 64), weights=1)
    node = graph.nodes[-1]
    small, large = (cost.estimate(node, MACHINE, 1, whole) for whole in (0, 1 << 30))
    assert small.memory == pytest.approx((4 * 64 * 64 + 4 * 2 * 4 * 64) / 400.0)
    assert large.memory == pytest.approx(4 * 64 * 64 / 50.0 + 4 * 2 * 4 * 64 / 400.0)


def test_winograd_where_it_pays() -> None:
    wide = only_node("nn.conv", (1, 64, 56, 56), (64, 64, 3, 3), weights=1, pads=(1, 1, 1, 1))
    direct = node_cost(wide.nodes[-1]).flops
    found = cost.node_work(wide.nodes[-1], UNIT)
    assert found.operations == pytest.approx(direct / 4)  # F(4, 3): 36 products for 16 * 9
    assert found.rest > 0
    weights, _ = cost.traffic(wide.nodes[-1], found)
    assert weights == 64 * 64 * 36 * 4  # transformed: they, and not the 3x3 ones, are read
    strided = only_node("nn.conv", (1, 64, 56, 56), (64, 64, 3, 3), weights=1, pads=(1, 1, 1, 1), strides=(2, 2))
    assert cost.node_work(strided.nodes[-1], UNIT).operations == node_cost(strided.nodes[-1]).flops


def test_bytes_have_a_peak_of_their_own() -> None:
    e = Editor()
    x, w = e.input("x", Tensor((64, 64), "u8")), e.constant(np.ones((64, 64), np.uint8), "w")
    e.output(e.emit("nn.matmul", x, w), "y")
    graph = e.freeze()
    fast = replace(MACHINE, peaks={"f32": 1000.0, "i8": 4000.0})
    assert the_estimate(graph, fast).arithmetic == pytest.approx(the_estimate(graph).arithmetic / 4)


def test_depthwise_is_slower_than_its_operations() -> None:
    graph = only_node("nn.conv", (1, 32, 28, 28), (32, 1, 3, 3), weights=1, g=32)
    assert cost.node_work(graph.nodes[-1], UNIT).efficiency == cost.DEPTHWISE


def test_gather_reads_a_part() -> None:
    e = Editor()
    table = e.constant(np.zeros((100_000, 16), np.float32), "table")
    e.output(e.emit("shape.gather", table, e.input("i", Tensor((3,), "i64")), axis=0), "y")
    graph = e.freeze()
    assert cost.traffic(graph.nodes[-1], cost.node_work(graph.nodes[-1], UNIT)) == (3 * 16 * 4, 3 * 16 * 4 + 3 * 8)
    assert cost.footprint(graph, UNIT) < 1000


def test_kernel_costs_what_its_nodes_cost() -> None:
    """An epilogue adds to the product's time, but neither traffic of its own nor a call."""
    e = Editor()
    h = e.emit("nn.matmul", e.input("x", Tensor((64, 64), "f32")), e.constant(np.ones((64, 64), np.float32), "w"))
    e.output(e.emit("math.exp", h), "y")
    apart = e.freeze()
    together = fuse(apart)
    (_, product), (_, last) = cost.estimates(apart, MACHINE)
    fused = the_estimate(together)
    assert fused.arithmetic == pytest.approx(product.arithmetic)
    assert fused.rest == pytest.approx(last.rest / cost.LOOPS)
    assert fused.seconds < product.seconds + last.seconds
    assert CpuTarget("avx512", machine=MACHINE).cost(together).seconds == pytest.approx(MACHINE.entry + fused.seconds)


def test_views_cost_nothing_and_symbols_count_as_one() -> None:
    assert the_estimate(only_node("shape.reshape", (4, 4), shape=(16,))).seconds == 0
    e = Editor()
    e.output(e.emit("math.relu", e.input("x", Tensor((dim("N"), 8), "f32"))), "y")
    symbolic = e.freeze()
    assert the_estimate(symbolic) == the_estimate(only_node("math.relu", (1, 8)))


def test_a_template_can_say_it_better(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(cost.WORK, "math.add", lambda node, unit: cost.Work(operations=8000.0, efficiency=0.5))
    assert the_estimate(only_node("math.add", (8,), (8,))).arithmetic == pytest.approx(16.0)


OPS = {
    "nn.matmul": lambda n: only_node("nn.matmul", (n, 48), (48, 40), weights=1),
    "nn.conv": lambda n: only_node("nn.conv", (1, 20, n + 3, 9), (24, 20, 3, 3), weights=1),
    "nn.max_pool": lambda n: only_node("nn.max_pool", (1, 8, n + 3, 8), kernel=(2, 2)),
    "nn.softmax": lambda n: only_node("nn.softmax", (n, 33)),
    "math.reduce_sum": lambda n: only_node("math.reduce_sum", (n, 40), axes=(1,)),
    "shape.transpose": lambda n: only_node("shape.transpose", (n, 24), perm=(1, 0)),
    "math.sin": lambda n: only_node("math.sin", (n, 7)),
}


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(OPS)), st.integers(1, 60), st.floats(1.5, 100), st.integers(1, 16))
def test_faster_machines_take_no_longer(op: str, n: int, factor: float, threads: int) -> None:
    graph = OPS[op](n)
    before = the_estimate(graph)
    assert 0 < before.seconds < np.inf
    peaks = {"f32": MACHINE.peaks["f32"] * factor}
    levels = tuple(replace(level, bandwidth=level.bandwidth * factor) for level in LEVELS)
    for machine in (replace(MACHINE, peaks=peaks), replace(MACHINE, levels=levels), replace(MACHINE, call=1e-9)):
        assert the_estimate(graph, machine).seconds <= before.seconds
    both = the_estimate(graph, replace(MACHINE, peaks=peaks, levels=levels))
    assert both.seconds - MACHINE.call == pytest.approx((before.seconds - MACHINE.call) / factor)
    more = the_estimate(graph, MACHINE, threads)
    assert more.seconds <= before.seconds * 1.001 + MACHINE.fork
    assert the_estimate(OPS[op](2 * n)).seconds >= before.seconds * 0.999


# --- kernels of a program ---------------------------------------------------------------------------------------------


def network() -> Module:
    """Two fused kernels, a softmax, a view and a result that is copied."""
    e = Editor()
    x = e.input("x", Tensor((dim("N"), 3, 8, 8), "f32"))
    rng = np.random.default_rng(0)
    w = e.constant(rng.standard_normal((6, 3, 3, 3)).astype(np.float32), "w")
    h = e.emit("math.relu", e.emit("nn.conv", x, w, pads=(1, 1, 1, 1)))
    flat = e.emit("shape.reshape", h, shape=(dim("N"), 384))
    v = e.constant(rng.standard_normal((384, 5)).astype(np.float32), "v")
    e.output(e.emit("nn.softmax", e.emit("nn.matmul", flat, v)), "y")
    e.output(flat, "flat")
    return Module("network", {"main": e.freeze()}, {"N": (1, None)})


def test_kernels_are_told_apart(tmp_path: Path) -> None:
    module = network()
    compiled = compile_model(module, "cpu", threads=1)
    x = np.random.default_rng(1).standard_normal((2, 3, 8, 8)).astype(np.float32)
    want = evaluate(module.main, [x])
    program: Any = compiled.program
    assert isinstance(program, Profiled)
    predicted = program.kernel_costs()
    assert all(k.measured is None for k in predicted)
    ops = [op for k in predicted for op in k.ops]
    assert [op for op in ops if op != "copy"] == ["nn.conv", "math.relu", "nn.matmul", "nn.softmax"]
    assert all(k.predicted > 0 and k.bound for k in predicted if k.ops != ("copy",))
    compiled.save(tmp_path / "artifact")
    for one in (program, load_artifact(tmp_path / "artifact").program):
        found = one.kernel_costs([x])
        assert [replace(k, measured=None) for k in found] == predicted
        assert all(k.measured is not None and k.measured >= 0 for k in found)
        for got, expected in zip(one.run([x]), want, strict=True):  # no trace of it is left
            np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


def test_report_has_a_table_of_kernels(tmp_path: Path) -> None:
    compiled = compile_model(network(), "cpu", threads=1)
    page = compiled.report()
    for text in ("<h2>Kernels</h2>", "nn.conv math.relu", "predicted µs", "intaglio report --measure"):
        assert text in page
    assert "intaglio report --measure" not in compiled.report(tmp_path / "page.html", measure=True)
    assert "<h2>Kernels</h2>" not in intaglio.compile(network(), "reference").report()
