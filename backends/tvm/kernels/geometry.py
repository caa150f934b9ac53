"""The arithmetic of a sliding window over one or two spatial axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from .kernel import ceil_div


@dataclass(frozen=True)
class Axis:
    """One spatial axis of a convolution or pool."""

    size: int
    kernel: int
    stride: int = 1
    before: int = 0
    after: int = 0
    dilation: int = 1
    ceil_mode: bool = False

    @property
    def reach(self) -> int:
        """Distance from the first to the last tap."""
        return (self.kernel - 1) * self.dilation

    @property
    def out(self) -> int:
        span = self.size + self.before + self.after - self.reach - 1
        if span < 0:
            return 0
        if not self.ceil_mode:
            return span // self.stride + 1
        out = ceil_div(span, self.stride) + 1
        # A window that would start in the padding after the image does not count.
        return out - 1 if (out - 1) * self.stride >= self.size + self.before else out

    @property
    def phases(self) -> tuple[int, ...]:
        """Remainders modulo the stride that taps fall on."""
        return tuple(sorted({k * self.dilation % self.stride for k in range(self.kernel)}))

    @property
    def shifts(self) -> int:
        """Largest shift, in elements of one phase, from an output position to a tap of it."""
        return self.reach // self.stride

    def taps_of_phase(self, phase: int) -> tuple[int, int, int, int]:
        """The taps on a phase form two progressions: (first tap, step between taps, number, step between
        shifts).
        """
        taps = [k for k in range(self.kernel) if k * self.dilation % self.stride == phase]
        common = math.gcd(self.stride, self.dilation)
        return taps[0], self.stride // common, len(taps), self.dilation // common

    def tap(self, k: int) -> tuple[int, int]:
        """(index of the phase, shift within the phase) of tap k."""
        at = k * self.dilation
        return self.phases.index(at % self.stride), at // self.stride


@dataclass(frozen=True)
class Window:
    """A window over an image; a signal is an image of one row (`is_1d`)."""

    rows: Axis
    columns: Axis
    is_1d: bool

    @property
    def out_spatial(self) -> tuple[int, ...]:
        return (self.columns.out,) if self.is_1d else (self.rows.out, self.columns.out)

    @property
    def taps(self) -> int:
        return self.rows.kernel * self.columns.kernel


def make_window(
    spatial: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int] | None,
    pads: Sequence[int] | None,
    dilations: Sequence[int] | None,
    ceil_mode: bool = False,
) -> Window | None:
    """A window in ONNX's terms (pads: all begins, then all ends); None where it is not a proper 1-D or 2-D
    one.
    """
    rank = len(spatial)
    strides = list(strides or [1] * rank)
    dilations = list(dilations or [1] * rank)
    pads = list(pads or [0] * 2 * rank)
    if rank not in (1, 2) or not len(kernel) == len(strides) == len(dilations) == len(pads) // 2 == rank:
        return None
    if min([*spatial, *kernel, *strides, *dilations]) < 1 or min(pads) < 0:
        return None
    axes = [
        Axis(spatial[i], kernel[i], strides[i], pads[i], pads[rank + i], dilations[i], ceil_mode) for i in range(rank)
    ]
    if min(a.out for a in axes) < 1:
        return None
    rows = axes[0] if rank == 2 else Axis(1, 1)
    return Window(rows, axes[-1], rank == 1)
