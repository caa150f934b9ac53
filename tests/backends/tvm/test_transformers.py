"""What transformers are made of: attention as one kernel, products with long epilogues, norms along rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tvm")

from hypothesis import given, settings
from hypothesis import strategies as st

from intaglio.backends import backend
from intaglio.backends.tvm import api
from intaglio.backends.tvm.isa import host_runs
from intaglio.backends.tvm.kernels import VECTOR_UNITS
from intaglio.backends.tvm.lowering.kernel import lower_node
from intaglio.ir import Editor, Graph, Module, Tensor, Value, dim, evaluate, verify
from intaglio.ir.dims import symbols
from intaglio.passes import find
from intaglio.passes.fuse import fuse

CPU = backend("cpu")
TOLERANCE = 2e-5


def graph_of(make: Callable[[Editor], Value | list[Value]]) -> Graph:
    editor = Editor()
    made = make(editor)
    for i, v in enumerate(made if isinstance(made, list) else [made]):
        editor.output(v, f"y{i}")
    graph = editor.freeze()
    verify(graph)
    return graph


def random(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def kernels(graph: Graph) -> list[str]:
    """The ops of each kernel, constants and views left out."""
    found = []
    for node in graph.nodes:
        body = node.attrs.get("body")
        names = [n.op.name for n in body.nodes] if body is not None else [node.op.name]
        names = [n.partition(".")[2] for n in names if n != "const"]
        if names and (body is not None or names[0] not in ("reshape", "squeeze", "unsqueeze")):
            found.append("+".join(names))
    return found


def check(graph: Graph, batches: Sequence[Sequence[Any]], *, tolerance: float = TOLERANCE, **options: Any) -> list[str]:
    """Fuse, build, and compare with the interpreter; nan where it has nan. Gives the kernels."""
    fused = fuse(graph)
    verify(fused)
    names = {s for v in graph.inputs for s in symbols(v.type.shape)}
    module = Module("m", {"main": fused}, dict.fromkeys(names, (1, None)))
    program = CPU.build(module, CPU.options(**options))
    for arrays in batches:
        with np.errstate(all="ignore"):
            wanted = evaluate(graph, arrays)
        for got, want in zip(program.run(arrays), wanted, strict=True):
            np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance)
    return kernels(fused)


# --- attention --------------------------------------------------------------------------------------------------------


def attention(
    e: Editor, batch: Any, queries: Any, keys: Any, heads: int, depth: int, width: int, mask: str, scale: str = "scores"
) -> Value:
    """softmax(q k^T / sqrt(depth) + mask) v of q, k, v[batch, tokens, heads, size]; [batch, queries, heads, width]."""
    q = e.input("q", Tensor((batch, queries, heads, depth), "f32"))
    k = e.input("k", Tensor((batch, keys, heads, depth), "f32"))
    v = e.input("v", Tensor((batch, keys, heads, width), "f32"))
    root = e.constant(np.float32(depth**-0.25))
    q, v = (e.emit("shape.transpose", x, perm=(0, 2, 1, 3)) for x in (q, v))
    if scale == "operands":  # as PyTorch exports it
        k = e.emit("shape.transpose", e.emit("shape.transpose", k, perm=(0, 2, 1, 3)), perm=(0, 1, 3, 2))
        q, k = e.emit("math.mul", q, root), e.emit("math.mul", k, root)
    else:
        k = e.emit("shape.transpose", k, perm=(0, 2, 3, 1))
    scores = e.emit("nn.matmul", q, k)
    if scale == "scores":
        scores = e.emit("math.div", scores, e.constant(np.float32(depth**0.5)))
    if mask == "keys":
        scores = e.emit("math.add", scores, e.input("mask", Tensor((batch, 1, 1, keys), "f32")))
    elif mask == "pairs":
        scores = e.emit("math.add", e.input("mask", Tensor((queries, keys), "f32")), scores)
    elif mask == "chosen":
        chosen = e.input("mask", Tensor((1, 1, queries, keys), "bool"))
        scores = e.emit("math.where", chosen, scores, e.constant(np.float32(-np.inf)))
    elif mask in ("causal", "lowest"):
        assert isinstance(queries, int)
        assert isinstance(keys, int)
        hidden = -np.inf if mask == "causal" else np.finfo(np.float32).min
        later = np.triu(np.full((queries, keys), hidden, np.float32), keys - queries + 1)
        scores = e.emit("math.add", scores, e.constant(later))
    result = e.emit("nn.matmul", e.emit("nn.softmax", scores, axis=-1), v)
    return e.emit("shape.transpose", result, perm=(0, 2, 1, 3))


def operands(graph: Graph, sizes: dict[str, int], seed: int = 0) -> list[Any]:
    """Random inputs; masks hide four pairs in ten."""
    arrays = []
    for i, v in enumerate(graph.inputs):
        assert isinstance(v.type, Tensor)
        shape = [d if isinstance(d, int) else sizes[d.text] for d in v.type.shape]
        x = random(*shape, seed=seed + i)
        if v.name == "mask":
            hidden = np.random.default_rng(seed).random(shape) < 0.4
            x = ~hidden if str(v.type.elem) == "bool" else np.where(hidden, np.float32(-np.inf), x)
        arrays.append(x)
    return arrays


MASKS = ("none", "keys", "pairs", "chosen", "causal", "lowest")


@settings(max_examples=30, deadline=None)
@given(
    batch=st.integers(1, 4),
    queries=st.integers(1, 70),
    keys=st.integers(1, 70),
    heads=st.integers(1, 3),
    depth=st.sampled_from((1, 5, 8, 16, 20, 32, 40, 64, 80)),
    width=st.sampled_from((1, 7, 16, 24, 32, 64, 80)),
    mask=st.sampled_from(MASKS),
    scale=st.sampled_from(("scores", "operands", "none")),
)
def test_attention(
    batch: int, queries: int, keys: int, heads: int, depth: int, width: int, mask: str, scale: str
) -> None:
    graph = graph_of(lambda e: attention(e, batch, queries, keys, heads, depth, width, mask, scale))
    made = check(graph, [operands(graph, {})])
    assert len(made) == 1
    assert made[0].count("matmul") == 2


@pytest.mark.parametrize("mask", ["pairs", "causal"])
@pytest.mark.parametrize("queries", [128, 300])
def test_attention_of_many_blocks(queries: int, mask: str) -> None:
    graph = graph_of(lambda e: attention(e, 1, queries, queries + 9, 2, 32, 32, mask))
    check(graph, [operands(graph, {})])


def test_keys_that_no_query_of_a_block_sees_are_left_out() -> None:
    """A constant mask is looked at while compiling: a task reads how many keys each of its blocks needs."""

    def operands_of(mask: str) -> int:
        graph = fuse(graph_of(lambda e: attention(e, 1, 64, 64, 1, 16, 16, mask)))
        constants = {n.output: n.constant for n in graph.nodes if n.constant is not None}
        (node,) = (n for n in graph.nodes if n.constant is None)
        return len(lower_node(node, constants, VECTOR_UNITS["avx2"]).operands)

    assert operands_of("causal") == operands_of("lowest") == operands_of("pairs") + 1


@pytest.mark.parametrize("mask", ["none", "keys", "pairs"])
def test_attention_of_any_size(mask: str) -> None:
    n, t, s = dim("N"), dim("T"), dim("S")
    graph = graph_of(lambda e: attention(e, n, t, s, 2, 20, 32, mask))
    sizes = [(1, 1, 1), (2, 5, 3), (1, 16, 16), (3, 17, 33), (1, 1, 140), (2, 130, 47)]
    made = check(graph, [operands(graph, {"N": a, "T": b, "S": c}) for a, b, c in sizes])
    assert len(made) == 1


@pytest.mark.parametrize("options", [{"exact": True}, {"isa": "avx2"}, {"isa": "baseline"}, {"threads": 2}], ids=str)
def test_attention_by_other_means(options: dict[str, Any]) -> None:
    graph = graph_of(lambda e: attention(e, 2, 13, 35, 2, 20, 24, "keys"))
    check(graph, [operands(graph, {})], **options)


def test_rows_without_keys_and_values_that_are_no_numbers() -> None:
    graph = graph_of(lambda e: attention(e, 1, 6, 20, 1, 8, 8, "pairs"))
    q, k, v, mask = operands(graph, {})
    mask[2] = -np.inf  # a row that sees nothing: nan, as in the interpreter
    q[0, 4, 0, 0], k[0, 7, 0, 3] = np.nan, np.inf
    mask[3] = 3e38
    check(graph, [[q, k, v, mask]])


def test_shared_keys() -> None:
    """Groups of query heads share the keys of one head."""

    def make(e: Editor) -> Value:
        q = e.input("q", Tensor((2, 2, 3, 9, 16), "f32"))  # [batch, key heads, query heads of each, tokens, depth]
        k = e.emit("shape.transpose", e.input("k", Tensor((2, 2, 1, 11, 16), "f32")), perm=(0, 1, 2, 4, 3))
        v = e.input("v", Tensor((2, 1, 1, 11, 16), "f32"))
        return e.emit("nn.matmul", e.emit("nn.softmax", e.emit("nn.matmul", q, k)), v)

    graph = graph_of(make)
    assert check(graph, [operands(graph, {})]) == ["transpose+matmul+softmax+matmul"]


def test_slices_of_one_projection() -> None:
    """q, k and v are cut out of one product: the slices are read in place."""
    n = dim("N")

    def make(e: Editor) -> Value:
        x = e.input("x", Tensor((n, 12, 72), "f32"))
        parts = []
        for i in range(3):
            part = e.emit("shape.slice", x, axes=(2,), starts=(24 * i,), stops=(24 * i + 24,))
            parts.append(e.emit("shape.reshape", part, shape=(n, 12, 3, 8)))
        perms = ((0, 2, 1, 3), (0, 2, 3, 1), (0, 2, 1, 3))
        q, k, v = (e.emit("shape.transpose", x, perm=p) for x, p in zip(parts, perms, strict=True))
        p = e.emit("nn.softmax", e.emit("nn.matmul", q, k))
        return e.emit("shape.transpose", e.emit("nn.matmul", p, v), perm=(0, 2, 1, 3))

    graph = graph_of(make)
    made = check(graph, [[random(1, 12, 72)], [random(3, 12, 72)]])
    assert len(made) == 1


def test_what_is_no_attention() -> None:
    """Scores that are read twice, a softmax along another axis, and f64 stay as they are."""

    def twice(e: Editor) -> list[Value]:
        q, k, v = (e.input(n, Tensor((2, 5, 5), "f32")) for n in "qkv")
        p = e.emit("nn.softmax", e.emit("nn.matmul", q, k))
        return [p, e.emit("nn.matmul", p, v)]

    def other_axis(e: Editor) -> Value:
        q, k, v = (e.input(n, Tensor((2, 5, 5), "f32")) for n in "qkv")
        return e.emit("nn.matmul", e.emit("nn.softmax", e.emit("nn.matmul", q, k), axis=1), v)

    def double(e: Editor) -> Value:
        q, k, v = (e.input(n, Tensor((2, 5, 5), "f64")) for n in "qkv")
        return e.emit("nn.matmul", e.emit("nn.softmax", e.emit("nn.matmul", q, k)), v)

    for make, elem in ((twice, np.float32), (other_axis, np.float32), (double, np.float64)):
        made = check(graph_of(make), [[random(2, 5, 5, seed=i).astype(elem) for i in range(3)]])
        assert len(made) == 3


# --- products ---------------------------------------------------------------------------------------------------------


def product(e: Editor, rows: Any, depth: int, columns: int, last: str) -> Value:
    """x w + b, then GELU, or the sum with another tensor."""
    y = e.emit("nn.matmul", e.input("x", Tensor((rows, depth), "f32")), e.constant(random(depth, columns) / depth**0.5))
    y = e.emit("math.add", y, e.constant(random(columns)))
    if last == "residual":
        return e.emit("math.add", e.input("r", y.type), y)
    return e.emit("nn.gelu", y, approximate=last == "tanh")


@settings(max_examples=20, deadline=None)
@given(
    rows=st.one_of(st.integers(1, 20), st.integers(21, 200)),
    depth=st.integers(1, 96),
    columns=st.integers(1, 200),
    last=st.sampled_from(("erf", "tanh", "residual")),
)
def test_product_with_an_epilogue(rows: int, depth: int, columns: int, last: str) -> None:
    graph = graph_of(lambda e: product(e, rows, depth, columns, last))
    made = check(graph, [[random(*v.type.shape) for v in graph.inputs]])  # type: ignore[union-attr]
    assert len(made) == 1


@pytest.mark.skipif(not host_runs("avx2"), reason="looks at AVX code")
def test_epilogues_stay_in_vectors() -> None:
    """GELU after a product: no call for memory, no lane by itself."""
    for last in ("erf", "tanh"):
        graph = fuse(graph_of(lambda e, last=last: product(e, 64, 32, 96, last)))  # type: ignore[misc]
        constants = {n.output: n.constant for n in graph.nodes if n.constant is not None}
        (node,) = (n for n in graph.nodes if n.constant is None)
        func = lower_node(node, constants, VECTOR_UNITS["avx2"]).func
        text = api.kernel_assembly(func, api.cpu_target("avx2"))
        assert "vfmadd" in text
        assert "AllocWorkspace" not in text
        assert not [line for line in text.splitlines() if "mulss" in line or "ucomiss" in line or "divss" in line]


# --- norms ------------------------------------------------------------------------------------------------------------


def special(shape: tuple[int, ...]) -> Any:
    """Random rows; one in three has a nan, an inf or only -inf."""
    x = random(*shape)
    rows = x.reshape(-1, shape[-1])
    for i, value in enumerate((np.nan, np.inf, -np.inf)):
        if len(rows) > 3 * i + 1:
            rows[3 * i + 1, : None if i == 2 else 1] = value
    return x


@settings(max_examples=25, deadline=None)
@given(
    op=st.sampled_from(("nn.softmax", "nn.log_softmax", "nn.layer_norm")),
    rows=st.integers(1, 9),
    length=st.integers(1, 70),
    inner=st.sampled_from((0, 1, 5, 17)),
    symbolic=st.booleans(),
    after=st.booleans(),
)
def test_norms(op: str, rows: int, length: int, inner: int, symbolic: bool, after: bool) -> None:
    """Along the last axis and (softmax) along one before it, with elementwise work in the same kernel."""
    inner = 0 if op == "nn.layer_norm" else inner
    shape = (rows, length, inner) if inner else (rows, length)

    def make(e: Editor) -> Value:
        x = e.input("x", Tensor((dim("N"), *shape[1:]) if symbolic else shape, "f32"))
        if op == "nn.layer_norm":
            y = e.emit(op, x, e.constant(random(length)), e.constant(random(length, seed=1)))
        else:
            y = e.emit(op, x, axis=1)
        if after:
            y = e.emit("math.relu", e.emit("math.mul", y, e.constant(random(*shape[1:], seed=2))))
        return y

    x = special(shape) if op != "nn.layer_norm" else random(*shape)
    made = check(graph_of(make), [[x]], tolerance=1e-4 if op == "nn.layer_norm" else TOLERANCE)
    assert len(made) == (2 if after and op == "nn.log_softmax" else 1)


@settings(max_examples=20, deadline=None)
@given(
    kind=st.sampled_from(("rms", "unit", "variance", "range")),
    length=st.integers(16, 90),
    rows=st.integers(1, 9),
    symbolic=st.booleans(),
)
def test_norms_written_out(kind: str, length: int, rows: int, symbolic: bool) -> None:
    """Reductions of the last axis, and what is elementwise around them, are one kernel."""

    def make(e: Editor) -> Value:
        x = e.input("x", Tensor((dim("N") if symbolic else rows, length), "f32"))
        small = e.constant(np.float32(1e-5))
        if kind == "range":
            y = e.emit("math.sub", x, e.emit("math.reduce_max", x, axes=(-1,)))
        elif kind == "variance":
            y = e.emit("math.sub", x, e.emit("math.reduce_mean", x, axes=(1,)))
            spread = e.emit("math.reduce_mean", e.emit("math.mul", y, y), axes=(1,))
            y = e.emit("math.div", y, e.emit("math.sqrt", e.emit("math.add", spread, small)))
        else:
            reduction = "math.reduce_mean" if kind == "rms" else "math.reduce_sum"
            total = e.emit(reduction, e.emit("math.mul", x, x), axes=(-1,))
            root = e.emit("math.sqrt", e.emit("math.add", total, small))
            y = e.emit("math.mul", x, e.emit("math.reciprocal", root))
        return e.emit("math.mul", y, e.constant(random(length)))

    assert len(check(graph_of(make), [[random(rows, length)]])) == 1


def test_rows_that_are_read_elsewhere() -> None:
    """A sum that is a result, too, leaves its kernel; a sum along another axis is none of a row's."""

    def make(e: Editor) -> list[Value]:
        x = e.input("x", Tensor((20, 20), "f32"))
        total = e.emit("math.reduce_sum", x, axes=(1,))
        across = e.emit("math.reduce_sum", x, axes=(0,))
        return [total, e.emit("math.div", x, total), e.emit("math.div", x, across)]

    assert sorted(check(graph_of(make), [[random(20, 20)]])) == ["div", "div", "reduce_sum", "reduce_sum"]


