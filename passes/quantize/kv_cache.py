"""`kv_cache`: the keys and values that a decoder hands from step to step, in bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ...ir.diagnostics import error
from ...ir.edit import Editor
from ...ir.graph import Graph, Node, Value
from ...ir.ops.quant_dynamic import quantize_dynamic
from ...ir.types import Float, Int, Tensor
from ..canonicalize import Canonicalize, canonicalize
from ..definition import Context, define_pass
from ..options import option

__all__ = ["SCALE", "KvCache", "encoded_caches", "kv_cache"]

SCALE = ".scale"
"""What the scales of the cache `x` are called: `x.scale`."""

I8, F32 = Int("i8"), Float("f32")


@dataclass(frozen=True)
class KvCache:
    bits: Literal[8] = option(8, "bits of an element of the cache")


@define_pass("kv_cache", contract="lossy", options=KvCache)
def kv_cache(graph: Graph, options: KvCache, context: Context) -> Graph:
    """Keep keys and values of past tokens as int8 codes, with a scale for each token and head.

    A cache is an input that is read by one concatenation only, as its first operand, whose result is an output: what
    comes out of a step goes into the next. Input and output become codes, and another input and output hold the scales,
    `p.scale` beside `p`: one for what lies along the last axis. A token is encoded once, when it comes in; what it cost
    is measured for one step. The graph is canonicalised first.

    Before:

        graph @main(%p: f32[1, 2, 3, 4], %n: f32[1, 2, 1, 4]) -> (k: f32[1, 2, 4, 4], y: f32[1, 2, 4, 4]) {
          %k = shape.concat(%p, %n) {axis = 2} : f32[1, 2, 4, 4]
          %y = math.relu(%k) : f32[1, 2, 4, 4]
          return %k, %y
        }

    After `kv_cache`:

        graph @main(%p: i8[1, 2, 3, 4], %p.scale: f32[1, 2, 3, 1], %n: f32[1, 2, 1, 4])
            -> (k: i8[1, 2, 4, 4], k.scale: f32[1, 2, 4, 1], y: f32[1, 2, 4, 4]) {
          %0, %1 = quant.quantize_dynamic(%n) : i8[1, 2, 1, 4], f32[1, 2, 1, 1]
          %2 = shape.concat(%p, %0) {axis = 2} : i8[1, 2, 4, 4]
          %3 = shape.concat(%p.scale, %1) {axis = 2} : f32[1, 2, 4, 1]
          %4 = math.cast(%2) {to = f32} : f32[1, 2, 4, 4]
          %k = math.mul(%4, %3) : f32[1, 2, 4, 4]
          %y = math.relu(%k) : f32[1, 2, 4, 4]
          return %2, %3, %y
        }
    """
    graph = canonicalize.run(graph, Canonicalize(), context)
    sites = _sites(graph)
    if not sites:
        what = "the graph has no cache: no input that a concatenation extends along an axis to an output of the graph"
        hint = "give a decoder whose inputs are past keys and values, and whose outputs are the present ones"
        raise error("IG0441", what, hint=hint)
    before = sum(_token_bytes(site) for site in sites)
    after = sum(_token_bytes(site) / 4 * (1 + 4 / site.width) for site in sites)
    context.note(f"{len(sites)} caches in int8: {before:g} bytes a token become {after:g}")
    return _written(graph, sites)


@dataclass(frozen=True)
class _Site:
    past: Value
    node: Node  # the concatenation
    axis: int  # of tokens

    @property
    def shape(self) -> tuple[Any, ...]:
        return self.past.type.shape

    @property
    def width(self) -> int:
        """Elements that share a scale."""
        return int(self.shape[-1])


def _sites(graph: Graph) -> list[_Site]:
    uses, outputs = graph.uses(), set(graph.outputs)
    found = []
    for v in graph.inputs:
        readers = uses.get(v, ())
        if len(readers) != 1 or v in outputs or not isinstance(v.type, Tensor) or v.type.elem is not F32:
            continue
        node, place = readers[0]
        if node.op.name != "shape.concat" or place != 0 or len(node.inputs) != 2 or node.output not in outputs:
            continue
        rank = len(v.type.shape)
        axis = node.attr("axis") % rank
        if axis < rank - 1 and isinstance(v.type.shape[-1], int):
            found.append(_Site(v, node, axis))
    return found


def _token_bytes(site: _Site) -> int:
    """Of one token of one sample, in floats: axes of unknown size are batches."""
    sizes = [d for i, d in enumerate(site.shape) if i != site.axis and isinstance(d, int)]
    return 4 * int(np.prod(sizes))


def _written(graph: Graph, sites: Sequence[_Site]) -> Graph:
    by_input, by_node = {s.past: s for s in sites}, {s.node: s for s in sites}
    editor = Editor(name=graph.name)
    now: dict[Value | None, Value | None] = {None: None}
    scales: dict[Value, Value] = {}
    stored: dict[Value, tuple[Value, Value]] = {}
    for v in graph.inputs:
        if v not in by_input:
            now[v] = editor.input(v.name, v.type)
            continue
        shape = v.type.shape
        now[v] = editor.input(v.name, Tensor(shape, I8))
        scales[v] = editor.input(v.name + SCALE, Tensor((*shape[:-1], 1), F32))
    for node in graph.nodes:
        editor.loc = node.loc
        if node in by_node:
            stored[node.output] = codes, scale = _extended(editor, node, now, scales)
            real = editor.emit("math.cast", codes, to=F32)
            now[node.output] = editor.emit("math.mul", real, scale, name=node.output.name)
            continue
        names = tuple(v.name for v in node.outputs)
        types = tuple(v.type for v in node.outputs)
        made = editor.apply(node.op, [now[v] for v in node.inputs], node.attrs, types=types, loc=node.loc, names=names)
        now.update(zip(node.outputs, made.outputs, strict=True))
    for v, name in zip(graph.outputs, graph.output_names, strict=True):
        if v in stored:
            editor.output(stored[v][0], name)
            editor.output(stored[v][1], name + SCALE)
            continue
        result = now[v]
        assert result is not None
        editor.output(result, name)
    return editor.freeze()


def _extended(
    editor: Editor, node: Node, now: Mapping[Value | None, Value | None], scales: Mapping[Value, Value]
) -> tuple[Value, Value]:
    """Codes and scales of the past, and behind them those of what is new."""
    past, new = node.inputs
    assert past is not None
    encoder = editor.emit("quant.quantize_dynamic", now[new]).node
    assert encoder is not None
    codes, scale = encoder.outputs
    axis = node.attr("axis")
    return editor.emit("shape.concat", now[past], codes, axis=axis), editor.emit(
        "shape.concat", scales[past], scale, axis=axis
    )


def encoded_caches(batch: Mapping[str, Any], graph: Graph) -> Mapping[str, Any]:
    """Inputs for `graph` from those of the decoder it was: caches given in floats become codes and scales."""
    wanted = {v.name for v in graph.inputs}
    made = dict(batch)
    for name in wanted & set(batch):
        array = np.asarray(batch[name])
        if name + SCALE in wanted and name + SCALE not in batch and array.dtype == np.float32:
            made[name], made[name + SCALE] = quantize_dynamic.function(array)
    return made
