"""The `he` dialect: typing rules are the proof that a circuit is well-levelled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from intaglio.backends.he.circuit import Circuit
from intaglio.backends.he.counting import check_keys, count, manifest
from intaglio.backends.he.parameters import KeyManifest
from intaglio.ir import Cipher, Editor, Graph, IntaglioError, evaluate, verify
from intaglio.ir.graph import Value, attributes
from intaglio.ir.ops import OPS, get
from intaglio.ir.ops.he import prime, result_type
from intaglio.ir.text import parse_graph, print_graph

PACKING = "4/8: 4*1"


def cipher(level: int = 3, scale: Any = 40, size: int = 2, packing: str = PACKING) -> Cipher:
    return Cipher((4,), packing, level, scale, size=size)


def emit(e: Editor, name: str, *operands: Value, **attrs: Any) -> Value:
    op = get(name)
    made = attributes(op.normal(attrs))
    return e.apply(op, operands, made, types=(result_type(op, tuple(v.type for v in operands), made),)).outputs[0]


def build(make: Callable[[Editor, Value], Value], t: Cipher | None = None) -> Graph:
    e = Editor()
    e.output(make(e, e.input("x", t or cipher())), "y")
    return e.freeze()


def squared(e: Editor, x: Value) -> Value:
    return emit(e, "he.rescale", emit(e, "he.relin", emit(e, "he.square", x)), bits=40)


def test_every_op_is_there() -> None:
    names = {n for n in OPS if n.startswith("he.")}
    assert {"he.linear", "he.polynomial", "he.bootstrap", "he.repack", "he.rotate", "he.rescale", "he.relin"} <= names


def test_scales_are_exact() -> None:
    graph = build(squared)
    t = graph.outputs[0].type
    assert isinstance(t, Cipher) and t.level == 2 and t.scale == 80 - prime(3, 40) and t.scale != 40
    again = parse_graph(str(print_graph(graph)))
    assert again == graph
    verify(again)


def test_squares_of_different_levels_do_not_add_up() -> None:
    """Their scales differ by what the primes of two levels differ by."""
    high, low = cipher(3), cipher(2)
    a = build(squared, high).outputs[0].type
    b = build(squared, low).outputs[0].type
    assert isinstance(a, Cipher) and isinstance(b, Cipher) and a.scale != b.scale


@pytest.mark.parametrize(
    ("make", "code", "words"),
    [
        (lambda e, x: emit(e, "he.add_ct", x, emit(e, "he.drop", x, level=1)), "IG0542", "unequal levels"),
        (lambda e, x: emit(e, "he.add_ct", emit(e, "he.drop", x, level=2), squared(e, x)), "IG0542", "unequal scales"),
        (lambda e, x: emit(e, "he.add_ct", x, emit(e, "he.rotate", x, step=1)), "IG0542", "unequal packings"),
        (lambda e, x: emit(e, "he.mul_ct", x, emit(e, "he.drop", x, level=1)), "IG0542", "unequal levels"),
        (lambda e, x: emit(e, "he.rotate", emit(e, "he.square", x), step=1), "IG0543", "3 polynomials where 2"),
        (lambda e, x: emit(e, "he.square", emit(e, "he.square", x)), "IG0543", "3 polynomials where 2"),
        (lambda e, x: emit(e, "he.relin", x), "IG0543", "2 polynomials where 3"),
        (lambda e, x: emit(e, "he.add_plain", x, x), "IG0543", "in the clear"),
        (lambda e, x: emit(e, "he.rescale", emit(e, "he.drop", x, level=0), bits=40), "IG0544", "no level is left"),
        (lambda e, x: emit(e, "he.drop", x, level=4), "IG0544", "cannot be dropped"),
        (lambda e, x: emit(e, "he.bootstrap", x, level=2, scale=40), "IG0544", "gains nothing"),
        (
            lambda e, x: emit(e, "he.polynomial", x, coeffs=(0.0, 1.0, 1.0), bits=(40,) * 4, scale=40),
            "IG0544",
            "no level",
        ),
    ],
)
def test_what_the_rules_refuse(make: Callable[[Editor, Value], Value], code: str, words: str) -> None:
    with pytest.raises(IntaglioError, match=words) as caught:
        build(make)
    assert caught.value.diagnostics[0].code == code


def test_the_verifier_does_not_believe_written_types() -> None:
    text = str(print_graph(build(squared)))
    for old, new in [("level=2", "level=1"), ('scale="2^', 'scale="2^1'), (", size=3", "")]:
        assert old in text
        with pytest.raises(IntaglioError) as caught:
            verify(parse_graph(text.replace(old, new, 1)))
        assert caught.value.diagnostics[0].code in {"IG0212", "IG0309", "IG0543", "IG0308", "IG0202"}


def test_a_rotation_without_its_key_is_refused() -> None:
    circuit = Circuit(build(lambda e, x: emit(e, "he.rotate", emit(e, "he.rotate", x, step=2), step=1)))
    keys = manifest(count(circuit))
    assert keys.steps == {1: 3, 2: 3}
    check_keys(circuit, keys)
    for lacking in (KeyManifest.of({1: 3}), KeyManifest.of({1: 3, 2: 2})):
        with pytest.raises(IntaglioError, match="rotates by 2") as caught:
            check_keys(circuit, lacking)
        assert caught.value.diagnostics[0].code == "IG0545"
    relins = Circuit(build(squared))
    with pytest.raises(IntaglioError, match="relinearises"):
        check_keys(relins, KeyManifest.of({}))


def test_ops_mean_what_they_do_to_slots() -> None:
    x = np.array([1.0, 2.0, 3.0, 4.0, 0.0, 0.0, 0.0, 0.0])
    source = build(lambda e, v: emit(e, "he.rotate", emit(e, "he.negate", v), step=1))
    (y,) = evaluate(source, [x])
    np.testing.assert_array_equal(y, -np.roll(x, -1))
    t = source.outputs[0].type
    assert isinstance(t, Cipher) and t.packing == "4/8: 4*1 base 7"
    (y,) = evaluate(build(lambda e, v: emit(e, "he.sub_ct", v, v)), [x])
    assert not y.any()


def test_linear_means_its_weights() -> None:
    packing = "4/8: 4*1 copies 2*4"
    w = np.arange(16, dtype=np.float32).reshape(4, 4)

    def layer(e: Editor, x: Value) -> Value:
        b = e.constant(np.ones(4, np.float32), "b")
        attrs = {"babies": (4, 1), "giants": (), "folds": (), "bits": 40, "scale": 40}
        return emit(e, "he.linear", x, e.constant(w, "w"), b, target=packing, **attrs)

    graph = build(layer, cipher(packing=packing))
    x = np.array([1.0, -1.0, 2.0, 0.5])
    (y,) = evaluate(graph, [np.tile(x, 2)])
    np.testing.assert_allclose(y, np.tile(w @ x + 1, 2))
    assert parse_graph(str(print_graph(graph)), {"w": w, "b": np.ones(4, np.float32)}) == graph


def test_sizes_survive_when_symbols_get_numbers() -> None:
    """A product that is not relinearised yet stays one when extents are filled in."""
    from intaglio.ir import dim
    from intaglio.passes.rebuild import fix_type

    wide = Cipher((dim("N"), 4), "4/8: 4*1", 3, 40, "ckks", 3)
    fixed = fix_type(wide, {"N": 2})
    assert isinstance(fixed, Cipher) and fixed.size == 3 and fixed.shape == (2, 4)
