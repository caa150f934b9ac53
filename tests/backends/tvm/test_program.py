"""The program as a whole: symbolic sizes, outputs, alignment, threads, artifacts, refusals, speed of small builds."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tvm")

from intaglio.backends import backend
from intaglio.backends.tvm import CpuOptions
from intaglio.backends.tvm.cross import Linker, linker_for
from intaglio.backends.tvm.isa import ISA_NAMES, host_architecture, host_isa, host_runs
from intaglio.ir import Editor, Graph, IntaglioError, Location, Module, Tensor, dim, evaluate
from intaglio.ir.graph import attributes
from intaglio.ir.types import elem_named
from intaglio.passes.fuse import fuse

CPU = backend("cpu")
N, S = dim("N"), dim("S")


def module(make: Callable[[Editor], Any]) -> Module:
    editor = Editor()
    results = make(editor)
    for i, v in enumerate(results if isinstance(results, (list, tuple)) else [results]):
        editor.output(v, f"y{i}")
    return Module("m", {"main": editor.freeze()}, {"N": (1, None), "S": (1, None)})


def compare(program: Any, graph: Graph, arrays: list[Any]) -> None:
    for got, want in zip(program.run(arrays), evaluate(graph, arrays), strict=True):
        assert got.dtype == want.dtype
        assert got.shape == want.shape
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def random(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def small_net(e: Editor) -> Any:
    x = e.input("x", Tensor((N, 3, 8, 8), "f32"))
    h = e.emit("nn.conv", x, e.constant(random(6, 3, 3, 3), "w"), e.constant(random(6), "b"), pads=(1, 1, 1, 1))
    h = e.emit("math.relu", h)
    pooled = e.emit("nn.avg_pool", h, kernel=(8, 8))
    flat = e.emit("shape.reshape", pooled, shape=(N, 6))
    return e.emit("nn.softmax", e.emit("nn.matmul", flat, e.constant(random(6, 5), "v")))


# --- sizes ----------------------------------------------------------------------------------------------------------


def test_one_artifact_runs_for_any_batch() -> None:
    made = module(small_net)
    for graph in (made.main, fuse(made.main)):
        program = CPU.build(made.with_main(graph), CPU.options())
        for n in (1, 2, 7):
            compare(program, made.main, [random(n, 3, 8, 8)])


def test_compound_sizes() -> None:
    def make(e: Editor) -> Any:
        x = e.input("x", Tensor((N, S, 6), "f32"))
        rows = e.emit("shape.reshape", x, shape=(N * S, 6))
        h = e.emit("math.tanh", e.emit("nn.matmul", rows, e.constant(random(6, 4), "w")))
        back = e.emit("shape.reshape", h, shape=(N, S, 4))
        both = e.emit("shape.concat", back, back, axis=1)
        tail = e.emit("shape.slice", x, starts=(1,), stops=(1 << 40,), axes=(1,))
        ones = e.emit("shape.full", e.constant(np.float32(1)), shape=(S, N))
        total = e.emit("math.reduce_sum", x, axes=(1,))
        return [back, both, tail, ones, total, e.emit("shape.extents", rows), e.emit("nn.softmax", x, axis=1)]

    made = module(make)
    program = CPU.build(made, CPU.options())
    for n, s in ((1, 2), (3, 5), (2, 33)):
        compare(program, made.main, [random(n, s, 6)])


def test_attention_with_symbolic_length() -> None:
    def make(e: Editor) -> Any:
        q, k, v = (e.input(name, Tensor((N, 2, S, 8), "f32")) for name in "qkv")
        scores = e.emit("nn.matmul", q, e.emit("shape.transpose", k, perm=(0, 1, 3, 2)))
        scores = e.emit("math.mul", scores, e.constant(np.float32(0.35)))
        return e.emit("nn.matmul", e.emit("nn.softmax", scores), v)

    made = module(make)
    program = CPU.build(made.with_main(fuse(made.main)), CPU.options())
    for s in (4, 19):
        compare(program, made.main, [random(2, 2, s, 8, seed=i) for i in range(3)])


# --- inputs and outputs ---------------------------------------------------------------------------------------------


def test_outputs_that_are_inputs_constants_views_or_twice_the_same() -> None:
    def make(e: Editor) -> Any:
        x = e.input("x", Tensor((2, 3), "f32"))
        c = e.constant(random(4), "c")
        h = e.emit("math.neg", x)
        return [x, c, e.emit("shape.reshape", x, shape=(6,)), h, h, e.emit("shape.reshape", h, shape=(3, 2))]

    made = module(make)
    x = random(2, 3)
    program = CPU.build(made, CPU.options())
    compare(program, made.main, [x])
    kept = x.copy()
    for y in program.run([x]):
        y[...] = 7  # results are the caller's: nothing else sees the write
    np.testing.assert_array_equal(x, kept)
    compare(program, made.main, [x])


def test_nothing_to_compute() -> None:
    made = module(lambda e: e.input("x", Tensor((2,), "f32")))
    program = CPU.build(made, CPU.options())
    compare(program, made.main, [random(2)])


def test_unaligned_strided_read_only_and_empty_inputs() -> None:
    def make(e: Editor) -> Any:
        x = e.input("x", Tensor((N, 16), "f32"))
        return [e.emit("math.exp", x), e.emit("math.reduce_sum", x, axes=(0,))]

    made = module(make)
    program = CPU.build(made, CPU.options())
    raw = random(200)
    for offset in range(1, 5):
        compare(program, made.main, [raw[offset : offset + 64].reshape(4, 16)])
    compare(program, made.main, [random(16, 4).T])
    frozen = random(4, 16)
    frozen.flags.writeable = False
    compare(program, made.main, [frozen])
    compare(program, made.main, [np.zeros((0, 16), np.float32)])


def test_narrow_types_at_the_boundary() -> None:
    for name in ("bf16", "f8e4m3fn", "f8e5m2", "i4", "u2", "bool", "f16"):
        elem = elem_named(name)
        x = np.array([[0, 1, 1], [1, 0, 0]]).astype(elem.dtype)
        made = module(lambda e, elem=elem: e.emit("shape.transpose", e.input("x", Tensor((2, 3), elem)), perm=(1, 0)))
        (got,) = CPU.build(made, CPU.options()).run([x])
        assert got.dtype == elem.dtype
        np.testing.assert_array_equal(got.astype(np.float32), x.T.astype(np.float32))


def test_threads_may_call_at_once() -> None:
    made = module(small_net)
    program = CPU.build(made, CPU.options())
    inputs = [random(2, 3, 8, 8, seed=i) for i in range(8)]
    wanted = [evaluate(made.main, [x])[0] for x in inputs]
    failures: list[str] = []

    def work(i: int) -> None:
        for _ in range(20):
            got = program.run([inputs[i]])[0]
            if not np.allclose(got, wanted[i], atol=1e-5):
                failures.append(f"thread {i}")

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not failures


# --- artifacts ------------------------------------------------------------------------------------------------------

LOAD = """
import json, sys
import numpy as np
from pathlib import Path
from intaglio.backends import backend
from intaglio.ir import Editor, Module, Tensor, dim

