"""From a fusion group to kernels for a GPU: blocked products and fused attention, else loops bound to threads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...ir.constants import Constant
from ...ir.graph import Node, Value
from ...ir.types import Elem, Float, Int, Tensor
from ..tvm.kernels import VectorUnit
from ..tvm.lowering import LOWERINGS
from ..tvm.lowering.group import Group, group_of
from ..tvm.lowering.kernel import Call, lower_node
from ..tvm.lowering.nodes import check
from .attention import DEPTHS, attention
from .products import convolution, matrix_product
from .tiles import BF16, F16, F32, I8, Element

__all__ = ["TEMPLATES", "Lowering"]

TEMPLATES = {
    "nn.matmul": matrix_product,
    "nn.conv": convolution,
    "quant.matmul": matrix_product,
    "quant.conv": convolution,
}
_INLINE = {"nn.batch_norm", "quant.requantize", "quant.add", "quant.table"}
"""Not elementwise in every operand, but an element of the result needs one of the first operand."""


@dataclass(frozen=True)
class Lowering:
    """Lowers the nodes of a module; `fp16` and `exact` are the options of the target."""

    fp16: bool = False
    exact: bool = False

    def __call__(self, node: Node, constants: Mapping[Value, Constant], unit: VectorUnit, **options: Any) -> Call:
        if not self.exact:
            group = group_of(node, constants)
            for inner in group.nodes:
                check(inner)
            made = self._fast(group, unit)
            if made is not None:
                return Call(*made, node.outputs)
        return lower_node(node, constants, unit, **{**options, "exact": True})

    def _fast(self, group: Group, unit: VectorUnit) -> tuple[Any, tuple[Any, ...]] | None:
        anchor = group.nodes[0] if group.nodes else None
        if anchor is None or any(not isinstance(v.type, Tensor) or 0 in v.type.shape for v in _values(group)):
            return None
        if any(n.op.name == "nn.softmax" for n in group.nodes):
            element = self._multiplied(group.outputs[0])
            return attention(group, element, unit) if element in DEPTHS else None
        template = TEMPLATES.get(anchor.op.name)
        if template is None or not _epilogue_fits(group, anchor):
            return None
        x, w, *_ = anchor.inputs
        assert x is not None and w is not None
        elements = {self._multiplied(x), self._multiplied(w)}
        element = elements.pop()
        if elements or element is None or (element == I8) != anchor.op.name.startswith("quant."):
            return None
        return template(group, anchor, element, unit)

    def _multiplied(self, value: Value) -> Element | None:
        """As what an operand is multiplied."""
        assert isinstance(value.type, Tensor)
        by_type: dict[Elem, Element] = {
            Float("f16"): F16,
            Float("bf16"): BF16,
            Float("f32"): F16 if self.fp16 else F32,
            Int("i8"): I8,
            Int("u8"): I8,
        }
        return by_type.get(value.type.elem)


def _values(group: Group) -> list[Value]:
    return [v for n in group.nodes for v in (*n.inputs, *n.outputs) if v is not None]


def _epilogue_fits(group: Group, anchor: Node) -> bool:
    """Whether what follows the anchor needs one element of its result for each of the group's."""
    if len(group.outputs) != 1:
        return False
    following = {anchor.output}
    for node in group.nodes[1:]:
        if not (LOWERINGS[node.op.name].elementwise or node.op.name in _INLINE):
            return False
        if any(v.type.shape != anchor.output.type.shape for v in node.outputs):
            return False
        following.update(node.outputs)
    return all(v not in following for v in anchor.inputs) and group.outputs[0] in following
