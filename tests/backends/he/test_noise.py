"""Predicted noise is never below measured noise: on `sim` and on SEAL, for random programs and for models."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from intaglio.backends.he import noise
from intaglio.backends.he.compile import compile_graph
from intaglio.backends.he.gate import accuracy, check
from intaglio.backends.he.owner import local
from intaglio.backends.he.parameters import KeyManifest, Parameters
from intaglio.ir import IntaglioError

from . import models

PARAMETERS = Parameters(1 << 12, (45, *(35,) * 4), (50,), 35, insecure=True)
KEYS = KeyManifest.of({1: 4, 5: 4, 64: 4}, relin=4)
OPS = st.sampled_from(["rotate", "square", "mul", "mul_plain", "add", "add_plain", "sub", "linear"])
PROGRAMS = st.lists(st.tuples(OPS, st.integers(0, 1 << 30)), min_size=1, max_size=8)


def play(program: list[tuple[str, int]], name: str, sides: Any = None) -> tuple[Any, Any, Any]:
    """The exact slots, the decrypted ones and the last ciphertext of a program on two inputs."""
    sides = sides or local(name, PARAMETERS, KEYS)
    e, slots = sides.engine, PARAMETERS.slots
    random = np.random.default_rng(len(program))
    values = [random.uniform(-1, 1, slots) for _ in range(2)]
    boxes = [sides.encrypt(v) for v in values]
    for op, seed in program:
        pick = np.random.default_rng(seed)
        x, y = boxes[-1], boxes[int(pick.integers(len(boxes)))]
        v, w = values[-1], values[[b is y for b in boxes].index(True)]
        level = min(e.meta(x).level, e.meta(y).level)
        plain = pick.uniform(-1, 1, slots)
        if (op in ("square", "mul", "mul_plain", "linear") and e.meta(x).level == 0) or level == 0:
            op = "rotate"
        target = Fraction(1 << 35)
        if op == "rotate":
            step = int(pick.choice([1, 5, 64]))
            made, value = e.rotate(x, step), np.roll(v, -step)
        elif op == "square":
            made, value = e.rescale(e.relin(e.square(x))), v * v
        elif op == "mul":
            made, value = e.rescale(e.relin(e.mul(e.drop(x, level), e.drop(y, level)))), v * w
        elif op == "add_plain":
            made, value = e.add_plain(x, e.encode(plain, e.meta(x).level, e.meta(x).scale)), v + plain
        elif op in ("add", "sub"):  # y at the level and the scale of x by a product with ones
            if e.meta(y).level <= e.meta(x).level:
                x, y, v, w = y, x, w, v
            if e.meta(y).level == e.meta(x).level:
                continue
            low = e.drop(y, e.meta(x).level + 1)
            scale = e.meta(x).scale * PARAMETERS.primes[e.meta(low).level] / e.meta(low).scale
            low = e.rescale(e.mul_plain(low, e.encode(np.ones(slots), e.meta(low).level, scale)))
            made, value = getattr(e, op)(x, low), v + w if op == "add" else v - w
        else:
            at = e.meta(x)
            scale = target * PARAMETERS.primes[at.level] / at.scale
            made, value = e.mul_plain(x, e.encode(plain, at.level, scale)), v * plain
            if op == "linear":
                other = e.mul_plain(e.rotate(x, 1), e.encode(plain[::-1].copy(), at.level, scale))
                made, value = e.add(made, other), value + np.roll(v, -1) * plain[::-1]
            made = e.rescale(made)
        if np.abs(value).max() > 200:
            continue
        boxes.append(made)
        values.append(value)
    return values[-1], sides.decrypt(boxes[-1]), boxes[-1]


@settings(max_examples=150, deadline=None)
@given(PROGRAMS)
def test_predicted_noise_is_never_below_that_of_sim(program: list[tuple[str, int]]) -> None:
    want, got, box = play(program, "sim")
    assert np.abs(want - got).max() <= noise.bound(box.variance)
    assert np.std(want - got) <= 2 * np.sqrt(box.variance.mean())


@pytest.fixture(scope="module")
def seal() -> Any:
    pytest.importorskip("seal", reason="engine seal: pip install 'intaglio[he]'")
    sides = local("seal", PARAMETERS, KEYS)
    yield sides
    sides.close()


@settings(max_examples=60, deadline=None)
@given(program=PROGRAMS)
def test_predicted_noise_is_never_below_that_of_seal(seal: Any, program: list[tuple[str, int]]) -> None:
    want, got, _ = play(program, "seal", seal)
    _, _, box = play(program, "sim")
    assert np.abs(want - got).max() <= noise.bound(box.variance)


def test_the_prediction_is_no_more_than_a_few_bits_too_large(seal: Any) -> None:
    """A bound that is never exceeded because it is absurd would be no use."""
    program = [("linear", 1), ("square", 2), ("linear", 3), ("square", 4)]
    want, got, _ = play(program, "seal", seal)
    _, _, box = play(program, "sim")
    assert noise.bound(box.variance) <= 2.0**8 * np.abs(want - got).max()


def test_the_gate() -> None:
    c = compile_graph(models.small(2), "sim", ring=1 << 12, insecure=True)
    x = np.random.default_rng(0).uniform(0, 1, (1, 3, 8, 8)).astype(np.float32)
    found = check(c.circuit, c.interface, [x])
    assert found.bits > 15 and found.room > 3
    with pytest.raises(IntaglioError, match="bits of the output are right") as caught:
        check(c.circuit, c.interface, [x], bits=40)
    assert caught.value.diagnostics[0].code == "IG0551"
    with pytest.raises(IntaglioError, match="what a ciphertext holds"):
        check(c.circuit, c.interface, [1e4 * x])
    assert accuracy(c.circuit, c.interface, [1e4 * x]).room < 0