folder = Path(sys.argv[1])
e = Editor()
e.output(e.input("x", Tensor((dim("N"), 3, 8, 8), "f32")), "y0")
e.output(e.constant(np.arange(3, dtype=np.float32)), "y1")
cpu = backend("cpu")
info = json.loads((folder / "info.json").read_text())
program = cpu.load(folder, info, Module("m", {"main": e.freeze()}, {}), cpu.options())
y, c = program.run([np.load(folder / "x.npy")])
np.save(folder / "y.npy", y)
assert c.tolist() == [0, 1, 2]
"""


def test_save_and_load_in_a_fresh_process(tmp_path: Path) -> None:
    def make(e: Editor) -> Any:
        return [small_net(e), e.constant(np.arange(3, dtype=np.float32))]

    made = module(make)
    info = CPU.build(made, CPU.options()).save(tmp_path)
    x = random(3, 3, 8, 8)
    np.save(tmp_path / "x.npy", x)
    (tmp_path / "info.json").write_text(json.dumps(info))
    subprocess.run([sys.executable, "-P", "-c", LOAD, str(tmp_path)], check=True, timeout=120)
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), evaluate(made.main, [x])[0], rtol=1e-5, atol=1e-6)
    assert info["entry"] == "main"
    assert info["symbols"] == ["N"]
    assert info["dtypes"] == ["float32", "float32"]


def test_an_artifact_for_another_machine_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from intaglio.backends.tvm import isa

    made = module(small_net)
    info = CPU.build(made, CPU.options()).save(tmp_path)
    monkeypatch.setattr(isa, "host_cpu_flags", frozenset)  # a machine with nothing beyond the first x86-64
    with pytest.raises(IntaglioError) as e:
        CPU.load(tmp_path, {**info, "isa": "avx512"}, made, CPU.options())
    assert e.value.diagnostics[0].code == "IG0505"
    assert "cpu:isa=baseline" in e.value.diagnostics[0].hint


def test_more_is_not_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Code for AVX-VNNI, which came after AVX-512, does not run on each machine that has AVX-512."""
    from intaglio.backends.tvm import isa

    made = module(small_net)
    info = CPU.build(made, CPU.options(isa="avx2")).save(tmp_path)
    monkeypatch.setattr(isa, "host_cpu_flags", lambda: isa.ISAS["avx512"].flags)
    CPU.load(tmp_path, info, made, CPU.options())
    with pytest.raises(IntaglioError, match="IG0505"):
        CPU.load(tmp_path, {**info, "isa": "avx2_vnni"}, made, CPU.options())


