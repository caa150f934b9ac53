"""Every lowering against the interpreter: all ops of the table, the dtypes of ONNX, odd shapes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tvm")

from intaglio.backends import backend
from intaglio.backends.tvm.lowering import LOWERINGS
from intaglio.ir import OPS, Affine, Constant, Editor, Graph, Module, Pow2, Sign, Tensor, evaluate, verify
from intaglio.ir.graph import attributes
from intaglio.ir.types import BOOL, Float, Int, elem_named, elem_of

CPU = backend("cpu")
FLOATS = ("f64", "f32", "f16", "bf16")
FP8 = ("f8e4m3fn", "f8e4m3fnuz", "f8e5m2", "f8e5m2fnuz")
INTS = ("i8", "i16", "i32", "i64", "u8", "u16", "u32", "u64")
SMALL_INTS = ("i4", "u4", "i2", "u2")
ALL = (*FLOATS, *FP8, "f4e2m1", *INTS, *SMALL_INTS, "bool")

# Ops without a lowering, and why. A new op has to be lowered or listed.
NOT_LOWERED = {
    "dyn.apply": "attributes computed by the program: `freeze` resolves them",
    "dyn.nonzero": "the shape of the result depends on values",
    "dyn.compress": "the shape of the result depends on values",
    "dyn.unique": "the shape of the result depends on values",
    "dyn.non_max_suppression": "the shape of the result depends on values",
    "const": "no computation",
    "tile.kernel": "a group of other ops",
}

SPECIAL = np.array(
    [0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 1.5, 2.5, -2.5, np.nan, np.inf, -np.inf, 1e-8, 3e38, -87.0, 88.5, -100.0]
)


def values(
    elem: str, shape: tuple[int, ...], seed: int = 0, low: float = -4, high: float = 4, special: bool = False
) -> Any:
    """Random data of an element type; `special` plants the awkward values at the front."""
    rng = np.random.default_rng([seed, len(shape), *shape])
    dtype = elem_named(elem).dtype
    if elem == "bool":
        return rng.integers(0, 2, shape).astype(bool)
    if elem[0] in "iu":
        kind = elem_named(elem)
        assert isinstance(kind, Int)
        least, most = kind.range
        if special:
            low, high = least, most
        wide = np.uint64 if least == 0 else np.int64
        return rng.integers(max(least, int(low)), min(most, int(high)), shape, endpoint=True, dtype=wide).astype(dtype)
    x = rng.uniform(low, high, shape)
    if special:
        flat = x.reshape(-1)
        count = min(flat.size, SPECIAL.size)
        flat[:count] = SPECIAL[:count]
    with np.errstate(all="ignore"):
        return x.astype(np.float32).astype(dtype) if elem != "f64" else x


def tolerance(dtype: np.dtype[Any]) -> float:
    if dtype.kind in "iub" or "int" in dtype.name:
        return 0.0
    return {"float64": 1e-12, "float32": 2e-6, "float16": 1e-3, "bfloat16": 8e-3}.get(dtype.name, 0.13)


def compare(got: Any, want: Any, scale: float = 1.0) -> None:
    if want.dtype == np.int8 and got.dtype != np.int8:  # NumPy's maximum of int4 is int8
        want = want.astype(got.dtype)
    assert got.dtype == want.dtype
    assert got.shape == want.shape
    bound = tolerance(want.dtype) * scale
    if want.dtype.kind in "iub":
        np.testing.assert_array_equal(got, want)
        return
    wide = np.float64 if want.dtype == np.float64 else np.float32
    with np.errstate(all="ignore"):
        np.testing.assert_allclose(got.astype(wide), want.astype(wide), rtol=bound, atol=bound)


def build(graph: Graph) -> Any:
    verify(graph)
    return CPU.build(Module("m", {"main": graph}, {"N": (1, None), "S": (1, None)}), CPU.options())


def check(make: Callable[[Editor], Any], *arrays: Any, scale: float = 1.0) -> None:
    """Build what `make` describes, run it and compare with the interpreter."""
    editor = Editor()
    results = make(editor)
    for i, v in enumerate(results if isinstance(results, (list, tuple)) else [results]):
        editor.output(v, f"y{i}")
    graph = editor.freeze()
    got = build(graph).run(arrays)
    for g, w in zip(got, evaluate(graph, arrays), strict=True):
        compare(g, w, scale)


def check_op(op: str, *arrays: Any, scale: float = 1.0, **attrs: Any) -> None:
    """One op on operands given as arrays (None: absent), all of them graph inputs."""
    given = [a for a in arrays if a is not None]

    def make(e: Editor) -> Any:
        operands = [
            None if a is None else e.input(f"x{i}", Tensor(a.shape, elem_of(a.dtype))) for i, a in enumerate(arrays)
        ]
        return list(e.apply(op, operands, attributes(OPS[op].normal(attrs))).outputs)

    check(make, *given, scale=scale)


def check_dtypes(
    op: str, elems: tuple[str, ...], count: int, scale: float = 1.0, special: bool = True, **attrs: Any
) -> None:
    """An elementwise op in several dtypes, in one module: broadcast operands, awkward values."""
    shapes = [(3, 5, 7), (5, 1), (7,)][:count]
    if count == 1:
        shapes = [(2, 19)]
    arrays: list[Any] = []

    def make(e: Editor) -> Any:
        out = []
        for elem in elems:
            operands = []
            for i in range(count):
                arrays.append(values(elem, shapes[i], seed=i, special=special))
                operands.append(e.input(f"{elem}{i}", Tensor(shapes[i], elem_named(elem))))
            out.append(e.emit(op, *operands, **attrs))
        return out

    editor = Editor()
    for i, v in enumerate(make(editor)):
        editor.output(v, f"y{i}")
    graph = editor.freeze()
    for g, w in zip(build(graph).run(arrays), evaluate(graph, arrays), strict=True):
        compare(g, w, scale)


# --- elementwise ----------------------------------------------------------------------------------------------------

UNARY: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    **{f"math.{n}": ((*FLOATS, *FP8, *INTS, *SMALL_INTS), {}) for n in ("neg", "abs", "sign", "relu")},
    **{
        f"math.{n}": (FLOATS, {})
        for n in [
            "exp",
            "log",
            "sqrt",
            "reciprocal",
            "sigmoid",
            "softplus",
            "erf",
            "sin",
            "cos",
            "tan",
            "asin",
            "acos",
            "atan",
            "sinh",
            "cosh",
            "tanh",
            "asinh",
            "acosh",
            "atanh",
            "floor",
            "ceil",
            "round",
            "is_nan",
            "is_inf",
            "leaky_relu",
        ]
    },
    "math.not": (("bool",), {}),
    "math.bit_not": (INTS, {}),
    "nn.gelu": (FLOATS, {}),
    "approx.poly": (FLOATS, {"coeffs": (0.5, -1.0, 0.25)}),
}
BINARY: dict[str, tuple[str, ...]] = {
    **{f"math.{n}": (*FLOATS, "f8e4m3fn", *INTS, "i4", "u4") for n in ("add", "sub", "mul", "minimum", "maximum")},
    **{f"math.{n}": (*FLOATS, *INTS) for n in ("div", "less", "less_equal", "greater", "greater_equal")},
    **{f"math.{n}": (*FLOATS, *INTS, "bool") for n in ("equal", "not_equal")},
    **{f"math.{n}": ("bool",) for n in ("and", "or", "xor")},
    **{f"math.{n}": INTS for n in ("bit_and", "bit_or", "bit_xor")},
}


@pytest.mark.parametrize("op", UNARY)
def test_unary(op: str) -> None:
    elems, attrs = UNARY[op]
    check_dtypes(op, elems, 1, **attrs)


@pytest.mark.parametrize("op", BINARY)
def test_binary(op: str) -> None:
    check_dtypes(op, BINARY[op], 2)


@pytest.mark.parametrize("truncated", [False, True])
def test_mod(truncated: bool) -> None:
    check_dtypes("math.mod", (*FLOATS, *INTS), 2, truncated=truncated, special=False)


@pytest.mark.parametrize("op", ["math.shift_left", "math.shift_right"])
def test_shifts(op: str) -> None:
    for elem in INTS:
        check_op(op, values(elem, (3, 8), special=True), values(elem, (8,), low=0, high=9))


def test_pow() -> None:
    for a, b in (
        ("f32", "f32"),
        ("f64", "f32"),
        ("f32", "i32"),
        ("i32", "i32"),
        ("i64", "f32"),
        ("u8", "u8"),
        ("f16", "f16"),
    ):
        check_op("math.pow", values(a, (3, 8), low=1), values(b, (8,), low=-2, high=3), scale=4)


def test_pow_by_a_constant() -> None:
    check(
        lambda e: e.emit("math.pow", e.input("x", Tensor((5, 4), "f32")), e.constant(np.float32(2))),
        values("f32", (5, 4)),
    )


def test_where() -> None:
    for elem in ALL:
        check_op("math.where", values("bool", (3, 1, 4)), values(elem, (5, 4)), values(elem, (3, 5, 1), seed=1))


@pytest.mark.parametrize("name", ["exp", "log", "tanh", "erf", "sigmoid", "softplus"])
def test_polynomials_are_as_exact_as_they_say(name: str) -> None:
    """4e-7 relative to f64, over each function's whole range and densely around 0."""
    low, high = {"exp": (-87, 88.7), "log": (1e-38, 3e38), "tanh": (-12, 12), "erf": (-5, 5)}.get(name, (-80, 80))
    near = np.random.default_rng(0).uniform(-2, 2, 100_000)
    x = np.concatenate([np.linspace(low, high, 200_000), near, np.geomspace(1e-6, 5, 50_000)]).astype(np.float32)
    x = np.abs(x) if name == "log" else x

    def graph(elem: str) -> Graph:
        e = Editor()
        e.output(e.emit(f"math.{name}", e.input("x", Tensor(x.shape, elem))), "y")
        return e.freeze()

    (got,) = build(graph("f32")).run([x])
    with np.errstate(all="ignore"):
        (want,) = evaluate(graph("f64"), [x.astype(np.float64)])
        normal = (np.abs(want) > 1.2e-38) & (np.abs(want) < 3.4e38)
    assert float((np.abs(got - want)[normal] / np.abs(want)[normal]).max()) < 4e-7


