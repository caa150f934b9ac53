"""Parameters: what is a set at all, and which are secure. The table is checked against published sets, by name."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from intaglio.backends.he import security
from intaglio.backends.he.parameters import KeyManifest, Parameters
from intaglio.ir.diagnostics import IntaglioError


def code(e: pytest.ExceptionInfo[IntaglioError]) -> str:
    return e.value.diagnostics[0].code


# --- which are secure -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given_parameters",
    [
        Parameters(1 << 13, (50, 40, 40, 30), (55,), 40),
        Parameters(1 << 14, (54, *(40,) * 8), (58,), 40),
        Parameters(1 << 15, (55, *(40,) * 19), (55,), 40),
        Parameters(1 << 16, (58, *(45,) * 30), (58, 58), 45),
        Parameters(1 << 15, (55, *(45,) * 13), (55, 55), 45, "h=192"),
        Parameters(1 << 16, (55, *(40,) * 16), (55,) * 4, 40, "h=192", (55,) * 8),
    ],
    ids=lambda p: f"{p.ring_degree}-{p.log_qp}-{p.secret}",
)
def test_sets_within_the_table_are_taken(given_parameters: Parameters) -> None:
    security.check(given_parameters)
    assert security.statement(given_parameters)["stamp"] != security.STAMP


@pytest.mark.parametrize("entry", security.LARGEST_LOG_QP.items(), ids=str)
def test_the_table_is_a_limit_of_the_product_of_all_primes(entry: tuple[tuple[str, int], int]) -> None:
    (secret, n), most = entry
    left, bits = most - 50, list[int]()
    while left >= 60:
        bits.append(40)
        left -= 40
    bits.append(min(left, 59))
    at = Parameters(n, tuple(bits), (48,), 40, secret)  # 48 + sum = most - 2 at least
    assert at.log_qp <= most
    security.check(at)
    beyond = Parameters(n, (*bits, 20), (48,), 40, secret)
    assert beyond.log_qp > most
    with pytest.raises(IntaglioError) as e:
        security.check(beyond)
    assert code(e) == "IG0561"
    assert str(most) in str(e.value)


def test_special_and_bootstrapping_primes_count() -> None:
    q = (55, *(45,) * 30)
    security.check(Parameters(1 << 16, q, (55,), 45, "h=192"))
    for p in (Parameters(1 << 16, q, (55, 55), 45, "h=192"), Parameters(1 << 16, q, (55,), 45, "h=192", (55,) * 3)):
        with pytest.raises(IntaglioError, match=r"special and bootstrapping"):
            security.check(Parameters(p.ring_degree, p.prime_bits, (55,) * 3, 45, "h=192", p.bootstrap_bits))


def test_orions_resnet_set_is_refused() -> None:
    """Orion's published ResNet parameters: N = 2^16, h = 192, and Lattigo's bootstrapping: 1764 bits, not 1553."""
    bootstrapping = (*(39,) * 3, *(60,) * 8, *(56,) * 4)  # slots to coefficients, modular reduction, and back
    orion = Parameters(1 << 16, (55, *(40,) * 10), (61,) * 8, 40, "h=192", bootstrapping)
    assert sum((*orion.prime_bits, *orion.special_bits, *orion.bootstrap_bits)) == 1764
    assert abs(orion.log_qp - 1764) <= 1
    with pytest.raises(IntaglioError, match=r"128 bits of security end at 1553") as e:
        security.check(orion)
    assert code(e) == "IG0561"


def test_ant_aces_set_is_refused() -> None:
    """ANT-ACE prints sec_level 0 (not checked) for ResNet-20: 33 primes of 56 bits and h = 192 at N = 2^16."""
    ace = Parameters(1 << 16, (59, *(56,) * 32), (59,) * 3, 56, "h=192")
    with pytest.raises(IntaglioError, match="insecure parameters: logQP is 20"):
        security.check(ace)


@pytest.mark.parametrize(
    ("n", "secret"), [(1 << 12, "h=192"), (1 << 16, "h=64"), (1 << 17, "ternary"), (1 << 11, "ternary")]
)
def test_what_is_not_in_the_table_is_refused(n: int, secret: str) -> None:
    with pytest.raises(IntaglioError, match="nothing is known to be secure"):
        security.check(Parameters(n, (30,), (30,), 20, secret))


def test_insecure_sets_are_stamped() -> None:
    p = Parameters(1 << 12, (50, 40, 40), (50,), 40, insecure=True)
    security.check(p)
    assert security.statement(p)["stamp"] == security.STAMP == "insecure-for-tests"
    # a secure set needs no stamp, whatever it says of itself
    assert security.statement(Parameters(1 << 13, (50, 40), (50,), 40, insecure=True))["stamp"] != security.STAMP


# --- what is a set ----------------------------------------------------------------------------------------------------


@given(st.sampled_from((12, 13, 14, 15)), st.lists(st.integers(25, 61), min_size=1, max_size=12), st.integers(25, 61))
def test_primes_are_distinct_and_fit_the_ring(log_n: int, bits: list[int], special: int) -> None:
    p = Parameters(1 << log_n, tuple(bits), (special, special), 25)
    chain = (*p.primes, *p.special_primes)
    assert len(set(chain)) == len(bits) + 2
    for prime, size in zip(chain, (*bits, special, special), strict=True):
        assert prime % (2 << log_n) == 1
        assert 2 ** (size - 0.5) < prime < 2 ** (size + 0.5)
        assert pow(3, prime - 1, prime) == 1


def test_primes_are_lattigos() -> None:
    """What Lattigo reports for N = 2^13 and LogQ = [59, 40, 40]: engines must agree on primes, or scales differ."""
    assert Parameters(1 << 13, (59, 40, 40), (59,), 40).primes[1:] == (1099511480321, 1099511922689)


@pytest.mark.parametrize(
    "fields",
    [
        {"ring_degree": 5000},
        {"ring_degree": 1 << 20},
        {"prime_bits": ()},
        {"prime_bits": (62,)},
        {"prime_bits": (40,) * 80},
        {"special_bits": ()},
        {"scale_bits": 0},
        {"secret": "h=0"},
        {"secret": "gaussian"},
        {"bootstrap_bits": (3,)},
    ],
    ids=str,
)
def test_what_no_engine_takes_is_no_set(fields: dict[str, object]) -> None:
    usual: dict[str, object] = {"ring_degree": 1 << 13, "prime_bits": (50, 40), "special_bits": (50,), "scale_bits": 40}
    with pytest.raises(IntaglioError) as e:
        Parameters(**{**usual, **fields})  # type: ignore[arg-type]
    assert code(e) == "IG0560"


def test_small_rings_run_out_of_primes() -> None:
    with pytest.raises(IntaglioError, match="there are not 40 primes of 20 bits"):
        _ = Parameters(1 << 15, (20,) * 40, (50,), 20).primes


def test_json_keeps_everything_and_takes_nothing_else() -> None:
    p = Parameters(1 << 15, (55, 40, 40), (50, 50), 40, "h=192", (55,), insecure=True)
    data = json.loads(json.dumps(p.to_json()))
    assert Parameters.from_json(data) == p
    assert Parameters.from_json(data).digest == p.digest
    for name, wrong in [("ring_degree", "8192"), ("prime_bits", [1.5]), ("secret", None), ("insecure", 1)]:
        with pytest.raises(IntaglioError):
            Parameters.from_json({**data, name: wrong})
    with pytest.raises(IntaglioError):
        Parameters.from_json({**data, "more": 1})


def test_digests_tell_sets_apart() -> None:
    base = Parameters(1 << 13, (50, 40), (50,), 40)
    others = [
        Parameters(1 << 14, (50, 40), (50,), 40),
        Parameters(1 << 13, (50, 41), (50,), 40),
        Parameters(1 << 13, (50,), (40, 50), 40),
        Parameters(1 << 13, (50, 40), (50,), 39),
        Parameters(1 << 13, (50, 40), (50,), 40, "h=192"),
        Parameters(1 << 13, (50, 40), (50,), 40, insecure=True),
    ]
    assert len({p.digest for p in (base, *others)}) == 1 + len(others)


def test_a_manifest_is_checked_against_its_parameters() -> None:
    p = Parameters(1 << 13, (50, 40, 40), (50,), 40)
    good = KeyManifest.of({1: 2, 4095: 0}, relin=2, conjugate=1)
    good.check(p)
    assert len(good) == 4
    assert good.bytes(p) == sum(p.key_bytes(level) for level in (2, 0, 2, 1))
    assert KeyManifest.from_json(json.loads(json.dumps(good.to_json()))) == good
    wrong = [{"rotations": {0: 1}}, {"rotations": {4096: 1}}, {"rotations": {1: 3}}, {"rotations": {}, "relin": 3}]
    for fields in wrong:
        with pytest.raises(IntaglioError):
            KeyManifest.of(**fields).check(p)  # type: ignore[arg-type]
    for data in ({}, {"rotations": [[1]], "relin": None, "conjugate": None}, [], {"rotations": 1}):
        with pytest.raises(IntaglioError):
            KeyManifest.from_json(data)
