"""Whole models: exact circuits, and the operations they take. Counts that grow are a regression."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import intaglio
from intaglio.backends.he import layouts, noise
from intaglio.backends.he.compile import Compiled, compile_graph
from intaglio.backends.he.execute import execute
from intaglio.backends.he.owner import local
from intaglio.backends.he.program import HeProgram
from intaglio.ir import IntaglioError, evaluate, verify
from intaglio.ir.graph import Module

from ...zoo import data
from . import models


def counts(c: Compiled) -> tuple[int, int, int]:
    """Rotations, products by plaintexts, keys (relinearisation's included)."""
    return c.counted.total("rotate"), c.counted.total("mul_plain"), len(c.keys)


def run(c: Compiled, x: Any, engine: str = "sim") -> tuple[Any, Any]:
    """The output, and the ciphertext that it was in."""
    sides = local(engine, c.parameters, c.keys)
    tensor, out = c.interface.inputs[0], c.interface.outputs[0]
    (values,) = layouts.pack(tensor.layout, x, c.parameters.slots)
    meta = tensor.ciphertexts[0]
    (y,) = execute(c.circuit, sides.engine, [sides.encrypt(values, meta.level, meta.scale)])
    return layouts.unpack(out.layout, out.shape, [sides.decrypt(y)]), y


def image(shape: tuple[int, ...], seed: int = 0) -> Any:
    return np.random.default_rng(seed).uniform(0, 1, (1, *shape)).astype(np.float32)


@pytest.mark.parametrize(
    ("name", "golden", "goal"),
    [
        ("mlp", (28, 34, 14), (40, 64, 20)),
        ("lola", (31, 56, 13), (40, 120, 20)),
        ("lola_of_orion", (33, 114, 13), (40, 120, 20)),
        ("lenet", (102, 880, 12), (160, 1500, 60)),
    ],
)
def test_real_networks_take_few_operations(name: str, golden: tuple[int, ...], goal: tuple[int, ...]) -> None:
    graph = getattr(models, name)()
    c = compile_graph(graph, "seal")
    assert counts(c) == golden
    assert all(a <= b for a, b in zip(golden, goal, strict=True))
    assert c.parameters.ring_degree == 1 << 14 and not c.parameters.insecure
    assert c.keys.bytes(c.parameters) <= 0.3e9
    verify(c.circuit.graph)
    x = image((1, 28, 28))
    got, sealed = run(c, x)
    (want,) = evaluate(graph, [x])
    size = np.abs(want).max()
    assert np.abs(got - want).max() <= 2e-6 * size + noise.bound(sealed.variance)
    assert np.log2(size / noise.bound(sealed.variance)) >= 13


@pytest.mark.parametrize("degree", [2, 4, 8])
def test_residual_networks_with_polynomials(degree: int) -> None:
    graph = models.small(degree)
    c = compile_graph(graph, "sim", ring=1 << 12, insecure=True)
    verify(c.circuit.graph)
    x = image((3, 8, 8))
    got, sealed = run(c, x)
    (want,) = evaluate(graph, [x])
    np.testing.assert_allclose(got, want, atol=1e-5 * np.abs(want).max() + noise.bound(sealed.variance))


@pytest.mark.parametrize(("degree", "levels"), [(2, 1), (4, 2), (8, 3)])
def test_folded_polynomials_cost_few_levels(degree: int, levels: int) -> None:
    """Five activations, six linear layers in a row: scales and shifts are folded into them."""
    c = compile_graph(models.small(degree), "sim", ring=1 << 12, insecure=True)
    assert c.levels.needed == 6 + 5 * levels


def test_bootstraps_lie_where_one_value_is_alive() -> None:
    b = models.Builder((3, 8, 8)).conv(4, 3, 1, 1).poly(0.05, 0.5, 0.25)
    for _ in range(4):
        b.residual(4)
    graph = b.dense(10).graph()
    c = compile_graph(graph, "lattigo", ring=1 << 16, bootstrap=True)
    assert c.levels.needed == 9 and c.parameters.secret == "h=192"
    assert c.bootstraps == 2  # 18 levels and more: two cuts, between blocks
    assert compile_graph(graph, "lattigo", ring=1 << 16, bootstrap=False).bootstraps == 0


def test_on_ciphertexts_of_seal() -> None:
    pytest.importorskip("seal", reason="engine seal: pip install 'intaglio[he]'")
    graph = models.Builder((1, 8, 8)).conv(4, 3, 2, 1).square().dense(10).graph()
    c = compile_graph(graph, "seal", ring=1 << 12, scale=30, insecure=True)
    x = image((1, 8, 8))
    got, _ = run(c, x, "seal")
    _, sealed = run(c, x, "sim")
    (want,) = evaluate(graph, [x])
    assert np.abs(got - want).max() <= noise.bound(sealed.variance) + 2e-6


@pytest.mark.deep
@pytest.mark.parametrize("name", ["mlp", "lola", "lenet"])
def test_real_networks_on_ciphertexts_of_seal(name: str) -> None:
    pytest.importorskip("seal", reason="engine seal: pip install 'intaglio[he]'")
    graph, x = getattr(models, name)(), image((1, 28, 28))
    got, _ = run(compile_graph(graph, "seal"), x, "seal")
    (want,) = evaluate(graph, [x])
    assert np.abs(got - want).max() <= 2.0**-13 * np.abs(want).max()


# --- artifacts --------------------------------------------------------------------------------------------------------


def test_an_artifact_runs_again(tmp_path: Path) -> None:
    graph = models.lola()
    compiled = intaglio.compile(Module("lola", {"main": graph}), "he", engine="sim")
    compiled.save(tmp_path / "a")
    again = (
        intaglio.load_artifact(tmp_path / "a")
        if hasattr(intaglio, "load_artifact")
        else type(compiled).load(tmp_path / "a")
    )
    x = image((1, 28, 28))
    (want,) = evaluate(graph, [x])
    np.testing.assert_allclose(again(x), want, atol=1e-4)
    client = {p.name for p in (tmp_path / "a" / "client").iterdir()}
    assert client == {"interface.json"}  # no program, no weights
    facts = again.manifest.backend
    assert facts["rotations"] == 31 and facts["plaintext_products"] == 56 and facts["keys"] == 13
    assert facts["predicted_seconds"] > 0 and facts["predicted_peak_bytes"] > facts["key_bytes"]
    assert facts["security"]["stamp"].startswith("128-bit")
    program = again.program
    assert isinstance(program, HeProgram)
    layers = program.kernel_costs()
    assert sum(k.predicted for k in layers) == pytest.approx(facts["predicted_seconds"])
    assert all(k.measured is not None for k in program.kernel_costs([x]))


# --- what cannot be ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "code", "words"),
    [
        (lambda b: b.g.emit("math.relu", b.x), "IG0546", "no encrypted form"),
        (lambda b: b.g.emit("nn.max_pool", b.x, kernel=(2, 2)), "IG0546", "no encrypted form"),
        (
            lambda b: b.g.emit("math.mul", b.x, b.g.constant(np.ones((6, 6), np.float32))),
            "IG0546",
            "numbers for channels",
        ),
    ],
)
def test_what_has_no_encrypted_form(make: Any, code: str, words: str) -> None:
    b = models.Builder((1, 8, 8)).conv(2, 3)
    b.x = make(b)
    with pytest.raises(IntaglioError, match=words) as caught:
        compile_graph(b.graph(), "sim")
    assert caught.value.diagnostics[0].code == code


