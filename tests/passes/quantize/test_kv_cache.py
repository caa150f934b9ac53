"""`kv_cache`: a decoder that keeps its past in bytes says nearly what it said."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx")

import intaglio
from intaglio.ir import Graph, IntaglioError, Module, evaluate, verify
from intaglio.ir.text import parse_graph
from intaglio.passes.definition import Context
from intaglio.passes.quantize.kv_cache import encoded_caches, kv_cache

from ...zoo import data, models
from ...zoo.decoder import decode, gpt_step

WIDTH, HEADS, LAYERS, LENGTH, WORDS = 64, 4, 2, 24, 50


@pytest.fixture(scope="module")
def weights() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    found = {"pos": (LENGTH, WIDTH), "tok.weight": (WORDS, WIDTH), "head.weight": (WORDS, WIDTH)}
    for i in range(LAYERS):
        layers = {"qkv": (3 * WIDTH, WIDTH), "o": (WIDTH, WIDTH), "f1": (4 * WIDTH, WIDTH), "f2": (WIDTH, 4 * WIDTH)}
        found |= {f"b.{i}.{k}.weight": s for k, s in layers.items()} | {
            f"b.{i}.{k}.bias": s[:1] for k, s in layers.items()
        }
    made = {k: (rng.standard_normal(s) * s[-1] ** -0.5).astype(np.float32) for k, s in found.items()}
    for norm in ["ln", *(f"b.{i}.ln{j}" for i in range(LAYERS) for j in (1, 2))]:
        made |= {f"{norm}.weight": np.ones(WIDTH, np.float32), f"{norm}.bias": np.zeros(WIDTH, np.float32)}
    return made


def runner(graph: Graph) -> Any:
    return lambda batch: dict(
        zip(graph.output_names, evaluate(graph, [batch[v.name] for v in graph.inputs]), strict=True)
    )


def test_decoder(weights: dict[str, Any]) -> None:
    first = runner(intaglio.load(gpt_step(weights, LAYERS, HEADS, first=True)).main)
    step = intaglio.load(gpt_step(weights, LAYERS, HEADS)).main
    context = Context()
    made = kv_cache(step, context)
    verify(made)
    assert sum(v.type.elem.name == "i8" for v in made.inputs) == 2 * LAYERS
    assert [v.type.elem.name for v in made.outputs].count("i8") == 2 * LAYERS
    assert "4 caches in int8: 1024 bytes a token become 320" in context.notes
    tokens = np.random.default_rng(1).integers(0, WORDS, (3, LENGTH))
    want, floats = decode(first, runner(step), lambda b: b, tokens)
    have, codes = decode(first, runner(made), lambda b: encoded_caches(b, made), tokens)
    assert np.array_equal(want[:, 0], have[:, 0])
    assert np.linalg.norm(have - want) < 0.01 * np.linalg.norm(want)
    assert codes * WIDTH // HEADS * 4 == floats * (WIDTH // HEADS + 4)


def test_compiled_and_measured(weights: dict[str, Any]) -> None:
    """Calibration data in floats are encoded for the later graph; the loss booked is that of the logits."""
    pytest.importorskip("tvm")
    model = gpt_step(weights, LAYERS, HEADS)
    rng = np.random.default_rng(2)
    batch = {"tokens": rng.integers(0, WORDS, (4, 1)), "position": np.array([7])}
    batch |= {f"past_{k}.{i}": rng.standard_normal((4, HEADS, 7, WIDTH // HEADS)).astype(np.float32)
              for i in range(LAYERS) for k in ("key", "value")}  # fmt: skip
    made = intaglio.compile(model, "cpu", "quantize{dynamic=token,cache=false},kv_cache", calibration=batch)
    first, second = (e for e in made.ledger.entries if e.step.startswith(("quantize", "kv_cache")))
    assert 0 < second.measured["rel_l2"] < 0.04
    assert 0 < first.measured["rel_l2"] < 0.1
    inputs = [encoded_caches(batch, made.graph)[v.name] for v in made.graph.inputs]
    np.testing.assert_allclose(made.program.run(inputs)[0], evaluate(made.graph, inputs)[0], atol=2e-3)


def test_real_text() -> None:
    if data.folder() is None:
        pytest.skip(data.MISSING)
    pytest.importorskip("tvm")
    weights, vocabulary = models._gpt()
    found = data.shakespeare(vocabulary, 64)
    tokens, labels = found.batch(0, 24)["tokens"], found.labels[:24]
    first = intaglio.compile(gpt_step(weights, 3, 4, first=True), "cpu").run
    floats = intaglio.compile(gpt_step(weights, 3, 4), "cpu")
    codes = intaglio.compile(gpt_step(weights, 3, 4), "cpu", "kv_cache")
    want, large = decode(first, floats.run, lambda b: b, tokens)
    have, small = decode(first, codes.run, lambda b: encoded_caches(b, codes.graph), tokens)
    assert abs(models.nats(have, labels) - models.nats(want, labels)) < 0.002
    assert small < 0.3 * large


def test_nothing_to_keep() -> None:
    graph = parse_graph("""graph @main(%x: f32[2, 3]) -> (y: f32[2, 3]) {
      %y = math.relu(%x) : f32[2, 3]
      return %y
    }
    """)
    with pytest.raises(IntaglioError, match="IG0441"):
        kv_cache(graph, Context())
    assert Module("m", {"main": graph}, {}).main is graph
