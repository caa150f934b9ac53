"""Models of which the data folder has the weights only, as ONNX models."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from onnx import ModelProto

from .builder import Builder

__all__ = ["char_gpt", "graph_convolution", "sentence_encoder"]


def char_gpt(weights: Mapping[str, Any], layers: int = 3, heads: int = 4) -> ModelProto:
    """A pre-norm GPT: tokens i64[N, T] -> logits of the next character f32[N, T, 65]."""
    length, width = weights["pos"].shape
    b = Builder("chargpt", weights)
    tokens = b.input("tokens", np.int64, ["N", length])
    future = b.constant(np.triu(np.full((length, length), -np.inf, np.float32), 1), "future")
    x = b.op("Add", b.op("Gather", "tok.weight", tokens, axis=0), "pos")
    for i in range(layers):
        y = b.linear(b.norm(x, f"b.{i}.ln1", 1e-5), f"b.{i}.qkv")
        q, k, v = (b.heads(part, heads, width // heads) for part in b.ops("Split", 3, y, axis=-1, num_outputs=3))
        x = b.op("Add", x, b.linear(b.attention(q, k, v, width // heads, future), f"b.{i}.o"))
        y = b.op("Gelu", b.linear(b.norm(x, f"b.{i}.ln2", 1e-5), f"b.{i}.f1"))
        x = b.op("Add", x, b.linear(y, f"b.{i}.f2"))
    logits = b.linear(b.norm(x, "ln", 1e-5), "head", bias=False)
    return b.build(logits, "logits", ["N", length, weights["head.weight"].shape[0]])


def graph_convolution(weights: Mapping[str, Any]) -> ModelProto:
    """Two graph convolutions (Kipf and Welling 2017, equation 9).

    The normalised adjacency is an input beside the features: the weights fit any graph.
    """
    b = Builder("gcn_cora", weights)
    x = b.input("features", np.float32, ["V", weights["W1"].shape[0]])
    a = b.input("adjacency", np.float32, ["V", "V"])
    x = b.op("Relu", b.op("Add", b.op("MatMul", a, b.op("MatMul", x, "W1")), "b1"))
    x = b.op("Add", b.op("MatMul", a, b.op("MatMul", x, "W2")), "b2")
    return b.build(x, "logits", ["V", weights["W2"].shape[1]])


def sentence_encoder(weights: Mapping[str, Any], config: str, probe: Mapping[str, Any] | None = None) -> ModelProto:
    """MiniLM-L6: token ids and mask i64[N, T] -> the mean of the last layer over the tokens, of length 1: f32[N, 384].

    `config` is the model's config.json. With a `probe`, a linear head on the embedding: logits f32[N, 1].
    """
    sizes = json.loads(config)
    width, heads, epsilon = sizes["hidden_size"], sizes["num_attention_heads"], sizes["layer_norm_eps"]
    b = Builder("minilm", weights)
    ids = b.input("input_ids", np.int64, ["N", "T"])
    present = b.op("Cast", b.input("attention_mask", np.int64, ["N", "T"]), to=1)
    absent = b.op("Sub", b.constant(np.float32(1)), present)
    mask = b.op("Unsqueeze", b.op("Mul", absent, b.constant(np.float32(-1e9))), b.ints(1, 2))

    length = b.op("Squeeze", b.op("Shape", ids, start=1, end=2), b.ints(0))
    zero, one = (b.constant(i, dtype=np.int64) for i in (0, 1))
    places = b.op("Gather", "embeddings.position_embeddings.weight", b.op("Range", zero, length, one), axis=0)
    words = b.op("Gather", "embeddings.word_embeddings.weight", ids, axis=0)
    segment = b.op("Gather", "embeddings.token_type_embeddings.weight", zero, axis=0)
    x = b.norm(b.op("Add", b.op("Add", words, places), segment), "embeddings.LayerNorm", epsilon)
    for i in range(sizes["num_hidden_layers"]):
        layer = f"encoder.layer.{i}"
        parts = [b.linear(x, f"{layer}.attention.self.{part}") for part in ("query", "key", "value")]
        q, k, v = (b.heads(part, heads, width // heads) for part in parts)
        y = b.linear(b.attention(q, k, v, width // heads, mask), f"{layer}.attention.output.dense")
        x = b.norm(b.op("Add", x, y), f"{layer}.attention.output.LayerNorm", epsilon)
        y = b.op("Gelu", b.linear(x, f"{layer}.intermediate.dense"))
        x = b.norm(b.op("Add", x, b.linear(y, f"{layer}.output.dense")), f"{layer}.output.LayerNorm", epsilon)

    weight = b.op("Unsqueeze", present, b.ints(2))
    total = b.op("ReduceSum", b.op("Mul", x, weight), b.ints(1), keepdims=0)
    mean = b.op("Div", total, b.op("ReduceSum", weight, b.ints(1), keepdims=0))
    embedding = b.op("Div", mean, b.op("ReduceL2", mean, b.ints(1), keepdims=1))
    if probe is None:
        return b.build(embedding, "embedding", ["N", width])
    logits = b.op("Gemm", embedding, b.constant(probe["W"], "probe.W"), b.constant(probe["b"], "probe.b"), transB=1)
    return b.build(logits, "logits", ["N", 1])
