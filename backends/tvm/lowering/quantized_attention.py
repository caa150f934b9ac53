"""Groups that are attention in integers (passes/integer_attention.py), handed to kernels/lowbit/attention.py."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ....ir.graph import Node, Value
from ....ir.softmax import IntegerSoftmax, integer_softmax
from ....ir.types import Tensor
from ..kernels.lowbit.attention import ByteAttention, emit_byte_attention
from ..kernels.lowbit.fixed import Rescale
from ..kernels.lowbit.lookup import Lookup
from ..kernels.lowbit.product import Side
from .attention import keys_outermost, reader, tensor_type
from .context import Context
from .elements import compute_dtype
from .expr import Expr, Index, cast, clamp
from .group import Group
from .nodes import run_nodes
from .quantized_epilogue import clamp_to, dtype_of_value, is_bytes, rescaled
from .tensor import Lazy

__all__ = ["lower_integer_attention"]


@dataclass(frozen=True)
class _Parts:
    """The roles of a group's nodes; `before` moves operands, the others are in the order of the computation."""

    before: tuple[Node, ...]
    first: Node
    scores: tuple[Node, ...]
    softmax: IntegerSoftmax
    weights: tuple[Node, ...]
    second: Node
    results: tuple[Node, ...]
    perm: tuple[int, ...]


def lower_integer_attention(ctx: Context, group: Group, env: dict[Value, Lazy]) -> bool:
    """Emit a group that is attention of bytes; False, with nothing emitted, for any other."""
    parts = _parts(group)
    if parts is None or ctx.unit.simt:
        return False
    first, second, softmax, result = parts.first, parts.second, parts.softmax, group.outputs[0]
    (left, right), values, weights = first.inputs[:2], second.inputs[1], second.inputs[0]
    assert left is not None and right is not None and values is not None and weights is not None
    run_nodes(ctx, parts.before, env)
    q, k, v = env[left], env[right], env[values]
    score_scale, score = _elements(ctx, group, env, first.output, parts.scores, softmax.scores)
    weight_scale, weight = _elements(ctx, group, env, softmax.share.output, parts.weights, weights)
    last = parts.results[-1].output if parts.results else second.output
    result_scale, stored = _elements(ctx, group, env, second.output, parts.results, last)
    *batch, queries, width = tensor_type(second.output).shape
    depth = q.shape[-1]
    assert result.node is not None and isinstance(depth, int) and isinstance(width, int)
    out = ctx.target(result.node)
    lookup = Lookup.of(softmax.exponentials, ctx.unit)

    operands = ByteAttention(
        batch=ctx.extents(batch),
        queries=ctx.extent(queries),
        keys=ctx.extent(v.shape[-2]),
        depth=depth,
        width=width,
        q=_side(left, first.attr("a_zero")),
        k=_side(right, first.attr("b_zero")),
        weights=_side(weights, second.attr("a_zero")),
        v=_side(values, second.attr("b_zero")),
        read_q=reader(ctx, q, batch),
        read_k=reader(ctx, k, batch),
        read_v=reader(ctx, v, batch),
        k_depth_innermost=not keys_outermost(right, {n.output: n for n in parts.before}),
        score_scale=score_scale,
        score_dtype=compute_dtype(tensor_type(softmax.scores).elem),
        score=score,
        below=_below(ctx, env, softmax),
        exponentials=lookup,
        words=ctx.table(lookup.words, Tensor(lookup.words.shape, "i32")).buffer,
        one=softmax.one,
        weight_scale=weight_scale,
        weight=weight,
        result_scale=result_scale,
        result=lambda index, value: ctx.to_memory(tensor_type(last).elem, stored(index, value)),
        out=out,
        perm=parts.perm,
    )
    emit_byte_attention(ctx.emit, ctx.unit, operands)
    env[result] = ctx.view(out, tensor_type(result))
    return True


def _side(value: Value, zero: int) -> Side:
    return Side(dtype_of_value(value), zero)


def _elements(
    ctx: Context, group: Group, env: dict[Value, Lazy], source: Value, nodes: Sequence[Node], result: Value
) -> tuple[Rescale | None, Callable[[Index, Expr], Expr]]:
    """`result` at an index, from `source` there; and the factor that source is to be rescaled by before, if any."""
    scale, source, rest = rescaled(group, source, nodes)
    finish: Callable[[Expr], Expr] = clamp_to(source) if scale is not None else lambda value: value
    base = ctx.derived(tensor_type(source))
    inner = {**env, source: base}
    run_nodes(ctx, rest, inner)
    return scale, lambda index, value: ctx.element_of(base, tuple(index), finish(value))(inner[result])


def _below(ctx: Context, env: dict[Value, Lazy], softmax: IntegerSoftmax) -> Callable[[Expr, Expr], Expr]:
    """The index of the table, from a score and the largest of its row."""
    here: dict[str, Expr] = {}
    scores, largest = softmax.scores, softmax.largest
    inner = {
        **env,
        scores: Lazy(tensor_type(scores), lambda _: here["score"]),
        largest: Lazy(tensor_type(largest), lambda _: here["largest"]),
    }
    run_nodes(ctx, softmax.differences, inner)
    nowhere = (0,) * len(tensor_type(softmax.below).shape)

    def below(score: Expr, most: Expr) -> Expr:
        here.update(score=score, largest=most)
        index = ctx.scoped(lambda: ctx.read(inner[softmax.below], nowhere))
        return clamp(cast(index, "int32"), 0, len(softmax.exponentials) - 1)

    return below


def _parts(group: Group) -> _Parts | None:
    """The roles of a group's nodes, if they are those of attention in integers."""

    def constant(value: Value | None) -> Any:
        return group.known[value].array if value is not None and value in group.known else None

    shares = [n for n in group.nodes if n.op.name == "math.div"]
    products = [n for n in group.nodes if n.op.name == "quant.matmul"]
    if not shares or len(products) != 2 or len(group.outputs) != 1:
        return None
    softmax = next((s for s in (integer_softmax(n, constant) for n in shares) if s is not None), None)
    if softmax is None:
        return None
    first, second = products
    if not all(is_bytes(v) for v in (*first.inputs, *second.inputs)):
        return None
    before: list[Node] = []
    chains: tuple[list[Node], ...] = ([], [], [])  # of scores, weights and results
    reached: dict[Value, int] = {first.output: 0, softmax.share.output: 1, second.output: 2}
    for node in group.nodes:
        if node in softmax.nodes or node in (first, second):
            continue
        found = {reached[v] for v in node.inputs if v in reached}
        if not found:
            before.append(node)
            continue
        if len(found) > 1:
            return None
        (which,) = found
        reached[node.output] = which
        chains[which].append(node)
    scores, weights, results = chains
    perm = tuple(range(len(tensor_type(second.output).shape)))
    if results and results[-1].op.name == "shape.transpose":
        perm = tuple(results.pop().attr("perm"))
    if reached.get(softmax.scores) != 0 or reached.get(second.inputs[0]) != 1:  # type: ignore[arg-type]
        return None
    return _Parts(tuple(before), first, tuple(scores), softmax, tuple(weights), second, tuple(results), perm)