def test_gelu_and_is_inf_options() -> None:
    check_dtypes("nn.gelu", ("f32", "f64"), 1, approximate=True)
    check_dtypes("math.is_inf", FLOATS, 1, negative=False)
    check_dtypes("math.is_inf", FLOATS, 1, positive=False)
    check_dtypes("math.leaky_relu", FLOATS, 1, alpha=0.2)


# --- casts and encodings --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ALL)
def test_cast(source: str) -> None:
    x = values(source, (4, 9), special=source not in INTS, low=-9, high=9)
    targets = [t for t in (*ALL, "f8e8m0") if t != source]
    if source in FLOATS:  # what NumPy makes of nan and of values out of range is not defined for 64 bits and below zero
        fits = np.isfinite(x.astype(np.float32)) & (np.abs(x.astype(np.float32)) < 1e9)
        clean = np.where(fits, x, x.dtype.type(1))
        check(_casts(source, [t for t in targets if t in INTS and t != "u64"]), clean)
        targets = [t for t in targets if t not in INTS]
    elif source in (*FP8, "f4e2m1"):
        x = values(source, (4, 9))
        targets = [t for t in targets if t != "u64"]
    check(_casts(source, targets), x)
    if source in FLOATS:
        check(_casts(source, list(FP8), saturate=False), x)
        check(_casts(source, ["f8e8m0"], round_up=False), np.abs(x))


