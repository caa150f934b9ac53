"""The engine `sim`: slots in NumPy under the rules of a real engine, with the noise that a real one would add.

Levels, scales, sizes and keys are checked exactly as on SEAL, so every program error shows up without cryptography. The
noise is drawn from the model (noise.py), and its variance is tracked in every slot; what does not fit into the modulus
wraps around here, too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
    """A ciphertext of this engine: what it would decrypt to, noise included, and what the model says of it."""

    values: Any
    meta: Meta
    variance: Any


def make_engine(parameters: Parameters) -> SimEngine:
    return SimEngine(parameters)


def make_owner(parameters: Parameters) -> SimOwner:
    return SimOwner(SimEngine(parameters))


@dataclass
class SimEngine(Composed):
    """See the module. `seed` is that of the noise; `quiet` leaves the noise out of the values."""

    parameters: Parameters
    seed: int = 0
    quiet: bool = False
    keys: dict[tuple[str, int], int] = field(default_factory=dict)
    room: float = np.inf  # the fewest bits that a message had below the modulus, or below 1 where it was bootstrapped

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

    def _made(self, values: Any, meta: Meta, variance: Any, added: Any = 0.0) -> Sealed:
        """`added` is the variance of the noise that this operation adds to the values."""
        if np.any(added) and not self.quiet:
            values = values + self.random.normal(0.0, 1.0, len(values)) * np.sqrt(added)
        half = 2.0 ** min(1000.0, self.model.log_modulus[meta.level] - 1 - noise.log2(meta.scale))
        largest = float(np.max(np.abs(values), initial=0.0))
        if largest:
            self.room = min(self.room, float(np.log2(half / largest)))
        if largest >= half:
            values = (values + half) % (2 * half) - half
        return Sealed(values, meta, variance + added)

    # --- arithmetic -------------------------------------------------------------------------------------------------

    def add(self, x: Sealed, y: Sealed) -> Sealed:
        need_sum("add", x.meta, y.meta)
        meta = replace(x.meta, size=max(x.meta.size, y.meta.size))
        variance = 4 * x.variance if x is y else x.variance + y.variance
        return self._made(x.values + y.values, meta, variance)

    def neg(self, x: Sealed) -> Sealed:
        return Sealed(-x.values, x.meta, x.variance)

    def add_plain(self, x: Sealed, plain: Plain) -> Sealed:
        need_sum("add_plain", x.meta, Meta(plain.level, plain.scale))
        return self._made(x.values + plain.values, x.meta, x.variance, self.model.encoding(x.meta.scale))

    def mul_plain(self, x: Sealed, plain: Plain) -> Sealed:
        need_pair("mul_plain", x.meta, Meta(plain.level, plain.scale))
        meta = replace(x.meta, scale=x.meta.scale * plain.scale)
        added = self.model.encoding(plain.scale) * x.values**2
        return self._made(x.values * plain.values, meta, x.variance * plain.values**2, added)

    def mul(self, x: Sealed, y: Sealed) -> Sealed:
        need_pair("mul", x.meta, y.meta)
        need_size("mul", x.meta)
        need_size("mul", y.meta)
        meta = Meta(x.meta.level, x.meta.scale * y.meta.scale, 3)
        # both may come from one ciphertext, and their errors be the same: deviations add up, not variances
        cross = np.abs(x.values) * np.sqrt(y.variance) + np.abs(y.values) * np.sqrt(x.variance)
        variance = cross**2 + 3 * x.variance * y.variance
        return self._made(x.values * y.values, meta, variance)

    def relin(self, x: Sealed) -> Sealed:
        need_size("relin", x.meta, 3)
        self._need_key("relin", 0, x.meta.level)
        return self._switched(x.values, replace(x.meta, size=2), x.variance)

    def rescale(self, x: Sealed) -> Sealed:
        need_level("rescale", self.parameters, x.meta, x.meta.level - 1)
        meta = replace(x.meta, level=x.meta.level - 1, scale=x.meta.scale / self.parameters.primes[x.meta.level])
        return self._made(x.values, meta, x.variance, self.model.rescale(meta.scale))

    def drop(self, x: Sealed, level: int) -> Sealed:
        need_level("drop", self.parameters, x.meta, level)
        return self._made(x.values, replace(x.meta, level=level), x.variance)

    def rotate(self, x: Sealed, step: int) -> Sealed:
        need_size("rotate", x.meta)
        step %= self.parameters.slots
        if not step:
            return x
        self._need_key("rotate", step, x.meta.level)
        return self._switched(np.roll(x.values, -step), x.meta, np.roll(x.variance, -step))

    def rotate_many(self, x: Sealed, steps: Sequence[int]) -> list[Sealed]:
        return [self.rotate(x, step) for step in steps]

    def conjugate(self, x: Sealed) -> Sealed:
        self._need_key("conjugate", 0, x.meta.level)
        return self._switched(x.values, x.meta, x.variance)

    def bootstrap(self, x: Sealed) -> Sealed:
        """To the top level; like a real one, it is right for values of at most 1 in size."""
        meta = Meta(self.parameters.max_level, self.parameters.scale)
        values, largest = x.values, float(np.abs(x.values).max(initial=0.0))
        if largest:
            self.room = min(self.room, float(-np.log2(largest)))
        if largest > 1.0:  # the sine that stands for the modulus is none beyond
            values = np.sin(np.clip(values, -np.pi, np.pi))
        return self._made(values, meta, x.variance, noise.BOOTSTRAP**2)

    def _need_key(self, kind: str, step: int, level: int) -> None:
        if self.keys.get((kind, step), -1) < level:
            raise missing_key(f"`{kind}`{f' by {step}' if step else ''}", level)

    def _switched(self, values: Any, meta: Meta, variance: Any) -> Sealed:
        return self._made(values, meta, variance, self.model.switch(meta.level, meta.scale))

    # --- bytes ------------------------------------------------------------------------------------------------------

    def dumps(self, x: Sealed) -> bytes:
        return np.concatenate([x.values, x.variance]).astype("<f8").tobytes()

    def loads(self, data: bytes, meta: Meta) -> Sealed:
        slots = self.parameters.slots
        if len(data) != 16 * slots:
            raise error("IG0567", f"a ciphertext of {len(data)} bytes", hint="send it again")
        numbers = np.frombuffer(data, "<f8")
        if not np.isfinite(numbers).all() or (numbers[slots:] < 0).any():
            raise error("IG0568", "a ciphertext with numbers that are none", hint="encrypt it again")
        return Sealed(numbers[:slots].copy(), meta, numbers[slots:].copy())


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
        nothing = np.zeros(len(plain.values))
        meta, added = Meta(plain.level, plain.scale), self.engine.model.fresh(plain.scale)
        return self.engine._made(plain.values, meta, nothing, added)

    def decrypt(self, secret: bytes, x: Sealed) -> Plain:
        return Plain(x.values, x.meta.level, x.meta.scale)

    def decode(self, plain: Plain) -> Any:
        return np.array(plain.values)

    def dumps_secret(self, secret: bytes) -> bytes:
        return secret

    def loads_secret(self, data: bytes) -> bytes:
        return bytes(data)
