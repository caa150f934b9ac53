"""What a circuit consists of: engine operations by level, rotation keys with their levels. predict.py prices them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from fractions import Fraction

from ...ir import diagonals
from ...ir.diagnostics import error
from ...ir.graph import Node
from ...ir.types import Cipher
from .circuit import Circuit, hoisted_of, layer_of
from .engine import Composed, Meta
from .monic import monic
from .parameters import KeyManifest, Parameters
from .sharing import shared

__all__ = ["Count", "Operation", "check_keys", "count", "manifest", "node_count"]

Operation = tuple[str, int]  # a method of Engine, and the level of its operand


@dataclass(frozen=True)
class Count:
    """Operations by kind and level, and rotation steps with the highest level at which each is made."""

    operations: Counter[Operation]
    steps: dict[int, int]

    def total(self, kind: str) -> int:
        return sum(n for (name, _), n in self.operations.items() if name.removeprefix("hoisted_") == kind)


def node_count(circuit: Circuit, node: Node) -> Count:
    """Of one node, macros taken apart."""
    name = node.op.name.removeprefix("he.")
    t = node.inputs[0].type if node.inputs and node.inputs[0] is not None else None
    level = t.level if isinstance(t, Cipher) else 0
    done: Counter[Operation] = Counter()
    steps: dict[int, int] = {}
    if name == "linear" and node.attr("hoist"):
        plan, diagonal = layer_of(circuit, node)[0], hoisted_of(circuit, node)
        done["hoisted_rotate", level] = len(diagonal.babies)
        done["rotate", level] = len(diagonal.giants)
        done["hoisted_mul_plain", level] = len(diagonal)
        done["rescale", level] = 1
        done["rotate", level - 1] = done["add", level - 1] = len(plan.folds)
        done["add_plain", level - 1] = int(len(node.inputs) > 2)
        steps = dict.fromkeys(plan.folds, level - 1) | dict.fromkeys(diagonal.babies | diagonal.giants, level)
    elif name in ("linear", "repack"):
        plan, found, _ = layer_of(circuit, node)
        made, share = diagonals.Counter(), shared(circuit)[node]
        diagonals.run_plan(made, False, plan, found.entries, dict.fromkeys(share.given, False))
        done.update(("drop", at) for at in share.given.values() if at > level)
        folds = len(plan.folds)
        done["rotate", level] = sum(made.before.values())
        done["rotate", level - 1] = sum(made.after.values())
        done["mul_plain", level] = made.products
        done["add", level] = made.additions - folds
        done["add", level - 1] = folds
        done["rescale", level] = 1
        done["add_plain", level - 1] = int(len(node.inputs) > 2)
        steps = {s: level - 1 for s in made.after} | {s: level for s in made.before}
    elif name in ("polynomial", "monic"):
        assert isinstance(t, Cipher)
        tally = _Tally(Parameters(1 << 12, (40,) * (level + 1), (50,), 40, insecure=True))
        x = Meta(level, Fraction(1 << 40))
        if name == "monic":
            monic(tally, x, node.attr("coeffs"), tally.encode)  # type: ignore[arg-type]
        else:
            tally.poly(x, node.attr("coeffs"), Fraction(1 << 40))  # which encodes its coefficients
            tally.done.update({("encode", at): n for (op, at), n in tally.done.items() if op.endswith("_plain")})
        done = tally.done
    else:
        done[{"add_ct": "add", "sub_ct": "sub", "mul_ct": "mul", "negate": "neg"}.get(name, name), level] = 1
        if name == "rotate":
            steps = {node.attr("step"): level}
    return Count(+done, steps)


class _Tally(Composed):
    """An engine whose ciphertexts are what is publicly known of them: it computes nothing and counts."""

    def __init__(self, parameters: Parameters) -> None:
        self.parameters, self.done = parameters, Counter[Operation]()

    def _did(self, op: str, x: Meta, scale: Fraction | None = None, size: int = 2, level: int | None = None) -> Meta:
        self.done[op, x.level] += 1
        return Meta(x.level if level is None else level, x.scale if scale is None else scale, size)

    def meta(self, x: Meta) -> Meta:
        return x

    def encode(self, values: object, level: int, scale: Fraction) -> Meta:
        return Meta(level, scale)

    def add(self, x: Meta, y: Meta) -> Meta:
        return self._did("add", x)

    def add_plain(self, x: Meta, plain: Meta) -> Meta:
        return self._did("add_plain", x)

    def mul_plain(self, x: Meta, plain: Meta) -> Meta:
        return self._did("mul_plain", x, x.scale * plain.scale)

    def mul(self, x: Meta, y: Meta) -> Meta:
        return self._did("mul", x, x.scale * y.scale, 3)

    def square(self, x: Meta) -> Meta:
        return self._did("square", x, x.scale * x.scale, 3)

    def relin(self, x: Meta) -> Meta:
        return self._did("relin", x)

    def rescale(self, x: Meta) -> Meta:
        return self._did("rescale", x, x.scale / self.parameters.primes[x.level], level=x.level - 1)

    def drop(self, x: Meta, level: int) -> Meta:
        return Meta(level, x.scale, x.size)


def count(circuit: Circuit) -> Count:
    """Of the whole circuit."""
    done: Counter[Operation] = Counter()
    steps: dict[int, int] = {}
    for node in circuit.graph.nodes:
        if node.constant is None:
            one = node_count(circuit, node)
            done.update(one.operations)
            for step, level in one.steps.items():
                steps[step] = max(level, steps.get(step, 0))
    return Count(done, steps)


def manifest(of: Count) -> KeyManifest:
    """The evaluation keys that these operations need, each at the highest level where it is used."""
    relins = [level for name, level in of.operations if name == "relin"]
    return KeyManifest.of(of.steps, relin=max(relins, default=None))


def check_keys(circuit: Circuit, keys: KeyManifest) -> None:
    """IG0545 for the first rotation or relinearisation whose key the manifest lacks, or has for lower levels only."""
    have = keys.steps
    for node in circuit.graph.nodes:
        if node.constant is not None:
            continue
        one = node_count(circuit, node)
        for step, level in one.steps.items():
            if have.get(step, -1) < level:
                why = f"the manifest has it up to level {have[step]}" if step in have else "the manifest lacks it"
                what = f"`{node.op.name}` rotates by {step} at level {level}: {why}"
                raise error("IG0545", what, hint="compile the model again: program and keys do not belong together")
        for (name, level), _ in one.operations.items():
            if name == "relin" and (keys.relin is None or keys.relin < level):
                raise error(
                    "IG0545", f"`{node.op.name}` relinearises at level {level} without a key", hint="compile again"
                )
