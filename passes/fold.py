"""Constant folding: what can be computed now is computed now, by the interpreter."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..ir.constants import Constant
from ..ir.diagnostics import IntaglioError
from ..ir.dims import UNKNOWN, Dim
from ..ir.graph import Graph, Node, Value
from ..ir.interpret import run_node
from ..ir.target import node_cost
from ..ir.types import Affine, Int, Pow2, Sign, Tensor, Type
from .definition import Context, define_pass
from .options import option
from .rebuild import Rebuild, array_of

__all__ = ["Fold", "compute", "extents", "fold"]

SMALL = 1024  # elements of what quantised biases become floats up to
MAX_WORK = 1_000_000_000  # operations: the interpreter would take seconds for more


@dataclass(frozen=True)
class Fold:
    limit: int = option(1 << 26, "bytes: larger results stay computations")
    grow: int = option(1 << 20, "bytes that a constant may be larger than what it is computed from")
    dequantize: int | None = option(
        None, "elements: quantised constants become floats up to this size; none: only biases and single numbers do"
    )

    def __post_init__(self) -> None:
        if min(self.limit, self.grow, self.dequantize or 0) < 0:
            raise ValueError("limits are not negative")


@define_pass("fold", contract="exact", options=Fold)
def fold(graph: Graph, options: Fold, context: Context) -> Graph:
    """Compute everything that depends on constants only.

    The interpreter does it, so the bits are those the reference backend would give. Results stay within limits:
    nothing grows by more than `grow` bytes. Weights that are stored quantised stay so: `integer` computes with their
    codes, whichever of the two runs first. A computation that fails (an index out of range) is left alone: it fails
    when it is run, if it is run.

    Before:

        graph @main(%x: f32[2]) -> (y: f32[2]) {
          %a = const [1.0, 2.0] : f32[2]
          %b = const [3.0, 4.0] : f32[2]
          %c = math.add(%a, %b) : f32[2]
          %y = math.mul(%x, %c) : f32[2]
          return %y
        }

    After `fold`:

        graph @main(%x: f32[2]) -> (y: f32[2]) {
          %c = const [4.0, 6.0] : f32[2]
          %y = math.mul(%x, %c) : f32[2]
          return %y
        }
    """

    def step(to: Rebuild, node: Node) -> None:
        operands = to.operands(node)
        found = None
        if node.op.name != "const":
            found = extents(node, operands)
            if found is None:
                found = compute(node, operands, options)
        if found is None:
            to.keep(node)
        else:
            put_constants(to, node, found)

    return Rebuild(graph).finish(step)


def put_constants(to: Rebuild, node: Node, arrays: Sequence[Any]) -> None:
    """Let constants stand for the results of a node, named after them or after the data they were computed from."""
    source = next((v.node.constant.name for v in node.inputs if v and v.node and v.node.constant), "")
    made = []
    for v, array in zip(node.outputs, arrays, strict=True):
        made.append(to.editor.constant(Constant(array, source or v.name), source or v.name, _held(v.type, array)))
    to.put(node, tuple(made))


def _held(t: Type, array: Any) -> Type | None:
    """The type of the constant: that of the result, its shape as it turned out."""
    return Tensor(array.shape, t.elem, t.layout, t.space) if isinstance(t, Tensor) else None


def extents(node: Node, operands: Sequence[Value | None]) -> list[Any] | None:
    """The result of `shape.extents` when the shape is known, whatever the data."""
    operand = operands[0] if node.op.name == "shape.extents" else None
    if operand is None or not operand.type.static:
        return None
    return [np.array(operand.type.shape, dtype=np.int64)]


def compute(node: Node, operands: Sequence[Value | None], options: Fold) -> list[Any] | None:
    """Result arrays of a node whose operands are constants; None if it is not worth it, or cannot be."""
    arrays = [array_of(v) for v in operands]
    if any(v is not None and a is None for v, a in zip(operands, arrays, strict=True)):
        return None
    if _symbolic(node) or not _small_enough(node, arrays, options):
        return None
    try:
        with np.errstate(all="ignore"):
            results = run_node(node, arrays, {})
    except IntaglioError:
        return None
    return list(results) if _allowed(node, results, arrays, options) else None


def _symbolic(node: Node) -> bool:
    """Whether a result depends on the size of a symbol; `?` is settled by computing."""
    return any(
        not isinstance(v.type, Tensor) or any(isinstance(d, Dim) and d is not UNKNOWN for d in v.type.shape)
        for v in node.outputs
    )


def _small_enough(node: Node, arrays: Sequence[Any], options: Fold) -> bool:
    """Judged before computing, by types."""
    results = sum(_nbytes(v) for v in node.outputs)
    if not _fits(results, arrays, options):
        return False
    if _quantised(v for v in node.inputs if v is not None) and not _quantised(node.outputs):
        return max((a.size for a in arrays if a is not None), default=0) <= _dequantized(node, options)
    return node_cost(node).flops <= MAX_WORK


def _allowed(node: Node, results: Sequence[Any], arrays: Sequence[Any], options: Fold) -> bool:
    """Judged after computing, for results whose size only running could tell."""
    return _fits(sum(r.nbytes for r in results), arrays, options)


def _fits(results: int, arrays: Sequence[Any], options: Fold) -> bool:
    operands = sum(a.nbytes for a in arrays if a is not None)
    return results <= options.limit and results - operands <= options.grow


def _quantised(values: Iterable[Value]) -> bool:
    return any(isinstance(v.type, Tensor) and isinstance(v.type.elem, (Affine, Sign, Pow2)) for v in values)


def _dequantized(node: Node, options: Fold) -> int:
    """How many codes may become floats. Those of weights are what integer kernels read; biases have 32 bits."""
    if options.dequantize is not None:
        return options.dequantize
    elem: Any = node.inputs[0].type.elem if node.inputs[0] is not None else None  # type: ignore[union-attr]
    narrow = not (isinstance(elem, Affine) and isinstance(elem.store, Int) and elem.store.bits > 8)
    return 1 if narrow and node.op.name == "quant.dequantize" else SMALL


def _nbytes(v: Value) -> int:
    t = v.type
    total = t.dtype.itemsize if isinstance(t, Tensor) else 0
    for d in t.shape:
        total *= d if isinstance(d, int) else 1
    return total
