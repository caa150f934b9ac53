"""From a module to an IRModule: PrimFuncs, and a Relax `main` that calls them one after the other.

`main` takes the sizes of the symbolic dimensions (if there are any) and the graph's inputs, and returns what is
computed: a tensor, or a tuple of several. What needs no kernel has none: reshapes are views, constants are computed
now, results that are inputs or constants are left to the caller (`Plan.outputs`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ....ir.constants import Constant
from ....ir.diagnostics import IntaglioError
from ....ir.dims import UNKNOWN, Extent, symbols
from ....ir.graph import Graph, Module, Node, Value
from ....ir.interpret import run_node
from ....ir.types import Tensor
from ..api import modules, symbolic_dim
from ..kernels import VectorUnit
from ..kernels.blocked.relayout import relayout
from ..kernels.layout import PLAIN, Blocked, Layout
from .elements import array_of, storage_dtype
from .kernel import Call, lower_node
from .layouts import blocked_layouts
from .problems import data_dependent
from .quantized_images import byte_relayout
from .quantized_layouts import byte_layouts

__all__ = ["Plan", "lower_module"]

FOLDED_GROWTH = 1 << 20
"""Bytes that a constant computed now may take beyond its operands."""

EXTERNAL = 1 << 16
"""Bytes from which on a constant is passed to `main` instead of being part of it: it is mapped from a file, once."""

_VIEWS = {"shape.reshape", "shape.squeeze", "shape.unsqueeze", "quant.store", "quant.load"}


@dataclass(frozen=True)
class Plan:
    """`module` is None when nothing is computed. `symbols` are passed first, in this order.

    `outputs` says where each result comes from: ("computed", i), ("input", i) or ("constant", array). `weights` are
    passed after the inputs; smaller constants are in the module. `kernels` are the functions that `main` calls, in
    order, each with the position of its node in the graph (-1: a copy).
    """

    module: Any
    symbols: tuple[str, ...]
    outputs: tuple[tuple[str, Any], ...]
    weights: tuple[Any, ...] = ()
    kernels: tuple[tuple[str, int], ...] = ()


def lower_module(
    module: Module, unit: VectorUnit, *, exact: bool = False, lower: Callable[..., Call] = lower_node
) -> Plan:
    """Lower the main graph, each node by `lower`; raises IG0502 and IG0503."""
    return _Lowering(module.main, unit, exact, lower).run()


class _Lowering:
    def __init__(self, graph: Graph, unit: VectorUnit, exact: bool, lower: Callable[..., Call]) -> None:
        self.graph, self.unit, self.exact, self.lower = graph, unit, exact, lower
        self.relax = modules().relax
        self.builder = self.relax.BlockBuilder()
        names = sorted({s for v in graph.inputs for s in symbols(v.type.shape)})
        self.dims = {n: symbolic_dim(n) for n in names}
        self.constants: dict[Value, Constant] = {}
        self.env: dict[Value, Any] = {}
        self.roots: dict[Value, Value] = {}  # views to what they look at
        self.arrays: dict[int, tuple[Any, Any]] = {}
        self.weights: list[Any] = []
        self.kernels: list[tuple[str, int]] = []
        self.positions = {node: i for i, node in enumerate(graph.nodes)}
        self.params: list[Any] = []
        self.wanted: dict[Value, Blocked] = {}
        self.layouts: dict[Value, Layout] = {}  # of values that are not plain
        self.copies: dict[tuple[Value, Layout], Any] = {}  # values in another layout than their own

    def run(self) -> Plan:
        calls: list[Any] = []
        for node in self.graph.nodes:
            if node.constant is not None:
                self.constants[node.output] = node.constant
            elif not self._fold(node):
                self._check_known(node)
                calls.append(node)
        if not self.exact:
            self.wanted = blocked_layouts(self.graph, calls, self.constants, self.unit)
            self.wanted |= byte_layouts(calls, self.constants, self.unit)
        computed = self._computed(calls)
        if not computed:
            return Plan(None, tuple(self.dims), tuple(self._source(v, {}) for v in self.graph.outputs))
        relax = self.relax
        params = [relax.Var("sizes", relax.ShapeType(list(self.dims.values())))] if self.dims else []
        for i, v in enumerate(self.graph.inputs):
            self.env[v] = relax.Var(f"x{i}", self._type(v.type))
            params.append(self.env[v])
        with self.builder.function("main"):
            with self.builder.dataflow():
                for node in calls:
                    self._emit(node)
                results = [self._result(v) for v in computed]
                out = self.builder.emit_output(relax.Tuple(results) if len(results) > 1 else results[0])
            self.builder.emit_func_output(out, params + self.params)
        position = {v: i for i, v in enumerate(computed)}
        outputs = tuple(self._source(v, position) for v in self.graph.outputs)
        return Plan(self.builder.get(), tuple(self.dims), outputs, tuple(self.weights), tuple(self.kernels))

    # --- what needs no kernel ---------------------------------------------------------------------------------------

    def _fold(self, node: Node) -> bool:
        """Compute a node of constants now, unless its results are large or it fails."""
        if not node.inputs or any(v is not None and v not in self.constants for v in node.inputs):
            return False
        if node.op.has("dynamic") or not all(v.type.static for v in node.outputs):
            return False
        given = sum(self.constants[v].array.nbytes for v in node.inputs if v is not None)
        made = sum(_nbytes(v) for v in node.outputs)
        if made > 8 * given + FOLDED_GROWTH:
            return False
        try:
            with np.errstate(all="ignore"):
                arrays = run_node(node, [None if v is None else self.constants[v].array for v in node.inputs], {})
        except IntaglioError:
            return False
        for v, array in zip(node.outputs, arrays, strict=True):
            self.constants[v] = Constant(array, v.name)
        return True

    def _computed(self, calls: list[Node]) -> list[Value]:
        """The distinct results that `main` has to return."""
        here = {v for n in calls for v in n.outputs}
        return list(dict.fromkeys(v for v in self.graph.outputs if v in here))

    def _source(self, value: Value, position: dict[Value, int]) -> tuple[str, Any]:
        if value in position:
            return ("computed", position[value])
        if value in self.constants:
            return ("constant", self.constants[value].array)
        return ("input", self.graph.inputs.index(value))

    def _check_known(self, node: Node) -> None:
        if node.op.has("dynamic") or any(UNKNOWN in v.type.shape for v in node.outputs):
            raise data_dependent(node)

    # --- calls ------------------------------------------------------------------------------------------------------

    def _extent(self, d: Extent) -> Any:
        if isinstance(d, int):
            return d
        total: Any = 0
        for names, c in d.terms:
            term: Any = c
            for name in names:
                term = self.dims[name] * term
            total = term if isinstance(total, int) and total == 0 else total + term
        return total

    def _shape(self, shape: tuple[Extent, ...]) -> list[Any]:
        return [self._extent(d) for d in shape]

    def _type(self, type: Any, layout: Layout = PLAIN) -> Any:
        return self.relax.TensorType(layout.shape(self._shape(type.shape)), storage_dtype(type.elem))

    def _operand(self, x: Value | Any, layout: Layout = PLAIN) -> Any:
        """A value or an array as an argument, copied where the value lies otherwise in memory."""
        if isinstance(x, Value):
            if x in self.env:
                own = self.layouts.get(x, PLAIN)
                return self.env[x] if own == layout else self._relaid(x, own, layout)
            x = self.constants[x].array
        array = array_of(x)
        found = self.arrays.get(id(x))
        if found is None:
            if array.nbytes >= EXTERNAL and array.ndim:
                made = self.relax.Var(f"w{len(self.weights)}", self.relax.TensorType(array.shape, str(array.dtype)))
                self.weights.append(array)
                self.params.append(made)
            else:
                made = self.relax.const(constant_tensor(array), str(array.dtype))
            found = self.arrays[id(x)] = (x, made)  # holds x, or its id could be reused
        return found[1]

    def _emit(self, node: Node) -> None:
        if node.op.name in _VIEWS and 0 not in node.output.type.shape:  # Relax does not reshape nothing into nothing
            self._view(node)
            return
        wanted = self.wanted.get(node.outputs[0], PLAIN)
        call = self.lower(node, self.constants, self.unit, exact=self.exact, layouts=self.layouts, wanted=wanted)
        gvar = self.builder.add_func(call.func, node.op.name.replace(".", "_"))
        if call.layout is not PLAIN:
            self.layouts[node.output] = call.layout
        types = [self._type(v.type, call.layout) for v in call.results]
        args = [
            self._operand(x, call.layouts.get(x, PLAIN)) if isinstance(x, Value) else self._operand(x)
            for x in call.operands
        ]
        self.kernels.append((gvar.name_hint, self.positions[node]))
        made = self.builder.emit(self.relax.call_tir(gvar, args, types if len(types) > 1 else types[0]))
        if len(call.results) == 1:
            self.env[call.results[0]] = made
        else:
            for i, v in enumerate(call.results):
                self.env[v] = self.builder.emit(self.relax.TupleGetItem(made, i))

    def _view(self, node: Node) -> None:
        (x,) = node.inputs
        assert x is not None
        root = self.roots.get(x, x)
        self.roots[node.output] = root
        made = self._operand(x)
        if x in self.layouts:  # a plain copy, which nobody else holds
            self.roots[node.output] = node.output
        if node.output.type.shape != x.type.shape:
            made = self.builder.emit(self.relax.op.reshape(made, self._shape(node.output.type.shape)))
        self.env[node.output] = made

    def _result(self, value: Value) -> Any:
        """A result of `main`, copied when it would share memory with an input, a constant or another result."""
        root = self.roots.get(value, value)
        return self._operand(value) if root is value else self._copied(value)

    def _relaid(self, value: Value, own: Layout, layout: Layout) -> Any:
        """A copy of a value in another layout, made once."""
        key = (value, layout)
        if key not in self.copies:
            assert isinstance(value.type, Tensor)
            shape, dtype = self._shape(value.type.shape), storage_dtype(value.type.elem)
            if dtype in ("float32", "uint16"):
                kernel = relayout(shape, x_layout=own, out_layout=layout, dtype=dtype, unit=self.unit)
            else:
                kernel = byte_relayout(shape, dtype, own, layout, self.unit)
            assert kernel is not None, "images have a copy in every layout"
            gvar = self.builder.add_func(kernel.func, "relayout")
            self.kernels.append((gvar.name_hint, -1))
            made = self.relax.call_tir(gvar, [self.env[value]], self._type(value.type, layout))
            self.copies[key] = self.builder.emit(made)
        return self.copies[key]

    def _copied(self, value: Value) -> Any:
        from .copy import copy_kernel

        assert isinstance(value.type, Tensor)
        gvar = self.builder.add_func(copy_kernel(value.type, self.unit), "copy")
        self.kernels.append((gvar.name_hint, -1))
        return self.builder.emit(self.relax.call_tir(gvar, [self.env[value]], self._type(value.type)))


def _nbytes(value: Value) -> int:
    type = value.type
    assert isinstance(type, Tensor)
    return math.prod(d for d in type.shape if isinstance(d, int)) * type.dtype.itemsize


def constant_tensor(array: Any) -> Any:
    """A constant as TVM keeps it; aligned data is shared, not copied."""
    runtime = modules().tvm.runtime
    if array.ndim == 0:
        return runtime.tensor(array)
    if array.flags.c_contiguous and array.ctypes.data % 64 == 0 and array.flags.writeable:
        return runtime.from_dlpack(array)
    return runtime.tensor(np.ascontiguousarray(array))
