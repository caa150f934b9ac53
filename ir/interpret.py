"""The interpreter: a graph means what its ops' NumPy functions compute.

It is the reference for every backend and pass, and the one place where dynamic shapes just run. Values are released
after their last use.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from .diagnostics import IntaglioError, error
from .dims import UNKNOWN, Dim, Shape, solve, substitute
from .graph import NO_ATTRS, Attrs, Graph, Node, Value, attributes
from .op import Floats, Ints, Op, ShapeAttr
from .ops import get
from .ops._numpy import cast_array
from .types import Int, Tensor, Type

__all__ = ["bind_symbols", "check_inputs", "evaluate", "resolve_dynamic", "run_node"]

Observer = Callable[[Node, tuple[Any, ...]], None]

LIMIT = 1 << 29  # elements of one result: what is larger was hardly meant


def evaluate(
    graph: Graph, inputs: Sequence[Any], *, check: bool = False, observe: Observer | None = None, limit: int = LIMIT
) -> tuple[Any, ...]:
    """The outputs for `inputs` (arrays in the order of `graph.inputs`).

    `check` compares every result with its declared type (slower; a mismatch is a bug of an op, AssertionError).
    `observe(node, results)` is called after each node, e.g. to collect calibration ranges. A result of more than
    `limit` elements is not computed (IG0606).
    """
    env: dict[Value | None, Any] = {None: None}
    values: dict[str, int] = {}
    for v, array in zip(graph.inputs, inputs, strict=True):
        env[v] = array
        bind_symbols(v.type.shape, array.shape, values)
    last: dict[Value, Node] = {v: node for node in graph.nodes for v in node.inputs if v is not None}
    kept = set(graph.outputs)
    with np.errstate(all="ignore"):
        for node in graph.nodes:
            results = run_node(node, [env[v] for v in node.inputs], values, limit)
            for v, array in zip(node.outputs, results, strict=True):
                env[v] = array
            if check:
                _check(node, results, values)
            if observe is not None:
                observe(node, results)
            for operand in node.inputs:
                if operand is not None and last.get(operand) is node and operand not in kept:
                    env.pop(operand, None)
    return tuple(env[v] for v in graph.outputs)


def run_node(node: Node, arrays: list[Any], values: Mapping[str, int], limit: int = LIMIT) -> tuple[Any, ...]:
    """The results of one node for operand arrays; `values` binds the symbols in its attributes."""
    op, attrs = node.op, node.attrs
    if op.name == "const":
        return (attrs["value"].array,)
    try:
        if op.name == "dyn.apply":
            op, arrays, attrs = resolve_dynamic(attrs, arrays)
        keywords = {k: _ground(v, values) for k, v in attrs.items()}
        for shape in _result_shapes(node, op, arrays, keywords, values):
            if math.prod([d for d in shape if d]) > limit:
                what = f"`{op.name}` would compute a result of shape {list(shape)}: too large to interpret"
                raise error("IG0606", what)
        if op.typed:
            keywords["_types"] = ([None if v is None else v.type for v in node.inputs], [v.type for v in node.outputs])
        results = op.function(*arrays, **keywords)
    except IntaglioError as e:
        raise _at(node, e) from None
    except (ValueError, IndexError, ZeroDivisionError, OverflowError, np.linalg.LinAlgError) as e:
        shapes = ", ".join("absent" if a is None else f"{a.dtype}{list(a.shape)}" for a in arrays)
        raise _at(node, error("IG0605", f"`{op.name}` cannot be computed: {e}", label=shapes)) from e
    if not isinstance(results, tuple):
        results = (results,)
    arrays = [r if isinstance(r, np.ndarray) else np.asarray(r) for r in results]
    if getattr(node.outputs[0].type, "elem", None) in _NARROW:
        # NumPy computes i4 and narrower in i8: back to the declared type, wrapping as integers do
        arrays = [cast_array(r, v.type.elem) for r, v in zip(arrays, node.outputs, strict=True)]  # type: ignore[union-attr]
    return tuple(arrays)


_NARROW = {Int(name) for name in ("i4", "u4", "i2", "u2")}


def _result_shapes(
    node: Node, op: Op, arrays: Sequence[Any], attrs: Mapping[str, Any], values: Mapping[str, int]
) -> list[tuple[int, ...]]:
    """What is known of the results' shapes: from their types, or where those say `?` from the operands at hand."""
    shapes = [v.type.shape for v in node.outputs]
    if not any(isinstance(d, Dim) for shape in shapes for d in shape):
        return shapes  # type: ignore[return-value]
    found = [tuple([substitute(d, values) for d in shape]) for shape in shapes]
    if any(isinstance(d, Dim) for shape in found for d in shape):
        elems = [None if v is None else v.type.elem for v in node.inputs]  # type: ignore[union-attr]
        given = tuple([None if a is None else Tensor(a.shape, e) for a, e in zip(arrays, elems, strict=False)])  # type: ignore[arg-type]
        types = op.signature.infer(op.name, given, {**op.defaults, **attrs})
        found = [t.shape for t in types]
    return [tuple([d for d in shape if isinstance(d, int)]) for shape in found]  # `?` now: no more than the operands


def _at(node: Node, e: IntaglioError) -> IntaglioError:
    """Say where the node came from."""
    if node.loc is None:
        return e
    note = f"from: {node.loc}"
    return IntaglioError.of(d if note in d.notes else replace(d, notes=(*d.notes, note)) for d in e.diagnostics)