@pytest.mark.parametrize("isa", ["avx2", "baseline"])
def test_smaller_instruction_sets(isa: str) -> None:
    made = module(small_net)
    program = CPU.build(made.with_main(fuse(made.main)), CpuOptions(isa=isa))
    compare(program, made.main, [random(2, 3, 8, 8)])


@pytest.mark.parametrize(("wide", "narrow"), [("avx512_bf16", "avx512"), ("avx2_vnni", "avx2")])
def test_instructions_for_bytes_change_nothing_in_f32(wide: str, narrow: str) -> None:
    if not host_runs(wide):
        pytest.skip(f"this machine does not run {wide}")
    made = module(small_net)
    x = random(2, 3, 8, 8)
    a, b = (CPU.build(made.with_main(fuse(made.main)), CpuOptions(isa=isa)).run([x]) for isa in (wide, narrow))
    for one, other in zip(a, b, strict=True):
        np.testing.assert_array_equal(one, other)


def test_native_is_the_widest() -> None:
    assert host_isa() == next(isa for isa in ISA_NAMES if host_runs(isa))
    assert CPU.build(module(small_net), CpuOptions()).isa == host_isa()


# --- other architectures ----------------------------------------------------------------------------------------------


def _no_linker() -> str:
    try:
        return "needs a machine of another architecture" if linker_for("neon") is None else ""
    except IntaglioError as e:
        return e.diagnostics[0].message


@pytest.mark.skipif(bool(_no_linker()), reason=_no_linker() or "-")
def test_an_artifact_for_another_architecture(tmp_path: Path) -> None:
    made = module(small_net)
    program = CPU.build(made.with_main(fuse(made.main)), CpuOptions(isa="neon"))
    with pytest.raises(IntaglioError, match="IG0505"):
        program.run([random(2, 3, 8, 8)])
    info = program.save(tmp_path)
    head = (tmp_path / info["library"]).read_bytes()[:20]
    assert head[:4] == b"\x7fELF"
    assert int.from_bytes(head[18:20], "little") == 183  # EM_AARCH64
    assert (info["isa"], info["architecture"]) == ("neon", "aarch64")
    with pytest.raises(IntaglioError) as e:
        CPU.load(tmp_path, info, made, CPU.options())
    found = e.value.diagnostics[0]
    assert found.code == "IG0505"
    assert "neon (aarch64)" in found.message
    assert f"cpu:isa={host_isa()}" in found.hint


