"""An ONNX graph being written: names, initializers, nodes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ....ir.constants import Constant
from ....ir.diagnostics import IntaglioError, error
from ....ir.dims import Dim
from ....ir.graph import Graph, Node, Value
from ....ir.types import Affine, Elem, Tensor

__all__ = ["OPSET", "Writer", "refused"]

OPSET = 21
"""Quantised casts to and from 4 bits, and in blocks."""


def refused(node: Node, why: str) -> IntaglioError:
    """A node cannot be written."""
    notes = f" (from {node.loc})" if node.loc is not None else ""
    hint = "run passes that rewrite it (`legalize`), or export the model before it was compiled"
    return error("IG0450", f"`{node.op.name}`{notes} cannot be exported: {why}", hint=hint)


class Writer:
    """`nodes` and `initializers` are those of the ONNX graph; values of the IR are looked up by `writer[value]`."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []
        self.readers: dict[Value, tuple[Node | None, ...]] = {}  # None: it is a result of the graph
        self.pending: dict[Value, Any] = {}  # values that are written together with their only reader
        self._names: dict[Value, str] = {}
        self._used: set[str] = set()
        self._constants: dict[Value, Constant] = {}
        self._arrays: dict[int, tuple[Any, str]] = {}

    def enter(self, graph: Graph) -> None:
        """Note who reads what in a graph."""
        self.readers = {}
        for node in graph.nodes:
            for v in dict.fromkeys(node.inputs):
                if v is not None:
                    self.readers[v] = (*self.readers.get(v, ()), node)
        for v in graph.outputs:
            self.readers[v] = (*self.readers.get(v, ()), None)

    # --- names --------------------------------------------------------------------------------------------------------

    def fresh(self, wanted: str = "") -> str:
        base = wanted or "v"
        name, i = base, 0
        while name in self._used or not name:
            i += 1
            name = f"{base}_{i}"
        self._used.add(name)
        return name

    def name(self, value: Value, wanted: str = "") -> str:
        """Give a value a name."""
        made = self._names[value] = self.fresh(wanted or value.name)
        return made

    def alias(self, value: Value, other: Value) -> None:
        """A value is another one."""
        if other in self._constants:
            self._constants[value] = self._constants[other]
        if other in self._names:
            self._names[value] = self._names[other]

    def set(self, value: Value, name: str) -> None:
        """A value is what has that name."""
        self._names[value] = name

    def __getitem__(self, value: Value) -> str:
        found = self._names.get(value)
        if found is None:
            found = self._names[value] = self.array(self._constants[value].array, self._constants[value].name)
        return found

    # --- constants ----------------------------------------------------------------------------------------------------

    def constant(self, value: Value, constant: Constant) -> None:
        """Remember a constant; it is written when it is used."""
        self._constants[value] = constant

    def known(self, value: Value | None) -> Any:
        """The array of a constant, else None."""
        found = None if value is None else self._constants.get(value)
        return None if found is None else found.array

    def array(self, array: Any, name: str = "") -> str:
        """An initializer."""
        import onnx

        found = self._arrays.get(id(array))
        if found is not None:
            return found[1]
        made = self.fresh(name or "c")
        self.initializers.append(onnx.numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), made))
        self._arrays[id(array)] = (array, made)  # holds the array, or its id could be reused
        return made

    def scalar(self, value: Any, dtype: Any = np.float32) -> str:
        return self.array(np.asarray(value, dtype))

    # --- nodes --------------------------------------------------------------------------------------------------------

    def add(self, op: str, inputs: Sequence[str], *, output: str = "", count: int = 1, **attrs: Any) -> str:
        """A node; the name of its first result."""
        import onnx

        names = [output] if output else [self.fresh(op.lower()) for _ in range(count)]
        self._used.update(names)
        given = {k: v for k, v in attrs.items() if v is not None}
        self.nodes.append(onnx.helper.make_node(op, list(inputs), names, **given))
        return names[0]

    def emit(self, node: Node, op: str, inputs: Sequence[str], **attrs: Any) -> None:
        """A node whose result is that of an IR node, and has its name."""
        self.add(op, inputs, output=self.name(node.output), **attrs)

    # --- types --------------------------------------------------------------------------------------------------------

    def code(self, elem: Elem) -> int:
        """ONNX's number of an element type; quantised ones are what they are stored as."""
        import onnx

        plain = elem.store if isinstance(elem, Affine) else elem
        return int(onnx.helper.np_dtype_to_tensor_dtype(plain.dtype))

    def info(self, value: Value, name: str) -> Any:
        """An input or output of the graph."""
        import onnx

        type = value.type
        assert isinstance(type, Tensor)
        shape = [str(d) if isinstance(d, Dim) else d for d in type.shape]
        return onnx.helper.make_tensor_value_info(name, self.code(type.elem), shape)
