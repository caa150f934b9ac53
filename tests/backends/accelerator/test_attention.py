"""Transformers as programs: products of two activations, softmax and norms, and whole encoders, bit for bit."""

from __future__ import annotations

import functools
import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import intaglio
from intaglio.backends.accelerator.cost import cost_of
from intaglio.backends.accelerator.emit.network import Program
from intaglio.backends.accelerator.execute import emitted
from intaglio.backends.accelerator.isa.assembly import assemble, disassemble
from intaglio.backends.accelerator.isa.instructions import Instruction, Queue, decode, encode
from intaglio.backends.accelerator.simulate.events import simulate_program
from intaglio.backends.accelerator.simulate.functional import simulate
from intaglio.compiler.api import load_artifact
from intaglio.ir import Graph, Tensor, evaluate
from intaglio.ir.diagnostics import IntaglioError
from intaglio.ir.edit import Editor
from intaglio.ir.types import Int

from ...benchmarks import calibrate
from ...benchmarks.models import _random_encoder
from ...zoo.models import MODELS
from .attention import attention, inputs_of
from .hardware import RATES, draw_machine, finder, systolic


def check(graph: Graph, machine: Any, seed: int = 0) -> list[Program]:
    """One program does it all, and does it right."""
    executable = emitted(graph, machine, finder(machine))
    assert not any(stage.nodes for stage in executable.stages), "nothing is left to the host"
    arrays = inputs_of(graph, seed)
    for mine, theirs in zip(executable.run(arrays), evaluate(graph, arrays), strict=True):
        assert mine.dtype == theirs.dtype
        np.testing.assert_array_equal(mine, theirs)
    return [p for p in executable.programs if p is not None]


@pytest.mark.parametrize(("tokens", "width", "heads"), [(10, 24, 3), (7, 16, 1), (33, 48, 4), (1, 8, 2)])
def test_attention_is_bit_exact(tokens: int, width: int, heads: int) -> None:
    (program,) = check(attention(tokens, width, heads), systolic())
    kinds = [p.op for p in program.pieces]
    assert sorted(kinds) == ["product"] * 3 + ["quant.matmul"] * 3 + ["rows"] * 2


def test_attention_on_any_machine_moves_what_the_model_says() -> None:
    """Tiles that cut heads, depth and tokens, partial sums: the result is the same, accesses are those of the model."""
    for seed in range(12):
        machine = draw_machine(random.Random(seed))
        graph = attention(random.Random(seed).randint(20, 60), 96, 3, seed)
        (program,) = check(graph, machine, seed)
        for piece, outcome in zip(program.pieces, simulate_program(program, machine, lambda _: RATES), strict=True):
            if piece.layer is None or piece.mapping is None or piece.layer.bits[2] != 8:
                continue
            tiles = {d: list(t) for d, t in piece.mapping.tiles.items()}
            cost = cost_of(machine, RATES, machine.dataflows[0], piece.layer, tiles, piece.mapping.orders)
            expected = {(e.store, e.operand, "read"): e.reads for e in cost.entries}
            expected |= {(e.store, e.operand, "write"): e.writes for e in cost.entries}
            assert {k: n for k, n in outcome.counts.items() if n} == {k: n for k, n in expected.items() if n}, piece


def test_rows_are_read_where_they_lie() -> None:
    """Heads side by side, rows every so many bytes, numbers apart from each other; and written so."""
    e = Editor()
    x = e.input("x", Tensor((1, 6, 3, 5), "u8"))
    one = e.constant(np.int32(1))
    for i, perm in enumerate([(0, 2, 1, 3), (0, 3, 2, 1), (0, 2, 3, 1), (3, 1, 0, 2)]):
        y = e.emit("math.add", e.emit("math.cast", e.emit("shape.transpose", x, perm=perm), to=Int("i32")), one)
        e.output(y, f"y{i}")
        e.output(e.emit("shape.transpose", y, perm=(1, 0, 3, 2)), f"z{i}")
        e.output(e.emit("shape.reshape", y, shape=(90,)), f"w{i}")
    check(e.freeze(), systolic())


def test_a_merge_of_heads_costs_nothing() -> None:
    """What is reshaped after a transpose is the tensor; who makes it writes there."""
    e = Editor()
    x = e.input("x", Tensor((1, 4, 6, 8), "u8"))
    y = e.emit("math.maximum", x, e.constant(np.uint8(9)))
    merged = e.emit("shape.reshape", e.emit("shape.transpose", y, perm=(0, 2, 1, 3)), shape=(1, 6, 32))
    e.output(e.emit("math.minimum", merged, e.constant(np.uint8(200))), "z")
    (program,) = check(e.freeze(), systolic())
    assert [p.op for p in program.pieces] == ["rows", "rows"]


# --- programs that are none -------------------------------------------------------------------------------------------


@functools.cache
def small() -> Program:
    machine = systolic()
    (program,) = (p for p in emitted(attention(5, 8, 2), machine, finder(machine)).programs if p is not None)
    return program


