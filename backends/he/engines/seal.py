"""Microsoft SEAL through the package `seal-python`: evaluation. Keys and secrets are in seal_keys.py.

A level-l ciphertext belongs to the primes q_0 ... q_l alone: SEAL names that set by a hash, whatever chain it is in. So
plaintexts are encoded, and keys made, in a context of their own level: encoding and keys get cheaper as levels go down,
which SEAL has no call for.

SEAL holds the interpreter's lock while it computes: parallel work needs processes.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any

from ....ir.diagnostics import error
from ..engine import Caps, Composed, EvalKey, Meta
from ..parameters import Parameters
from .checks import missing_key, need_level, need_pair, need_size, need_sum

__all__ = ["SealEngine", "library", "make_engine"]

HEADER = struct.Struct("<HBBBBHQ")  # magic, its own size, major, minor, compression, reserved, bytes in all
MAGIC, HEADER_BYTES, UNCOMPRESSED = 0xA15E, 16, 0
MOST_BITS = 60  # of a prime


@dataclass(frozen=True)
class Cipher:
    raw: Any
    meta: Meta


@dataclass(frozen=True)
class Plain:
    raw: Any
    meta: Meta


def make_engine(parameters: Parameters) -> SealEngine:
    return SealEngine(parameters)


@lru_cache(maxsize=1)
def library() -> Any:
    """The module `seal`; IG0562 where it is not installed."""
    try:
        import seal
    except ImportError as e:
        raise error("IG0562", f"engine `seal` is not installed: {e}", hint="pip install 'intaglio[he]'") from None
    return seal


class SealEngine(Composed):
    """Evaluation on SEAL. One thread at a time."""

    name = "seal"
    caps = Caps(max_ring=1 << 15, special_primes=1, level_keys=True)

    def __init__(self, parameters: Parameters) -> None:
        self.parameters = parameters
        self.seal = library()
        self.check(parameters)
        self.full = self._context(parameters.max_level, chain=True)
        self.ids: list[Any] = []  # SEAL's names of the levels, from 0 up
        data = self.full.first_context_data()
        while data is not None:
            self.ids.insert(0, tuple(data.parms_id()))
            data = data.next_context_data()
        self.evaluator = self.seal.Evaluator(self.full)
        self.contexts: dict[int, Any] = {parameters.max_level: self.full}
        self.encoders: dict[int, Any] = {}
        self.keys: dict[tuple[str, int], tuple[int, Any, Any]] = {}  # level, SEAL's keys, evaluator

    def check(self, parameters: Parameters) -> None:
        """IG0563 for parameters that SEAL does not take."""
        if len(parameters.special_bits) != self.caps.special_primes or parameters.bootstrap_bits:
            what = f"engine `seal` has one special prime and no bootstrapping, not {parameters.special_bits}"
            raise error("IG0563", what, hint="give one entry in special_bits, or use engine `lattigo`")
        if parameters.ring_degree > self.caps.max_ring:
            raise error("IG0563", f"engine `seal` ends at ring degree {self.caps.max_ring}", hint="use `lattigo`")
        if max(*parameters.primes, *parameters.special_primes) >> MOST_BITS:
            raise error("IG0563", f"engine `seal` takes primes below 2^{MOST_BITS}", hint="59 bits are always fine")
        if parameters.secret != "ternary":
            raise error("IG0563", f"engine `seal` has no secret `{parameters.secret}`", hint="use secret `ternary`")

    def _context(self, level: int, *, chain: bool) -> Any:
        seal, parameters = self.seal, self.parameters
        made = seal.EncryptionParameters(seal.scheme_type.ckks)
        made.set_poly_modulus_degree(parameters.ring_degree)
        primes = (*parameters.primes[: level + 1], *parameters.special_primes)
        made.set_coeff_modulus([seal.Modulus(p) for p in primes])
        strength = seal.sec_level_type.none if parameters.insecure else seal.sec_level_type.tc128
        context = seal.SEALContext(made, chain, strength)
        if not context.parameters_set():
            what = f"engine `seal` refuses the parameters: {context.parameter_error_message()}"
            raise error("IG0563", what, hint="let the compiler choose them")
        return context

    def level_context(self, level: int) -> Any:
        """The context whose top is that level, with what is below it."""
        if level not in self.contexts:
            self.contexts[level] = self._context(level, chain=True)
        return self.contexts[level]

    # --- keys -----------------------------------------------------------------------------------------------------

    def load_key(self, key: EvalKey) -> None:
        need_level("load_key", self.parameters, Meta(self.parameters.max_level, Fraction(1)), key.level)
        context = self.level_context(key.level)
        parse = context.from_relin_str if key.kind == "relin" else context.from_galois_str
        slack = 64 + 8 * self.parameters.ring_degree + 256 * (key.level + 2)  # empty places and headers
        keys = self._parse(parse, key.data, self.parameters.key_bytes(key.level) + slack)
        has = keys.has_key(2 if key.kind == "relin" else self.element(key))
        if not has:
            raise error("IG0568", f"a key for `{key.kind}` {key.step} holds another", hint="send it again")
        self.keys[key.kind, key.step] = (key.level, keys, self.seal.Evaluator(context))

    def element(self, key: EvalKey) -> int:
        """The automorphism X -> X^element of a rotation or of the conjugation."""
        double = 2 * self.parameters.ring_degree
        return double - 1 if key.kind == "conjugate" else pow(3, key.step, double)

    def _key(self, kind: str, step: int, level: int) -> tuple[Any, Any]:
        found = self.keys.get((kind, step))
        if found is None or found[0] < level:
            raise missing_key(f"`{kind}`{f' by {step}' if kind == 'rotate' else ''}", level)
        return found[1], found[2]

    # --- values ---------------------------------------------------------------------------------------------------

    def encode(self, values: Any, level: int, scale: Fraction) -> Plain:
        import numpy as np

        need_level("encode", self.parameters, Meta(self.parameters.max_level, scale), level)
        if level not in self.encoders:  # no chain below: it is never needed to encode
            context = self.contexts.get(level) or self._context(level, chain=False)
            self.encoders[level] = self.seal.CKKSEncoder(context)
        array = np.ascontiguousarray(values, np.float64)
        return Plain(self._call(self.encoders[level].encode, array, float(scale)), Meta(level, scale, 1))

    def meta(self, x: Cipher) -> Meta:
        return x.meta

    def dumps(self, x: Cipher) -> bytes:
        return x.raw.to_string()

    def loads(self, data: bytes, meta: Meta) -> Cipher:
        need_level("loads", self.parameters, Meta(self.parameters.max_level, meta.scale), meta.level)
        largest = self.parameters.ciphertext_bytes(meta.level, meta.size) + 256
        raw = self._parse(self.full.from_cipher_str, data, largest)
        fits = raw.size() == meta.size and tuple(raw.parms_id()) == self.ids[meta.level] and raw.is_ntt_form()
        if not fits or raw.is_transparent():
            what = f"a ciphertext of size {raw.size()} is not one of level {meta.level}, size {meta.size}"
            raise error("IG0568", what, hint="encrypt the input again with the client's part of this artifact")
        return self._cipher(raw, meta)

    def _parse(self, parse: Callable[[bytes], Any], data: bytes, largest: int) -> Any:
        """SEAL's own loading, after its header has been checked: nothing compressed, no length but the real one."""
        sound = HEADER_BYTES < len(data) <= largest
        if sound:
            magic, size, _, _, compression, _, total = HEADER.unpack_from(data)
            sound = (magic, size, compression, total) == (MAGIC, HEADER_BYTES, UNCOMPRESSED, len(data))
        if not sound:
            raise error("IG0567", f"{len(data)} bytes are no object of SEAL for these parameters", hint="send it again")
        try:
            return parse(data)
        except (RuntimeError, ValueError, IndexError, MemoryError) as e:
            raise error("IG0567", f"SEAL cannot read {len(data)} bytes: {e}", hint="send it again") from None

    def _call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return function(*arguments)
        except (RuntimeError, ValueError) as e:  # what SEAL throws: out of range, transparent, ...
            name = getattr(function, "__name__", "op")
            what = f"engine `seal` refuses `{name}`: {e}"
            raise error("IG0564", what, hint="a scale beyond the modulus, or a product with zeros only") from None

    def _cipher(self, raw: Any, meta: Meta) -> Cipher:
        raw.scale(float(meta.scale))
        return Cipher(raw, meta)

    # --- operations -----------------------------------------------------------------------------------------------

    def add(self, x: Cipher, y: Cipher) -> Cipher:
        need_sum("add", x.meta, y.meta)
        size = max(x.meta.size, y.meta.size)
        return self._cipher(self._call(self.evaluator.add, x.raw, y.raw), Meta(x.meta.level, x.meta.scale, size))

    def sub(self, x: Cipher, y: Cipher) -> Cipher:
        need_sum("sub", x.meta, y.meta)
        size = max(x.meta.size, y.meta.size)
        return self._cipher(self._call(self.evaluator.sub, x.raw, y.raw), Meta(x.meta.level, x.meta.scale, size))

    def neg(self, x: Cipher) -> Cipher:
        return self._cipher(self._call(self.evaluator.negate, x.raw), x.meta)

    def add_plain(self, x: Cipher, plain: Plain) -> Cipher:
        need_sum("add_plain", x.meta, plain.meta)
        return self._cipher(self._call(self.evaluator.add_plain, x.raw, plain.raw), x.meta)

    def mul_plain(self, x: Cipher, plain: Plain) -> Cipher:
        need_pair("mul_plain", x.meta, plain.meta)
        made = Meta(x.meta.level, x.meta.scale * plain.meta.scale, x.meta.size)
        return self._cipher(self._call(self.evaluator.multiply_plain, x.raw, plain.raw), made)

    def mul(self, x: Cipher, y: Cipher) -> Cipher:
        need_pair("mul", x.meta, y.meta)
        need_size("mul", x.meta)
        need_size("mul", y.meta)
        made = Meta(x.meta.level, x.meta.scale * y.meta.scale, 3)
        return self._cipher(self._call(self.evaluator.multiply, x.raw, y.raw), made)

    def square(self, x: Cipher) -> Cipher:
        need_size("square", x.meta)
        return self._cipher(self._call(self.evaluator.square, x.raw), Meta(x.meta.level, x.meta.scale**2, 3))

    def relin(self, x: Cipher) -> Cipher:
        need_size("relin", x.meta, 3)
        keys, evaluator = self._key("relin", 0, x.meta.level)
        return self._cipher(self._call(evaluator.relinearize, x.raw, keys), Meta(x.meta.level, x.meta.scale))

    def rescale(self, x: Cipher) -> Cipher:
        level = x.meta.level
        need_level("rescale", self.parameters, x.meta, level - 1)
        made = Meta(level - 1, x.meta.scale / self.parameters.primes[level], x.meta.size)
        return self._cipher(self._call(self.evaluator.rescale_to_next, x.raw), made)

    def drop(self, x: Cipher, level: int) -> Cipher:
        need_level("drop", self.parameters, x.meta, level)
        if level == x.meta.level:
            return x
        raw = self._call(self.evaluator.mod_switch_to, x.raw, self.ids[level])
        return self._cipher(raw, Meta(level, x.meta.scale, x.meta.size))

    def rotate(self, x: Cipher, step: int) -> Cipher:
        step %= self.parameters.slots
        return x if step == 0 else self._automorphism(x, "rotate", step)

    def conjugate(self, x: Cipher) -> Cipher:
        return self._automorphism(x, "conjugate", 0)

    def _automorphism(self, x: Cipher, kind: str, step: int) -> Cipher:
        need_size(kind, x.meta)
        keys, evaluator = self._key(kind, step, x.meta.level)
        element = self.element(EvalKey(kind, step, x.meta.level, b""))
        return self._cipher(self._call(evaluator.apply_galois, x.raw, element, keys), x.meta)

    def close(self) -> None:
        self.keys.clear()
