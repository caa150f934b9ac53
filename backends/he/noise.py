"""The noise of CKKS: the variance of the error in every slot of every ciphertext.

What an operation adds is normal, with the variances of Costache, Curtis, Hales, Murphy, Ogilvie and Player, "On the
precision loss in approximate homomorphic encryption" (SAC 2023): a polynomial error with coefficients of variance V has
slots of variance N V. How errors go on from there, and which of them have a common origin, is what the engine `sim`
follows. All figures are in the units of the message. `MARGIN` bits are kept between what is predicted and what a
program may need.
"""

from __future__ import annotations

import functools
import math
from fractions import Fraction
from typing import Any

import numpy as np

from .parameters import Parameters

__all__ = ["BOOTSTRAP", "MARGIN", "TAIL", "Model", "bound", "log2"]

ERROR = 3.2  # standard deviation of the fresh error's coefficients
MARGIN = 1.5  # bits
TAIL = 6.0  # standard deviations: a slot beyond has probability 2e-9
FAINT = 0.01  # of the variance of a rounding: what is left out
BOOTSTRAP = 2.0**-20  # error of bootstrapping values of at most 1, measured on Lattigo's at N = 2^16


def log2(x: Fraction) -> float:
    """log2 of a positive rational of any length."""
    shift = x.numerator.bit_length() - x.denominator.bit_length()
    return shift + math.log2(x / Fraction(2) ** shift)


def bound(variance: Any) -> float:
    """What no slot's error exceeds, with the margin."""
    return TAIL * math.sqrt(float(np.max(variance))) * 2.0**MARGIN


class Model:
    """The variance that each operation adds to every slot, in the message's units."""

    def __init__(self, parameters: Parameters) -> None:
        self.parameters = parameters
        self.n = parameters.ring_degree
        weight = parameters.hamming_weight
        self.secret = weight if weight is not None else 2 * self.n / 3  # squared norm of the secret
        logs = [math.log2(q) for q in parameters.primes]
        self.log_modulus = [math.fsum(logs[: i + 1]) for i in range(len(logs))]
        self.log_special = math.fsum(math.log2(p) for p in parameters.special_primes)

    def slot(self, variance: float, scale: Fraction) -> float:
        """The variance in a slot of an error whose coefficients have this one."""
        return self.n * variance * 4.0 ** -log2(scale)

    def encoding(self, scale: Fraction) -> float:
        """Rounding of a plaintext's coefficients."""
        return self.slot(1 / 12, scale)

    def fresh(self, scale: Fraction) -> float:
        """Encryption by the public key: e v + e0 + e1 s with ternary v and s, modulo QP and then divided by P (as SEAL
        and Lattigo do), so that little more than the rounding is left; and the rounding of the encoding."""
        encryption = ERROR**2 * (1 + self.secret + 2 * self.n / 3) * 4.0**-self.log_special
        return self.slot(encryption + (1 + self.secret) / 12 + 1 / 12, scale)

    def rescale(self, scale: Fraction, size: int = 2) -> float:
        """Rounding of c0, c1 and, between a product and its relinearisation, c2: coefficients of variance
        (1 + |s|^2 + |s^2|^2) / 12 at the scale after it; |s(zeta)|^2 is exponential, so |s^2|^2 is 2 |s|^4."""
        return self.slot((1 + self.secret + 2 * self.secret**2 * (size > 2)) / 12, scale)

    def switch(self, level: int, scale: Fraction) -> float:
        """Key switching with digits of one or more primes, modulo P, rounded by P."""
        variance = sum(self.n * ERROR**2 / 12 * 4.0**d for d in self.digits(level))
        return self.slot(variance + (1 + self.secret) / 12, scale)

    def digits(self, level: int) -> list[float]:
        """log2 of the size of each digit of key switching against P."""
        special = len(self.parameters.special_bits)
        logs = [math.log2(q) for q in self.parameters.primes[: level + 1]]
        groups = [math.fsum(logs[i : i + special]) for i in range(0, len(logs), special)]
        return [min(400.0, group - self.log_special) for group in groups]

    def offset(self, digit: float, scale: Fraction) -> Any:
        """Standard deviation in every slot [slots] of the error by a digit's mean, the same at each use of a key.

        SEAL's digits lie in 0 ... q - 1. Their mean q/2 (1 + X + ... + X^(N-1)) is q / (1 - zeta) in the slot of zeta,
        times the error of the key, divided by P: large in the slots whose zeta is close to 1. Lattigo has none.
        """
        size = np.sqrt(self.n) * ERROR * 2.0 ** (digit - log2(scale))
        return size / self._apart

    @functools.cached_property
    def _apart(self) -> Any:
        """abs(1 - zeta) of every slot: zeta = exp(i pi 3^k / N), in SEAL's order."""
        exponents = np.empty(self.n // 2, np.int64)
        power = 1
        for k in range(len(exponents)):
            exponents[k], power = power, 3 * power % (2 * self.n)
        return 2 * np.abs(np.sin(np.pi * exponents / (2 * self.n)))
