"""Scales found at run time: DynamicQuantizeLinear has one for a whole tensor, so rows are written in float ops."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ....ir.graph import Node
from ....ir.ops.quant_dynamic import LEAST, largest_code
from .ops import given
from .writer import Writer

__all__ = ["DYNAMIC_EXPORTS"]

INT8 = 3  # ONNX's number of the type


def _quantize_dynamic(writer: Writer, node: Node) -> None:
    (x,) = given(writer, node)
    most = largest_code(node.attr("bits"))
    largest = writer.add("ReduceMax", [writer.add("Abs", [x]), writer.array(np.array([-1]))], keepdims=1)
    top = writer.add("Max", [largest, writer.scalar(LEAST)])
    scaled = writer.add("Mul", [x, writer.add("Div", [writer.scalar(most), top])])
    bounded = writer.add("Clip", [writer.add("Round", [scaled]), writer.scalar(-most), writer.scalar(most)])
    codes, scale = node.outputs
    writer.set(codes, writer.add("Cast", [bounded], to=INT8))
    writer.set(scale, writer.add("Mul", [top, writer.scalar(np.float32(1 / most))]))


DYNAMIC_EXPORTS: dict[str, Callable[[Writer, Node], None]] = {"quant.quantize_dynamic": _quantize_dynamic}
