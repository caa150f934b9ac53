"""The instruction set: bytes and text round-trip, and what is no program is said to be none."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from intaglio.backends.accelerator.isa.assembly import assemble, disassemble
from intaglio.backends.accelerator.isa.instructions import (
    BYTES,
    CONTROL,
    OPCODES,
    REGISTERS,
    Instruction,
    Queue,
    decode,
    encode,
)
from intaglio.backends.accelerator.simulate.functional import _Machine, simulate
from intaglio.ir.diagnostics import IntaglioError


@st.composite
def instructions(draw: st.DrawFn) -> Instruction:
    op = draw(st.sampled_from(list(OPCODES)))
    fields = {f.name: draw(st.integers(*f.range)) for f in OPCODES[op].fields if f.name != "queue"}
    if any(f.name == "queue" for f in OPCODES[op].fields):
        fields = {"queue": draw(st.integers(0, 2)), **fields}
    flags = st.booleans()
    return Instruction(op, fields, draw(flags), draw(flags), draw(flags), draw(flags))


@given(st.lists(instructions(), max_size=20))
def test_bytes_round_trip(program: list[Instruction]) -> None:
    data = encode(program)
    assert len(data) == BYTES * len(program)
    assert decode(data) == program


@given(st.lists(instructions(), max_size=20))
def test_text_round_trips(program: list[Instruction]) -> None:
    text = disassemble(program)
    assert assemble(text) == program
    assert disassemble(assemble(text)) == text


@given(st.binary(max_size=6 * BYTES))
def test_any_bytes_are_a_program_or_a_diagnostic(data: bytes) -> None:
    try:
        found = decode(data)
    except IntaglioError as e:
        assert e.diagnostics[0].code in ("IG0580", "IG0581")
    else:
        assert encode(found) == data


@given(st.text(alphabet="cfgloadend =+|,0123 wait\n#", max_size=60))
def test_any_text_is_a_program_or_a_diagnostic(text: str) -> None:
    try:
        found = assemble(text)
    except IntaglioError as e:
        assert e.diagnostics[0].code == "IG0582"
        assert e.diagnostics[0].position is not None
    else:
        assert assemble(disassemble(found)) == found


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("fetch input=0", "there is no instruction `fetch`"),
        ("cfg compute kernel = 3", "no register `kernel`"),
        ("cfg compute kernel_h 3", "`cfg` reads"),
        ("cfg kernel_h = 3", "say first of which queue"),
        ("loop load", "lacks its field `count`"),
        ("loop load count=4 times=2", "has no field `times`"),
        ("loop load count=99999999999", "does not fit"),
        ("loop load count=x", "is no number"),
        ("end load | wait before", "is no token"),
        ("end load | wait", "names no side"),
    ],
)
def test_wrong_lines_are_pointed_at(line: str, says: str) -> None:
    with pytest.raises(IntaglioError) as caught:
        assemble(f"# a program\n{line}\n", "p.asm")
    found = caught.value.diagnostics[0]
    assert found.code == "IG0582"
    assert says in found.message
    assert str(found.position) == "p.asm:2:1"


def test_every_instruction_is_executed_and_registers_fit_their_field() -> None:
    moves = {"load", "loadc", "store", "req"}
    assert all(hasattr(_Machine, f"_{name}") for name in set(OPCODES) - CONTROL - moves)
    register = next(f for f in OPCODES["cfg"].fields if f.name == "register")
    assert all(len(names) <= register.range[1] + 1 for names in REGISTERS.values())


def test_loops_repeat_and_registers_count() -> None:
    """Three times 8 bytes, moved one after the other through one buffer, addressed by registers that add."""
    text = """
    cfg load row0 = 0 | send preceding
    loop load count=3
    loadc stream=1 dram=0 local=16 count=8 packed=8 | wait preceding, send following
    cfg load base1 += 8
    end load
    cfg load row0 = 0 | wait preceding

    loop compute count=3
    cfg compute fresh = 0 | wait preceding, send following
    end compute

    cfg store base2 = 32 | wait following, send following   # the buffer is free from the start
    loop store count=3
    store stream=2 dram=0 local=16 rows=1 columns=1 bytes=8 | wait preceding, send following
    cfg store base2 += 8
    end store
    """
    queues: dict[Queue, list[Instruction]] = {q: [] for q in Queue}
    for one in assemble(text):
        queues[one.queue].append(one)
    dram = np.zeros(64, np.uint8)
    dram[:24] = np.arange(24)
    simulate(queues, dram, 64)
    assert dram[32:56].tolist() == list(range(24))
