"""What every template of convolution is given: shapes, window, layouts, and what is fused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .conv_plan import ConvShape
from .geometry import Window, make_window
from .kernel import AVX512, Dim, Epilogue, ExtraOperand, VectorUnit, identity, is_static
from .layout import PLAIN, Layout

__all__ = ["ConvCall", "conv_call"]


@dataclass(frozen=True)
class ConvCall:
    """ONNX Conv of x[N, C, (H,) W] with a constant weight[O, C / groups, (KH,) KW], without bias; N may be symbolic.

    `allow_winograd=False` keeps the order of summation of the definition (Winograd rounds differently, still within
    1e-5 of the largest output). `rank`: the plan to take of those that the template knows, the cheapest by its own
    estimate first; beyond the last, the last. `x_dtype` and `out_dtype` are those in memory, where bf16 is uint16; the
    result's halo and its lanes beyond the last channel hold `fill`.
    """

    x_shape: tuple[Dim, ...]
    weight_shape: tuple[int, ...]
    window: Window
    groups: int = 1
    x_layout: Layout = PLAIN
    out_layout: Layout = PLAIN
    epilogue: Epilogue = identity
    extras: tuple[ExtraOperand, ...] = ()
    unit: VectorUnit = AVX512
    allow_winograd: bool = True
    rank: int = 0
    x_dtype: str = "float32"
    out_dtype: str = "float32"
    fill: float = 0

    @property
    def batch(self) -> Dim:
        return self.x_shape[0]

    @property
    def channels(self) -> int:
        return int(self.x_shape[1])

    @property
    def outputs(self) -> int:
        return self.weight_shape[0]

    @property
    def out_shape(self) -> tuple[Dim, ...]:
        return (self.batch, self.outputs, *self.window.out_spatial)

    @property
    def shape(self) -> ConvShape:
        return ConvShape(self.groups, self.weight_shape[1], self.outputs // self.groups, self.window)

    @property
    def is_depthwise(self) -> bool:
        """A group for each of several channels."""
        return self.groups == self.channels and self.groups > 1


def conv_call(
    x_shape: Sequence[Dim],
    weight_shape: Sequence[int],
    *,
    strides: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    dilations: Sequence[int] | None = None,
    groups: int = 1,
    x_layout: Layout = PLAIN,
    out_layout: Layout = PLAIN,
    epilogue: Epilogue = identity,
    extras: Sequence[ExtraOperand] = (),
    unit: VectorUnit = AVX512,
    allow_winograd: bool = True,
    rank: int = 0,
    x_dtype: str = "float32",
    out_dtype: str = "float32",
    fill: float = 0,
) -> ConvCall | None:
    """A call in ONNX's terms; None for 3-D, for symbolic dimensions other than N, and where attributes do not fit."""
    x_shape, weight_shape = tuple(x_shape), tuple(weight_shape)
    if len(x_shape) not in (3, 4) or len(weight_shape) != len(x_shape):
        return None
    if not is_static(x_shape[1:]) or not is_static(weight_shape) or groups < 1:
        return None
    if x_shape[1] != weight_shape[1] * groups or weight_shape[0] % groups:
        return None
    window = make_window(x_shape[2:], weight_shape[2:], strides, pads, dilations)
    if window is None:
        return None
    return ConvCall(
        x_shape,
        weight_shape,
        window,
        groups,
        x_layout,
        out_layout,
        epilogue,
        tuple(extras),
        unit,
        allow_winograd,
        rank,
        x_dtype,
        out_dtype,
        fill,
    )