# --- together ---------------------------------------------------------------------------------------------------------


def test_an_encoder_of_any_batch_and_length() -> None:
    """Two layers as an exporter writes them, through `canonicalize`: every node is in the kernel it belongs to."""
    n, t, width, heads = dim("N"), dim("T"), 24, 3

    def linear(e: Editor, x: Value, name: str, columns: int) -> Value:
        seed = sum(name.encode())
        y = e.emit("nn.matmul", x, e.constant(random(x.type.shape[-1], columns, seed=seed) / 4))  # type: ignore[union-attr]
        return e.emit("math.add", y, e.constant(random(columns, seed=seed)))

    def make(e: Editor) -> Value:
        x = e.input("x", Tensor((n, t, width), "f32"))
        mask = e.emit("shape.unsqueeze", e.input("mask", Tensor((n, t), "f32")), axes=(1, 2))
        for layer in range(2):
            parts = []
            for part in "qkv":
                y = e.emit("shape.reshape", linear(e, x, f"{part}{layer}", width), shape=(n, t, heads, width // heads))
                parts.append(e.emit("shape.transpose", y, perm=(0, 2, 1, 3)))
            q, k, v = parts
            scores = e.emit("nn.matmul", q, e.emit("shape.transpose", k, perm=(0, 1, 3, 2)))
            scores = e.emit("math.div", scores, e.constant(np.float32((width / heads) ** 0.5)))
            y = e.emit("nn.matmul", e.emit("nn.softmax", e.emit("math.add", scores, mask)), v)
            y = e.emit("shape.reshape", e.emit("shape.transpose", y, perm=(0, 2, 1, 3)), shape=(n, t, width))
            x = e.emit("math.add", x, linear(e, y, f"o{layer}", width))
            x = e.emit("nn.layer_norm", x, e.constant(random(width)), e.constant(random(width, seed=1)))
            y = e.emit("nn.gelu", linear(e, x, f"f{layer}", 4 * width))
            x = e.emit("math.add", x, linear(e, y, f"g{layer}", width))
            x = e.emit("nn.layer_norm", x, e.constant(random(width)), e.constant(random(width, seed=1)))
        return x

    graph = find("canonicalize")(graph_of(make))
    batches = []
    for rows, length in ((1, 1), (2, 7), (1, 33)):
        hidden = np.zeros((rows, length), np.float32)
        hidden[:, (length + 1) // 2 :] = -1e9
        batches.append([random(rows, length, width), hidden])
    made = check(graph, batches, tolerance=1e-4)
    assert len(made) == 2 * 9
    assert sum("softmax" in k for k in made) == 2
