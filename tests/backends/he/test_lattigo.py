"""Lattigo in its own process: operations, the limits of its library, and what happens when it dies."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from intaglio.backends.he.engine import EngineCrashed, Meta
from intaglio.backends.he.engines.lattigo import BOOTSTRAP_BITS, LattigoEngine, library_path
from intaglio.backends.he.owner import Local, local
from intaglio.backends.he.parameters import KeyManifest, Parameters
from intaglio.ir.diagnostics import IntaglioError

try:
    library_path()
except IntaglioError as missing:
    pytest.skip(f"engine `lattigo`: {missing.diagnostics[0].hint}", allow_module_level=True)

P = Parameters(1 << 13, (55, 40, 40), (50,), 40)
KEYS = KeyManifest.of({1: 2, 5: 1, 300: 2}, relin=2)
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=P.slots), RNG.normal(size=P.slots)
CLOSE = 1e-5  # float32 goes in and out


@pytest.fixture(scope="module")
def lattigo() -> Iterator[Local]:
    made = local("lattigo", P, KEYS)
    yield made
    made.close()


def holds(session: Local, found: Any, wanted: Any, meta: Meta) -> None:
    assert session.engine.meta(found) == meta
    np.testing.assert_allclose(session.decrypt(found), wanted, atol=CLOSE)


def test_every_operation(lattigo: Local) -> None:
    e, top, scale = lattigo.engine, P.max_level, P.scale
    x, y = lattigo.encrypt(X), lattigo.encrypt(Y)
    fresh = Meta(top, scale)
    holds(lattigo, e.add(x, y), X + Y, fresh)
    holds(lattigo, e.sub(x, y), X - Y, fresh)
    holds(lattigo, e.neg(x), -X, fresh)
    holds(lattigo, e.add_plain(x, e.encode(Y, top, scale)), X + Y, fresh)
    exact = e.rescale(e.mul_plain(x, e.encode(Y, top, Fraction(P.primes[top]))))
    holds(lattigo, exact, X * Y, Meta(top - 1, scale))
    product = e.mul(x, y)
    assert e.meta(product).size == 3
    narrow = e.rescale(e.relin(product))
    holds(lattigo, narrow, X * Y, Meta(top - 1, scale**2 / P.primes[top]))
    holds(lattigo, e.rotate(narrow, 5), np.roll(X * Y, -5), e.meta(narrow))
    holds(lattigo, e.rotate(x, 300 - P.slots), np.roll(X, -300), fresh)
    holds(lattigo, e.drop(x, 0), X, Meta(0, scale))
    holds(lattigo, e.drop(narrow, 0), X * Y, Meta(0, scale**2 / P.primes[top]))
    holds(lattigo, x, X, fresh)  # nothing has changed its operands


def test_a_manifest_means_what_it_says(lattigo: Local) -> None:
    """The library would make missing keys by itself, and has those of all powers of two."""
    e, x = lattigo.engine, lattigo.encrypt(X)
    for step, level in ((2, 2), (5, 2)):
        with pytest.raises(IntaglioError) as found:
            e.rotate(e.drop(x, level), step)
        assert found.value.diagnostics[0].code == "IG0565"


@pytest.mark.parametrize(
    "wrong",
    [
        lambda e, x: e.add(x, e.drop(x, 1)),
        lambda e, x: e.relin(x),
        lambda e, x: e.rotate(e.mul(x, x), 1),
        lambda e, x: e.rescale(e.drop(x, 0)),
        lambda e, x: e.encode(X, 3, P.scale),
        lambda e, x: e.encode(X, 2, Fraction(1 << 70)),
        lambda e, x: e.encode(np.full(P.slots, np.inf), 2, P.scale),
        lambda e, x: e.conjugate(x),
        lambda e, x: e.bootstrap(x),
        lambda e, x: e.dumps(x),
        lambda e, x: e.loads(b"", Meta(0, P.scale)),
    ],
)
def test_what_it_cannot_do_never_reaches_the_library(lattigo: Local, wrong: Any) -> None:
    with pytest.raises(IntaglioError) as found:
        wrong(lattigo.engine, lattigo.encrypt(X))
    assert not isinstance(found.value, EngineCrashed)


def test_what_nobody_needs_is_freed(lattigo: Local) -> None:
    e, x = lattigo.engine, lattigo.encrypt(X)
    numbers = {e.add(x, x).number for _ in range(50)}
    assert len(numbers) < 5  # the library's numbers come back


def test_a_panic_is_reported_and_the_next_keys_start_anew() -> None:
    session = local("lattigo", P, KEYS)
    e = session.engine
    assert isinstance(e, LattigoEngine)
    x = session.encrypt(X)
    with pytest.raises(EngineCrashed, match="panic: Heap object not found"):
        e._call("panic")
    with pytest.raises(EngineCrashed, match="has died before"):
        e.add(x, x)
    secret = session.owner.keygen()
    with pytest.raises(EngineCrashed, match="is lost"):
        e.add(x, x)
    for key in session.owner.eval_keys(secret, KEYS):
        e.load_key(key)
    again = session.encrypt(X)
    np.testing.assert_allclose(session.decrypt(e.rotate(again, 1)), np.roll(X, -1), atol=CLOSE)
    session.close()
    with pytest.raises(EngineCrashed):
        e.add(again, again)


def test_a_killed_process_is_reported() -> None:
    session = local("lattigo", P, KeyManifest())
    x = session.encrypt(X)
    session.engine.process.process.kill()  # type: ignore[attr-defined]
    with pytest.raises(EngineCrashed):
        for _ in range(3):
            session.engine.add(x, x)


def test_bootstrapping_needs_lattigos_primes() -> None:
    with pytest.raises(IntaglioError, match="Lattigo bootstraps with primes"):
        local("lattigo", Parameters(1 << 13, (50,), (50,), 40, bootstrap_bits=(40,), insecure=True), KeyManifest())


def test_bootstrapping_brings_the_levels_back() -> None:
    """In a small ring, so insecure; the circuit and its primes are those of N = 2^16."""
    p = Parameters(1 << 12, (55, 40, 40, 40), (61,) * 4, 40, "h=192", BOOTSTRAP_BITS, insecure=True)
    session = local("lattigo", p, KeyManifest.of({}, relin=3))
    values = RNG.uniform(-1, 1, p.slots)
    fresh = session.engine.bootstrap(session.encrypt(values, 0))
    assert session.engine.meta(fresh) == Meta(3, p.scale)
    np.testing.assert_allclose(session.decrypt(fresh), values, atol=2.0**-18)
    squared = session.engine.rescale(session.engine.relin(session.engine.square(fresh)))
    np.testing.assert_allclose(session.decrypt(squared), values**2, atol=2.0**-17)
    session.close()


def test_sums_of_products_are_computed_when_they_are_needed(lattigo: Local) -> None:
    e, level = lattigo.engine, 1
    scale = Fraction(P.primes[level])
    x, y = lattigo.encrypt(X, level), lattigo.encrypt(Y, level)
    factors = RNG.normal(size=(4, P.slots))
    a, b, c, d = (e.mul_plain(z, e.encode(f, level, scale)) for z, f in zip((x, y, x, y), factors, strict=True))
    first = e.add(a, b)
    whole = e.add(e.add(first, c), d)
    parts = np.stack([X, Y, X, Y]) * factors
    meta = Meta(level, P.scale * scale)
    holds(lattigo, whole, parts.sum(0), meta)
    holds(lattigo, first, parts[:2].sum(0), meta)  # what another sum began with is still itself
    holds(lattigo, e.add(first, d), parts[[0, 1, 3]].sum(0), meta)
    holds(lattigo, e.add(first, first), 2 * parts[:2].sum(0), meta)
    holds(lattigo, e.add(e.mul_plain(x, e.encode(Y, level, scale)), first), X * Y + parts[:2].sum(0), meta)
    holds(lattigo, e.rescale(whole), parts.sum(0), Meta(level - 1, P.scale))
    holds(lattigo, e.neg(a), -parts[0], meta)
