"""`approx`: cheap stand-ins for non-linear operations."""

from __future__ import annotations

import numpy as np

from ..op import Floats, elementwise, op
from ._numpy import at_least_f32


@op("approx.poly", "x: F[*S] -> F[*S]", elementwise)
@at_least_f32
def poly(x, *, coeffs: Floats):
    """The polynomial with `coeffs`, lowest power first, by Horner's rule."""
    y = np.full_like(x, coeffs[-1])
    for c in reversed(coeffs[:-1]):
        y = y * x + x.dtype.type(c)
    return y
