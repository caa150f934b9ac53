"""Products with a constant weight of 4-bit codes in groups: the codes are what is stored and read, not f32.

A weight is dequantized where it is used, and so the graph has it: `nn.matmul(x, quant.dequantize(codes))`. With few
rows such a product is as fast as its weight is read, and codes are an eighth of it. With many it is as fast as it
multiplies; then the weight is dequantized when the model is compiled.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ....ir.constants import Constant
from ....ir.graph import Value
from ....ir.types import Affine, Float, Int, Tensor
from ..kernels import VectorUnit
from ..kernels.kernel import is_static
from ..kernels.lowbit.int4 import matmul_int4
from .context import Context
from .epilogue import Epilogue
from .group import Group
from .templates import Templated, eligible

__all__ = ["FEW_ROWS", "from_int4"]

Array = npt.NDArray[Any]

FEW_ROWS = 16
"""Up to this many rows a product waits for its weight."""

MIDDLE = 8
"""What is added to signed codes."""


@dataclass(frozen=True)
class Codes:
    """A weight [K, N] as `matmul_int4` takes it: codes [N, K] from 0 to 15, scales and zeros [N, K / group]."""

    codes: Array
    scales: Array
    zeros: Array | None
    group: int


def from_int4(group: Group, unit: VectorUnit) -> Templated | None:
    """The group as a product that unpacks its weight in registers; None where there are many rows or other codes."""
    anchor = group.nodes[0] if group.nodes else None
    if unit.simt or anchor is None or anchor.op.name != "nn.matmul" or not eligible(group, anchor):
        return None
    x, weight = anchor.inputs
    assert x is not None and weight is not None
    outside = dict(group.operands)
    found = _codes(outside[weight]) if weight in outside and x not in group.known else None
    if found is None or not _few(x):
        return None
    ctx = Context(unit)
    ctx.node = anchor
    shape = ctx.declare_shape(x.type.shape)
    epilogue = Epilogue(ctx, group, anchor.output, group.nodes[1:])
    kernel = matmul_int4(
        shape,
        found.codes.shape,
        found.group,
        symmetric=found.zeros is None,
        epilogue=epilogue,
        extras=tuple(epilogue.extras),
        unit=unit,
    )
    if kernel is None:
        return None
    arrays = [found.codes, found.scales, *([] if found.zeros is None else [found.zeros])]
    packed = [pack(a) for a, pack in zip(arrays, kernel.packers[1:], strict=True) if pack is not None]
    return Templated(ctx.finished(kernel.func), (outside.get(x, x), *packed, *epilogue.operands))


def _few(x: Value) -> bool:
    assert isinstance(x.type, Tensor)
    rows = x.type.shape[:-1]
    return is_static(rows) and math.prod(d for d in rows if isinstance(d, int)) <= FEW_ROWS


def _codes(weight: Value) -> Codes | None:
    """The codes behind a dequantized constant, if they are of 4 bits with groups along its first axis."""
    node = weight.node
    if node is None or node.op.name != "quant.dequantize" or node.attr("to") is not Float("f32"):
        return None
    source = node.inputs[0]
    constant = None if source is None or source.node is None else source.node.constant
    if source is None or constant is None or not isinstance(source.type, Tensor) or source.type.rank != 2:
        return None
    elem = source.type.elem
    if not isinstance(elem, Affine) or not isinstance(elem.store, Int) or elem.store.bits != 4:
        return None
    if elem.axis not in (0, -2) or elem.group is None or not isinstance(elem.scale, Constant):
        return None
    move = MIDDLE if elem.store.signed else 0
    codes = (constant.array.astype(np.int16) + move).astype(np.uint8).T
    zeros = elem.zero.array if isinstance(elem.zero, Constant) else np.asarray(elem.zero)
    moved = (np.broadcast_to(zeros, elem.scale.array.shape).astype(np.int64) + move).T
    if moved.min() < 0 or moved.max() > 15 or elem.real is not Float("f32"):  # the kernel's zeros are codes, too
        return None
    symmetric = bool((moved == MIDDLE).all())
    scales = elem.scale.array.astype(np.float32).T
    return Codes(codes, scales, None if symmetric else moved.astype(np.uint8), elem.group)
