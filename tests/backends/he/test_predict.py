"""What is predicted follows what execute.py does: encodings, ciphertexts alive, contexts of SEAL."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from intaglio.backends.he import layouts, predict
from intaglio.backends.he.compile import Compiled, compile_graph
from intaglio.backends.he.counting import check_keys, manifest
from intaglio.backends.he.engines.sim import SimEngine
from intaglio.backends.he.execute import execute
from intaglio.backends.he.owner import local
from intaglio.backends.he.parameters import KeyManifest, Parameters

from . import models


def small(degree: int = 2) -> Compiled:
    return compile_graph(models.small(degree), "sim", ring=1 << 12, insecure=True)


def passes(c: Compiled, count: int, monkeypatch: pytest.MonkeyPatch) -> list[Counter[tuple[str, int]]]:
    """What is encoded in each pass, by level."""
    sides, tensor = local("sim", c.parameters, c.keys), c.interface.inputs[0]
    x = np.random.default_rng(0).uniform(0, 1, (1, 3, 8, 8)).astype(np.float32)
    (values,) = layouts.pack(tensor.layout, x, c.parameters.slots)
    sealed = sides.encrypt(values, tensor.ciphertexts[0].level, tensor.ciphertexts[0].scale)
    found: list[Counter[tuple[str, int]]] = []
    encode = SimEngine.encode

    def counted(self: Any, values: Any, level: int, scale: Fraction) -> Any:
        found[-1]["encode", level] += 1
        return encode(self, values, level, scale)

    monkeypatch.setattr(SimEngine, "encode", counted)
    for _ in range(count):
        found.append(Counter())
        execute(c.circuit, sides.engine, [sealed])
    return found


@pytest.mark.parametrize("room", [0, 3 << 20, 1 << 29])
def test_what_is_encoded_again_is_what_the_cache_has_no_room_for(room: int, monkeypatch: pytest.MonkeyPatch) -> None:
    c = small()
    c.circuit.room = room
    told = sum(predict.encodings(c.circuit, c.parameters).values(), Counter())
    first, second, third = passes(c, 3, monkeypatch)
    assert second == third == told
    assert (first == second) == (room == 0)
    assert c.circuit.bytes == predict.memory(c.circuit, c.parameters, c.keys, "seal").plaintexts <= room


def test_re_encoding_takes_time() -> None:
    c = small()
    without = predict.seconds(c.counted, c.parameters, "seal").total
    again = Counter({("encode", 1): 100})
    more = predict.seconds(type(c.counted)(c.counted.operations + again, {}), c.parameters, "seal").total
    assert more > without * 1.01


def test_parts_of_memory_add_up() -> None:
    c = small()
    room = predict.memory(c.circuit, c.parameters, c.keys, "seal")
    assert room.total == sum(vars(room).values()) and all(n > 0 for n in vars(room).values())
    assert room.keys == c.keys.bytes(c.parameters)
    assert predict.contexts(c.parameters, c.keys, (), "lattigo") < room.contexts


def test_ciphertexts_alive_are_those_with_readers() -> None:
    """A square after another holds its operand and its result; babies of a layer are all held at once."""
    b = models.Builder((1, 4, 4)).dense(16).square().dense(16)
    c = compile_graph(b.graph(), "sim", ring=1 << 12, insecure=True)
    one = c.parameters.ciphertext_bytes()
    assert 2 * one <= predict._alive(c.circuit, c.parameters) <= 20 * one


def test_keys_and_contexts_of_seal_together_are_smallest() -> None:
    """Raised keys serve the same rotations; no level is raised where a context of its own is cheaper."""
    parameters = Parameters(1 << 15, (50, *(40,) * 15), (59,), 40)
    keys = KeyManifest.of({1 << i: level for i, level in enumerate((14, 13, 12, 11, 10, 9, 8, 7, 6, 5))}, relin=15)
    few = predict.few_contexts(keys, parameters)
    assert all(few.steps[step] >= level for step, level in keys.rotations)
    assert len(set(few.steps.values())) < 10

    def size(of: KeyManifest) -> int:
        return of.bytes(parameters) + predict.contexts(parameters, of, (), "seal")

    assert size(few) < 0.8 * size(keys)
    many = KeyManifest.of(dict.fromkeys(range(1, 100), 2) | dict.fromkeys(range(100, 200), 14), relin=15)
    assert predict.few_contexts(many, parameters).steps[1] == 2


def test_a_circuit_for_seal_has_keys_for_all_it_does() -> None:
    c = compile_graph(models.lola(), "seal")
    check_keys(c.circuit, c.keys)
    wanted = manifest(c.counted)
    assert set(c.keys.steps) == set(wanted.steps) and len(c.keys) == len(wanted)
