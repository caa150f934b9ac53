"""Random circuits on every engine: the same metas, results within the predicted noise of NumPy's and of each other's.

The bound is the noise model's (`sim` tracks it in every slot): it holds for every slot of every value of every program.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from intaglio.backends.he import noise
from intaglio.backends.he.engine import Meta
from intaglio.backends.he.engines.lattigo import library_path
from intaglio.backends.he.owner import Local, local
from intaglio.backends.he.parameters import KeyManifest, Parameters
from intaglio.ir.diagnostics import IntaglioError

P = Parameters(1 << 13, (45, 34, 34, 34), (55,), 34)
TIGHT = Parameters(1 << 13, (45, 34, 34, 34), (45,), 34)  # SEAL's key switching is as bad as it can be
STEPS = (1, 3, 64, 4095)
KEYS = KeyManifest.of(dict.fromkeys(STEPS, 3), relin=3)
LARGEST = 50.0  # of a value: well below q_0 / scale
LENGTH = 14  # of a program
OPS = ("add", "sub", "neg", "add_plain", "scale", "product", "square", "late", "rotate", "drop")


@dataclass
class Circuit:
    """A well-levelled program: steps of (op, operands ..., argument), and what every value is."""

    inputs: list[Any]
    steps: list[tuple[Any, ...]] = field(default_factory=list)
    values: list[Any] = field(default_factory=list)
    metas: list[Meta] = field(default_factory=list)


def draw(seed: int) -> Circuit:
    """Two inputs and LENGTH operations. Numbers are float32: Lattigo's library takes no others."""
    rng = np.random.default_rng(seed)

    def numbers() -> Any:
        return rng.uniform(-2, 2, P.slots).astype(np.float32).astype(np.float64)

    made = Circuit([numbers(), numbers()])
    made.values, made.metas = list(made.inputs), [Meta(3, P.scale)] * 2
    masks: list[dict[Any, int]] = [{0: 1}, {1: 1}]  # what hides a value: a sum of other values' randomness

    def emit(step: tuple[Any, ...], value: Any, meta: Meta, mask: dict[Any, int] | None = None) -> None:
        made.steps.append(step)
        made.values.append(value)
        made.metas.append(meta)
        masks.append({len(masks): 1} if mask is None else mask)

    def mixed(i: int, j: int, sign: int) -> dict[Any, int]:
        total = {k: masks[i].get(k, 0) + sign * masks[j].get(k, 0) for k in masks[i] | masks[j]}
        return {k: n for k, n in total.items() if n}  # empty: it would be a ciphertext that hides nothing

    while len(made.steps) < LENGTH:
        i = int(rng.integers(len(made.values)))
        x, meta = made.values[i], made.metas[i]
        lower = Meta(meta.level - 1, P.scale)
        same = [j for j, m in enumerate(made.metas) if m == meta]
        level = [j for j, m in enumerate(made.metas) if m.level == meta.level]
        match rng.choice(OPS):
            case "add" | "sub" as op:
                j, sign = int(rng.choice(same)), 1 if op == "add" else -1
                value, mask = x + sign * made.values[j], mixed(i, j, sign)
                if mask and np.abs(value).max() < LARGEST:
                    emit((op, i, j), value, meta, mask)
            case "neg":
                emit(("neg", i), -x, meta, {k: -n for k, n in masks[i].items()})
            case "add_plain" if np.abs(x).max() + 2 < LARGEST:
                emit(("add_plain", i, (y := numbers())), x + y, meta, masks[i])
            case "scale" if meta.level > 0 and np.abs(x).max() * 2 < LARGEST:
                emit(("scale", i, (y := numbers())), x * y, lower)  # errorless: the scale that is missing
            case "product" if meta.level > 0 and np.abs(x * made.values[j := rng.choice(level)]).max() < LARGEST:
                scale = meta.scale * made.metas[j].scale / P.primes[meta.level]
                mask: dict[Any, int] = {("product", *sorted((i, int(j)))): 1}
                emit(("product", i, int(j)), x * made.values[j], Meta(meta.level - 1, scale), mask)
            case "square" | "late" as op if meta.level > 0 and np.abs(x * x).max() < LARGEST:
                meta = Meta(meta.level - 1, meta.scale**2 / P.primes[meta.level])
                emit((op, i), x * x, meta, {("product", i, i): 1})
            case "rotate":
                s = int(rng.choice(STEPS))
                emit(("rotate", i, s), np.roll(x, -s), meta, {("rotate", frozenset(masks[i].items()), s): 1})
            case "drop" if meta.level > 1:
                emit(("drop", i, meta.level - 1), x, Meta(meta.level - 1, meta.scale), masks[i])
    return made


