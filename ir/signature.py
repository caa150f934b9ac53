"""The little language in which ops state their types, and inference by it.

    x: F[N, g*C, *S], w: F[M, C, *K], b: F[M]? -> F[N, M, *window(S, K)]

An operand is `name: element[extents]`, followed by `?` when it may be absent or `...` when it takes all that remain.

* Elements: `T` any, `F` float, `I` integer, `N` float or integer, `Q` quantised (digits make more of a kind: `T2`);
  equal letters mean equal elements. A name such as `i64` or `bool` is itself; a lower-case name of an attribute (`to`)
  is that attribute's value.
* Extents: a name binds or must agree; `*S` binds any number of axes; `7`, `?`, `g*C` (an attribute times a name), and
  on the right side `fn(A, B)` / `*fn(S)`: a shape function (shapes.py), called with the bound shapes and the attributes
  that it names.
* A result followed by `...` repeats for each shape in the list that its shape function returns.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .diagnostics import IntaglioError, error
from .dims import UNKNOWN, Extent, Shape, exact_div
from .types import Affine, Bool, Elem, Float, Int, Pow2, Sign, Tensor, Type, elem_named

__all__ = ["Operand", "Result", "Signature", "parse_signature"]

ShapeFunction = Callable[..., Any]

_MOST_AXES = 64  # NumPy's limit

_KINDS: dict[str, tuple[str, tuple[type, ...]]] = {
    "T": ("any element", (Float, Int, Bool, Affine, Sign, Pow2)),
    "F": ("a float", (Float,)),
    "I": ("an integer", (Int,)),
    "N": ("a number", (Float, Int)),
    "Q": ("a quantised element", (Affine, Sign, Pow2)),
    "B": ("a boolean", (Bool,)),
}


@dataclass(frozen=True, slots=True)
class Call:
    """`fn(A, B)` in a result."""

    name: str
    args: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Axis:
    """One item between the brackets: exactly one of the fields below is set."""

    name: str = ""  # a dim variable, or a splat of several with `splat`
    splat: bool = False
    size: int | None = None
    unknown: bool = False
    factor: str = ""  # attribute that multiplies `name`
    call: Call | None = None


@dataclass(frozen=True, slots=True)
class Operand:
    name: str
    elem: str
    axes: tuple[Axis, ...]
    optional: bool = False
    variadic: bool = False


@dataclass(frozen=True, slots=True)
class Result:
    elem: str
    axes: tuple[Axis, ...]
    repeated: bool = False


def split_top(text: str) -> list[str]:
    """Split at commas outside brackets."""
    parts, depth, current = [], 0, ""
    for c in text:
        depth += (c in "[(") - (c in "])")
        if c == "," and depth == 0:
            parts.append(current.strip())
            current = ""
        else:
            current += c
    return [*parts, current.strip()] if current.strip() else parts


def _axis(text: str) -> Axis:
    if m := re.fullmatch(r"(\*?)(\w+)\((.*)\)", text):
        return Axis(splat=bool(m[1]), call=Call(m[2], tuple(split_top(m[3]))))
    if text.isdigit():
        return Axis(size=int(text))
    if text == "?":
        return Axis(unknown=True)
    if m := re.fullmatch(r"\*(\w+)", text):
        return Axis(name=m[1], splat=True)
    if m := re.fullmatch(r"([a-z]\w*)\*([A-Z]\w*)", text):
        return Axis(name=m[2], factor=m[1])
    if re.fullmatch(r"\w+", text):
        return Axis(name=text)
    raise ValueError(f"bad extent {text!r} in a signature")


def _axes(text: str) -> tuple[Axis, ...]:
    return tuple(_axis(t) for t in split_top(text))


@dataclass(frozen=True)
class Signature:
    """A parsed signature; `infer` gives the result types of operand types and attributes."""

    text: str
    operands: tuple[Operand, ...]
    results: tuple[Result, ...]
    functions: Mapping[str, ShapeFunction]

    def infer(self, op: str, types: tuple[Type | None, ...], attrs: Mapping[str, Any]) -> tuple[Type, ...]:
        """Result types, or IG0203..IG0207 saying which operand does not fit."""
        try:
            return self._infer(op, types, attrs)
        except IntaglioError as e:
            found = e.diagnostics[0]
            if found.label:
                raise
            label = ", ".join("absent" if t is None else str(t) for t in types)
            message = found.message if found.message.startswith("`") else f"`{op}`: {found.message}"
            notes = (*found.notes, f"signature: {self.text}")
            raise error(found.code, message, label=label, notes=notes, hint=found.hint) from None

    def _infer(self, op: str, types: tuple[Type | None, ...], attrs: Mapping[str, Any]) -> tuple[Type, ...]:
        elems: dict[str, Elem] = {}
        dims: dict[str, Any] = {}
        deferred: list[tuple[Operand, Axis, Extent]] = []
        count = len(self.operands)
        variadic = count > 0 and self.operands[-1].variadic
        if len(types) > count and not variadic:
            raise error("IG0203", f"`{op}` takes {count} operands, not {len(types)}")
        for i, operand in enumerate(self.operands):
            if operand.variadic:
                self._bind_variadic(op, operand, types[i:], elems, dims)
                break
            given = types[i] if i < len(types) else None
            if given is None:
                if not operand.optional:
                    raise error("IG0203", f"`{op}` needs operand `{operand.name}`")
                continue
            self._bind(op, operand, given, elems, dims, attrs, deferred)
        for operand, axis, extent in deferred:
            self._check_factor(op, operand, axis, extent, dims, attrs)
        return self._results(op, elems, dims, attrs)

    def _bind_variadic(
        self, op: str, operand: Operand, types: tuple[Type | None, ...], elems: dict[str, Elem], dims: dict[str, Any]
    ) -> None:
        if not types:
            raise error("IG0203", f"`{op}` needs at least one operand `{operand.name}`")
        shapes = []
        for t in types:
            if not isinstance(t, Tensor):
                raise error("IG0203", f"`{op}` operands `{operand.name}` are tensors")
            _bind_elem(op, operand, t, elems)
            shapes.append(t.shape)
        dims[operand.axes[0].name] = tuple(shapes)

    def _bind(
        self,
        op: str,
        operand: Operand,
        given: Type,
        elems: dict[str, Elem],
        dims: dict[str, Any],
        attrs: Mapping[str, Any],
        deferred: list[tuple[Operand, Axis, Extent]],
    ) -> None:
        if not isinstance(given, Tensor):
            raise error("IG0206", f"`{op}` operand `{operand.name}` is a tensor, not {given}")
        _bind_elem(op, operand, given, elems)
        axes, shape = operand.axes, given.shape
        splat = next((i for i, a in enumerate(axes) if a.splat), None)
        fixed = len(axes) - (splat is not None)
        if len(shape) < fixed or (splat is None and len(shape) != fixed):
            least = "at least " if splat is not None else ""
            raise error("IG0205", f"`{op}` operand `{operand.name}` has {least}{fixed} axes, not {len(shape)}")
        at = 0
        for axis in axes:
            if axis.splat:
                width = len(shape) - fixed
                _agree_shape(op, operand, axis.name, shape[at : at + width], dims)
                at += width
                continue
            extent = shape[at]
            at += 1
            if axis.factor:
                deferred.append((operand, axis, extent))
            elif axis.size is not None:
                if extent is not UNKNOWN and extent != axis.size:
                    raise error("IG0207", f"`{op}` operand `{operand.name}` wants extent {axis.size}, has {extent}")
            elif axis.name:
                have = dims.get(axis.name)
                if have is None or have is UNKNOWN:
                    dims[axis.name] = extent
                elif extent is not UNKNOWN and extent != have:
                    raise error("IG0207", f"`{op}` operand `{operand.name}` wants {axis.name} = {have}, has {extent}")

    def _check_factor(
        self, op: str, operand: Operand, axis: Axis, extent: Extent, dims: dict[str, Any], attrs: Mapping[str, Any]
    ) -> None:
        factor = attrs.get(axis.factor)
        have = dims.get(axis.name)
        if have is None:
            quotient = exact_div(extent, factor) if isinstance(factor, int) and factor > 0 else None
            if quotient is None:
                raise error(
                    "IG0207", f"`{op}` operand `{operand.name}`: {extent} is no multiple of {axis.factor} = {factor}"
                )
            dims[axis.name] = quotient
        elif extent is not UNKNOWN and have is not UNKNOWN and (not isinstance(factor, int) or factor * have != extent):
            wanted = factor * have if isinstance(factor, int) else factor
            raise error(
                "IG0207", f"`{op}` wants {wanted} channels in `{operand.name}` ({axis.factor} = {factor}), has {extent}"
            )

    def _results(
        self, op: str, elems: dict[str, Elem], dims: dict[str, Any], attrs: Mapping[str, Any]
    ) -> tuple[Type, ...]:
        out: list[Type] = []
        for result in self.results:
            elem = elems.get(result.elem)
            if elem is None:
                elem = attrs[result.elem] if result.elem in attrs else _named(op, result.elem)
                if not isinstance(elem, (Float, Int, Bool, Affine, Sign, Pow2)):
                    raise error("IG0206", f"`{op}` attribute `{result.elem}` is an element type, not {elem!r}")
            if result.repeated:
                call = result.axes[0].call
                assert call is not None
                out.extend(Tensor(shape, elem) for shape in self._call(call, dims, attrs))
                continue
            shape: list[Extent] = []
            for axis in result.axes:
                if axis.call is not None:
                    value = self._call(axis.call, dims, attrs)
                    shape.extend(value) if axis.splat else shape.append(value)
                elif axis.splat:
                    shape.extend(dims[axis.name])
                elif axis.size is not None:
                    shape.append(axis.size)
                elif axis.unknown:
                    shape.append(UNKNOWN)
                elif axis.factor:
                    shape.append(attrs[axis.factor] * dims[axis.name])
                else:
                    shape.append(dims[axis.name])
            out.append(Tensor(tuple(shape), elem))
        for t in out:
            _check_size(op, t.shape)
        return tuple(out)

    def _call(self, call: Call, dims: dict[str, Any], attrs: Mapping[str, Any]) -> Any:
        fn = self.functions[call.name]
        wanted = _keywords(fn)
        return fn(*[dims.get(a) for a in call.args], **{k: attrs[k] for k in wanted if k in attrs})


_KEYWORDS: dict[Any, tuple[str, ...]] = {}


def _keywords(fn: ShapeFunction) -> tuple[str, ...]:
    found = _KEYWORDS.get(fn)
    if found is None:
        parameters = inspect.signature(fn).parameters.values()
        found = _KEYWORDS[fn] = tuple(p.name for p in parameters if p.kind is p.KEYWORD_ONLY)
    return found


def _named(op: str, name: str) -> Elem:
    try:
        return elem_named(name)
    except IntaglioError:
        raise error(
            "IG0206", f"`{op}` cannot tell its result's element type `{name}`: no operand or attribute gives it"
        ) from None


def _bind_elem(op: str, operand: Operand, given: Tensor, elems: dict[str, Elem]) -> None:
    kind = operand.elem
    have = elems.get(kind)
    if have is not None:
        if have is not given.elem:
            raise error(
                "IG0206", f"`{op}` operand `{operand.name}` is {given.elem}, others are {have}", hint="insert math.cast"
            )
        return
    described = _KINDS.get(kind[0]) if kind[0].isupper() else None
    if described is None:
        if elem_named(kind) is not given.elem:
            raise error(
                "IG0206", f"`{op}` operand `{operand.name}` is {kind}, not {given.elem}", hint="insert math.cast"
            )
        return
    text, classes = described
    if not isinstance(given.elem, classes):
        raise error("IG0206", f"`{op}` operand `{operand.name}` is {text}, not {given.elem}")
    elems[kind] = given.elem


def _agree_shape(op: str, operand: Operand, name: str, shape: Shape, dims: dict[str, Any]) -> None:
    have = dims.get(name)
    if have is None:
        dims[name] = shape
        return
    if len(have) != len(shape) or any(
        a != b and a is not UNKNOWN and b is not UNKNOWN for a, b in zip(have, shape, strict=True)
    ):
        raise error("IG0207", f"`{op}` operand `{operand.name}` has axes {_show(shape)}, another operand {_show(have)}")
    dims[name] = tuple(b if a is UNKNOWN else a for a, b in zip(have, shape, strict=True))


def _check_size(op: str, shape: Shape) -> None:
    """No shape function has to look whether pads crop more than there is, or repeats multiply beyond all bounds."""
    if len(shape) > _MOST_AXES:
        raise error("IG0207", f"`{op}` would have a result of {len(shape)} axes, {_MOST_AXES} are the most")
    total = 1
    for d in shape:
        if isinstance(d, int):
            if d < 0:
                raise error("IG0207", f"`{op}` would have a result of shape {_show(shape)}, with a negative extent")
            total *= max(d, 1)
    if total >= 1 << 63:
        raise error("IG0207", f"`{op}` would have a result of shape {_show(shape)}, more than memory can address")


def _show(shape: Shape) -> str:
    return "[" + ", ".join(map(str, shape)) + "]"


def parse_signature(text: str, functions: Mapping[str, ShapeFunction]) -> Signature:
    """Read a signature; the author's mistakes raise ValueError when the op is declared."""
    left, arrow, right = text.partition("->")
    if not arrow:
        raise ValueError(f"no `->` in signature {text!r}")
    operands = []
    for part in split_top(left):
        m = re.fullmatch(r"(\w+):\s*(\w+)\[(.*)\](\?|\.\.\.)?", part)
        if m is None:
            raise ValueError(f"bad operand {part!r} in signature {text!r}")
        operands.append(Operand(m[1], m[2], _axes(m[3]), m[4] == "?", m[4] == "..."))
    results = []
    for part in split_top(right):
        m = re.fullmatch(r"(\w+)\[(.*)\](\.\.\.)?", part)
        if m is None:
            raise ValueError(f"bad result {part!r} in signature {text!r}")
        results.append(Result(m[1], _axes(m[2]), m[3] == "..."))
    for result in results:
        for axis in result.axes:
            if axis.call is not None and axis.call.name not in functions:
                raise ValueError(f"unknown shape function {axis.call.name!r} in signature {text!r}")
    return Signature(text, tuple(operands), tuple(results), functions)
