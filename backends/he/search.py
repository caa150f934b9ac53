"""The search for parameters: the smallest ring that holds the model, as precise as its security allows.

bits of q_0         the scale and ROOM bits for the numbers themselves
bits of the others  the scale, so that a rescaling gives back what a product took
special primes      together 10 bits above the product of as many others where the table allows it, so that key
                    switching adds no more than roundings do (noise.py, `offset`); several where an engine takes them:
                    fewer digits, so keys are smaller and rotations faster
"""

from __future__ import annotations

import itertools

from .parameters import MOST_PRIMES, Parameters
from .security import limit

__all__ = ["ROOM", "parameters"]

ROOM = 10  # log2 of the range of a decrypted number, sign and margin included
SCALES = range(40, 27, -1)
ABOVE = (10, 5)  # bits of the special primes above q_0 and as many of the others as make a digit with it
LARGEST = 59  # bits of a prime that every engine takes
SPARSE = "h=192"  # the secret that bootstrapping is made for
BOOTSTRAP = (
    (39,) * 3 + (59,) * 8 + (56,) * 4
)  # primes that only bootstrapping uses (Bossuat et al. 2022, set N16QP1546)


def parameters(
    ring: int, levels: int, *, special: int = 1, scale: int | None = None, bootstrap: bool = False
) -> Parameters | None:
    """The most precise secure parameters of that ring with so many levels; None if there are none.

    `special` is the most special primes that the engine takes, 0 for any number: then about a third of the chain.
    """
    secret = SPARSE if bootstrap else "ternary"
    own = BOOTSTRAP if bootstrap else ()
    for bits in SCALES if scale is None else (scale,):
        first = min(bits + ROOM, LARGEST)
        most = max(1, (levels + 3) // 3) if special == 0 else special
        most = min(most, MOST_PRIMES - levels - 1 - len(own))  # none is left for special ones: range() is empty
        for count, above in itertools.product(range(most, 0, -1), ABOVE):
            each = max(first, -(-(first + bits * (count - 1) + above) // count))
            extra = (min(each, LARGEST),) * count
            made = Parameters(ring, (first, *(bits,) * levels), extra, bits, secret, own)
            allowed = limit(made)
            total = first + bits * levels + sum(extra) + sum(own)
            if allowed is not None and total <= allowed and made.log_qp <= allowed:
                return made
    return None
