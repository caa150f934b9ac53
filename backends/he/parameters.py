"""The parameters of a CKKS instance, and the evaluation keys that a program needs.

A ciphertext at level l is a pair of polynomials modulo the primes q_0 ... q_l; rescaling divides by q_l and goes down
one level. Key switching works modulo the special primes on top. Every engine is given the same primes, so a scale is
the same rational number on all of them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from fractions import Fraction
from functools import cached_property, lru_cache
from typing import Any

from ...ir.diagnostics import IntaglioError, error

__all__ = ["KeyManifest", "Parameters"]

LOG_RINGS = range(10, 18)
BITS = range(20, 62)
MOST_PRIMES = 64
HINT = "`intaglio compile --target he` chooses parameters that every engine takes"


@dataclass(frozen=True)
class Parameters:
    """A CKKS parameter set. IG0560 for one that no engine could take.

    `ring_degree` is N; there are N/2 slots. `prime_bits` are the sizes of q_0 ... q_L, `special_bits` of the primes of
    key switching, `bootstrap_bits` of those that only bootstrapping uses. A fresh ciphertext has scale 2^`scale_bits`.
    `secret` is `ternary` (uniform in {-1, 0, 1}) or `h=N`: N coefficients that are not 0.
    `insecure` admits sets that are refused otherwise (security.py); the artifact is stamped.
    """

    ring_degree: int
    prime_bits: tuple[int, ...]
    special_bits: tuple[int, ...]
    scale_bits: int
    secret: str = "ternary"
    bootstrap_bits: tuple[int, ...] = ()
    insecure: bool = False

    def __post_init__(self) -> None:
        for name in ("prime_bits", "special_bits", "bootstrap_bits"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if self.ring_degree not in {1 << log for log in LOG_RINGS}:
            raise self._wrong(f"ring degree {self.ring_degree!r} is no power of two from 2^10 to 2^17")
        everything = (*self.prime_bits, *self.special_bits, *self.bootstrap_bits)
        if not self.prime_bits or not self.special_bits or len(everything) > MOST_PRIMES:
            raise self._wrong(f"{len(self.prime_bits)} primes and {len(self.special_bits)} special ones")
        if any(bits not in BITS for bits in everything):
            raise self._wrong(f"primes have {BITS.start} to {BITS.stop - 1} bits, not {sorted(set(everything))}")
        if not 1 <= self.scale_bits <= 100:
            raise self._wrong(f"a scale of 2^{self.scale_bits!r}")
        if self.secret != "ternary" and self.hamming_weight is None:
            raise self._wrong(f"secret `{self.secret}` is neither `ternary` nor `h=N`")

    @staticmethod
    def _wrong(what: str) -> IntaglioError:
        return error("IG0560", f"not a CKKS parameter set: {what}", hint=HINT)

    @property
    def slots(self) -> int:
        return self.ring_degree // 2

    @property
    def max_level(self) -> int:
        """The level of a fresh ciphertext: so many rescalings are possible."""
        return len(self.prime_bits) - 1

    @property
    def hamming_weight(self) -> int | None:
        """How many coefficients of a sparse secret are not 0; None for a uniform one."""
        kind, equals, count = self.secret.partition("=")
        weight = int(count) if kind == "h" and equals and count.isdecimal() else 0
        return weight if 0 < weight <= self.ring_degree else None

    @property
    def primes(self) -> tuple[int, ...]:
        """q_0 ... q_L."""
        return self._chain[: len(self.prime_bits)]

    @property
    def special_primes(self) -> tuple[int, ...]:
        return self._chain[len(self.prime_bits) : len(self.prime_bits) + len(self.special_bits)]

    @property
    def _chain(self) -> tuple[int, ...]:
        return _primes(self.ring_degree, (*self.prime_bits, *self.special_bits, *self.bootstrap_bits))

    @property
    def log_qp(self) -> int:
        """Bits of the largest modulus under which anything is published: all primes, P and bootstrapping's included."""
        product = 1
        for prime in self._chain:
            product *= prime
        return product.bit_length()

    @property
    def scale(self) -> Fraction:
        """The scale of a fresh ciphertext."""
        return Fraction(1 << self.scale_bits)

    @cached_property
    def digest(self) -> str:
        """SHA-256, in hexadecimal, of everything above and of the primes: what a message names as its parameters."""
        return hashlib.sha256(json.dumps([self.to_json(), self._chain], sort_keys=True).encode()).hexdigest()

    def ciphertext_bytes(self, level: int | None = None, size: int = 2) -> int:
        """Bytes of a ciphertext's residues at a level (default: the top)."""
        return size * ((self.max_level if level is None else level) + 1) * self.ring_degree * 8

    def key_bytes(self, level: int | None = None) -> int:
        """Bytes of the residues of one switching key for ciphertexts up to that level (hybrid key switching)."""
        primes, special = (self.max_level if level is None else level) + 1, len(self.special_bits)
        return -(-primes // special) * (primes + special) * 2 * self.ring_degree * 8

    def to_json(self) -> dict[str, Any]:
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_json(cls, data: Any) -> Parameters:
        """What `to_json` gave; IG0560 for anything else."""
        kinds = {"ring_degree": int, "prime_bits": list, "special_bits": list, "scale_bits": int}
        kinds |= {"secret": str, "bootstrap_bits": list, "insecure": bool}
        if not isinstance(data, dict) or set(data) != set(kinds):
            raise cls._wrong(f"its fields must be {', '.join(kinds)}")
        for name, kind in kinds.items():
            numbers = data[name] if kind is list else [0]
            if type(data[name]) is not kind or any(type(n) is not int for n in numbers):
                raise cls._wrong(f"`{name}` is {data[name]!r}")
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in data.items()}
        return cls(**fields)


