"""One convolution after another is one convolution, borders included.

    y = w2 * pad(w1 * pad(x))      two 3x3 make one 5x5; strides multiply, and pads grow by the first one's stride

Away from the border that is the product of the two kernels. At the border the pads of the second convolution are zeros,
not what the first would have computed there: taps that fall on them are left out. So a result near the border has a
kernel of its own. How a row is cut does not depend on how a column is: kernels are numbered by (kind of row, kind of
column), and two padded 3x3 have nine of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Conv", "after", "dense_weights", "plus"]

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Conv:
    """From [C, H, W] to [M, P, Q]. `weights` is [kinds of rows, kinds of columns, M, C, kh, kw]; `rows` [P] and
    `columns` [Q] tell the kind of each. Pads are those at the top and left."""

    source: tuple[int, int, int]
    result: tuple[int, int, int]
    weights: Array
    rows: tuple[int, ...]
    columns: tuple[int, ...]
    strides: tuple[int, int] = (1, 1)
    pads: tuple[int, int] = (0, 0)

    @classmethod
    def plain(
        cls,
        source: tuple[int, int, int],
        result: tuple[int, int, int],
        weights: Array,
        strides: tuple[int, int] = (1, 1),
        pads: tuple[int, int] = (0, 0),
    ) -> Conv:
        """A usual convolution with w[M, C, kh, kw]."""
        return cls(source, result, weights[None, None], (0,) * result[1], (0,) * result[2], strides, pads)

    @property
    def uniform(self) -> bool:
        """One kernel everywhere."""
        return self.weights.shape[:2] == (1, 1)

    def __call__(self, x: Array) -> Array:
        """Of x[C, H, W], without any bias."""
        _, p, q = self.result
        kh, kw = self.weights.shape[-2:]
        tall, wide = (p - 1) * self.strides[0] + kh, (q - 1) * self.strides[1] + kw
        padded = np.zeros((x.shape[0], max(tall, x.shape[1] + self.pads[0]), max(wide, x.shape[2] + self.pads[1])))
        padded[:, self.pads[0] : self.pads[0] + x.shape[1], self.pads[1] : self.pads[1] + x.shape[2]] = x
        windows = np.lib.stride_tricks.sliding_window_view(padded, (kh, kw), (1, 2))
        windows = windows[:, : tall - kh + 1 : self.strides[0], : wide - kw + 1 : self.strides[1]]
        made = np.zeros(self.result)
        rows, columns = np.array(self.rows), np.array(self.columns)
        for a, b in np.ndindex(*self.weights.shape[:2]):
            at = np.ix_(rows == a, columns == b)
            made[:, *at] = np.einsum("mcyx,cpqyx->mpq", self.weights[a, b], windows[:, *at], optimize=True)
        return made

    def size(self, then: Conv) -> int:
        """How many weights `after(then, self)` has at most."""
        (a, b), m, c = _kinds(then, self), then.result[0], self.source[0]
        kh, kw = _window(then, self)
        return len(set(a)) * len(set(b)) * m * c * kh * kw


def dense_weights(weights: Array, groups: int) -> Array:
    """w[..., M, C / groups, kh, kw] of a grouped convolution as w[..., M, C, kh, kw]."""
    if groups == 1:
        return weights
    *kinds, maps, each, kh, kw = weights.shape
    made = np.zeros((*kinds, maps, each * groups, kh, kw), weights.dtype)
    per = maps // groups
    for g in range(groups):
        made[..., g * per : (g + 1) * per, g * each : (g + 1) * each, :, :] = weights[
            ..., g * per : (g + 1) * per, :, :, :
        ]
    return made


def after(second: Conv, first: Conv) -> Conv:
    """`second` applied to what `first` gives."""
    kinds = _kinds(second, first)
    order = [list(dict.fromkeys(axis)) for axis in kinds]
    kh, kw = _window(second, first)
    shape = (len(order[0]), len(order[1]), second.result[0], first.source[0], kh, kw)
    made = np.zeros(shape, np.result_type(first.weights, second.weights))
    fh, fw = first.weights.shape[-2:]
    for a, (own_row, rows) in enumerate(order[0]):
        for b, (own_column, columns) in enumerate(order[1]):
            for ky, row in enumerate(rows):
                for kx, column in enumerate(columns):
                    if row < 0 or column < 0:
                        continue  # on the pads
                    tap = second.weights[own_row, own_column, :, :, ky, kx]
                    y, x = ky * first.strides[0], kx * first.strides[1]
                    made[a, b, :, :, y : y + fh, x : x + fw] += np.tensordot(tap, first.weights[row, column], 1)
    numbers = [tuple(kinds_of.index(kind) for kind in axis) for kinds_of, axis in zip(order, kinds, strict=True)]
    strides = (first.strides[0] * second.strides[0], first.strides[1] * second.strides[1])
    pads = (
        first.pads[0] + second.pads[0] * first.strides[0],
        first.pads[1] + second.pads[1] * first.strides[1],
    )
    return Conv(first.source, second.result, made, numbers[0], numbers[1], strides, pads)


def _window(second: Conv, first: Conv) -> tuple[int, int]:
    (sh, sw), (fh, fw) = second.weights.shape[-2:], first.weights.shape[-2:]
    return (sh - 1) * first.strides[0] + fh, (sw - 1) * first.strides[1] + fw


Kind = tuple[int, tuple[int, ...]]  # the second's own, and the first's under each tap, -1 on the pads


def _kinds(second: Conv, first: Conv) -> tuple[list[Kind], list[Kind]]:
    """Of every row and of every column of the result."""
    made: list[list[Kind]] = []
    for axis, (own, inner) in enumerate(((second.rows, first.rows), (second.columns, first.columns))):
        taps, stride, pad = second.weights.shape[4 + axis], second.strides[axis], second.pads[axis]
        found = []
        for at, kind in enumerate(own):
            under = (at * stride - pad + k for k in range(taps))
            found.append((kind, tuple(inner[i] if 0 <= i < len(inner) else -1 for i in under)))
        made.append(found)
    return made[0], made[1]


def plus(one: Conv, other: Conv) -> Conv:
    """The sum of two with the same strides, source and result."""
    pads = tuple(max(a, b) for a, b in zip(one.pads, other.pads, strict=True))
    ends = [[pad - p + k for pad, p, k in zip(pads, c.pads, c.weights.shape[4:], strict=True)] for c in (one, other)]
    window = tuple(max(a, b) for a, b in zip(*ends, strict=True))
    kinds = [list(zip(a, b, strict=True)) for a, b in ((one.rows, other.rows), (one.columns, other.columns))]
    order = [list(dict.fromkeys(axis)) for axis in kinds]
    shape = (len(order[0]), len(order[1]), one.result[0], one.source[0], *window)
    made = np.zeros(shape, np.result_type(one.weights, other.weights))
    for a, b in np.ndindex(*shape[:2]):
        for c, row, column in zip((one, other), order[0][a], order[1][b], strict=True):
            (y, x), (kh, kw) = (pads[0] - c.pads[0], pads[1] - c.pads[1]), c.weights.shape[4:]
            made[a, b, :, :, y : y + kh, x : x + kw] += c.weights[row, column]
    rows, columns = (tuple(of.index(kind) for kind in axis) for of, axis in zip(order, kinds, strict=True))
    return Conv(one.source, one.result, made, rows, columns, one.strides, (pads[0], pads[1]))