@pytest.mark.skipif(host_architecture() == "aarch64", reason="the machine's own linker serves")
def test_no_linker_for_another_architecture(monkeypatch: pytest.MonkeyPatch) -> None:
    here: set[str] = set()
    monkeypatch.setattr(shutil, "which", lambda name: f"/bin/{name}" if name in here else None)
    with pytest.raises(IntaglioError) as e:
        CPU.build(module(small_net), CpuOptions(isa="neon"))
    found = e.value.diagnostics[0]
    assert found.code == "IG0511"
    assert "apt install gcc-aarch64-linux-gnu" in found.hint
    here |= {"clang", "ld.lld"}
    assert linker_for("neon") == Linker("/bin/clang", ("--target=aarch64-linux-gnu", "-fuse-ld=lld", "-nostdlib"))
    here.add("aarch64-none-linux-gnu-gcc")
    assert linker_for("neon") == Linker("/bin/aarch64-none-linux-gnu-gcc")


# --- refusals -------------------------------------------------------------------------------------------------------


def refusal(made: Module) -> Any:
    with pytest.raises(IntaglioError) as e:
        CPU.build(made, CPU.options())
    return e.value.diagnostics[0]


def test_data_dependent_shapes_are_refused() -> None:
    def make(e: Editor) -> Any:
        e.loc = Location(("layer.7",))
        return e.emit("dyn.nonzero", e.input("x", Tensor((4,), "f32")))

    made = module(make)
    found = refusal(made)
    assert found.code == "IG0502"
    assert "data-dependent shape" in found.message
    assert any("layer.7" in note for note in found.notes)
    assert CPU.target(CPU.options()).legal(made.main.nodes[0])


def test_ops_that_need_known_extents_say_which() -> None:
    def make(e: Editor) -> Any:
        x = e.input("x", Tensor((1, 1, N, 4), "f32"))
        return e.emit("nn.resize", x, shape=(1, 1, 2 * N, 4), scales=(1.0, 1.0, 2.0, 1.0))

    found = refusal(module(make))
    assert found.code == "IG0503"
    assert "freeze{N=...}" in found.hint


def test_exact_runs_without_templates() -> None:
    made = module(small_net)
    compare(CPU.build(made, CpuOptions(exact=True)), made.main, [random(2, 3, 8, 8)])


def test_unknown_options() -> None:
    with pytest.raises(IntaglioError, match="IG0504"):
        CPU.build(module(small_net), CpuOptions(isa="z80"))


def test_target() -> None:
    target = CPU.target(CPU.options())
    made = module(small_net)
    assert all(target.legal(n) == "" for n in made.main.nodes)
    cost = target.cost(made.main)
    assert cost.flops > 2 * 6 * 27 * 64
    assert cost.seconds is not None and cost.seconds > 0
    assert target.cost(fuse(made.main)).seconds < cost.seconds


def test_small_builds_are_quick() -> None:
    def make(e: Editor) -> Any:
        return e.emit("math.add", e.input("x", Tensor((3, 4), "f32")), e.input("y", Tensor((4,), "f32")))

    CPU.build(module(make), CPU.options())
    best = 1.0
    for _ in range(4):
        start = time.process_time()
        CPU.build(module(make), CPU.options())
        best = min(best, time.process_time() - start)
    assert best < 0.1


def test_multi_result_nodes() -> None:
    def make(e: Editor) -> Any:
        x = e.input("x", Tensor((N, 9), "f32"))
        top = e.apply("math.top_k", [x], attributes({"k": 3}))
        parts = e.apply("shape.split", [x], attributes({"axis": 1, "sizes": (2, 7)}))
        return [*top.outputs, *parts.outputs]

    made = module(make)
    compare(CPU.build(made, CPU.options()), made.main, [random(4, 9)])
