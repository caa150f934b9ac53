"""`quant` with scales found at run time: codes of activations, a scale for each token.

    codes, scale = quant.quantize_dynamic(x) {bits = 8}      x f32[..., T, K] -> i8[..., T, K], f32[..., T, 1]
    sums         = quant.matmul(codes, w i8[K, N]) : i32     exact
    y            = cast(sums) * scale * scale of w's columns

A row along the last axis, a token in transformers, has its own scale: its largest magnitude is the largest code.
"""

from __future__ import annotations

import numpy as np

from ..op import op

__all__ = ["LEAST", "largest_code", "quantize_dynamic"]

LEAST = 2.0**-100
"""Rows are taken to reach at least as far: the factor of a row of zeros is a number, too."""


def largest_code(bits: int) -> int:
    """Codes are symmetric: -127 to 127, -7 to 7, -1 to 1."""
    return (1 << bits - 1) - 1


@op("quant.quantize_dynamic", "x: f32[*S, K] -> i8[*S, K], f32[*S, 1]")
def quantize_dynamic(x, *, bits: int = 8):
    """Codes of x, and a scale for each row along the last axis, in f32 as written:

        top = max(LEAST, max |x|);  scale = top * (1 / C);  code = clip(round(x * (C / top)), -C, C)

    with the largest code C, halves to even. Where a row has a nan, its scale is nan (and codes of nan are -C).
    """
    most = np.float32(largest_code(bits))
    top = np.abs(x).max(-1, keepdims=True, initial=LEAST).astype(np.float32)
    code = np.rint(x * (most / top))
    code = np.clip(np.where(np.isnan(code), -most, code), -most, most)
    return code.astype(np.int8), top * np.float32(1 / most)
