"""Lattigo through the C library in the wheel of `orion-fhe` (MIT), in a process of its own: for deep networks.

A panic of Go's runtime ends its process, and the library is one global state: so it is never loaded here
(lattigo_service.py runs it). Its interface has limits that this engine passes on: ciphertexts and keys cannot be sent
(`caps.separate` is false: no server), values are float32, a product is relinearised at once, and keys for all powers of
two are made in any case.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from ....ir.diagnostics import IntaglioError, error
from ..engine import Caps, Composed, EngineCrashed, EvalKey, KeyManifest, Meta
from ..hoisting import RATIO
from ..parameters import Parameters
from .checks import missing_key, need_level, need_pair, need_size, need_sum
from .worker import Process

__all__ = ["BOOTSTRAP_BITS", "LattigoEngine", "library_path", "make_engine", "make_owner"]

PACKAGE, LIBRARY = "orion-fhe", "orion/backend/lattigo/lattigo-linux.so"
SERVICE = "intaglio.backends.he.engines.lattigo_service"
BOOTSTRAP_BITS = (*(39,) * 3, *(60,) * 8, *(56,) * 4)
"""Primes of Lattigo's usual bootstrapping: slots to coefficients, modular reduction, coefficients to slots."""

COLLECT = "30"  # GOGC: how many per cent of garbage Go's heap may hold; its usual 100 doubles the memory
LARGEST_SCALE = 1 << 63


def library_path() -> Path:
    """Where the library is; IG0562 where it is not installed. Nothing of the package is imported."""
    import importlib.metadata

    try:
        path = Path(str(importlib.metadata.distribution(PACKAGE).locate_file(LIBRARY)))
    except importlib.metadata.PackageNotFoundError:
        path = Path()
    if not path.is_file():
        hint = f"pip install --no-deps {PACKAGE}==1.0.2"
        raise error("IG0562", "engine `lattigo` is not installed (Linux on x86-64 only)", hint=hint)
    return path


def make_engine(parameters: Parameters) -> LattigoEngine:
    return LattigoEngine(parameters)


def make_owner(parameters: Parameters) -> LattigoEngine:
    return LattigoEngine(parameters)


class Handle:
    """A plaintext or ciphertext in the other process. When nobody needs it any longer it is freed there."""

    def __init__(self, engine: LattigoEngine, kind: str, number: int | None, meta: Meta) -> None:
        self.kind, self.number, self.meta, self.process = kind, number, meta, engine.process
        self._garbage = engine.garbage
        self.rescaled_to: Fraction | None = None

    def __del__(self) -> None:
        if self.number is not None:
            self._garbage.append((self.process, self.kind, self.number))


class Products(Handle):
    """A product by a plaintext, or such a product added to `before`: computed when something else needs it.

    A layer is a sum of hundreds of products. In one call they are added up in place; one by one, each sum would be a
    new ciphertext, and making it takes Go longer than the addition.
    """

    def __init__(self, engine: LattigoEngine, meta: Meta, x: Handle, plain: Handle, before: Products | None) -> None:
        super().__init__(engine, "ciphertext", None, meta)
        self.x: Handle | None = x
        self.plain: Handle | None = plain
        self.before = before

    def pending(self) -> tuple[Products | None, list[tuple[Handle, Handle]]]:
        """The sum that is there already, and the products that are still to be added."""
        at: Products | None = self
        terms = []
        while at is not None and at.number is None:
            assert at.x is not None and at.plain is not None
            terms.append((at.x, at.plain))
            at = at.before
        return at, terms[::-1]


def _steps(plan: Mapping[int, Sequence[int]]) -> set[int]:
    return {*plan, *(b for babies in plan.values() for b in babies)}


@dataclass(frozen=True)
class Secret:
    """The secret key stays in the process that made it."""

    process: Process