def run(circuit: Circuit, session: Local) -> list[Any]:
    """Every value as a ciphertext."""
    e = session.engine
    held = [session.encrypt(x) for x in circuit.inputs]
    for name, i, *rest in circuit.steps:
        x = held[i]
        meta = e.meta(x)
        match name:
            case "add_plain":
                made = e.add_plain(x, e.encode(rest[0], meta.level, meta.scale))
            case "scale":
                scale = P.scale * P.primes[meta.level] / meta.scale
                made = e.rescale(e.mul_plain(x, e.encode(rest[0], meta.level, scale)))
            case "product":
                made = e.rescale(e.relin(e.mul(x, held[rest[0]])))
            case "square":
                made = e.rescale(e.relin(e.square(x)))
            case "late":
                made = e.relin(e.rescale(e.square(x)))
            case "rotate" | "drop":
                made = getattr(e, name)(x, rest[0])
            case _:
                made = getattr(e, name)(x, *(held[j] for j in rest))
        held.append(made)
    return held


def session(name: str, parameters: Parameters) -> Local:
    try:
        return local(name, parameters, KEYS)
    except IntaglioError as e:
        pytest.skip(f"engine `{name}`: {e.diagnostics[0].hint}")


def compare(name: str, count: int, precision: float, parameters: Parameters = P) -> float:
    """Programs 0 ... count-1 on `sim` and on another engine. `precision`: relative, of what goes in and out.

    The largest part of what was predicted that was measured."""
    sim, other = session("sim", parameters), session(name, parameters)
    closest = 0.0
    for seed in range(count):
        circuit = draw(seed)
        model, real = run(circuit, sim), run(circuit, other)
        for i, value in enumerate(circuit.values):
            where = f"program {seed}, value {i}: {circuit.steps[i - 2][0] if i > 1 else 'input'}"
            assert other.engine.meta(real[i]) == sim.engine.meta(model[i]) == circuit.metas[i], where
            bound = noise.bound(model[i].variance) + precision * np.abs(value).max()
            found = other.decrypt(real[i])
            measured = np.abs(found - value).max()
            assert measured <= bound, f"{where}: measured {measured:.3g}, predicted {bound:.3g}"
            assert np.abs(found - model[i].values).max() <= 2 * bound, where
            closest = max(closest, measured / bound)
    other.close()
    return closest


@pytest.mark.parametrize("parameters", [P, TIGHT], ids=["P", "tight"])
def test_seal_is_sim_within_the_predicted_noise(parameters: Parameters) -> None:
    assert compare("seal", 30, 0.0, parameters) > 0.02  # a bound that is absurdly large is no use


def test_lattigo_is_sim_within_the_predicted_noise() -> None:
    compare("lattigo", 12, 2.0**-22)


@pytest.mark.deep
@pytest.mark.parametrize(
    ("name", "precision", "parameters"), [("seal", 0.0, P), ("seal", 0.0, TIGHT), ("lattigo", 2.0**-22, P)]
)
def test_300_programs_agree(name: str, precision: float, parameters: Parameters) -> None:
    closest = compare(name, 300, precision, parameters)
    print(f"{name}: 300 programs, measured noise at most {closest:.2f} of predicted")


def test_programs_are_varied() -> None:
    """Every operation occurs in the programs of the default test, and levels are used up."""
    circuits = [draw(seed) for seed in range(30)]
    used = {step[0] for c in circuits for step in c.steps}
    assert used == set(OPS)
    assert sum(min(m.level for m in c.metas) == 0 for c in circuits) >= 5
    assert isinstance(circuits[0].metas[-1].scale, Fraction)


def test_the_library_of_lattigo_is_found_or_named() -> None:
    try:
        assert library_path().is_file()
    except IntaglioError as e:
        assert "--no-deps" in e.diagnostics[0].hint