def run(queues: dict[Queue, list[Instruction]]) -> None:
    made = small()
    dram = np.zeros(made.dram, np.uint8)
    dram[: len(made.constants)] = np.frombuffer(made.constants, np.uint8)
    simulate(queues, dram, made.local)


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_flipped_bits_stop_with_a_diagnostic_or_run(data: st.DataObject) -> None:
    queue = data.draw(st.sampled_from(list(Queue)))
    raw = bytearray(encode(small().queues[queue]))
    for _ in range(data.draw(st.integers(1, 3))):
        bit = data.draw(st.integers(0, len(raw) * 8 - 1))
        raw[bit // 8] ^= 1 << bit % 8
    try:
        run({**small().queues, queue: decode(bytes(raw))})
    except IntaglioError as e:
        assert e.diagnostics[0].code in ("IG0580", "IG0581", "IG0583", "IG0584")


def test_a_missing_token_is_found() -> None:
    """Dropping any one wait or send leaves a queue waiting or a token over."""
    found = [
        (queue, i, token)
        for queue in Queue
        for i, one in enumerate(small().queues[queue])
        for token in ("wait_preceding", "wait_following", "send_preceding", "send_following")
        if getattr(one, token)
    ]
    assert len(found) > 100
    for queue, i, token in random.Random(0).sample(found, 30):
        some = list(small().queues[queue])
        some[i] = replace(some[i], **{token: False})
        with pytest.raises(IntaglioError) as caught:
            run({**small().queues, queue: some})
        assert caught.value.diagnostics[0].code == "IG0584"


def test_text_and_bytes_of_a_program_round_trip() -> None:
    for queue, some in small().queues.items():
        assert decode(encode(some)) == some
        assert assemble(disassemble(some)) == some, queue


# --- encoders ---------------------------------------------------------------------------------------------------------


def sentences(count: int, tokens: int) -> dict[str, Any]:
    rng = np.random.default_rng(5)
    mask = (np.arange(tokens) < rng.integers(tokens // 2, tokens + 1, (count, 1))).astype(np.int64)
    return {"input_ids": rng.integers(0, 1000, (count, tokens)), "attention_mask": mask}


def compiled(proto: Any, tokens: int, calibration: list[dict[str, Any]], **options: Any) -> Any:
    passes = f"freeze{{N=1,T={tokens}}},quantize"
    return intaglio.compile(intaglio.load(proto), "accelerator", passes, calibration=calibration, **options)


HOST = {"shape.gather", "math.add", "math.cast", "math.sub", "math.mul", "math.div", "math.sqrt", "math.reduce_sum"}
HOST |= {"quant.quantize", "quant.store", "quant.load", "quant.dequantize", "shape.unsqueeze"}
"""What looks up embeddings and makes one of the last layer: no product, no norm, no softmax."""


def whole(made: Any, arrays: dict[str, Any]) -> Any:
    """One program, bit for bit the integer graph, every layer of it predicted as it is simulated."""
    executable = made.program.deployment.executable
    assert [p is not None for p in executable.programs] == [False, True, False]
    assert {n.op.name for stage in executable.stages for n in stage.nodes} <= HOST
    graph = made.module.main
    inputs = [arrays[v.name] for v in graph.inputs]
    (found,), (expected,) = made.program.run(inputs), evaluate(graph, inputs)
    np.testing.assert_array_equal(found, expected)
    steps = [s for s in made.program.mapping()["steps"] if not s.get("host")]
    assert len(steps) == len(executable.programs[1].pieces)
    for step in steps:
        assert step["cycles"] == pytest.approx(step["simulated_cycles"], rel=0.05), step["name"]
    return found


@pytest.mark.parametrize("fuse", [False, True])
def test_an_encoder_runs_as_one_program(tmp_path: Path, fuse: bool) -> None:
    """Two layers of a small MiniLM: embedding to the last norm, with a mask; saved, loaded, reported."""
    proto = _random_encoder(width=96, inner=384, layers=2)
    arrays = sentences(1, 16)
    made = compiled(proto, 16, [sentences(4, 16)], fuse=fuse)
    found = whole(made, arrays)
    plain = intaglio.compile(intaglio.load(proto), "reference", "freeze{N=1,T=16}").run(arrays)
    (real,) = plain.values()
    assert float((real * found).sum()) > 0.999  # both have length 1
    made.save(tmp_path / "out")
    again = load_artifact(tmp_path / "out")
    np.testing.assert_array_equal(next(iter(again.run(arrays).values())), found)
    assert "on the host: shape.gather" in made.program.simulation()
    trace = json.loads((tmp_path / "out" / "trace.json").read_text())
    assert {"gemm", "vec", "row", "lut", "req"} <= {e["name"] for e in trace["traceEvents"] if e["ph"] == "X"}
    assert "softmax" in made.report()


@pytest.mark.parametrize("machine", ["edge16", "tpu_v1", "eyeriss", "nvdla"])
def test_an_encoder_on_other_machines(machine: str) -> None:
    made = compiled(_random_encoder(width=48, inner=96, layers=1), 8, [sentences(2, 8)], machine=machine)
    whole(made, sentences(1, 8))


MINILM = next(m for m in MODELS if m.name == "minilm_l6")


@pytest.mark.deep
@pytest.mark.skipif(bool(MINILM.missing), reason=MINILM.missing)
def test_minilm_is_bit_exact() -> None:
    """MiniLM-L6 with its own weights at 128 tokens, on a real sentence."""

    def padded(arrays: Any) -> dict[str, Any]:
        return {k: np.pad(v[:, :128], ((0, 0), (0, max(0, 128 - v.shape[1])))) for k, v in arrays.items()}

    many = padded(calibrate.training_inputs("minilm_l6", 8))
    made = compiled(MINILM.proto(), 128, [{k: v[i : i + 1] for k, v in many.items()} for i in range(8)])
    whole(made, padded(MINILM.data().batch(0, 1)))