class LattigoEngine(Composed):
    """Both sides of Lattigo: evaluation and keys. After EngineCrashed, `keygen` starts anew."""

    name = "lattigo"
    caps = Caps(
        max_ring=1 << 16,
        special_primes=0,
        bootstrap=True,
        hoisting=True,
        collects=True,
        separate=False,
        conjugate=False,
        crash_safe=False,
        precision=24,
    )

    def __init__(self, parameters: Parameters) -> None:
        self.parameters = parameters
        if parameters.ring_degree > self.caps.max_ring:
            raise error("IG0563", f"engine `lattigo` ends at ring degree {self.caps.max_ring}", hint="a smaller ring")
        if parameters.bootstrap_bits not in ((), BOOTSTRAP_BITS):
            what = f"Lattigo bootstraps with primes of {BOOTSTRAP_BITS} bits"
            raise error("IG0563", what, hint="give these as bootstrap_bits, or none")
        self.path = library_path()
        self.process: Process | None = None
        self.garbage: list[tuple[Process | None, str, int]] = []
        self.keys: dict[tuple[str, int], int] = {}
        self.transforms: WeakKeyDictionary[Any, tuple[Handle, int, Fraction]] = WeakKeyDictionary()
        self._start()

    @property
    def engine(self) -> LattigoEngine:
        """This engine is its own key owner."""
        return self

    def _start(self) -> None:
        p = self.parameters
        weight = p.hamming_weight or 2 * p.ring_degree // 3  # the library knows secrets by their weight only
        said = {
            "library": str(self.path),
            "log_n": p.ring_degree.bit_length() - 1,
            "q": list(p.prime_bits),
            "p": list(p.special_bits),
            "log_scale": min(p.scale_bits, 62),
            "h": weight,
            "bootstrap": bool(p.bootstrap_bits),
        }
        self.keys.clear()
        self.process = Process("lattigo", SERVICE, said, floats=p.slots, environment={"GOGC": COLLECT})
        if tuple(self.process.call("primes")) != p.primes:
            raise error("IG0563", "this Lattigo chooses other primes than were compiled for", hint="use engine `seal`")

    def _call(self, method: str, *arguments: Any) -> Any:
        if self.process is None or not self.process.alive:
            raise EngineCrashed(self.name, "it has died before, with its keys; `keygen` starts anew")
        while self.garbage:
            process, kind, number = self.garbage.pop()
            if process is self.process:
                self.process.call("free", kind, number)
        return self.process.call(method, *arguments)

    def _number(self, x: Handle) -> int:
        if x.process is not self.process:
            raise EngineCrashed(self.name, "what this ciphertext was, is lost")
        if x.number is None:
            assert isinstance(x, Products)
            start, terms = x.pending()
            pairs = [[self._number(a), self._number(b)] for a, b in terms]
            x.number = self._call("sum_products", -1 if start is None else start.number, pairs)
            x.x = x.plain = x.before = None  # nobody needs them any longer
        return x.number

    def _op(self, meta: Meta, method: str, *arguments: Any) -> Handle:
        """A call whose result is a ciphertext."""
        values = [self._number(a) if isinstance(a, Handle) else a for a in arguments]
        return Handle(self, "ciphertext", self._call(method, *values), meta)

    # --- the secret key's side --------------------------------------------------------------------------------------

    def keygen(self) -> Secret:
        if self.process is None or not self.process.alive:
            self._start()
        self._call("keygen")
        assert self.process is not None
        return Secret(self.process)

    def public_key(self, secret: Secret) -> Secret:
        return secret

    def eval_keys(self, secret: Secret, manifest: KeyManifest) -> Iterator[EvalKey]:
        manifest.check(self.parameters)
        if manifest.conjugate is not None:
            raise error("IG0563", "the library of engine `lattigo` has no conjugation", hint="use engine `seal`")
        if manifest.relin is not None:
            yield EvalKey("relin", 0, manifest.relin, None)
        for step, level in manifest.rotations:
            yield EvalKey("rotate", step, level, None)

    def encrypt(self, public: Secret, plain: Handle) -> Handle:
        return self._op(Meta(plain.meta.level, plain.meta.scale), "encrypt", plain)

    def decrypt(self, secret: Secret, x: Handle) -> Handle:
        number = self._call("decrypt", self._number(x))
        return Handle(self, "plaintext", number, Meta(x.meta.level, x.meta.scale, 1))

    def decode(self, plain: Handle) -> Any:
        count = self._call("decode", self._number(plain))
        assert self.process is not None
        return self.process.read(count)

    def dumps_secret(self, secret: Secret) -> bytes:
        raise self._kept()

    def loads_secret(self, data: bytes) -> Secret:
        raise self._kept()

    # --- evaluation -------------------------------------------------------------------------------------------------

    def load_key(self, key: EvalKey) -> None:
        if key.kind == "rotate":
            self._call("rotation_key", key.step)
        self.keys[key.kind, key.step] = key.level

    def _need_key(self, kind: str, step: int, level: int) -> None:
        """The library would make a missing key by itself: a program that relies on it has a wrong manifest."""
        if self.keys.get((kind, step), -1) < level:
            raise missing_key(f"`{kind}`{f' by {step}' if kind == 'rotate' else ''}", level)

    def encode(self, values: Any, level: int, scale: Fraction) -> Handle:
        import numpy as np

        need_level("encode", self.parameters, Meta(self.parameters.max_level, scale), level)
        array = np.asarray(values, np.float64).reshape(-1)
        if len(array) > self.parameters.slots or not np.isfinite(array).all() or not 1 <= scale < LARGEST_SCALE:
            what = f"engine `lattigo` encodes up to {self.parameters.slots} finite numbers at a scale below 2^63"
            raise error("IG0564", what, hint="see the program's scales")
        padded = np.zeros(self.parameters.slots)
        padded[: len(array)] = array
        if self.process is None:
            raise EngineCrashed(self.name, "it is closed")
        count = self.process.write(padded)
        return Handle(self, "plaintext", self._call("encode", count, level, round(scale)), Meta(level, scale, 1))

    def meta(self, x: Handle) -> Meta:
        return x.meta

    def add(self, x: Handle, y: Handle) -> Handle:
        need_sum("add", x.meta, y.meta)
        if isinstance(x, Products) and isinstance(y, Products) and y.x and y.plain and y.before is None:
            return Products(self, self._sum(x, y), y.x, y.plain, x)
        return self._op(self._sum(x, y), "AddCiphertextNew", x, y)

    def sub(self, x: Handle, y: Handle) -> Handle:
        need_sum("sub", x.meta, y.meta)
        return self._op(self._sum(x, y), "SubCiphertextNew", x, y)

    def _sum(self, x: Handle, y: Handle) -> Meta:
        return Meta(x.meta.level, x.meta.scale, max(x.meta.size, y.meta.size))

    def neg(self, x: Handle) -> Handle:
        return self._op(x.meta, "negate", x)

    def add_plain(self, x: Handle, plain: Handle) -> Handle:
        need_sum("add_plain", x.meta, plain.meta)
        return self._op(x.meta, "AddPlaintextNew", x, plain)

    def mul_plain(self, x: Handle, plain: Handle) -> Handle:
        need_pair("mul_plain", x.meta, plain.meta)
        made = Meta(x.meta.level, x.meta.scale * plain.meta.scale, x.meta.size)
        return Products(self, made, x, plain, None)

    def mul(self, x: Handle, y: Handle) -> Handle:
        """Relinearised at once; it still counts as size 3, so that programs mean the same on every engine."""
        need_pair("mul", x.meta, y.meta)
        need_size("mul", x.meta)
        need_size("mul", y.meta)
        self._need_key("relin", 0, x.meta.level)
        return self._op(Meta(x.meta.level, x.meta.scale * y.meta.scale, 3), "MulRelinCiphertextNew", x, y)

    def relin(self, x: Handle) -> Handle:
        need_size("relin", x.meta, 3)
        return self._op(Meta(x.meta.level, x.meta.scale), "copy", x)

    def rescale(self, x: Handle) -> Handle:
        level = x.meta.level
        need_level("rescale", self.parameters, x.meta, level - 1)
        made = Meta(level - 1, x.meta.scale / self.parameters.primes[level], x.meta.size)
        found = self._op(made, "rescale", x)
        if x.rescaled_to is not None:  # the library takes it for another scale, which is the same but for rounding
            self._call("set_scale", self._number(found), round(x.rescaled_to))
        return found

    def drop(self, x: Handle, level: int) -> Handle:
        need_level("drop", self.parameters, x.meta, level)
        return x if level == x.meta.level else self._op(Meta(level, x.meta.scale, x.meta.size), "drop", x, level)

    def rotate(self, x: Handle, step: int) -> Handle:
        step %= self.parameters.slots
        if step == 0:
            return x
        need_size("rotate", x.meta)
        self._need_key("rotate", step, x.meta.level)
        return self._op(x.meta, "RotateNew", x, step)

    def linear(
        self, x: Handle, diagonals: Mapping[int, Any], plan: Mapping[int, Sequence[int]], scale: Fraction
    ) -> Handle:
        """In one call, hoisted; the encoded diagonals are kept for as long as `diagonals` live."""
        need_size("linear", x.meta)
        level, top = x.meta.level, self.parameters.primes[x.meta.level]
        for step in _steps(plan) - {0}:
            self._need_key("rotate", step, level)
        kept = self.transforms.get(diagonals)
        if kept is None or kept[1:] != (level, scale) or kept[0].process is not self.process:
            assert self.process is not None
            self._call("transform_begin", len(diagonals))
            for i, offset in enumerate(diagonals):  # the library encodes at the scale of the prime
                self._call("transform_put", i, self.process.write(diagonals[offset] * float(scale / top)))
            steps = self._call("transform_end", list(diagonals), level, 1 << (RATIO + 1))
            made = Handle(self, "transform", steps[0], Meta(level, scale, 1))
            if set(steps[1:]) != {pow(5, d, 2 * self.parameters.ring_degree) for d in _steps(plan)}:
                raise error("IG0563", "this Lattigo splits a layer otherwise", hint="compile without `hoist`")
            kept = self.transforms[diagonals] = (made, level, scale)
        found = self._op(Meta(level, x.meta.scale * scale), "transform", kept[0], x)
        found.rescaled_to = found.meta.scale / top
        return found

    def conjugate(self, x: Handle) -> Handle:
        raise error("IG0563", "the library of engine `lattigo` has no conjugation", hint="use engine `seal`")

    def bootstrap(self, x: Handle) -> Handle:
        """Values of at most 1 at level 0 come back at the top level and the usual scale."""
        if not self.parameters.bootstrap_bits:
            return super().bootstrap(x)
        need_size("bootstrap", x.meta)
        return self._op(Meta(self.parameters.max_level, self.parameters.scale), "bootstrap", x)

    def dumps(self, x: Handle) -> bytes:
        raise self._kept()

    def loads(self, data: bytes, meta: Meta) -> Handle:
        raise self._kept()

    def _kept(self) -> IntaglioError:
        return error("IG0563", "engine `lattigo` cannot send keys or ciphertexts", hint="use engine `seal`")

    def finish(self, x: Handle) -> None:
        self._number(x)

    def cpu_seconds(self) -> float:
        return super().cpu_seconds() + float(self._call("cpu_seconds"))

    def close(self) -> None:
        if self.process is not None:
            self.process.close()
