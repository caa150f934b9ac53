"""The generated tests of rules find what is wrong, show it on a small graph, and leave right rules alone."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from intaglio.ir import OPS, IntaglioError, evaluate
from intaglio.ir.rewrite import Exact, Lossy, Rule, Ruleset, parse_rules, rewrite, rule
from intaglio.ir.rewrite.reader import parse_left
from intaglio.ir.testing import assert_rule, check_pass, check_rule, check_rules
from intaglio.ir.testing.rules.elements import EXACT_FLOATS, Elements
from intaglio.ir.testing.rules.hints import Hints
from intaglio.ir.testing.rules.instance import draw_instance
from intaglio.ir.testing.rules.tape import Reject, Tape

WRONG = parse_rules(
    """
/// wrong broadcasting: b counts once for every element of x it is added to (costs more)
rule sum-of-add real:
    reduce_sum(add(x, b), axes=a, keepdims=k)
    => reduce_sum(x, axes=a, keepdims=k) + reduce_sum(b, axes=a, keepdims=k)

/// wrong sign of zero: -0 + 0 is +0
rule add-zero exact:
    add(x, 0) where type(x) == type(root)
    => x

/// integer overflow
rule double-halve exact:
    div(mul(x, 2), 2) where is_int(x), type(x) == type(root)
    => x

/// off-by-one pads: the slice starts at the channels
rule pad-conv real:
    conv(pad(x, none, pads=p), w, none)
    where p[0] == 0, p[1] == 0, p[rank(x)] == 0, p[rank(x) + 1] == 0
    => conv(x, w, pads=[*p[1:rank(x) - 1], *p[rank(x) + 2:]])

/// wrong axis: it is p[k] before the transpose
rule softmax-transpose real:
    softmax(transpose(x, perm=p), axis=k)
    => transpose(softmax(x, axis=k), perm=p)

/// missing one_use: when the convolution stays, it is computed twice
rule conv-scale real:
    mul(conv(x, w: const, none, **a), c: const) where rank(c) == 0
    => conv(x, mul(w, c), **a)

/// wrong interval: the series is that good on [-1, 1]
rule tanh-series bounded(abs=0.05, on=[-1.3, 1.3]):
    tanh(x) => poly(x, coeffs=[0.0, 1.0, 0.0, -0.3333333, 0.0, 0.1333333])

/// dropped bias
rule add-convs real:
    add(conv(x, w, b, **a), conv(x, v, c, **a))
    where one_use(root), type(w) == type(v)
    => conv(x, add(w, v), b, **a)

/// swapped operands
rule neg-sub real:
    neg(sub(x, y)) => sub(x, y)

/// keepdims ignored
rule max-neg exact:
    reduce_max(neg(x), axes=a, keepdims=k)
    where is_float(x)
    => neg(reduce_min(x, axes=a))

/// wrong composition of permutations
rule transpose-transpose exact:
    transpose(transpose(x, perm=p), perm=q)
    => transpose(x, perm=[q[i] for i in p])

/// a shift along another axis does change softmax
rule softmax-shift real:
    softmax(sub(x, reduce_max(x, axes=a, keepdims=true)), axis=k)
    => softmax(x, axis=k)

/// the root of a square is the magnitude
rule pow-pow real:
    pow(pow(x, 2), 0.5) where type(x) == type(root)
    => x

/// swapped branches
rule where-not exact:
    math.where(math.not(c), a, b) => math.where(c, a, b)

/// the detour through a narrow type loses range and digits
rule cast-cast exact:
    cast(cast(x, to=s), to=t) => cast(x, to=t)

/// wrong order
rule concat-concat exact:
    concat(concat(x, y, axis=k), z, axis=k) => concat(x, z, y, axis=k)

/// bounds from the end, bounds beyond the end
rule slice-slice exact:
    slice(slice(x, starts=s, stops=t, axes=a), starts=u, stops=v, axes=a)
    where len(s) == len(u)
    => slice(x, starts=[s[i] + u[i] for i in range(len(s))], stops=[s[i] + v[i] for i in range(len(s))], axes=a)

/// integers are rounded in between
rule div-add real:
    add(div(x, z), div(y, z)) where one_use(root), size(z) == 1
    => div(add(x, y), z)

