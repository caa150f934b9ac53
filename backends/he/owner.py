"""The side of the secret key: makes keys, encrypts, decrypts. The client's alone; a server loads nothing of it.

    keys   = owner("seal", parameters)
    secret = keys.keygen()
    for key in keys.eval_keys(secret, manifest):      one at a time: together they may be gigabytes
        send(key)
    x = keys.encrypt(keys.public_key(secret), keys.engine.encode(values, level, scale))
    keys.decode(keys.decrypt(secret, y))              float64[slots]

`local` puts both sides into one process: for tests, `intaglio run` and benchmarks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Protocol, cast

from . import security
from .engine import Engine, EvalKey, KeyManifest, Parameters
from .engines import module

__all__ = ["KeyOwner", "Local", "local", "owner"]


class KeyOwner(Protocol):
    """One engine's keys. `engine` is its evaluating side in this process."""

    engine: Engine

    def keygen(self) -> Any: ...

    def public_key(self, secret: Any) -> Any: ...

    def eval_keys(self, secret: Any, manifest: KeyManifest) -> Iterator[EvalKey]:
        """The keys of a manifest, one at a time, in its order: relin, conjugate, rotations."""

    def encrypt(self, public: Any, plain: Any) -> Any: ...

    def decrypt(self, secret: Any, x: Any) -> Any: ...

    def decode(self, plain: Any) -> Any:
        """float64[slots]."""

    def dumps_secret(self, secret: Any) -> bytes: ...

    def loads_secret(self, data: bytes) -> Any: ...


def owner(name: str, parameters: Parameters) -> KeyOwner:
    """The keys' side of an engine. IG0561: insecure parameters; IG0562: not installed; IG0563: more than it can."""
    security.check(parameters)
    return cast(KeyOwner, module(name, 1).make_owner(parameters))


@dataclass(frozen=True)
class Local:
    """Both sides in one process, with fresh keys."""

    engine: Engine
    owner: KeyOwner
    secret: Any
    public: Any

    def encrypt(self, values: Any, level: int | None = None, scale: Fraction | None = None) -> Any:
        """A ciphertext of float64[n] (n <= slots), at the top level and the usual scale if nothing else is said."""
        parameters = self.engine.parameters
        at = parameters.max_level if level is None else level
        return self.owner.encrypt(self.public, self.engine.encode(values, at, scale or parameters.scale))

    def decrypt(self, x: Any) -> Any:
        """float64[slots]."""
        return self.owner.decode(self.owner.decrypt(self.secret, x))

    def close(self) -> None:
        self.engine.close()


def local(name: str, parameters: Parameters, manifest: KeyManifest) -> Local:
    """An engine with the keys of a manifest loaded, beside their owner."""
    manifest.check(parameters)
    keys = owner(name, parameters)
    secret = keys.keygen()
    for key in keys.eval_keys(secret, manifest):
        keys.engine.load_key(key)
    return Local(keys.engine, keys, secret, keys.public_key(secret))
