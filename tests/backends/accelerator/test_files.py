"""Programs in files: they come back as they were, and damage never does more than stop a run with a diagnostic."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import intaglio
from intaglio.backends.accelerator.emit.network import Program
from intaglio.backends.accelerator.execute import emitted, run_program
from intaglio.backends.accelerator.files import load_program, pack_program, save_program, unpack_program
from intaglio.backends.accelerator.isa.instructions import BYTES, Instruction, Queue, decode, encode
from intaglio.backends.accelerator.simulate.functional import simulate
from intaglio.ir.diagnostics import IntaglioError
from intaglio.ir.text import parse

from .hardware import finder, systolic

GRAPH = """
ig 1
module @small {
  graph @main(%x: u8[1, 4, 8, 8]) -> (y: u8[1, 6, 4, 4]) {
    %w = const @"w" : i8[6, 4, 3, 3]
    %m = const @"m" : i32[6]
    %s = const @"s" : i32[6]
    %0 = quant.conv(%x, %w) {pads = [1, 1, 1, 1], strides = [2, 2], zero = 3} : i32[1, 6, 4, 4]
    %1 = quant.requantize(%0, %m, %s) {to = u8, zero = 7} : u8[1, 6, 4, 4]
    %y = nn.max_pool(%1) {kernel = [3, 3], pads = [1, 1, 1, 1]} : u8[1, 6, 4, 4]
    return %y
  }
}
"""


@cache
def program() -> Program:
    rng = np.random.default_rng(1)
    arrays = {
        "w": rng.integers(-128, 128, (6, 4, 3, 3)).astype(np.int8),
        "m": rng.integers(1 << 29, 1 << 30, 6).astype(np.int32),
        "s": np.full(6, 38, np.int32),
    }
    module = parse(GRAPH, weights=arrays)
    machine = systolic()
    found = emitted(intaglio.optimize(module, "").main, machine, finder(machine)).programs
    (made,) = [p for p in found if p is not None]
    return made


def test_a_program_comes_back(tmp_path: Path) -> None:
    made = program()
    save_program(made, tmp_path, "program")
    again = load_program(tmp_path, "program")
    assert again.queues == made.queues
    x = np.random.default_rng(0).integers(0, 256, (1, 4, 8, 8)).astype(np.uint8)
    np.testing.assert_array_equal(run_program(again, [x])[0], run_program(made, [x])[0])


@pytest.mark.parametrize("at", [0, 9, 12, 30, 70, -1])
def test_a_changed_file_is_refused(at: int) -> None:
    data = bytearray(pack_program(program().queues))
    data[at] ^= 0x10
    with pytest.raises(IntaglioError) as caught:
        unpack_program(bytes(data))
    assert caught.value.diagnostics[0].code == "IG0586"


def test_a_cut_file_is_refused() -> None:
    data = pack_program(program().queues)
    for length in (0, 5, 60, len(data) - BYTES):
        with pytest.raises(IntaglioError, match="IG0586"):
            unpack_program(data[:length])


def run(queues: dict[Queue, list[Instruction]]) -> None:
    """A run in memories with a guard after them: what is not a diagnostic is a bug."""
    made = program()
    dram = np.zeros(made.dram, np.uint8)
    dram[: len(made.constants)] = np.frombuffer(made.constants, np.uint8)
    simulate(queues, dram, made.local)


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_flipped_bits_stop_with_a_diagnostic_or_run(data: st.DataObject) -> None:
    """Bits of any instruction: an address out of range, a missing token, an unknown register."""
    queue = data.draw(st.sampled_from(list(Queue)))
    raw = bytearray(encode(program().queues[queue]))
    for _ in range(data.draw(st.integers(1, 3))):
        bit = data.draw(st.integers(0, len(raw) * 8 - 1))
        raw[bit // 8] ^= 1 << bit % 8
    try:
        run({**program().queues, queue: decode(bytes(raw))})
    except IntaglioError as e:
        assert e.diagnostics[0].code in ("IG0581", "IG0580", "IG0583", "IG0584")


def test_an_extent_of_zero_is_refused() -> None:
    from dataclasses import replace

    instructions = program().queues[Queue.COMPUTE]
    at, conv = next((i, one) for i, one in enumerate(instructions) if one.op == "conv")
    for name in ("k", "c", "p", "q"):
        none = replace(conv, fields={**conv.fields, name: 0})
        with pytest.raises(IntaglioError, match=f"IG0583.*`conv` with {name} = 0"):
            run({**program().queues, Queue.COMPUTE: [*instructions[:at], none, *instructions[at + 1 :]]})


def test_a_missing_token_is_found() -> None:
    """Dropping any one wait or send leaves a queue waiting or a token over."""
    from dataclasses import replace

    dropped = 0
    for queue in Queue:
        instructions = program().queues[queue]
        for i, one in enumerate(instructions):
            for token in ("wait_preceding", "wait_following", "send_preceding", "send_following"):
                if getattr(one, token):
                    without = [*instructions[:i], replace(one, **{token: False}), *instructions[i + 1 :]]
                    with pytest.raises(IntaglioError) as caught:
                        run({**program().queues, queue: without})
                    assert caught.value.diagnostics[0].code == "IG0584"
                    dropped += 1
    assert dropped > 10
