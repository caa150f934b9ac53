"""The importer: walks an ONNX graph and emits IR nodes through converters, one per ONNX op (the `*_ops` modules).

A converter takes a `Call`, which has the operands, the attributes and `emit`. Ops without a converter but with a
function body (in the model, or in ONNX's own schema) are imported by expanding it. Everything that can be said of the
model's mistakes is said with the node's name.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ....ir.constants import Constant
from ....ir.diagnostics import Diagnostic, IntaglioError, error
from ....ir.dims import RESERVED, Extent, dim
from ....ir.edit import Editor
from ....ir.graph import Graph, Location, Node, Value, attributes
from ....ir.interpret import run_node
from ....ir.ops import OPS
from ....ir.types import Tensor
from . import known
from .call import CONVERTERS, Call, called
from .functions import DEFAULT_DOMAINS, Body, attribute, most_operands, schema_function
from .tensors import MOST_AXES, constant, elem_type, text

__all__ = ["Importer"]

MAX_DEPTH = 32  # bodies in bodies
MAX_BODY_NODES = 100_000  # nodes imported from bodies: a small file can ask for as many as it likes

_NOTHING: Mapping[str, Any] = {}


class _UnavailableError(Exception):
    """Something lacks because an op is not supported, which is already reported."""


class Importer:
    """State of one import: the editor, the values by name, and what is known of them."""

    def __init__(
        self,
        opsets: Mapping[str, int],
        folder: Path | None,
        functions: Mapping[tuple[str, str, str], Body],
        bound: Mapping[str, Any],
    ) -> None:
        self.opsets, self.folder, self.functions = dict(opsets), folder, functions
        self.bound = bound  # inputs whose values are given: constants of this import
        self.blocking: set[str] = set()  # inputs on which something depends that should be known before running
        self.editor = Editor()
        self.symbolic: dict[Value, Any] = {}  # integer vectors of symbolic extents
        self.encoded: dict[Value, Value] = {}  # stored integers -> the quantised value they came from
        self.unsupported: dict[tuple[str, str], Diagnostic] = {}
        self._depth = 0  # of function bodies, whose nodes are located at the call
        self._nesting = 0  # of all bodies
        self._body_nodes = 0
        self._noted: set[Value] = set()
        self._symbols: dict[str, str] = {}  # ONNX dim_param -> our symbol
        self._taken: set[str] = set()
        self._tensors: dict[int, tuple[Any, Constant]] = {}
        self._bodies: dict[tuple[str, int], Body] = {}

    # --- graphs -------------------------------------------------------------------------------------------------------

    def run(self, graph: Any) -> Graph:
        """Import the model's main graph."""
        env: dict[str, Value] = {}
        initial = {t.name for t in graph.initializer}
        for info in graph.input:
            text(info.name)
            if info.name in initial:  # before IR version 4, initializers had to be listed as inputs
                continue
            if info.name in env:
                raise error("IG0109", f"the model has two inputs called `{info.name}`")
            if info.name in self.bound:
                env[info.name] = self.editor.constant(self.bound[info.name], info.name)
            else:
                env[info.name] = self.editor.input(info.name, self._input_type(info))
        try:
            self.body(graph, env, _NOTHING)
        except IntaglioError as e:
            raise IntaglioError.of([*self.unsupported.values(), *e.diagnostics]) from None
        if self.unsupported:
            raise IntaglioError.of(self.unsupported.values())
        if not graph.output:
            raise error("IG0109", "the model has no outputs")
        for info in graph.output:
            if text(info.name) not in env:
                raise error("IG0109", f"nothing in the model computes its output `{info.name}`")
            if info.name in self.editor.output_names:
                raise error("IG0109", f"the model has two outputs called `{info.name}`")
            self.editor.output(env[info.name], info.name)
        return self.editor.freeze()

    def body(self, graph: Any, env: dict[str, Value], outer: Mapping[str, Any]) -> None:
        """Import initializers and nodes of a graph into `env`; `outer` are the attributes of an enclosing function."""
        defined: set[str] = set() if self._nesting else set(env)
        for t in graph.initializer:
            if t.name in defined:
                raise error("IG0109", f"the model defines `{t.name}` twice: as an initializer, and before")
            defined.add(t.name)
            env[t.name] = self.editor.constant(self.tensor(t), t.name)
        if graph.sparse_initializer:
            name = graph.sparse_initializer[0].values.name
            raise error("IG0105", f"initializer `{name}` is sparse, which is not supported", hint="convert it to dense")
        for node in graph.node:
            for name in node.output:
                text(name)
                if name in defined:
                    raise error(
                        "IG0109", f"node {called(node)} ({node.op_type}) defines `{name}`, which exists already"
                    )
                if name:
                    defined.add(name)
            self.node(node, env, outer)

    def tensor(self, t: Any, name: str = "") -> Constant:
        """The data of a TensorProto, read once also where a body is imported many times."""
        if not self._nesting:
            return constant(t, self.folder, name)
        found = self._tensors.get(id(t))
        if found is None:  # keeping `t` keeps its id its own
            found = self._tensors[id(t)] = (t, constant(t, self.folder, name))
        return found[1]

    def inline(self, graph: Any, scope: Mapping[str, Value], outer: Mapping[str, Any]) -> tuple[Value, ...]:
        """Import a subgraph (a branch that is always taken, an iteration) in place; its outputs."""
        env = dict(scope)
        loc = self.editor.loc
        self._enter(1 + len(graph.node) + len(graph.initializer))
        try:
            self.body(graph, env, outer)
        finally:
            self._nesting -= 1
        self.editor.loc = loc
        for o in graph.output:
            if o.name not in env:
                if self.unsupported:
                    raise _UnavailableError
                raise error("IG0109", f"nothing in a subgraph computes its output `{o.name}`")
        return tuple(env[o.name] for o in graph.output)

    def _enter(self, nodes: int) -> None:
        self._body_nodes += nodes
        if self._nesting >= MAX_DEPTH or self._body_nodes > MAX_BODY_NODES:
            what = f"{MAX_DEPTH} levels deep" if self._nesting >= MAX_DEPTH else f"to more than {MAX_BODY_NODES} nodes"
            raise error(
                "IG0104", f"bodies of functions, branches and loops expand {what}", hint="do functions call themselves?"
            )
        self._nesting += 1

    def note_blocking(self, value: Value | None) -> None:
        """Remember the graph inputs behind a value that should have been known."""
        stack = [value]
        while stack:
            v = stack.pop()
            if v is None or v in self._noted:
                continue
            self._noted.add(v)
            if v.node is None:
                self.blocking.add(v.name)
            else:
                stack.extend(v.node.inputs)

    # --- inputs -------------------------------------------------------------------------------------------------------

    def _input_type(self, info: Any) -> Tensor:
        what = f"input `{info.name}`"
        t = info.type
        if t.HasField("optional_type"):
            t = t.optional_type.elem_type
        if not t.HasField("tensor_type"):
            raise error("IG0103", f"{what} is no dense tensor, which this compiler does not compute with")
        tensor = t.tensor_type
        elem = elem_type(tensor.elem_type, what)
        if not tensor.HasField("shape"):
            raise error(
                "IG0108",
                f"{what} has no shape",
                hint="set its rank in the model, e.g. with onnx.tools.update_model_dims",
            )
        if len(tensor.shape.dim) > MOST_AXES:
            raise error("IG0103", f"{what} has {len(tensor.shape.dim)} axes, {MOST_AXES} are the most")
        shape: list[Extent] = []
        for i, d in enumerate(tensor.shape.dim):
            if d.HasField("dim_value") and d.dim_value >= 0:
                shape.append(d.dim_value)
            else:
                shape.append(dim(self._symbol(text(d.dim_param) or f"{info.name}_d{i}")))
        return Tensor(tuple(shape), elem)

    def _symbol(self, name: str) -> str:
        """Our symbol for a dimension's ONNX name: the name itself if it can be one."""
        if name not in self._symbols:
            clean = "".join(c if c.isascii() and (c.isalnum() or c == "_") else "_" for c in name)
            clean = clean if clean and not clean[0].isdigit() else f"d{clean}"
            while clean in self._taken or clean in RESERVED:
                clean += "_"
            self._taken.add(clean)
            self._symbols[name] = clean
        return self._symbols[name]

    # --- nodes --------------------------------------------------------------------------------------------------------

    def node(self, node: Any, env: dict[str, Value], outer: Mapping[str, Any], absent: Collection[str] = ()) -> None:
        """Import one node.

        In a function body, `outer` has the attributes of the call, `absent` the names of the operands it does not give.
        """
        inputs: list[Value | None] = []
        for name in node.input:
            value = env.get(name) if name else None
            if value is None and name and name not in absent:
                if self.unsupported:  # a consequence of what is already reported
                    return
                raise error("IG0109", f"node {called(node)} ({node.op_type}) reads `{name}`, which nothing computes")
            inputs.append(value)
        attrs = {}
        for a in node.attribute:
            if not a.ref_attr_name:
                attrs[a.name] = attribute(a)
            elif a.ref_attr_name in outer:
                attrs[a.name] = outer[a.ref_attr_name]
        domain = "" if node.domain in DEFAULT_DOMAINS else text(node.domain)
        call = Call(self, node, inputs, attrs, self.opsets.get(domain, 1), env, outer)
        if self._depth == 0:
            self.editor.loc = Location((text(node.name) or (call.wanted[0] if call.wanted else call.op_type),))
        try:
            results = self._convert(call, domain)
        except _UnavailableError:
            return
        for name, value in zip(call.wanted, results, strict=False):
            if name:
                if value is None:
                    raise call.fail(f"output `{name}` is not supported")
                env[name] = value
                if not value.name and value.node is not None and self._depth == 0:
                    value.name = name

    def _convert(self, call: Call, domain: str) -> Sequence[Value | None]:
        """The results of a node: by its converter, or else by its function body."""
        convert = CONVERTERS.get(f"{domain}::{call.op_type}" if domain else call.op_type)
        most = None if domain else most_operands(call.op_type, call.version)
        if most is not None and len(call) > most:
            raise call.fail(f"takes {most} operands, {len(call)} are given")
        try:
            results = NotImplemented if convert is None else convert(call)
            if results is NotImplemented:
                return self._expand(call, domain)
        except IntaglioError as e:
            raise _at(e, call) from None
        except (OverflowError, ValueError, TypeError, IndexError, KeyError, AttributeError, ZeroDivisionError) as e:
            # converters state what they need; what is left is an attribute that makes no sense at all
            raise call.fail(f"is malformed ({type(e).__name__}: {e})") from e
        return (results,) if isinstance(results, Value) else results

    def _expand(self, call: Call, domain: str) -> Sequence[Value | None]:
        """Import a function body in place of the call."""
        body = self.functions.get((domain, call.op_type, call.node.overload))
        if body is None and not domain:
            body = schema_function(call)
        if body is None:
            self._report_unsupported(call, domain)
            raise _UnavailableError
        if len(call) > len(body.inputs):
            raise call.fail(f"takes {len(body.inputs)} operands, {len(call)} are given")
        env = {name: v for name, v in zip(body.inputs, call.inputs, strict=False) if v is not None}
        absent = {name for name in body.inputs if name not in env}
        attrs = {**body.defaults, **call.attrs}
        self._enter(1 + len(body.nodes))
        saved, self.opsets = self.opsets, {**self.opsets, **body.opsets}
        self._depth += 1
        try:
            for node in body.nodes:
                self.node(node, env, attrs, absent)
        finally:
            self.opsets = saved
            self._depth -= 1
            self._nesting -= 1
        if self.unsupported and any(name not in env for name in body.outputs):
            raise _UnavailableError
        return [env.get(name) for name in body.outputs]

    def _report_unsupported(self, call: Call, domain: str) -> None:
        key = (domain, call.op_type)
        if key not in self.unsupported:
            where = (
                f"ONNX op `{call.op_type}` ({domain or 'ai.onnx'}, opset {call.version}) of node {called(call.node)}"
            )
            hint = "see the support table in README.md, or add it as a plug-in"
            self.unsupported[key] = Diagnostic("IG0104", f"{where} is not supported", hint=hint)

    # --- emitting -----------------------------------------------------------------------------------------------------

    def emit(self, name: str, inputs: Sequence[Value | None], attrs: Mapping[str, Any]) -> tuple[Value, ...]:
        """Results of an IR node: constants when the operands are and it is cheap, else with what is known of them."""
        op = OPS[name]
        node = self.editor.apply(op, inputs, attributes(op.normal(attrs)))
        symbolic = self.symbolic
        symbolic_operand = name == "shape.extents"
        if not symbolic_operand:
            for v in node.inputs:
                if v is None:
                    continue
                if v in symbolic:
                    symbolic_operand = True
                elif v.node is None or v.node.op.name != "const":
                    return node.outputs
        if symbolic_operand:
            return self._symbolic(node)
        return self._fold(node) if known.foldable(node) else node.outputs

    def _symbolic(self, node: Node) -> tuple[Value, ...]:
        results = known.symbolic_result(node, self.symbolic)
        if results is None:
            return node.outputs
        out = []
        for v, array in zip(node.outputs, results, strict=True):
            plain = known.plain(array, v.type.dtype)  # type: ignore[union-attr]
            if plain is not None:
                out.append(self.editor.constant(plain))
            else:
                self.symbolic[v] = array
                out.append(v)
        return tuple(out)

    def _fold(self, node: Node) -> tuple[Value, ...]:
        try:
            with np.errstate(all="ignore"):
                results = run_node(node, [known.array_of(v) for v in node.inputs], {})
        except IntaglioError:
            return node.outputs  # it fails when it runs, if it runs
        source = next((v.node.constant.name for v in node.inputs if v is not None and v.node and v.node.constant), "")
        return tuple(
            self.editor.constant(array, source if array.size > 16 else "", v.type)
            for v, array in zip(node.outputs, results, strict=True)
        )


def _at(e: IntaglioError, call: Call) -> IntaglioError:
    """Say of each finding which node it came from, unless that is said already."""
    name = called(call.node)
    note = f"from: ONNX node {name} ({call.op_type})"
    return IntaglioError.of(
        d
        if name in d.message or any(n.startswith("from: ONNX") for n in d.notes)
        else replace(d, notes=(*d.notes, note))
        for d in e.diagnostics
    )