def test_too_many_levels_for_seal() -> None:
    b = models.Builder((1, 4, 4)).dense(16)
    for _ in range(20):
        b.square().dense(16)
    with pytest.raises(IntaglioError, match="no secure parameters for 41 levels") as caught:
        compile_graph(b.graph(), "seal")
    assert caught.value.diagnostics[0].code == "IG0549"


def test_one_sample_at_a_time() -> None:
    from intaglio.ir import Editor, Tensor

    e = Editor()
    x = e.input("x", Tensor((2, 4), "f32"))
    e.output(e.emit("math.mul", x, x), "y")
    with pytest.raises(IntaglioError, match="one sample"):
        compile_graph(e.freeze(), "sim")


@pytest.mark.deep
@pytest.mark.parametrize(
    ("name", "engine", "bootstrap", "golden"),
    [
        ("resnet8_cifar10", "seal", False, (230, 1709, 16, 15, 0)),
        ("resnet20_cifar10", "lattigo", False, (545, 4479, 21, 39, 0)),
        ("resnet20_cifar10", "lattigo", True, (545, 4479, 21, 9, 4)),
    ],
)
def test_residual_networks_of_the_zoo(name: str, engine: str, bootstrap: bool, golden: tuple[int, ...]) -> None:
    """Verified circuits at 128 bits: rotations, products, keys, levels, bootstraps."""
    if data.folder() is None:
        pytest.skip(data.MISSING)
    pipeline = "freeze,canonicalize,polynomial{degree=2,range=4.0},fold"
    model = intaglio.load(data.file(f"models/{name}.onnx"))
    c = compile_graph(intaglio.optimize(model, pipeline).main, engine, bootstrap=bootstrap)
    verify(c.circuit.graph)
    assert (*counts(c), c.parameters.max_level, c.bootstraps) == golden
    assert not c.parameters.insecure
