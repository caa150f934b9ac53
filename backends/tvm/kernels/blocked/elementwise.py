"""Elementwise chains in blocks of channels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..kernel import Dim, Kernel
from ..layout import Blocked, Layout
from .relayout import concat_blocked

__all__ = ["elementwise_blocked"]


def elementwise_blocked(
    x_shape: Sequence[Dim], *, x_layout: Layout, x_dtype: str = "float32", **options: Any
) -> Kernel | None:
    """out = epilogue(x) of a blocked x[N, C, H, W], element by element; N may be symbolic.

    All other operands are extras; `options` are those of `concat_blocked`. None for a plain input.
    """
    if not isinstance(x_layout, Blocked):
        return None
    return concat_blocked([x_shape], x_layouts=[x_layout], x_dtypes=[x_dtype], **options)