@lru_cache(maxsize=64)
def _primes(ring_degree: int, bits: tuple[int, ...]) -> tuple[int, ...]:
    """Distinct primes of these sizes that are 1 modulo 2N, from 2^bits outwards, upwards and downwards in turn.

    Lattigo chooses in the same way (ring.NTTFriendlyPrimesGenerator), and it can only be told sizes.
    """
    found = {size: _around(size, 2 * ring_degree, bits.count(size)) for size in set(bits)}
    return tuple(found[size].pop(0) for size in bits)


def _around(size: int, root: int, count: int) -> list[int]:
    above, below, found = (1 << size) + 1, (1 << size) + 1 - root, list[int]()
    lowest, highest = 2 ** (size - 0.5), 2 ** (size + 0.5) if size < BITS[-1] else 0  # downwards only from 2^61
    while len(found) < count:
        if above >= highest and below <= lowest:
            what = f"not a CKKS parameter set: there are not {count} primes of {size} bits for N = {root // 2}"
            raise error("IG0560", what, hint=HINT)
        if above < highest:
            if _is_prime(above):
                found.append(above)
                if len(found) == count:
                    break
                above += root
                continue
            above += root
        if below > lowest:
            if _is_prime(below):
                found.append(below)
            below -= root
    return found


def _is_prime(n: int) -> bool:
    """Miller-Rabin with bases that decide it for every n below 2^64."""
    small = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37)
    if n < 2 or any(n % p == 0 for p in small):
        return n in small
    twos = ((n - 1) & (1 - n)).bit_length() - 1
    odd = (n - 1) >> twos

    def witness(base: int) -> bool:
        x = pow(base, odd, n)
        if x in (1, n - 1):
            return False
        return all((x := x * x % n) != n - 1 for _ in range(twos - 1))

    return not any(witness(base) for base in small)


@dataclass(frozen=True)
class KeyManifest:
    """The evaluation keys of a program, each with the highest level at which it is used.

    `rotations` maps a step (1 ... slots - 1, to the left) to its level, as sorted pairs; `relin` and `conjugate` are
    levels, None where the program needs no such key.
    """

    rotations: tuple[tuple[int, int], ...] = ()
    relin: int | None = None
    conjugate: int | None = None

    @classmethod
    def of(cls, rotations: Mapping[int, int], *, relin: int | None = None, conjugate: int | None = None) -> KeyManifest:
        return cls(tuple(sorted(rotations.items())), relin, conjugate)

    @property
    def steps(self) -> dict[int, int]:
        """Step to level."""
        return dict(self.rotations)

    def __len__(self) -> int:
        return len(self.rotations) + (self.relin is not None) + (self.conjugate is not None)

    def check(self, parameters: Parameters) -> None:
        """IG0560 unless every step and level is one of these parameters."""
        levels = [level for _, level in self.rotations] + [x for x in (self.relin, self.conjugate) if x is not None]
        steps = [step for step, _ in self.rotations]
        if not all(0 <= level <= parameters.max_level for level in levels):
            raise error("IG0560", "a key manifest names a level that its parameters lack", hint=HINT)
        if len(set(steps)) != len(steps) or not all(0 < step < parameters.slots for step in steps):
            raise error("IG0560", f"rotation steps are distinct and from 1 to {parameters.slots - 1}", hint=HINT)

    def bytes(self, parameters: Parameters) -> int:
        """Bytes of all keys' residues."""
        levels = [level for _, level in self.rotations] + [x for x in (self.relin, self.conjugate) if x is not None]
        return sum(parameters.key_bytes(level) for level in levels)

    def to_json(self) -> dict[str, Any]:
        return {"rotations": [list(r) for r in self.rotations], "relin": self.relin, "conjugate": self.conjugate}

    @classmethod
    def from_json(cls, data: Any) -> KeyManifest:
        """What `to_json` gave; IG0560 for anything else."""

        def level(x: Any) -> bool:
            return type(x) is int

        match data:
            case {"rotations": list(rotations), "relin": relin, "conjugate": conjugate} if all(
                isinstance(r, list) and len(r) == 2 and all(map(level, r)) for r in rotations
            ) and all(x is None or level(x) for x in (relin, conjugate)):
                return cls(tuple((r[0], r[1]) for r in rotations), relin, conjugate)
        raise error("IG0560", "not a key manifest", hint=HINT)
