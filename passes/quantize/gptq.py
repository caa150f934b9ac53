"""GPTQ: rounding weights column by column, each error made good by the columns that are still to come.

Frantar et al. 2022 (OBQ in a fixed order), with the columns in the order of their Hessian's diagonal ("act order"), and
the asymmetric objective of GPTAQ (Li et al. 2025) and Qronos (Zhang et al. 2025): the layer is given the inputs X' of
the quantised network, and should give what the original computes of X,

    min |W X - Q X'|^2  =  min |(W* - Q) X'|^2 + const,        W* = W + W (X - X') X'^T (X' X'^T + λ)^-1

All functions work on a batch of G independent problems: groups of a convolution. Depthwise, G is the number of channels
and a Hessian has 9 x 9 elements.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

__all__ = ["Moments", "corrected", "gptq"]

BLOCK = 64  # columns whose errors are gathered before the rest of the matrix is touched
DAMP = 0.01  # of the mean diagonal


class Moments:
    """Sums over samples: H = X' X'^T, and C = (X - X') X'^T of the difference to the original inputs, f64[G, K, K]."""

    def __init__(self, groups: int, size: int, asymmetric: bool) -> None:
        self.h = np.zeros((groups, size, size))
        self.c = np.zeros((groups, size, size)) if asymmetric else None
        self.count = 0

    def update(self, x: Any, original: Any = None) -> None:
        """Add samples, f32[G, K, P]."""
        self.count += x.shape[-1]
        for g in range(len(x)):
            self.h[g] += x[g] @ x[g].T
            if self.c is not None and original is not None:
                self.c[g] += (original[g] - x[g]) @ x[g].T

    def damped(self) -> Any:
        """H with λ on its diagonal; 1 where an input never was anything but 0."""
        size = self.h.shape[-1]
        diagonal = np.einsum("gkk->gk", self.h)
        mean = diagonal.mean(1, keepdims=True)
        extra = np.where(diagonal > 0, DAMP * mean, np.where(mean > 0, mean, 1.0))
        return self.h + extra[:, :, None] * np.eye(size)


def corrected(w: Any, moments: Moments) -> Any:
    """W*: the real weights that serve the quantised inputs best. w: f32[G, M, K]."""
    if moments.c is None:
        return w
    # W C (H + λ)^-1, H symmetric
    shift = np.linalg.solve(moments.damped(), np.swapaxes(w.astype(np.float64) @ moments.c, 1, 2))
    return (w + np.swapaxes(shift, 1, 2)).astype(np.float32)


def gptq(w: Any, h: Any, rounded: Callable[[Any, Any], Any]) -> Any:
    """Rounded weights, f32[G, M, K], for the damped Hessian h: f64[G, K, K].

    `rounded(column, index)` rounds w[g, :, index[g]] for every group at once: column f32[G, M], index i64[G].
    """
    groups, _, size = w.shape
    order = np.argsort(-np.einsum("gkk->gk", h), axis=1, kind="stable")
    w = np.take_along_axis(w.astype(np.float64), order[:, None, :], 2)
    h = np.take_along_axis(np.take_along_axis(h, order[:, :, None], 1), order[:, None, :], 2)
    # the upper factor U of H^-1 = U^T U: row k has what is left of H^-1 after the columns before k are fixed
    u = np.swapaxes(np.linalg.cholesky(_inverse(h)), 1, 2)
    made = np.empty(w.shape, np.float32)
    for start in range(0, size, BLOCK):
        stop = min(start + BLOCK, size)
        errors = np.empty((groups, w.shape[1], stop - start))
        for k in range(start, stop):
            column = w[:, :, k]
            q = rounded(column.astype(np.float32), order[:, k])
            made[:, :, k] = q
            error = (column - q) / u[:, k, k][:, None]
            errors[:, :, k - start] = error
            w[:, :, k + 1 : stop] -= error[:, :, None] * u[:, k, None, k + 1 : stop]
        w[:, :, stop:] -= errors @ u[:, start:stop, stop:]
    back = np.argsort(order, axis=1)
    return np.take_along_axis(made, back[:, None, :], 2)


def _inverse(h: Any) -> Any:
    """The inverse of symmetric positive definite matrices, exactly symmetric."""
    inverse = np.linalg.inv(h)
    return (inverse + np.swapaxes(inverse, 1, 2)) / 2
