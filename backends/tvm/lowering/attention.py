"""Groups that are attention (passes/attention.py): handed to the template of kernels/attention.py."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ....ir.dims import Extent
from ....ir.graph import Node, Value
from ....ir.shapes import normal_axis
from ....ir.types import Float, Tensor
from ..kernels.attention import Operands, emit_attention
from . import LOWERINGS
from .context import Context
from .expr import Expr, Index
from .group import Group
from .nodes import run_nodes
from .tensor import Lazy, project

__all__ = ["Parts", "keys_outermost", "keys_seen", "lower_attention", "parts_of", "reader", "tensor_type"]

F32 = Float("f32")
HIDDEN = -1e30
"""A key whose mask is below has a weight of 0, whatever its score, beside one whose mask is not."""


@dataclass(frozen=True)
class Parts:
    """The nodes of softmax(f(q @ k)) @ v: `before` moves operands, `scores` are f; and perm of a transpose after it."""

    before: tuple[Node, ...]
    first: Node
    scores: tuple[Node, ...]
    softmax: Node
    second: Node
    perm: tuple[int, ...]


def lower_attention(ctx: Context, group: Group, env: dict[Value, Lazy]) -> bool:
    """Emit a group that is attention; False, with nothing emitted, for any other."""
    parts = parts_of(group)
    if parts is None or not _has_template(parts) or ctx.unit.simt:
        return False
    first, second, result = parts.first, parts.second, group.outputs[0]
    (source,), ((left, right), values) = parts.softmax.inputs, (first.inputs, second.inputs[1])
    assert source is not None and left is not None and right is not None and values is not None
    run_nodes(ctx, parts.before, env)
    q, k, v = env[left], env[right], env[values]
    product = ctx.derived(tensor_type(first.output))
    inner = {**env, first.output: product}
    run_nodes(ctx, parts.scores, inner)
    scores = inner[source]
    *batch, queries, width = tensor_type(second.output).shape
    depth = q.shape[-1]
    assert result.node is not None and isinstance(depth, int) and isinstance(width, int)
    out = ctx.target(result.node)

    def table(array: npt.NDArray[np.int32]) -> Callable[[Expr], Expr]:
        made = ctx.table(array, Tensor(array.shape, "i32"))
        return lambda i: made.read((i,))

    operands = Operands(
        batch=ctx.extents(batch),
        queries=ctx.extent(queries),
        keys=ctx.extent(v.shape[-2]),
        depth=depth,
        width=width,
        q=reader(ctx, q, batch),
        k=reader(ctx, k, batch),
        v=reader(ctx, v, batch),
        keys_outermost=keys_outermost(right, {n.output: n for n in parts.before}),
        score=lambda index, value: ctx.element_of(product, index, value)(scores),
        out=out,
        out_index=lambda index: tuple(index[a] for a in parts.perm),
        seen=keys_seen(group, source, tensor_type(source).shape),
        table=table,
    )
    emit_attention(ctx.emit, ctx.unit, operands)
    env[result] = ctx.view(out, tensor_type(result))
    return True


def keys_seen(group: Group, scores: Value, shape: tuple[Extent, ...]) -> npt.NDArray[np.int32] | None:
    """For each query the number of keys up to the last that a constant mask, added last, does not hide.

    All of them for a query that sees none. Beside -inf, exporters hide keys by the lowest finite number.
    """
    node = scores.node
    mask = None
    if node is not None and node.op.name == "math.add":
        mask = next((group.known[v].array for v in node.inputs if v is not None and v in group.known), None)
    if mask is None or mask.ndim < 2 or mask.shape[-2:] != shape[-2:]:
        return None
    open_: npt.NDArray[np.bool_] = np.any(~(mask < HIDDEN).reshape(-1, *mask.shape[-2:]), axis=0)
    keys = mask.shape[-1]
    return np.where(open_.any(1), keys - np.argmax(open_[:, ::-1], 1), keys).astype(np.int32)


def reader(ctx: Context, x: Lazy, batch: Sequence[Extent]) -> Callable[[Index], Expr]:
    """The element of a matrix of x at an index (*batch, row, column); leading dimensions of x broadcast to `batch`."""

    def read(index: Index) -> Expr:
        own = project(index[:-2], x.shape[:-2], tuple(batch)) if x.rank > 2 else ()
        return ctx.scoped(lambda: ctx.read(x, (*own, *index[-2:])))

    return read


def tensor_type(value: Value) -> Tensor:
    assert isinstance(value.type, Tensor)
    return value.type


def parts_of(group: Group) -> Parts | None:
    """The roles of a group's nodes, if they are those of attention, whatever the type of its elements."""
    nodes = group.nodes
    names = [n.op.name for n in nodes]
    if names.count("nn.softmax") != 1 or names.count("nn.matmul") != 2 or len(group.outputs) != 1:
        return None
    if not all(isinstance(v.type, Tensor) for n in nodes for v in (*n.inputs, *n.outputs) if v is not None):
        return None
    softmax = nodes[names.index("nn.softmax")]
    first, second = (n for n in nodes if n.op.name == "nn.matmul")
    shape = tensor_type(softmax.output).shape
    if normal_axis(softmax.attr("axis"), len(shape)) != len(shape) - 1 or second.inputs[0] is not softmax.output:
        return None
    after = {first.output}
    scores: list[Node] = []
    before: list[Node] = []
    last = second
    for node in nodes:
        if node in (first, second, softmax):
            continue
        if any(v in after for v in node.inputs):
            if not LOWERINGS[node.op.name].elementwise or tensor_type(node.output).shape != shape:
                return None
            after.update(node.outputs)
            scores.append(node)
        elif second.output in node.inputs:
            last = node
        else:
            before.append(node)
    if softmax.inputs[0] not in after or group.outputs[0] is not last.output:
        return None
    if last is not second and last.op.name != "shape.transpose":
        return None
    perm = tuple(range(len(shape))) if last is second else tuple(last.attr("perm"))
    return Parts(tuple(before), first, tuple(scores), softmax, second, perm)


def _has_template(parts: Parts) -> bool:
    """Whether it is of f32, with rows whose length is known."""
    q, v = parts.first.inputs[0], parts.second.inputs[1]
    if q is None or v is None or not _f32(*parts.first.inputs, v, parts.softmax.inputs[0], parts.second.output):
        return False
    rank = min(len(tensor_type(x).shape) for x in (*parts.first.inputs, v) if x is not None)
    return rank >= 2 and isinstance(tensor_type(q).shape[-1], int) and isinstance(tensor_type(v).shape[-1], int)


def _f32(*values: Value | None) -> bool:
    types = [v.type for v in values if v is not None]
    return all(isinstance(t, Tensor) and t.elem is F32 and 0 not in t.shape for t in types)


def keys_outermost(k: Value, made: Mapping[Value, Node]) -> bool:
    """Whether the depth, not the keys, of k[.., depth, keys] is what lies together in memory."""
    keys = len(tensor_type(k).shape) - 1
    while k in made:
        node = made[k]
        before, after = node.inputs[0], tensor_type(node.output).shape
        assert before is not None
        k, shape = before, tensor_type(before).shape
        if node.op.name == "shape.transpose":
            keys = node.attr("perm")[keys]
        elif shape[len(shape) - len(after) + keys :] == after[keys:]:  # also a reshape of the axes before
            keys += len(shape) - len(after)
        else:
            break
    return keys != len(tensor_type(k).shape) - 1