def _ground(value: Any, values: Mapping[str, int]) -> Any:
    """An attribute with symbols replaced by their sizes."""
    if type(value) is Dim:
        return substitute(value, values)
    if type(value) is tuple and any(type(v) is Dim for v in value):
        return tuple([substitute(v, values) if type(v) is Dim else v for v in value])
    return value


def resolve_dynamic(attrs: Attrs, arrays: Sequence[Any]) -> tuple[Op, list[Any], Attrs]:
    """The op, its operands and its attributes behind a `dyn.apply` whose operand values are known."""
    op, params = get(attrs["op"]), attrs["params"]
    count = len(arrays) - len(params)
    found = dict(attrs.get("fixed") or NO_ATTRS)
    for name, array in zip(params, arrays[count:], strict=True):
        kind = op.attrs[name]
        if kind in (Ints, ShapeAttr):
            found[name] = tuple(UNKNOWN if kind == ShapeAttr and n == -1 else int(n) for n in np.ravel(array))
        elif kind == Floats:
            found[name] = tuple(float(n) for n in np.ravel(array))
        else:
            found[name] = kind(np.asarray(array).reshape(-1)[0])
    made = attributes(op.normal(found))
    op.check_attrs(made)
    return op, list(arrays[:count]), made


def bind_symbols(shape: Shape, actual: Sequence[int], values: dict[str, int]) -> None:
    """Record the symbols that `actual` gives to `shape`; what does not fit is left to `check_inputs`."""
    for extent, n in zip(shape, actual, strict=False):
        if isinstance(extent, Dim):
            values.update(solve(extent, n, values) or {})


def _check(node: Node, results: tuple[Any, ...], values: Mapping[str, int]) -> None:
    for v, array in zip(node.outputs, results, strict=True):
        t = v.type
        assert isinstance(t, Tensor)
        assert array.dtype == t.dtype, f"{node.op.name} computed {array.dtype}, its type says {t}"
        wanted = tuple(substitute(d, values) for d in t.shape)
        fits = len(wanted) == array.ndim and all(
            isinstance(w, Dim) or w == n for w, n in zip(wanted, array.shape, strict=True)
        )
        assert fits, f"{node.op.name} computed shape {array.shape}, its type says {t}"


def as_array(given: Any) -> Any:
    """An array of any library, without a copy where it lies in this process's memory (DLPack or the array protocol)."""
    if isinstance(given, np.ndarray):
        return given
    if hasattr(given, "__dlpack__") and not hasattr(given, "__array__"):
        return np.from_dlpack(given)
    return np.asarray(given)


def check_inputs(
    expected: Sequence[tuple[str, Type]],
    given: Mapping[str, Any],
    dims: Mapping[str, tuple[int, int | None]] | None = None,
) -> list[Any]:
    """Arrays in order, or IG0601..IG0604 saying what was expected: names, element type, shape, range of a symbol."""
    names = [n for n, _ in expected]
    described = ", ".join(f"{n}: {t}" for n, t in expected)
    if missing := [n for n in names if n not in given]:
        have = ", ".join(given) or "none"
        raise error("IG0601", f"input `{missing[0]}` is missing", label=f"given: {have}", hint=f"expected {described}")
    if extra := [n for n in given if n not in names]:
        raise error("IG0601", f"there is no input `{extra[0]}`", hint=f"expected {described}")
    values: dict[str, int] = {}
    arrays = []
    for name, t in expected:
        array = as_array(given[name])
        if array.dtype != t.dtype:  # type: ignore[union-attr]
            what = f"input `{name}` is {array.dtype}, expected {t.dtype}"  # type: ignore[union-attr]
            raise error("IG0602", what, label=f"{name}: {t}", hint="convert it, for example with x.astype(...)")
        if array.ndim != len(t.shape):
            what = f"input `{name}` has {array.ndim} axes, expected {len(t.shape)}"
            raise error("IG0603", what, label=f"{name}: {t}, given {list(array.shape)}")
        for axis, (extent, n) in enumerate(zip(t.shape, array.shape, strict=True)):
            bound = solve(extent, n, values) if isinstance(extent, Dim) else ({} if extent == n else None)
            if bound is None:
                wanted = substitute(extent, values)
                what = f"input `{name}` has extent {n} in axis {axis}, expected {wanted}"
                raise error("IG0603", what, label=f"{name}: {t}, given {list(array.shape)}")
            for symbol, size in bound.items():
                low, high = (dims or {}).get(symbol, (0, None))
                if size < low or (high is not None and size > high):
                    limit = f"{low}..{'' if high is None else high}"
                    raise error("IG0604", f"input `{name}` makes {symbol} = {size}, the model takes {limit}")
            values.update(bound)
        arrays.append(array)
    for (name, t), array in zip(expected, arrays, strict=True):  # N*S before N and S were known
        for axis, (extent, n) in enumerate(zip(t.shape, array.shape, strict=True)):
            wanted = substitute(extent, values)
            if isinstance(wanted, int) and wanted != n:
                what = f"input `{name}` has extent {n} in axis {axis}, expected {wanted}"
                raise error("IG0603", what, label=f"{name}: {t}, given {list(array.shape)}")
    return arrays
