"""The secret key's side of engine `seal`: generates keys, encrypts, decrypts. A server never imports this file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ....ir.diagnostics import error
from ..engine import EvalKey, KeyManifest, Meta
from ..parameters import Parameters
from .seal import HEADER, Cipher, Plain, SealEngine

__all__ = ["SealOwner", "make_owner"]

PREFIX = 88  # bytes before the coefficients in a saved secret key: SEAL's header, the primes' name, counts, a header
NAME = slice(16, 48)  # where the name of the primes stands
COUNT = slice(48, 56)  # where the number of coefficients stands
INNER = slice(64, 88)  # the coefficients' own header and count


@dataclass(frozen=True, repr=False)
class Secret:
    """A secret key as SEAL keeps it. Its printed form says nothing."""

    raw: Any


def make_owner(parameters: Parameters) -> SealOwner:
    return SealOwner(parameters)


class SealOwner:
    """Keys on SEAL."""

    def __init__(self, parameters: Parameters) -> None:
        self.parameters = parameters
        self.engine = SealEngine(parameters)
        self.seal = self.engine.seal

    def keygen(self) -> Secret:
        return Secret(self.seal.KeyGenerator(self.engine.full).secret_key())

    def public_key(self, secret: Secret) -> Any:
        return self.seal.KeyGenerator(self.engine.full, secret.raw).create_public_key()

    def eval_keys(self, secret: Secret, manifest: KeyManifest) -> Iterator[EvalKey]:
        manifest.check(self.parameters)
        if manifest.relin is not None:
            made = self._generator(secret, manifest.relin).create_relin_keys()
            yield EvalKey("relin", 0, manifest.relin, made.to_string())
        wanted = [("rotate", step, level) for step, level in manifest.rotations]
        if manifest.conjugate is not None:
            wanted.insert(0, ("conjugate", 0, manifest.conjugate))
        for kind, step, level in wanted:
            keys = self.seal.GaloisKeys()
            self._generator(secret, level).create_galois_keys([step], keys)  # SEAL's step 0 is the conjugation
            yield EvalKey(kind, step, level, keys.to_string())

    def _generator(self, secret: Secret, level: int) -> Any:
        """A generator of keys for a level: the same secret modulo fewer primes."""
        context = self.engine.level_context(level)
        if level == self.parameters.max_level:
            return self.seal.KeyGenerator(context, secret.raw)
        data, row = secret.raw.to_string(), 8 * self.parameters.ring_degree
        special = PREFIX + (self.parameters.max_level + 1) * row
        rows = data[PREFIX : PREFIX + (level + 1) * row] + data[special:]
        inner = bytearray(data[INNER])
        inner[8:16] = (len(inner) + len(rows)).to_bytes(8, "little")
        inner[16:24] = (len(rows) // 8).to_bytes(8, "little")
        head = bytearray(data[:PREFIX])
        head[NAME] = b"".join(int(x).to_bytes(8, "little") for x in context.key_context_data().parms_id())
        head[COUNT] = (len(rows) // 8).to_bytes(8, "little")
        head[INNER] = inner
        magic, size, major, minor, compression, reserved, _ = HEADER.unpack_from(data)
        head[: HEADER.size] = HEADER.pack(magic, size, major, minor, compression, reserved, PREFIX + len(rows))
        return self.seal.KeyGenerator(context, context.from_secret_str(bytes(head) + rows))

    def encrypt(self, public: Any, plain: Plain) -> Cipher:
        raw = self.seal.Encryptor(self.engine.full, public).encrypt(plain.raw)
        return Cipher(raw, Meta(plain.meta.level, plain.meta.scale))

    def decrypt(self, secret: Secret, x: Cipher) -> Plain:
        return Plain(self.seal.Decryptor(self.engine.full, secret.raw).decrypt(x.raw), x.meta)

    def decode(self, plain: Plain) -> Any:
        return self.seal.CKKSEncoder(self.engine.full).decode(plain.raw)

    def dumps_secret(self, secret: Secret) -> bytes:
        return secret.raw.to_string()

    def loads_secret(self, data: bytes) -> Secret:
        rows = len(self.parameters.prime_bits) + len(self.parameters.special_bits)
        if len(data) != PREFIX + 8 * rows * self.parameters.ring_degree:
            raise error("IG0574", "the secret key is of other parameters, or damaged", hint="`intaglio he keygen` anew")
        return Secret(self.engine._parse(self.engine.full.from_secret_str, data, len(data)))