def _casts(source: str, targets: list[str], **attrs: Any) -> Callable[[Editor], Any]:
    def make(e: Editor) -> Any:
        x = e.input("x", Tensor((4, 9), elem_named(source)))
        return [e.emit("math.cast", x, to=elem_named(t), **attrs) for t in targets]

    return make


def test_bitcast() -> None:
    for a, b in (
        ("f32", "i32"),
        ("i32", "f32"),
        ("f16", "u16"),
        ("bf16", "i16"),
        ("f8e5m2", "u8"),
        ("u8", "i8"),
        ("i64", "f64"),
    ):
        check_op("math.bitcast", values(a, (3, 5)), to=elem_named(b))


STORES = [
    Affine(Int("i8"), Float("f32"), 0.05),
    Affine(Int("u8"), Float("f32"), 0.05, 128),
    Affine(Int("u16"), Float("f32"), 0.001, 30000),
    Affine(Int("i4"), Float("f32"), 0.5),
    Affine(Int("u4"), Float("f32"), 0.5, 7),
    Affine(Int("i32"), Float("f32"), 1e-6),
    Affine(Int("i8"), Float("f16"), 0.05),
    Affine(Float("f8e4m3fn"), Float("f32"), 0.02),
    Affine(Int("i8"), Float("f32"), Constant(np.array([0.1, 0.02, 0.3], np.float32), "s"), axis=0),
    Affine(
        Int("u8"), Float("f32"), Constant(np.array([0.1, 0.02, 0.3], np.float32), "s"),
        Constant(np.array([0, 100, 200], np.uint8), "z"), axis=-2,
    ),
    Affine(
        Int("i8"), Float("f32"), Constant(np.linspace(0.01, 0.1, 6, dtype=np.float32).reshape(3, 2), "g"),
        axis=1, group=4,
    ),
    Sign(Float("f32"), 0.5),
    Pow2(4, Float("f32"), 3),
]  # fmt: skip


@pytest.mark.parametrize("elem", STORES, ids=str)
def test_encodings(elem: Any) -> None:
    x = values(elem.real.name, (3, 8), special=True)

    def make(e: Editor) -> Any:
        v = e.input("x", Tensor((3, 8), elem.real))
        q = e.emit("quant.quantize", v, to=elem)
        plain = BOOL if isinstance(elem, Sign) else Int("i8") if isinstance(elem, Pow2) else elem.store
        stored = e.emit("quant.store", q, to=plain)
        return [e.emit("quant.dequantize", q, to=elem.real), stored, e.emit("quant.load", stored, to=elem)]

    clean = np.where(np.isfinite(x.astype(np.float32)), x, x.dtype.type(0))
    check(make, clean)


