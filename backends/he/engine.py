"""What an engine is: a library that computes on CKKS ciphertexts.

    engine = engines.engine("seal", parameters)
    for key in keys:                                   # EvalKeys from the owner of the secret key
        engine.load_key(key)
    y = engine.mul_plain(engine.rotate(x, 1), engine.encode(weights, level, scale))

It knows no secret key: what makes keys, encrypts and decrypts is in owner.py, which a server never loads.

Ciphertexts and plaintexts are opaque objects of their engine, and never changed in place. Scales are exact rationals.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Protocol

from ...ir.diagnostics import Diagnostic, IntaglioError, error
from .parameters import KeyManifest, Parameters

__all__ = ["Caps", "Composed", "Engine", "EngineCrashed", "EvalKey", "KeyManifest", "Meta", "Parameters"]


class EngineCrashed(IntaglioError):
    """The process in which an engine ran has died (IG0566); what it held is lost, the next call starts a fresh one."""

    def __init__(self, engine: str, why: str) -> None:
        hint = "run it again with less, or on another engine; if it dies again, please send us the command"
        super().__init__((Diagnostic("IG0566", f"engine `{engine}` died: {why}", hint=hint),))
        self.engine, self.why = engine, why

    def __reduce__(self) -> Any:
        return EngineCrashed, (self.engine, self.why)


@dataclass(frozen=True)
class Caps:
    """What an engine can do. `precision` is the significand of what encode and decode take and give, in bits."""

    max_ring: int
    special_primes: int  # how many key switching may use; 0: any number
    bootstrap: bool = False
    hoisting: bool = False  # rotate_many costs less than its rotations
    collects: bool = False  # products that are added up are computed together, when the sum is needed
    level_keys: bool = False  # a key for a lower level is smaller
    separate: bool = True  # ciphertexts and keys can be sent: client and server apart
    conjugate: bool = True
    crash_safe: bool = True  # an error in it cannot take our process along
    precision: int = 53


@dataclass(frozen=True)
class Meta:
    """What is publicly known of a ciphertext. `size` is 3 between a product and its relinearisation."""

    level: int
    scale: Fraction
    size: int = 2


@dataclass(frozen=True)
class EvalKey:
    """One evaluation key: `kind` is rotate, relin or conjugate, `level` the highest at which it can be used."""

    kind: str
    step: int
    level: int
    data: Any  # the engine's own, bytes where caps.separate


class Engine(Protocol):
    """Evaluation. Wrong operands raise IG0564 (levels, scales, sizes) or IG0565 (no such key): nothing is undefined."""

    name: str
    caps: Caps
    parameters: Parameters

    def load_key(self, key: EvalKey) -> None:
        """Make a key usable. IG0568 when it is none of these parameters."""

    def encode(self, values: Any, level: int, scale: Fraction) -> Any:
        """A plaintext of float64[n] (n <= slots, the rest 0), for a ciphertext at that level."""

    def meta(self, x: Any) -> Meta: ...

    def add(self, x: Any, y: Any) -> Any: ...

    def sub(self, x: Any, y: Any) -> Any: ...

    def neg(self, x: Any) -> Any: ...

    def add_plain(self, x: Any, plain: Any) -> Any: ...

    def mul_plain(self, x: Any, plain: Any) -> Any:
        """The scale is the product of both."""

    def mul(self, x: Any, y: Any) -> Any:
        """A ciphertext of size 3; its scale is the product of both."""

    def square(self, x: Any) -> Any: ...

    def relin(self, x: Any) -> Any:
        """Size 3 to 2."""

    def rescale(self, x: Any) -> Any:
        """One level down, and the scale divided by that level's prime."""

    def drop(self, x: Any, level: int) -> Any:
        """The same value and scale at a lower level."""

    def rotate(self, x: Any, step: int) -> Any:
        """Slots to the left: y[i] = x[i + step], around the end."""

    def rotate_many(self, x: Any, steps: Sequence[int]) -> list[Any]: ...

    def conjugate(self, x: Any) -> Any: ...

    def linear(self, x: Any, diagonals: Mapping[int, Any], plan: Mapping[int, Sequence[int]], scale: Fraction) -> Any:
        """sum_d diagonals[d] * rotate(x, d), not rescaled. `plan`: giant step -> the baby steps below it."""

    def poly(self, x: Any, coefficients: Sequence[float], scale: Fraction) -> Any:
        """sum_i coefficients[i] x^i, at that scale."""

    def bootstrap(self, x: Any) -> Any:
        """The same values at a higher level; IG0563 where the engine cannot."""

    def dumps(self, x: Any) -> bytes: ...

    def loads(self, data: bytes, meta: Meta) -> Any:
        """A ciphertext that `dumps` made; IG0567 or IG0568 for anything else. The wire's header is gone already."""

    def finish(self, x: Any) -> None:
        """Compute what was put off: an engine may collect operations. For measurements."""

    def cpu_seconds(self) -> float:
        """Processor time that was spent so far, in a process of the engine's own too."""

    def close(self) -> None:
        """Free what it holds; a second time does nothing."""


