"""Rotations that several layers need are made once."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from intaglio.backends.he import noise
from intaglio.backends.he.circuit import layer_of
from intaglio.backends.he.compile import Compiled, compile_graph
from intaglio.backends.he.counting import count
from intaglio.backends.he.room import SHARE, room, usable
from intaglio.backends.he.sharing import shared
from intaglio.ir import Graph, evaluate

from . import models
from .test_compile import image, run


def block() -> Graph:
    """A convolution, and a shortcut with one as large, that both read one value."""
    b = models.Builder((3, 8, 8)).conv(4, 3, 1, 1).poly(0.05, 0.5, 0.25)
    start = b.x
    b.conv(4, 3, 1, 1).poly(0.05, 0.5, 0.25).conv(4, 3, 1, 1)
    b.x = b.g.emit("math.add", b.x, b.conv(4, 3, 1, 1, of=start))
    return b.poly(0.05, 0.5, 0.25).dense(10).graph()


def compiled() -> Compiled:
    return compile_graph(block(), "sim", ring=1 << 12, insecure=True)


def babies(c: Compiled) -> list[tuple[Any, set[int]]]:
    """For every layer: the value that it turns, and by which offsets its diagonals want it."""
    layers = shared(c.circuit)
    return [(of.of, {b for _, b in layer_of(c.circuit, node)[1].entries if b}) for node, of in layers.items()]


def test_two_layers_of_one_value_turn_it_once() -> None:
    c = compiled()
    values = Counter(v for v, _ in babies(c))
    (twice,) = [v for v, n in values.items() if n == 2]
    first, second = [offsets for v, offsets in babies(c) if v is twice]
    common = first & second
    assert common
    assert [len(of.given) for of in shared(c.circuit).values() if of.of is twice] == [0, len(common)]
    without = count(c.circuit).total("rotate")
    c.circuit.shared = {node: type(of)(of.of, {}, frozenset()) for node, of in shared(c.circuit).items()}
    assert count(c.circuit).total("rotate") == without + len(common)


@pytest.mark.parametrize("engine", ["sim", "seal"])
def test_shared_rotations_give_the_same_result(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if engine == "seal":
        pytest.importorskip("seal", reason="engine seal: pip install 'intaglio[he]'")
    c = compile_graph(block(), engine, ring=1 << 12, insecure=True)
    if engine == "sim":
        from intaglio.backends.he.engines.sim import SimEngine

        made: list[int] = []
        rotate = SimEngine.rotate
        monkeypatch.setattr(SimEngine, "rotate", lambda e, x, step: made.append(step) or rotate(e, x, step))
    x = image((3, 8, 8))
    got, sealed = run(c, x, engine)
    if engine == "sim":
        assert len(made) == count(c.circuit).total("rotate")
    else:
        _, sealed = run(c, x)
    (want,) = evaluate(block(), [x])
    np.testing.assert_allclose(got, want, atol=1e-5 * np.abs(want).max() + noise.bound(sealed.variance))


def test_the_room_for_plaintexts_is_a_part_of_what_may_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    import resource

    assert room() == usable() // SHARE > 0
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1 << 30, 1 << 30))
    assert room() == (1 << 30) // SHARE