def test_halves_of_large_numbers_go_to_the_even_one() -> None:
    """From 2**22 to 2**23 an f32 still has halves."""
    x = np.arange(-40, 40, dtype=np.float32)[None] / 2 + np.array([[0], [2**22], [2**23 - 10], [2**24]], np.float32)
    x = np.concatenate([x, -x])

    def make(e: Editor) -> Any:
        v = e.input("x", Tensor(x.shape, "f32"))
        stores = []
        for zero in (0, 7, -(2**22) - 3, 2**23 - 8):
            q = e.emit("quant.quantize", v, to=Affine(Int("i8"), Float("f32"), 1.0, zero))
            stores.append(e.emit("quant.store", q, to=Int("i8")))
        return [e.emit("math.round", v), *stores]

    check(make, x)


# --- reductions -----------------------------------------------------------------------------------------------------

REDUCTIONS = ("reduce_sum", "reduce_mean", "reduce_max", "reduce_min", "reduce_prod")


@pytest.mark.parametrize("name", REDUCTIONS)
def test_reductions(name: str) -> None:
    for axes, keep in ((None, True), ((1,), False), ((-1,), True), ((0, 2), False), ((), True), ((2, 1), True)):
        check_op(f"math.{name}", values("f32", (3, 5, 19), low=0.5, high=1.5), axes=axes, keepdims=keep, scale=8)
    for elem in ("f64", "f16", "bf16", "i8", "i32", "u64"):
        check_op(f"math.{name}", values(elem, (3, 5), low=0.5, high=2), axes=(1,), scale=2)
    if name in ("reduce_max", "reduce_min"):
        x = values("f32", (4, 6))
        x[1, 3] = np.nan
        check_op(f"math.{name}", x, axes=(1,))
        check_op(f"math.{name}", x, axes=(0,))
        check_op(f"math.{name}", values("bool", (4, 6)), axes=(1,))
        check_op(f"math.{name}", np.zeros((4, 0), bool), axes=(1,))
    check_op(f"math.{name}", np.zeros((0, 3), np.float32), axes=(1,))


@pytest.mark.parametrize("op", ["math.argmax", "math.argmin"])
def test_index_of_extremes(op: str) -> None:
    ties = np.random.default_rng(0).integers(0, 3, (4, 9, 5)).astype(np.float32)
    for last in (False, True):
        check_op(op, ties, axis=1, last=last)
        check_op(op, ties.astype(np.uint8), axis=-1, keepdims=False, last=last)
    ties[1, 3, 2] = np.nan
    check_op(op, ties, axis=1)


@pytest.mark.parametrize("op", ["math.cumsum", "math.cumprod"])
def test_scans(op: str) -> None:
    for axis in (0, 1, 2):
        for exclusive, reverse in ((False, False), (True, False), (False, True), (True, True)):
            check_op(op, values("f32", (3, 4, 18)), axis=axis, exclusive=exclusive, reverse=reverse, scale=8)
    check_op(op, values("i32", (6,)), axis=0)


def test_top_k() -> None:
    ties = np.random.default_rng(0).integers(0, 4, (3, 11, 2)).astype(np.float32)
    for largest in (True, False):
        check_op("math.top_k", ties, k=4, axis=1, largest=largest)
        check_op("math.top_k", ties.astype(np.int64), k=11, axis=1, largest=largest)
        check_op("math.top_k", values("f32", (2, 9), special=True), k=3, largest=largest)


def test_einsum() -> None:
    a, b = values("f32", (3, 4)), values("f32", (4, 5), seed=1)
    check_op("math.einsum", a, b, equation="ij,jk->ik")
    check_op("math.einsum", a, equation="ij->ji")
    check_op("math.einsum", a, equation="ij->")
    check_op("math.einsum", values("f64", (4, 4)), equation="ii->i")
    check_op("math.einsum", values("f32", (2, 3, 4)), values("f32", (2, 4, 5)), equation="...ij,...jk->...ik")
    check_op("math.einsum", a, values("f32", (3, 4), seed=2), equation="ij,ij")
    check_op("math.einsum", np.asarray(3, np.float32), equation="->")


def test_every_op_is_lowered_or_listed() -> None:
    encrypted = {name for name in OPS if name.startswith("he.")}  # they have a backend of their own
    missing = sorted(set(OPS) - set(LOWERINGS) - set(NOT_LOWERED) - encrypted)
    print(f"\n{len(LOWERINGS)} of {len(OPS)} ops are lowered; not: {', '.join(sorted(NOT_LOWERED))}")
    assert not missing
    assert not set(NOT_LOWERED) & set(LOWERINGS)
    assert not set(LOWERINGS) - set(OPS)