/// nan wins in maximum, not in a comparison
rule where-greater exact:
    math.where(greater(x, y), x, y) => maximum(x, y)

/// dropped axes (costs more)
rule mean-mean real:
    reduce_mean(reduce_mean(x, axes=a, keepdims=true), axes=b, keepdims=true)
    where is_float(x)
    => reduce_mean(x, axes=a, keepdims=true)

/// a loop
rule commute exact:
    sub(x, neg(y)) => sub(x, neg(y))

/// the sign of zero again: 0 - x is not -x
rule zero-sub exact:
    sub(0, x) where is_float(x), type(x) == type(root)
    => neg(x)
""",
    "wrong.rules",
)


@rule("reshape(x, shape=_)", contract=Exact(), name="frozen-batch")
def frozen_batch(m: Any) -> Any:
    """A symbolic extent is not 2."""
    shape = tuple(d if isinstance(d, int) else 2 for d in m.root.outputs[0].type.shape)
    return None if shape == m.root.attr("shape") else m.emit("shape.reshape", m.x, shape=shape)


RIGHT = parse_rules(
    """
rule transpose-transpose exact:
    transpose(transpose(x, perm=p), perm=q)
    => transpose(x, perm=[p[i] for i in q])

rule relu-relu exact:
    relu(relu(x)) => relu(x)

rule neg-neg exact:
    neg(neg(x)) => x

rule not-not exact:
    math.not(math.not(x)) => x

rule neg-sub real:
    neg(sub(x, y)) => sub(y, x)

rule reshape-reshape exact:
    reshape(reshape(x, shape=_), shape=_)
    => reshape(x, shape=shape(root))

rule maximum-same exact:
    maximum(x, x) => x

rule mul-one exact:
    mul(x, 1) where type(x) == type(root)
    => x

rule add-minus-zero exact:
    add(x, -0) where is_float(x), type(x) == type(root)
    => x

rule where-not exact:
    math.where(math.not(c), a, b) => math.where(c, b, a)

rule concat-concat exact:
    concat(concat(*xs, axis=k), *ys, axis=k) => concat(*xs, *ys, axis=k)

rule softmax-shift real:
    softmax(sub(x, reduce_max(x, axes=a, keepdims=true)), axis=k)
    where len(or_default(a, [])) == 1, positive(a[0], x) == positive(k, x)
    => softmax(x, axis=k)

rule transpose-matmul real:
    transpose(matmul(x, y), perm=[1, 0])
    where one_use(matmul), rank(x) == 2, rank(y) == 2
    => matmul(transpose(y, perm=[1, 0]), transpose(x, perm=[1, 0]))

rule pad-conv real:
    conv(pad(x, none, pads=p), w, none)
    where p[0] == 0, p[1] == 0, p[rank(x)] == 0, p[rank(x) + 1] == 0, min(p) >= 0
    => conv(x, w, pads=[*p[2:rank(x)], *p[rank(x) + 2:]])

rule conv-scale real:
    mul(conv(x, w: const, none, **a), c: const) where rank(c) == 0, one_use(conv)
    => conv(x, mul(w, c), **a)

rule tanh-series bounded(abs=0.05, on=[-1, 1]):
    tanh(x) => poly(x, coeffs=[0.0, 1.0, 0.0, -0.3333333, 0.0, 0.1333333])

rule where-same exact:
    math.where(c, x, x) where type(x) == type(root) => x
