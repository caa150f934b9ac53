"""The engine `sim`: slots in NumPy under the rules of a real engine, with the noise that a real one would add.

Levels, scales, sizes and keys are checked exactly as on SEAL, so every program error shows up without cryptography;
what does not fit into the modulus wraps around here, too.

The noise is drawn from the model (noise.py), several times over: a ciphertext carries its values without noise and
`replicas` errors, each of which has gone through every operation. Errors of one origin meet as they would on an engine,
however often a value was turned, multiplied and added to itself; so do those of a key that is used again, or of a
plaintext that is encoded again. Few replicas may all be small in one slot: the variance of independent errors, which is
tracked beside them, is what the variance is at least.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

import numpy as np

from ....ir.diagnostics import error
from .. import noise
from ..engine import Caps, Composed, EvalKey, KeyManifest, Meta
from ..parameters import Parameters
from .checks import missing_key, need_level, need_pair, need_size, need_sum

__all__ = ["SimEngine", "SimOwner", "make_engine", "make_owner"]


@dataclass(frozen=True)
class Plain:
    values: Any
    level: int
    scale: Fraction


@dataclass(frozen=True)
class Sealed:
    """A ciphertext. `exact` [slots] is what it decrypts to without noise, `errors` [replicas, slots] what the noise may
    be, `independent` its variance if all that was added up had been independent."""

    exact: Any
    meta: Meta
    errors: Any
    independent: Any

    @property
    def values(self) -> Any:
        """What it decrypts to."""
        return self.exact + self.errors[0]

    @property
    def variance(self) -> Any:
        """Of the noise in every slot."""
        return np.maximum(self.independent, np.mean(self.errors**2, axis=0))


def make_engine(parameters: Parameters) -> SimEngine:
    return SimEngine(parameters)


def make_owner(parameters: Parameters) -> SimOwner:
    return SimOwner(SimEngine(parameters))


@dataclass
class SimEngine(Composed):
    """See the module. `seed` is that of the noise."""

    parameters: Parameters
    seed: int = 0
    replicas: int = 8
    keys: dict[tuple[str, int], int] = field(default_factory=dict)
    room: float = np.inf  # the fewest bits that a message had below the modulus, or below 1 where it was bootstrapped
    bootstrapped: list[float] = field(default_factory=list)  # the largest number in any slot, each time

    name = "sim"
    caps = Caps(max_ring=1 << 17, special_primes=0, bootstrap=True, hoisting=True, level_keys=True)

    def __post_init__(self) -> None:
        self.model = noise.Model(self.parameters)
        self.random = np.random.default_rng(self.seed)

    def load_key(self, key: EvalKey) -> None:
        if key.data != self.parameters.digest.encode():
            raise error("IG0568", "a key for other parameters", hint="make keys for this artifact")
        self.keys[key.kind, key.step] = max(key.level, self.keys.get((key.kind, key.step), -1))

    def encode(self, values: Any, level: int, scale: Fraction) -> Plain:
        given = np.zeros(self.parameters.slots)
        given[: len(values)] = values
        return Plain(given, level, scale)

    def meta(self, x: Sealed) -> Meta:
        return x.meta

    # --- noise ------------------------------------------------------------------------------------------------------

    def _drawn(self, *origin: Any) -> Any:
        """Standard normal numbers [replicas, slots]; the same ones for the same origin, new ones without."""
        shape = (self.replicas, self.parameters.slots)
        source = np.random.default_rng([self.seed, *map(_number, origin)]) if origin else self.random
        return source.standard_normal(shape, np.float32)

    def _rounding(self, plain: Plain) -> Any:
        """Errors of a plaintext: whoever encodes the same numbers gets the same."""
        deviation = np.sqrt(self.model.encoding(plain.scale))
        return self._drawn(plain.values.tobytes(), str(plain.scale)) * deviation

    def _made(self, exact: Any, meta: Meta, errors: Any, independent: Any, added: float = 0.0) -> Sealed:
        """`added` is the variance of noise that this operation adds to every slot."""
        if added:
            errors = errors + self._drawn() * np.sqrt(added)
        half = 2.0 ** min(1000.0, self.model.log_modulus[meta.level] - 1 - noise.log2(meta.scale))
        largest = float(np.max(np.abs(exact), initial=0.0))
        if largest:
            self.room = min(self.room, float(np.log2(half / largest)))
        if largest >= half:
            exact = (exact + half) % (2 * half) - half
        return Sealed(exact, meta, errors, independent + added)

    # --- arithmetic -------------------------------------------------------------------------------------------------

    def add(self, x: Sealed, y: Sealed) -> Sealed:
        need_sum("add", x.meta, y.meta)
        meta = replace(x.meta, size=max(x.meta.size, y.meta.size))
        return self._made(x.exact + y.exact, meta, x.errors + y.errors, x.independent + y.independent)

    def neg(self, x: Sealed) -> Sealed:
        return Sealed(-x.exact, x.meta, -x.errors, x.independent)

    def add_plain(self, x: Sealed, plain: Plain) -> Sealed:
        need_sum("add_plain", x.meta, Meta(plain.level, plain.scale))
        variance = x.independent + self.model.encoding(plain.scale)
        return self._made(x.exact + plain.values, x.meta, x.errors + self._rounding(plain), variance)

    def mul_plain(self, x: Sealed, plain: Plain) -> Sealed:
        need_pair("mul_plain", x.meta, Meta(plain.level, plain.scale))
        meta = replace(x.meta, scale=x.meta.scale * plain.scale)
        errors = x.errors * plain.values + self._rounding(plain) * x.exact
        variance = x.independent * plain.values**2 + self.model.encoding(plain.scale) * x.exact**2
        return self._made(x.exact * plain.values, meta, errors, variance)

    def mul(self, x: Sealed, y: Sealed) -> Sealed:
        need_pair("mul", x.meta, y.meta)
        need_size("mul", x.meta)
        need_size("mul", y.meta)
        meta = Meta(x.meta.level, x.meta.scale * y.meta.scale, 3)
        errors = x.exact * y.errors + y.exact * x.errors + x.errors * y.errors
        # both may come from one ciphertext, and their errors be the same: deviations add up, not variances
        cross = np.abs(x.exact) * np.sqrt(y.independent) + np.abs(y.exact) * np.sqrt(x.independent)
        return self._made(x.exact * y.exact, meta, errors, cross**2 + 3 * x.independent * y.independent)

    def relin(self, x: Sealed) -> Sealed:
        need_size("relin", x.meta, 3)
        self._need_key("relin", 0, x.meta.level)
        return self._switched(replace(x, meta=replace(x.meta, size=2)), "relin", 0)

    def rescale(self, x: Sealed) -> Sealed:
        need_level("rescale", self.parameters, x.meta, x.meta.level - 1)
        meta = replace(x.meta, level=x.meta.level - 1, scale=x.meta.scale / self.parameters.primes[x.meta.level])
        return self._made(x.exact, meta, x.errors, x.independent, self.model.rescale(meta.scale, meta.size))

    def drop(self, x: Sealed, level: int) -> Sealed:
        need_level("drop", self.parameters, x.meta, level)
        return self._made(x.exact, replace(x.meta, level=level), x.errors, x.independent)

    def rotate(self, x: Sealed, step: int) -> Sealed:
        need_size("rotate", x.meta)
        step %= self.parameters.slots
        if not step:
            return x
        self._need_key("rotate", step, x.meta.level)
        independent = np.roll(np.broadcast_to(x.independent, x.exact.shape), -step)
        turned = Sealed(np.roll(x.exact, -step), x.meta, np.roll(x.errors, -step, axis=1), independent)
        return self._switched(turned, "rotate", step)

    def conjugate(self, x: Sealed) -> Sealed:
        self._need_key("conjugate", 0, x.meta.level)
        return self._switched(x, "conjugate", 0)

    def bootstrap(self, x: Sealed) -> Sealed:
        """To the top level; like a real one, it is right for values of at most 1 in size."""
        meta = Meta(self.parameters.max_level, self.parameters.scale)
        exact, largest = x.exact, float(np.abs(x.exact).max(initial=0.0))
        self.bootstrapped.append(largest)
        if largest:
            self.room = min(self.room, float(-np.log2(largest)))
        if largest > 1.0:  # the sine that stands for the modulus is none beyond
            exact = np.sin(np.clip(exact, -np.pi, np.pi))
        return self._made(exact, meta, x.errors, x.independent, noise.BOOTSTRAP**2)

    def _need_key(self, kind: str, step: int, level: int) -> None:
        if self.keys.get((kind, step), -1) < level:
            raise missing_key(f"`{kind}`{f' by {step}' if step else ''}", level)

    def _switched(self, x: Sealed, kind: str, step: int) -> Sealed:
        level, scale = x.meta.level, x.meta.scale
        errors, independent = x.errors, x.independent
        for i, digit in enumerate(self.model.digits(level)):
            offset = self.model.offset(digit, scale)
            if offset.max() ** 2 > noise.FAINT * self.model.rescale(scale):
                errors = errors + self._drawn(kind, step, i) * offset
                independent = independent + offset**2
        return self._made(x.exact, x.meta, errors, independent, self.model.switch(level, scale))

    # --- bytes ------------------------------------------------------------------------------------------------------

    def dumps(self, x: Sealed) -> bytes:
        """Values and their variance: whoever loads them draws the errors again."""
        return np.concatenate([x.values, x.variance]).astype("<f8").tobytes()

    def loads(self, data: bytes, meta: Meta) -> Sealed:
        slots = self.parameters.slots
        if len(data) != 16 * slots:
            raise error("IG0567", f"a ciphertext of {len(data)} bytes", hint="send it again")
        numbers = np.frombuffer(data, "<f8")
        if not np.isfinite(numbers).all() or (numbers[slots:] < 0).any():
            raise error("IG0568", "a ciphertext with numbers that are none", hint="encrypt it again")
        errors = self._drawn() * np.sqrt(numbers[slots:])
        return Sealed(numbers[:slots] - errors[0], meta, errors, numbers[slots:].copy())


def _number(x: Any) -> int:
    return x if isinstance(x, int) else zlib.crc32(x if isinstance(x, bytes) else x.encode())


@dataclass
class SimOwner:
    """See `backends.he.owner.KeyOwner`."""

    engine: SimEngine

    def keygen(self) -> bytes:
        return self.engine.parameters.digest.encode()

    def public_key(self, secret: bytes) -> bytes:
        return secret

    def eval_keys(self, secret: bytes, manifest: KeyManifest) -> Iterator[EvalKey]:
        if manifest.relin is not None:
            yield EvalKey("relin", 0, manifest.relin, secret)
        if manifest.conjugate is not None:
            yield EvalKey("conjugate", 0, manifest.conjugate, secret)
        for step, level in manifest.rotations:
            yield EvalKey("rotate", step, level, secret)

    def encrypt(self, public: bytes, plain: Plain) -> Sealed:
        nothing, e = np.zeros(len(plain.values)), self.engine
        added = e.model.fresh(plain.scale) - e.model.encoding(plain.scale)
        rounding = e._rounding(plain)
        return e._made(
            plain.values, Meta(plain.level, plain.scale), rounding, nothing + e.model.encoding(plain.scale), added
        )

    def decrypt(self, secret: bytes, x: Sealed) -> Plain:
        return Plain(x.values, x.meta.level, x.meta.scale)

    def decode(self, plain: Plain) -> Any:
        return np.array(plain.values)

    def dumps_secret(self, secret: bytes) -> bytes:
        return secret

    def loads_secret(self, data: bytes) -> bytes:
        return bytes(data)
