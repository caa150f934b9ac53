"""Real engines against NumPy: each operation, its bookkeeping, and what it refuses. SEAL at N = 2^12 and 2^13."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from intaglio.backends.he.engine import EvalKey, Meta
from intaglio.backends.he.engines import engine
from intaglio.backends.he.owner import Local, local, owner
from intaglio.backends.he.parameters import KeyManifest, Parameters
from intaglio.ir.diagnostics import IntaglioError

pytest.importorskip("seal", reason="engine `seal` is not installed: pip install 'intaglio[he]'")

P = Parameters(1 << 13, (55, 40, 40), (55,), 40)
KEYS = KeyManifest.of({1: 2, 5: 1, 7: 0, 4000: 2}, relin=2, conjugate=2)
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=P.slots), RNG.normal(size=P.slots)
CLOSE = 1e-5


@pytest.fixture(scope="module")
def seal() -> Iterator[Local]:
    made = local("seal", P, KEYS)
    yield made
    made.close()


@pytest.fixture(scope="module")
def x(seal: Local) -> Any:
    return seal.encrypt(X)


@pytest.fixture(scope="module")
def y(seal: Local) -> Any:
    return seal.encrypt(Y)


def holds(session: Local, found: Any, wanted: Any, meta: Meta) -> None:
    assert session.engine.meta(found) == meta
    np.testing.assert_allclose(session.decrypt(found), wanted, atol=CLOSE)


def test_values_survive_encryption_at_every_level_and_scale(seal: Local) -> None:
    for level in range(3):
        for scale in (P.scale, Fraction(2**41, 3), Fraction(P.primes[1])):
            holds(seal, seal.encrypt(X, level, scale), X, Meta(level, scale))


def test_fewer_values_than_slots_leave_zeros(seal: Local) -> None:
    np.testing.assert_allclose(seal.decrypt(seal.encrypt([1.0, 2.0])), [1.0, 2.0, *[0.0] * (P.slots - 2)], atol=CLOSE)


def test_sums(seal: Local, x: Any, y: Any) -> None:
    e, meta = seal.engine, Meta(2, P.scale)
    holds(seal, e.add(x, y), X + Y, meta)
    holds(seal, e.sub(x, y), X - Y, meta)
    holds(seal, e.neg(x), -X, meta)
    holds(seal, e.add_plain(x, e.encode(Y, 2, P.scale)), X + Y, meta)


def test_products(seal: Local, x: Any, y: Any) -> None:
    e = seal.engine
    wide = e.mul(x, y)
    holds(seal, wide, X * Y, Meta(2, P.scale**2, 3))
    holds(seal, e.square(x), X * X, Meta(2, P.scale**2, 3))
    narrow = e.rescale(e.relin(wide))
    holds(seal, narrow, X * Y, Meta(1, P.scale**2 / P.primes[2]))
    holds(seal, e.relin(e.rescale(wide)), X * Y, Meta(1, P.scale**2 / P.primes[2]))
    scale = Fraction(P.primes[1])  # what makes the scale come back exactly
    holds(seal, e.rescale(e.mul_plain(narrow, e.encode(Y, 1, scale))), X * Y * Y, Meta(0, P.scale**2 / P.primes[2]))


def test_unrelinearised_products_are_added_before_one_relinearisation(seal: Local, x: Any, y: Any) -> None:
    e = seal.engine
    both = e.add(e.square(x), e.mul(x, y))
    holds(seal, e.relin(both), X * X + X * Y, Meta(2, P.scale**2))
    flat = e.add(both, e.mul_plain(x, e.encode(Y, 2, P.scale)))
    holds(seal, flat, X * X + 2 * X * Y, Meta(2, P.scale**2, 3))


def test_rotations_go_to_the_left(seal: Local, x: Any) -> None:
    e = seal.engine
    holds(seal, e.rotate(x, 1), np.roll(X, -1), Meta(2, P.scale))
    holds(seal, e.rotate(x, 4000 - P.slots), np.roll(X, -4000), Meta(2, P.scale))
    holds(seal, e.rotate(x, P.slots), X, Meta(2, P.scale))
    holds(seal, e.conjugate(x), X, Meta(2, P.scale))


def test_a_key_of_a_level_serves_there_and_below_only(seal: Local, x: Any) -> None:
    e = seal.engine
    holds(seal, e.rotate(e.drop(x, 1), 5), np.roll(X, -5), Meta(1, P.scale))
    holds(seal, e.rotate(e.drop(x, 0), 5), np.roll(X, -5), Meta(0, P.scale))
    holds(seal, e.rotate(e.drop(x, 0), 7), np.roll(X, -7), Meta(0, P.scale))
    for level, step in ((2, 5), (1, 7), (2, 2)):
        with pytest.raises(IntaglioError) as found:
            e.rotate(e.drop(x, level), step)
        assert found.value.diagnostics[0].code == "IG0565"


def test_keys_of_lower_levels_are_smaller() -> None:
    keys = owner("seal", P)
    made = list(keys.eval_keys(keys.keygen(), KeyManifest.of({1: 2, 5: 1, 7: 0})))
    sizes = [len(key.data) for key in made]
    around = 16 * P.ring_degree
    assert all(P.key_bytes(k.level) < size < P.key_bytes(k.level) + around for k, size in zip(made, sizes, strict=True))


def test_ciphertexts_can_be_sent(seal: Local, x: Any) -> None:
    e = seal.engine
    for sample in (x, e.drop(x, 0), e.square(x)):
        meta = e.meta(sample)
        again = e.loads(e.dumps(sample), meta)
        assert e.meta(again) == meta
        np.testing.assert_array_equal(seal.decrypt(again), seal.decrypt(sample))


def test_what_was_not_sent_by_us_is_refused(seal: Local, x: Any) -> None:
    e, meta = seal.engine, seal.engine.meta(x)
    data = e.dumps(x)
    other = local("seal", Parameters(1 << 13, (54, 40, 40), (55,), 40), KeyManifest())
    key = next(seal.owner.eval_keys(seal.secret, KeyManifest.of({1: 0}))).data
    compressed = bytearray(data)
    compressed[5] = 1  # zlib: nothing is decompressed, so there is no bomb
    bad = [b"", b"x" * 500, data[:-1], data + b"x", data[:100], bytes(compressed), key, data[:200] + b"\xff" * 800]
    for wrong in (*bad, other.engine.dumps(other.encrypt(X))):
        with pytest.raises(IntaglioError):
            e.loads(wrong, meta)
        with pytest.raises(IntaglioError):
            e.load_key(EvalKey("rotate", 1, 2, wrong))
    with pytest.raises(IntaglioError):
        e.loads(data, Meta(1, P.scale))  # it is of level 2
    with pytest.raises(IntaglioError, match="holds another"):
        e.load_key(EvalKey("rotate", 2, 0, key))


def test_ciphertexts_that_hide_nothing_are_refused(seal: Local) -> None:
    """A "ciphertext" whose second polynomial is 0 carries its plaintext openly: no client makes one."""
    e = seal.engine
    data = bytearray(e.dumps(seal.encrypt(X)))
    half = P.ciphertext_bytes(2, 1)
    data[-half:] = bytes(half)
    with pytest.raises(IntaglioError):
        e.loads(bytes(data), Meta(2, P.scale))


@pytest.mark.parametrize(
    "wrong",
    [
        lambda e, x: e.add(x, e.drop(x, 1)),
        lambda e, x: e.add(x, e.mul(x, x)),
        lambda e, x: e.add_plain(x, e.encode(X, 2, P.scale * 2)),
        lambda e, x: e.mul_plain(x, e.encode(X, 1, P.scale)),
        lambda e, x: e.mul(e.mul(x, x), x),
        lambda e, x: e.relin(x),
        lambda e, x: e.rotate(e.mul(x, x), 1),
        lambda e, x: e.rescale(e.drop(x, 0)),
        lambda e, x: e.drop(e.drop(x, 0), 1),
        lambda e, x: e.drop(x, -1),
        lambda e, x: e.encode(X, 3, P.scale),
        lambda e, x: e.encode(X, 0, P.scale**4),
        lambda e, x: e.mul_plain(x, e.encode(0 * X, 2, P.scale)),
        lambda e, x: e.encode(np.zeros(P.slots + 1), 2, P.scale),
        lambda e, x: e.encode(np.full(P.slots, np.nan), 2, P.scale),
    ],
)
def test_ill_levelled_operations_are_refused(seal: Local, x: Any, wrong: Any) -> None:
    with pytest.raises(IntaglioError) as found:
        wrong(seal.engine, x)
    assert found.value.diagnostics[0].code == "IG0564"


def test_bootstrapping_is_not_seals(seal: Local, x: Any) -> None:
    with pytest.raises(IntaglioError, match="no bootstrapping"):
        seal.engine.bootstrap(x)


@pytest.mark.parametrize(
    "parameters",
    [
        Parameters(1 << 15, (50, 40), (50, 50), 40),
        Parameters(1 << 15, (50, 40), (61,), 40),
        Parameters(1 << 16, (50, 40), (50,), 40),
        Parameters(1 << 15, (50, 40), (50,), 40, "h=192"),
        Parameters(1 << 15, (50, 40), (50,), 40, bootstrap_bits=(50,)),
    ],
    ids=str,
)
def test_parameters_beyond_seal_are_told_so(parameters: Parameters) -> None:
    with pytest.raises(IntaglioError) as e:
        engine("seal", parameters)
    assert e.value.diagnostics[0].code == "IG0563"


def test_insecure_parameters_reach_no_engine() -> None:
    with pytest.raises(IntaglioError, match="insecure parameters"):
        engine("seal", Parameters(1 << 12, (50, 40, 40), (50,), 40))
    marked = engine("seal", Parameters(1 << 12, (50, 40, 40), (50,), 40, insecure=True))
    assert marked.parameters.insecure


def test_unknown_engines_are_named() -> None:
    with pytest.raises(IntaglioError, match="did you mean seal"):
        engine("seel", P)


# --- what is composed -------------------------------------------------------------------------------------------------


def test_linear_maps_by_baby_and_giant_steps(seal: Local) -> None:
    """A 64 x 64 matrix on a vector that fills the slots periodically, as 4 giant steps of 16."""
    n, babies = 64, 16
    p = Parameters(1 << 13, (55, 40), (55,), 40)
    keys = KeyManifest.of({**{i: 1 for i in range(1, babies)}, **{g: 1 for g in range(babies, n, babies)}})
    session = local("seal", p, keys)
    matrix, v = RNG.normal(size=(n, n)), RNG.normal(size=n)
    rows = np.arange(p.slots) % n
    diagonals = {d: matrix[rows, (rows + d) % n] for d in range(n)}
    plan = {g: range(babies) for g in range(0, n, babies)}
    e = session.engine
    made = e.linear(session.encrypt(np.tile(v, p.slots // n)), diagonals, plan, Fraction(p.primes[1]))
    found = e.rescale(made)
    assert e.meta(found) == Meta(0, p.scale)
    np.testing.assert_allclose(session.decrypt(found)[:n], matrix @ v, atol=1e-5)


@pytest.mark.parametrize("coefficients", [[0.5, 2.0], [1.0, 0.0, -0.5], [0.0, 1.0, 0.25, 0.0, 0.125]], ids=str)
def test_polynomials_meet_at_one_scale(coefficients: list[float]) -> None:
    p = Parameters(1 << 13, (42, 32, 32, 32), (42,), 32)
    session = local("seal", p, KeyManifest.of({}, relin=3))
    values = np.clip(X, -2, 2)
    found = session.engine.poly(session.encrypt(values), coefficients, p.scale)
    assert session.engine.meta(found).scale == p.scale
    np.testing.assert_allclose(session.decrypt(found), np.polynomial.Polynomial(coefficients)(values), atol=1e-3)


# --- secrets ----------------------------------------------------------------------------------------------------------


def test_secret_keys_can_be_kept(seal: Local, x: Any) -> None:
    again = seal.owner.loads_secret(seal.owner.dumps_secret(seal.secret))
    np.testing.assert_allclose(seal.owner.decode(seal.owner.decrypt(again, x)), X, atol=CLOSE)
    for wrong in (b"", seal.owner.dumps_secret(seal.secret)[:-8]):
        with pytest.raises(IntaglioError) as e:
            seal.owner.loads_secret(wrong)
        assert e.value.diagnostics[0].code == "IG0574"


def test_another_secret_decrypts_nothing(seal: Local, x: Any) -> None:
    other = seal.owner.decode(seal.owner.decrypt(seal.owner.keygen(), x))
    assert np.abs(other - X).max() > 1e3


def test_a_printed_secret_says_nothing(seal: Local) -> None:
    assert len(repr(seal.secret)) < 100
