"""Elementwise chains in blocks of channels."""

from __future__ import annotations

from collections.abc import Sequence

from ..kernel import AVX512, Dim, Epilogue, ExtraOperand, Kernel, VectorUnit, identity
from ..layout import Layout
from .relayout import concat_blocked

__all__ = ["elementwise_blocked"]


def elementwise_blocked(
    x_shape: Sequence[Dim],
    *,
    x_layout: Layout,
    out_layout: Layout,
    epilogue: Epilogue = identity,
    extras: Sequence[ExtraOperand] = (),
    unit: VectorUnit = AVX512,
) -> Kernel | None:
    """out = epilogue(x) of a blocked x[N, C, H, W], element by element; N may be symbolic.

    All other operands are extras. None for a plain input.
    """
    return concat_blocked(
        [x_shape], x_layouts=[x_layout], out_layout=out_layout, epilogue=epilogue, extras=extras, unit=unit
    )
