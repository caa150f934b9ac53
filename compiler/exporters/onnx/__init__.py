"""Modules as ONNX models. Quantised ones become QDQ models: integers between QuantizeLinear and DequantizeLinear.

Simulated networks (`quantize`, `dequantize`) are written as they are. Networks of integers (`quant.conv`, `requantize`)
get back the real scales that their fixed-point factors stand for: the scales of weights take the factor, those of
activations are 1. A runtime that fuses such patterns computes in integers again, and differs from ours at most where
its rounding of a tie, or of a factor, does: by one step of the last bit.
"""

from __future__ import annotations

from typing import Any

from ....ir.graph import Graph, Module, Node
from .dynamic_ops import DYNAMIC_EXPORTS
from .ops import EXPORTS
from .quant_ops import FUSED, QUANT_EXPORTS
from .writer import OPSET, Writer, refused

__all__ = ["export_onnx"]


def export_onnx(module: Module) -> Any:
    """The ONNX model (a ModelProto) of a module's main graph; IG0450 for an op that ONNX has no form of."""
    import onnx

    graph = module.main
    writer = Writer()
    for v in graph.inputs:
        writer.name(v, v.name)
    names = [writer.fresh(name) for name in graph.output_names]
    _write(writer, graph)
    inputs = [writer.info(v, writer[v]) for v in graph.inputs]
    outputs = []
    for v, name in zip(graph.outputs, names, strict=True):
        writer.add("Identity", [writer[v]], output=name)
        outputs.append(writer.info(v, name))
    made = onnx.helper.make_graph(writer.nodes, module.name, inputs, outputs, writer.initializers)
    opsets = [onnx.helper.make_opsetid("", OPSET)]
    model = onnx.helper.make_model(made, opset_imports=opsets, producer_name="intaglio", ir_version=10)
    onnx.checker.check_model(model)
    return model


def _write(writer: Writer, graph: Graph) -> None:
    """The nodes of a graph whose inputs have names."""
    writer.enter(graph)
    for node in graph.nodes:
        if node.op.name == "tile.kernel":
            _inline(writer, node)
            continue
        for fused in FUSED.get(node.op.name, ()):
            if fused(writer, node):
                break
        else:
            export = EXPORTS.get(node.op.name) or (QUANT_EXPORTS | DYNAMIC_EXPORTS).get(node.op.name)
            if export is None:
                raise refused(node, "ONNX has no form of it that is written here")
            export(writer, node)


def _inline(writer: Writer, node: Node) -> None:
    """A fused kernel is what is in it."""
    body: Graph = node.attr("body")
    for inside, outside in zip(body.inputs, node.inputs, strict=True):
        assert outside is not None
        writer.alias(inside, outside)
    outer = writer.readers
    _write(writer, body)
    writer.readers = outer
    for inside, result in zip(body.outputs, node.outputs, strict=True):
        writer.alias(result, inside)