class Composed:
    """The operations that are made of others: an engine inherits them, and overrides what its library does better."""

    name: str
    parameters: Parameters

    def square(self: Any, x: Any) -> Any:
        return self.mul(x, x)

    def sub(self: Any, x: Any, y: Any) -> Any:
        return self.add(x, self.neg(y))

    def rotate_many(self: Any, x: Any, steps: Sequence[int]) -> list[Any]:
        return [self.rotate(x, step) for step in steps]

    def linear(
        self: Any, x: Any, diagonals: Mapping[int, Any], plan: Mapping[int, Sequence[int]], scale: Fraction
    ) -> Any:
        """Baby steps and giant steps: a giant step rotates the sum of what its baby steps gave.

        Algorithm 1 of Halevi and Shoup, "Faster Homomorphic Linear Transformations in HElib" (CRYPTO 2018).
        """
        import numpy as np

        slots, level = self.parameters.slots, self.meta(x).level
        steps = sorted({baby % slots for babies in plan.values() for baby in babies})
        turned = dict(zip(steps, self.rotate_many(x, steps), strict=True))
        total = None
        for giant, babies in plan.items():
            inner = None
            for baby in babies:
                diagonal = np.zeros(slots)
                values = np.asarray(diagonals[(giant + baby) % slots])
                diagonal[: len(values)] = values
                term = self.mul_plain(turned[baby % slots], self.encode(np.roll(diagonal, giant), level, scale))
                inner = term if inner is None else self.add(inner, term)
            if inner is not None:
                outer = self.rotate(inner, giant)
                total = outer if total is None else self.add(total, outer)
        if total is None:
            raise error("IG0564", "a linear map without diagonals", hint="its result is the constant 0")
        return total

    def poly(self: Any, x: Any, coefficients: Sequence[float], scale: Fraction) -> Any:
        """Powers by squaring, then one sum: each coefficient is encoded at the scale at which all terms meet.

        Needs 1 + ceil(log2(degree)) levels, and relinearisation keys at the level of x.
        """
        primes, degree = self.parameters.primes, len(coefficients) - 1
        if degree < 1:
            raise error("IG0564", "a polynomial of degree 0 is no function of its input", hint="use a constant")
        powers = {1: x}
        for i in range(2, degree + 1):
            if coefficients[i] == 0 and not any(coefficients[i + 1 :]):
                break
            low, high = powers[i // 2], powers[i - i // 2]
            level = min(self.meta(low).level, self.meta(high).level)
            low, high = self.drop(low, level), self.drop(high, level)
            powers[i] = self.rescale(self.relin(self.mul(low, high)))
        terms = {i: power for i, power in powers.items() if coefficients[i]} or {1: x}
        level = min(self.meta(power).level for power in terms.values())
        total = None
        for i, power in terms.items():
            factor = scale * primes[level] / self.meta(power).scale
            constant = self.encode([coefficients[i]] * self.parameters.slots, level, factor)
            term = self.mul_plain(self.drop(power, level), constant)
            total = term if total is None else self.add(total, term)
        result = self.rescale(total)
        if not coefficients[0]:
            return result
        return self.add_plain(result, self.encode([coefficients[0]] * self.parameters.slots, level - 1, scale))

    def bootstrap(self: Any, x: Any) -> Any:
        raise error(
            "IG0563", f"engine `{self.name}` has no bootstrapping", hint="use engine `lattigo`, or fewer levels"
        )

    def finish(self, x: Any) -> None:
        return None

    def cpu_seconds(self) -> float:
        return time.process_time()

    def close(self) -> None:
        return None
