"""What a converter sees of the ONNX node it converts, and the table of converters."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ....ir.diagnostics import IntaglioError, error
from ....ir.dims import Extent
from ....ir.graph import Value, attributes
from ....ir.ops import get
from ....ir.types import Elem, Type
from . import known
from .tensors import text

if TYPE_CHECKING:
    from .importer import Importer

__all__ = ["CONVERTERS", "Call", "called", "converter", "element"]

Converter = Callable[["Call"], Any]
CONVERTERS: dict[str, Converter] = {}


def converter(*names: str) -> Callable[[Converter], Converter]:
    """Mark the converter of the default-domain ops `names`.

    It returns a value, or one for each output, or NotImplemented: then the op's function body is imported instead.
    """

    def mark(fn: Converter) -> Converter:
        for name in names:
            CONVERTERS[name] = fn
        return fn

    return mark


def called(node: Any) -> str:
    """How a diagnostic speaks of an ONNX node."""
    return f'"{node.name}"' if node.name else f'producing "{node.output[0] if node.output else "?"}"'


def element(value: Value) -> Elem:
    """The element type of a tensor."""
    return value.type.elem  # type: ignore[union-attr]


class Call:
    """One ONNX node being converted."""

    __slots__ = ("attrs", "importer", "inputs", "node", "op_type", "outer", "scope", "version", "wanted")

    def __init__(
        self,
        importer: Importer,
        node: Any,
        inputs: list[Value | None],
        attrs: Mapping[str, Any],
        version: int,
        scope: Mapping[str, Value],
        outer: Mapping[str, Any],
    ) -> None:
        self.importer, self.node, self.inputs, self.attrs, self.version = importer, node, inputs, attrs, version
        self.scope, self.outer = scope, outer  # what a subgraph sees: values, and attributes of an enclosing function
        self.op_type = text(node.op_type)
        self.wanted: list[str] = list(node.output)

    # --- operands -----------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.inputs)

    def has(self, i: int) -> bool:
        """Whether operand i is there."""
        return i < len(self.inputs) and self.inputs[i] is not None

    def __getitem__(self, i: int) -> Value:
        """Operand i; IG0107 when the node lacks it."""
        if i < len(self.inputs):
            value = self.inputs[i]
            if value is not None:
                return value
        raise self.fail(f"needs operand {i}")

    def optional(self, i: int) -> Value | None:
        return self.inputs[i] if i < len(self.inputs) else None

    def wants(self, i: int) -> bool:
        """Whether output i is used by name."""
        return i < len(self.wanted) and bool(self.wanted[i])

    def array(self, i: int) -> Any:
        """Operand i as an array if it is a constant, else None."""
        return known.array_of(self.optional(i))

    def extents(self, i: int) -> tuple[Extent, ...] | None:
        """Operand i as extents if they are known (up to symbols), else None."""
        return known.extents_of(self.optional(i), self.importer.symbolic)

    def numbers(self, i: int) -> tuple[int, ...] | None:
        """Operand i as plain integers if they are known, else None."""
        found = self.extents(i)
        if found is None or known.has_symbols(found):
            return None
        return found  # type: ignore[return-value]

    def axis(self, axis: int, rank: int) -> int:
        """`axis` counted from the front; IG0107 when there is no such axis among `rank`."""
        if not -rank <= axis < rank:
            raise self.fail(f"axis {axis} is outside {rank} axes")
        return axis % rank

    def entries(self, i: int) -> Extent:
        """How many entries operand i has, which must be a vector."""
        shape = self[i].type.shape
        if len(shape) != 1:
            raise self.fail(f"operand {i} has {len(shape)} axes, expected a vector")
        return shape[0]

    def number(self, i: int) -> int | None:
        """Operand i as one integer if it is known, else None."""
        found = self.numbers(i)
        if found is not None and len(found) != 1:
            raise self.fail(f"operand {i} has {len(found)} elements, expected one")
        return None if found is None else found[0]

    # --- attributes ---------------------------------------------------------------------------------------------------

    def attr(self, name: str, default: Any = None) -> Any:
        """An attribute, checked to be of the default's kind."""
        value = self.attrs.get(name, default)
        if default is not None and value is not default:
            kind = type(default)
            if kind is float and isinstance(value, int):
                return float(value)
            if not isinstance(value, kind):
                raise self.fail(f"attribute `{name}` is {value!r}, expected {kind.__name__}")
        return value

    def choice(self, name: str, default: str, allowed: Collection[str]) -> str:
        """A string attribute that is one of `allowed`."""
        value: str = self.attr(name, default)
        if value not in allowed:
            raise self.fail(f"attribute `{name}` is {value!r}, expected one of {', '.join(allowed)}")
        return value

    def ints(self, name: str) -> tuple[int, ...] | None:
        """A list-of-integers attribute, None when absent."""
        value = self.attrs.get(name)
        if value is None:
            return None
        if not isinstance(value, tuple) or not all(isinstance(v, int) for v in value):
            raise self.fail(f"attribute `{name}` is {value!r}, expected integers")
        return value

    def per_axis(self, name: str, count: int, default: int) -> tuple[int, ...]:
        """A list-of-integers attribute of `count` entries; `default` for each when absent."""
        found = self.ints(name) or (default,) * count
        if len(found) != count:
            raise self.fail(f"attribute `{name}` has {len(found)} entries, expected {count}")
        return found

    # --- results ------------------------------------------------------------------------------------------------------

    def emit(self, op: str, *inputs: Value | None, **attrs: Any) -> Value:
        """The first result of an IR node; folded when all is constant."""
        return self.importer.emit(op, inputs, attrs)[0]

    def emit_all(self, op: str, *inputs: Value | None, **attrs: Any) -> tuple[Value, ...]:
        return self.importer.emit(op, inputs, attrs)

    def constant(self, array: Any, dtype: Any = None) -> Value:
        return self.importer.editor.constant(np.asarray(array, dtype=dtype))

    def like(self, number: float, value: Value) -> Value:
        """A scalar constant of the element type of `value`."""
        return self.constant(np.asarray(number).astype(value.type.dtype))  # type: ignore[union-attr]

    def dynamic(
        self, op: str, operands: Sequence[Value], params: Mapping[str, Value], result: Type, **fixed: Any
    ) -> Value:
        """`dyn.apply`: the op with attributes computed by the model. The interpreter runs it, compilers freeze it."""
        target = get(op)
        attrs: dict[str, Any] = {"op": op, "params": tuple(params)}
        if fixed:
            attrs["fixed"] = attributes(target.normal(fixed))
        for v in params.values():
            self.importer.note_blocking(v)
        editor = self.importer.editor
        return editor.apply("dyn.apply", [*operands, *params.values()], attributes(attrs), types=(result,)).outputs[0]

    # --- diagnostics --------------------------------------------------------------------------------------------------

    def needs(self, what: str, *operands: int) -> IntaglioError:
        """What must be known before the model runs is computed by `operands`; the inputs behind them are noted."""
        for i in operands:
            self.importer.note_blocking(self.optional(i))
        return self.fail(f"computes {what}; it must be known before the model runs", "IG0108", "make it a constant")

    def fail(self, why: str, code: str = "IG0107", hint: str = "") -> IntaglioError:
        """The node cannot be converted."""
        label = ", ".join("absent" if v is None else str(v.type) for v in self.inputs)
        where = f"ONNX op `{self.op_type}` (opset {self.version}) of node {called(self.node)}"
        return error(code, f"{where}: {why}", label=label, hint=hint)
