"""A dialect of one op."""

import numpy as np

from intaglio.ir.op import elementwise, op


@op("example.square", "x: F[*S] -> F[*S]", elementwise)
def square(x):
    """x times x."""
    return np.multiply(x, x)
