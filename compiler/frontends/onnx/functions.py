"""Function bodies: those of the model, and those that ONNX's own schemas give for an op."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from ....ir.diagnostics import error
from ....ir.dims import UNKNOWN
from ....ir.graph import Value
from .call import Call

__all__ = ["Body", "attribute", "model_functions", "most_operands", "opset_versions", "schema_function"]

DEFAULT_DOMAINS = ("", "ai.onnx")


@dataclass(frozen=True, slots=True)
class Body:
    """A function to import in place of a call."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    nodes: tuple[Any, ...]
    defaults: Mapping[str, Any]  # of attributes
    opsets: Mapping[str, int]


_INT, _INTS, _FLOAT, _FLOATS, _STRING, _STRINGS, _TENSOR, _GRAPH = 2, 7, 1, 6, 3, 8, 4, 5


def attribute(a: Any) -> Any:
    """The Python value of an AttributeProto; kinds without a use here stay as they are."""
    kind = a.type or _untyped(a)
    if kind == _INTS:
        return tuple(a.ints)
    if kind == _INT:
        return a.i
    if kind == _FLOAT:
        return a.f
    if kind == _STRING:
        return a.s.decode("utf-8", "replace")
    if kind == _FLOATS:
        return tuple(a.floats)
    if kind == _STRINGS:
        return tuple(s.decode("utf-8", "replace") for s in a.strings)
    if kind == _TENSOR:
        return a.t
    if kind == _GRAPH:
        return a.g
    return a


def _untyped(a: Any) -> int:
    """The kind of an attribute from before IR version 2, which did not say it."""
    fields = {
        "f": _FLOAT,
        "i": _INT,
        "s": _STRING,
        "t": _TENSOR,
        "g": _GRAPH,
        "floats": _FLOATS,
        "ints": _INTS,
        "strings": _STRINGS,
    }
    return next((fields[f.name] for f, _ in a.ListFields() if f.name in fields), 0)


def opset_versions(entries: Any) -> dict[str, int]:
    """The opset of each domain; IG0102 for one of the default domain that the installed `onnx` does not know."""
    import onnx

    found = {("" if e.domain in DEFAULT_DOMAINS else e.domain): e.version for e in entries}
    newest = onnx.defs.onnx_opset_version()
    if not 1 <= found.get("", 1) <= newest:
        raise error(
            "IG0102", f"the model uses opset {found['']}, known are 1 to {newest}", hint="install a newer `onnx`"
        )
    return found


def _body(function: Any, defaults: Mapping[str, Any]) -> Body:
    named = {a.name: attribute(a) for a in function.attribute_proto}
    opsets = opset_versions(function.opset_import)
    return Body(tuple(function.input), tuple(function.output), tuple(function.node), {**named, **defaults}, opsets)


def model_functions(model: Any) -> dict[tuple[str, str, str], Body]:
    """The model's own functions by domain, name and overload."""
    return {
        ("" if f.domain in DEFAULT_DOMAINS else f.domain, f.name, f.overload): _body(f, {}) for f in model.functions
    }


@cache
def most_operands(op_type: str, version: int) -> int | None:
    """How many operands a default-domain op has at most; None for ops that ONNX does not know in this version."""
    import onnx

    try:
        return int(onnx.defs.get_schema(op_type, version, "").max_input)
    except onnx.defs.SchemaError:
        return None


def schema_function(call: Call) -> Body | None:
    """The body that ONNX itself gives for an op in this version."""
    import onnx

    try:
        schema = onnx.defs.get_schema(call.op_type, call.version, "")
    except onnx.defs.SchemaError:
        return None
    if schema.has_function:
        versions = schema.function_opset_versions
    elif schema.has_context_dependent_function:
        versions = schema.context_dependent_function_opset_versions
    else:
        return None
    version = max((v for v in versions if v <= call.version), default=None)
    if version is None:
        return None
    if schema.has_function:
        data = schema.get_function_with_opset_version(version)
    else:
        node = _plain_node(call).SerializeToString()
        types = [_type_proto(v).SerializeToString() for v in call.inputs]
        try:
            data = schema.get_context_dependent_function_with_opset_version(version, node, types)
        except (RuntimeError, ValueError) as e:  # the builders are C++ that trusts its node
            raise call.fail(f"is malformed ({e})") from None
    if not data:
        return None
    function = onnx.FunctionProto.FromString(bytes(data))
    return _body(
        function, {n: attribute(a.default_value) for n, a in schema.attributes.items() if a.default_value.type}
    )


def _plain_node(call: Call) -> Any:
    """The node with an outer function's attributes written out."""
    import onnx

    node = onnx.NodeProto()
    node.CopyFrom(call.node)
    if any(a.ref_attr_name for a in node.attribute):
        kept = [a for a in call.node.attribute if not a.ref_attr_name]
        referred = [a.name for a in call.node.attribute if a.ref_attr_name and a.name in call.attrs]
        del node.attribute[:]
        node.attribute.extend([*kept, *(onnx.helper.make_attribute(n, call.attrs[n]) for n in referred)])
    return node


def _type_proto(value: Value | None) -> Any:
    import onnx

    if value is None:
        return onnx.TypeProto()
    t = value.type
    shape = [d if isinstance(d, int) else None if d is UNKNOWN else str(d) for d in t.shape]
    code = onnx.helper.np_dtype_to_tensor_dtype(t.dtype)  # type: ignore[union-attr]
    return onnx.helper.make_tensor_type_proto(code, shape)