""",
    "right.rules",
)


@pytest.mark.parametrize("wrong", [*WRONG, frozen_batch], ids=lambda r: r.name)
def test_wrong_rules_are_caught_and_made_small(wrong: Rule) -> None:
    for seed in range(3):
        report = check_rule(wrong, examples=200, seed=seed)
        assert report.status == "wrong", str(report)
        found = report.counterexample
        assert found is not None and found.nodes <= 4, str(found)
        assert all(x.size <= 16 for x in found.inputs), str(found)


@pytest.mark.parametrize("right", RIGHT, ids=lambda r: r.name)
def test_right_rules_pass(right: Rule) -> None:
    report = check_rule(right, examples=200)
    assert report.ok and report.examples == 200, str(report.counterexample or report)


# --- what else the machinery promises ---------------------------------------------------------------------------------


def test_a_condition_that_never_holds_is_named() -> None:
    (never,) = parse_rules("rule never exact:\n  relu(x) where rank(x) == 2, dim(x, 0) == 99 => x")
    report = check_rule(never)
    assert report.status == "cannot instantiate"
    assert "`dim(x, 0) == 99`" in report.message


def test_rules_that_undo_each_other_are_found_together() -> None:
    pair = parse_rules(
        """
        rule there real:
            sub(x, y) where is_float(x) => add(x, neg(y))
        rule back real:
            add(x, neg(y)) where is_float(x) => sub(x, y)
        """
    )
    alone = [check_rule(r, examples=50) for r in pair]
    assert alone[0].status == "wrong" and "operations" in alone[0].message  # it costs more, and does not say so
    assert alone[1].ok
    together = check_rules(pair, examples=50)
    assert any("come to an end" in r.message for r in together)


def test_lossy_rules_are_measured() -> None:
    @rule("neg(x)", contract=Lossy("rel_l2", 0.05))
    def coarse(m: Any, *, bits: int = 6) -> Any:
        """Round to a grid."""
        if m.root.outputs[0].type.elem.name not in ("f32", "f64"):
            return None
        if m.x.node is not None and m.x.node.op.name == "math.div":
            return None
        step = m.constant(np.asarray(2.0 ** min(bits, 100), m.x.type.dtype))
        return m.emit("math.neg", m.emit("math.div", m.emit("math.round", m.emit("math.mul", m.x, step)), step))

    coarse = replace(coarse, doc="Costs more: three operations.")
    report = check_rule(coarse)
    assert report.ok and "of 0.05 on drawn examples" in report.notes[0], str(report)
    assert check_rule(replace(coarse, contract=Lossy("rel_l2", 1e-6))).status == "wrong"
    report = check_rule(replace(coarse, contract=Lossy("top1", 0.05)))
    assert report.ok and "end to end" in report.notes[0]


def test_whole_passes() -> None:
    right, wrong = Ruleset(RIGHT[:4]), Ruleset([r for r in WRONG if r.name == "where-not"])
    report = check_pass(lambda g: rewrite(g, right)[0], "right", "exact", right.rules, examples=60)
    assert report.ok, str(report.counterexample)
    report = check_pass(lambda g: rewrite(g, wrong)[0], "wrong", "exact", wrong.rules, examples=200)
    assert report.counterexample is not None and report.counterexample.nodes <= 4, str(report.counterexample)


def test_a_check_can_be_repeated() -> None:
    first, second = (check_rule(WRONG[0], seed=5) for _ in range(2))
    assert str(first.counterexample) == str(second.counterexample)
    with pytest.raises(AssertionError, match="sum-of-add"):
        assert_rule(WRONG[0])


LEFT_OUT = {"const", "dyn.apply", "dyn.nonzero", "dyn.compress", "dyn.unique", "dyn.non_max_suppression", "tile.kernel"}
# attributes that follow from each other, which tests/backends/tvm/test_quantized.py draws; no rule has them on its left
LEFT_OUT |= {"quant.add", "quant.conv", "quant.matmul", "quant.requantize", "quant.sum_pool"}
LEFT_OUT |= {name for name in OPS if name.startswith("he.")}  # of ciphertexts: drawn by tests/backends/he/test_noise.py


@pytest.mark.parametrize("name", sorted(set(OPS) - LEFT_OUT))
def test_every_op_can_be_drawn(name: str) -> None:
    """With operands of all kinds and any attributes; types say what is computed."""
    marks = [
        f"*{o.name}" if o.variadic else f"{o.name}?" if o.optional else o.name for o in OPS[name].signature.operands
    ]
    left, _ = parse_left(f"{name}({', '.join([*marks, '**rest'])})")
    hints = Hints(Elements(left))
    rng = random.Random(3)
    computed = 0
    for _ in range(100):
        try:
            found = draw_instance(left, hints, Tape((), rng), EXACT_FLOATS, True)
        except Reject:
            continue
        for feeds in found.feeds:
            try:
                evaluate(found.graph, feeds, check=True)
            except (IntaglioError, TypeError):  # positions that are nan; linear algebra in f16
                continue
            computed += 1
    assert computed >= 30
