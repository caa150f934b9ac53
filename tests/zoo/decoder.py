"""The step of a decoder with a cache: one token in, its logits out, keys and values of the past handed through."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto, helper

from .builder import Builder

__all__ = ["decode", "gpt_step"]


def gpt_step(weights: Mapping[str, Any], layers: int, heads: int, first: bool = False) -> ModelProto:
    """`builders.char_gpt` for one token a sample, with the weights that it has.

    tokens i64[N, 1], position i64[1], past_key.i and past_value.i f32[N, H, P, D] -> logits f32[N, 1, V], and
    present_key.i and present_value.i f32[N, H, P + 1, D]. The `first` step has no past.
    """
    width = weights["pos"].shape[1]
    each = width // heads
    b = Builder("gpt_step", weights)
    tokens = b.input("tokens", np.int64, ["N", 1])
    position = b.input("position", np.int64, [1])
    x = b.op("Add", b.op("Gather", "tok.weight", tokens, axis=0), b.op("Gather", "pos", position, axis=0))
    present = []
    for i in range(layers):
        y = b.linear(b.norm(x, f"b.{i}.ln1", 1e-5), f"b.{i}.qkv")
        q, k, v = (b.heads(part, heads, each) for part in b.ops("Split", 3, y, axis=-1, num_outputs=3))
        for kind, new in (("key", k), ("value", v)):
            made = f"present_{kind}.{i}"
            past = [] if first else [b.input(f"past_{kind}.{i}", np.float32, ["N", heads, "P", each])]
            b.nodes.append(helper.make_node("Concat", [*past, new], [made], made, axis=2))
            present.append(made)
        k, v = present[-2:]
        x = b.op("Add", x, b.linear(b.attention(q, k, v, each, b.constant(np.float32(0))), f"b.{i}.o"))
        y = b.op("Gelu", b.linear(b.norm(x, f"b.{i}.ln2", 1e-5), f"b.{i}.f1"))
        x = b.op("Add", x, b.linear(y, f"b.{i}.f2"))
    logits = b.linear(b.norm(x, "ln", 1e-5), "head", bias=False)
    model = b.build(logits, "logits", ["N", 1, weights["head.weight"].shape[0]])
    for made in present:
        shape = ["N", heads, None, each]
        model.graph.output.append(helper.make_tensor_value_info(made, TensorProto.FLOAT, shape))
    return model


Run = Callable[[Mapping[str, Any]], Mapping[str, Any]]


def decode(first: Run, step: Run, encode: Callable[[Mapping[str, Any]], Mapping[str, Any]], tokens: Any) -> Any:
    """Logits f32[N, T, V] of tokens i64[N, T], one token after the other, and the bytes of the caches at the end.

    `encode` makes what `step` takes from the caches in floats that `first` gives.
    """
    position = np.zeros(1, np.int64)
    found = first({"tokens": tokens[:, :1], "position": position})
    logits = [found["logits"]]
    caches = encode({n.replace("present", "past"): x for n, x in found.items() if n != "logits"})
    for t in range(1, tokens.shape[1]):
        found = step({"tokens": tokens[:, t : t + 1], "position": position + t, **caches})
        logits.append(found["logits"])
        caches = {name: found[name.replace("past", "present")] for name in caches}
    return np.concatenate(logits, 1), sum(c.nbytes for c in caches.values())
