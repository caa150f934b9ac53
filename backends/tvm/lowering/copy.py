"""The kernel that copies."""

from __future__ import annotations

from typing import Any

from ....ir.types import Tensor
from ..kernels import VectorUnit
from .context import Context
from .elements import storage_dtype

__all__ = ["copy_kernel"]


def copy_kernel(type: Tensor, unit: VectorUnit) -> Any:
    """A PrimFunc that copies a tensor."""
    ctx = Context(unit)
    with ctx.emit.function():
        x = ctx.parameter("x", type)
        out = ctx.emit.arg("y", ctx.declare_shape(type.shape), storage_dtype(type.elem))
        ctx.store_all(x, out)
    return ctx.finished(ctx.emit.func)
