"""From a network that rounds to one that computes in integers; see docs/integer.md."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...ir.graph import Graph, Node, Value
from ...ir.types import Affine, Float, Int, Tensor
from ..definition import Context, define_pass
from ..options import option
from ..rebuild import Rebuild, array_of
from .accuracy import Bound, function_bound, layer_norm_bound, softmax_bound
from .convert import RULES, elementwise
from .emit import ENTRIES, Encoding, codes_of, function_range, reals_of
from .norms import softmax_of_floats
from .values import Code, Fixed, Function, Moved, Problem, Real, code, fixed, plain_encoding, storage
from .whole import WHOLE, entered, summed

__all__ = ["integer"]

NAMED = 12
"""Nodes that a note names."""

_CASTS = {"const", "quant.quantize", "quant.dequantize", "quant.store", "quant.load"}


@dataclass(frozen=True)
class Integer:
    whole: bool = option(False, "softmax and layer norm of sums too, which transformers otherwise keep in floats")


@define_pass("integer", contract="lossy", options=Integer)
def integer(graph: Graph, options: Integer, context: Context) -> Graph:
    """Compute with the stored integers what is computed between `dequantize` and `quantize`.

    Convolutions and products of codes are sums in int32, to which the bias is added as an integer; additions, clamps
    and the change of scale are one `quant.requantize` or `quant.add` with one rounding; any function of one code is a
    table. It is proved, channel by channel, that no sum exceeds 32 bits; products that could are split. What has no
    integer form stays float between casts, and is named in the ledger. The result differs from simulated quantization
    by a step of the last bit at times, where a sum in floats rounds to the other side.

    Before:

        graph @main(%x: f32[1, 4]) -> (y: f32[1, 2]) {
          %w = const [1, 0, 2, 1, 0, 3, 1, 1] : q<i8, f32, scale=0.5>[4, 2]
          %q = quant.quantize(%x) {to = q<u8, f32, scale=0.25, zero=8>} : q<u8, f32, scale=0.25, zero=8>[1, 4]
          %a = quant.dequantize(%q) {to = f32} : f32[1, 4]
          %b = quant.dequantize(%w) {to = f32} : f32[4, 2]
          %m = nn.matmul(%a, %b) : f32[1, 2]
          %r = math.relu(%m) : f32[1, 2]
          %s = quant.quantize(%r) {to = q<u8, f32, scale=0.5>} : q<u8, f32, scale=0.5>[1, 2]
          %y = quant.dequantize(%s) {to = f32} : f32[1, 2]
          return %y
        }

    After `integer`:

        graph @main(%x: f32[1, 4]) -> (y: f32[1, 2]) {
          %0 = quant.quantize(%x) {to = q<u8, f32, scale=0.25, zero=8>} : q<u8, f32, scale=0.25, zero=8>[1, 4]
          %1 = quant.store(%0) {to = u8} : u8[1, 4]
          %2 = const [1, 0, 2, 1, 0, 3, 1, 1] : i8[4, 2]
          %3 = quant.matmul(%1, %2) {a_zero = 8} : i32[1, 2]
          %4 = const 1073741824 : i32[]
          %5 = const 32 : i32[]
          %6 = quant.requantize(%3, %4, %5) {to = u8} : u8[1, 2]
          %7 = quant.load(%6) {to = q<u8, f32, scale=0.5>} : q<u8, f32, scale=0.5>[1, 2]
          %y = quant.dequantize(%7) {to = f32} : f32[1, 2]
          return %y
        }
    """
    if not any(_encodes(node) for node in graph.nodes):
        return graph
    return _Walk(graph, context, options.whole).run()


def _encodes(node: Node) -> bool:
    """Whether a node casts activations to or from codes."""
    if node.op.name not in ("quant.quantize", "quant.dequantize"):
        return False
    value = node.output if node.op.name == "quant.quantize" else node.inputs[0]
    return value is not None and array_of(value) is None and plain_encoding(value.type.elem)  # type: ignore[union-attr]


class _Walk:
    """`reals` has what stands for float values of the old graph, `codes` for the encoded ones."""

    def __init__(self, graph: Graph, context: Context, whole: bool = False) -> None:
        self.graph, self.context, self.whole = graph, context, whole
        self.to = Rebuild(graph)
        self.editor = self.to.editor
        self.reals: dict[Value, Real] = {}
        self.codes: dict[Value, Code] = {}
        self.outputs = set(graph.outputs)
        self.users = graph.uses()
        self.casts = _clamping(graph)
        self.kept: list[str] = []
        self.bounds: dict[str, list[Bound]] = {}
        self.done = 0

    def run(self) -> Graph:
        made = self.to.finish(lambda _, node: self._step(node))
        text = f"{self.done} nodes in integers"
        if self.kept:
            more = f" and {len(self.kept) - NAMED} more" if len(self.kept) > NAMED else ""
            text += f"; float stay {', '.join(self.kept[:NAMED])}{more}"
        self.context.note(text)
        for name, bounds in self.bounds.items():
            worst = max(bounds, key=lambda b: b.abs + b.rel)
            self.context.note(f"{len(bounds)} {name}: each within {worst} of the exact one before it is rounded")
        return made

    def _step(self, node: Node) -> None:
        if not self._converted(node):
            for v in node.inputs:
                self._need(v)
            self.to.keep(node)
            self._enter(node)
            return
        for v in node.outputs:
            if v in self.outputs:
                self._need(v)

    def _enter(self, node: Node) -> None:
        """Floats that begin a stream of integers."""
        made = self.to.now.get(node.outputs[0]) if self.whole and len(node.outputs) == 1 else None
        if made is not None:
            given = [None if v is None else self.reals.get(v) for v in node.inputs]
            normed = any(n.op.name == "nn.layer_norm" for n, _ in self.users.get(node.output, ()))
            real = summed(self.editor, node, made) if normed else entered(self.editor, node, made, given)
            if real is not None:
                self.reals[node.output] = real

    def _need(self, v: Value | None) -> None:
        """Have the value itself in the new graph, whatever stands for it."""
        if v is None or v in self.to.now:
            return
        if v in self.codes:
            self.to.now[v] = self._encoded(v)
        else:
            real = self.reals[v]
            if isinstance(real, (Function, Moved)):  # nobody wants its codes: as it was
                assert v.node is not None
                for operand in v.node.inputs:
                    self._need(operand)
                self.to.keep(v.node)
                self.done -= 1
                self._note(v.node, "")
                return
            assert not isinstance(real, Fixed)
            self.to.now[v] = made = reals_of(self.editor, real)
            made.name = made.name or v.name

    def _encoded(self, v: Value) -> Value:
        """Codes as a value of the old type."""
        raw, elem = self.codes[v].raw, v.type.elem  # type: ignore[union-attr]
        if not isinstance(elem, Affine):
            return raw
        assert isinstance(elem.store, Int)
        plain = raw if raw.type.elem is elem.store else self.editor.emit("math.cast", raw, to=elem.store)  # type: ignore[union-attr]
        return self.editor.emit("quant.load", plain, to=elem)

    def _converted(self, node: Node) -> bool:
        """Find something that stands for the result of a node."""
        name = node.op.name
        if name == "const":
            self.to.keep(node)
            self.reals[node.output] = fixed(node.attr("value").array, node.output.type.elem)  # type: ignore[union-attr]
            return True
        if name == "quant.quantize":
            return self._quantize(node)
        if name == "quant.dequantize":
            return self._dequantize(node)
        if name in ("quant.store", "quant.load"):
            return self._recoded(node)
        given = [None if v is None else self.reals.get(v) for v in node.inputs]
        if len(node.outputs) != 1 or all(x is None or isinstance(x, Fixed) for x in given):
            if given and given[0] is not None and name == "shape.transpose":  # a weight that lies the other way
                return self._ruled(node, given) and False
            if self._weighted(node):
                return True
            self._note(node, "")
            return False
        return self._ruled(node, given) or self._weighted(node)

    def _ruled(self, node: Node, given: list[Real | None]) -> bool:
        why = ""
        try:
            more = (
                [WHOLE[node.op.name]]
                if self.whole and node.op.name in WHOLE and node.output not in self.outputs
                else []
            )
            for rule in (*RULES.get(node.op.name, ()), *more, elementwise):
                found = rule(self.editor, node, given)
                if found is not None:
                    self.reals[node.output] = found
                    self.done += not isinstance(found, Fixed)
                    self._bounded(node, given[0])
                    return True
        except Problem as e:
            why = f" ({e})"
        self._note(node, why)
        return False

    def _bounded(self, node: Node, x: Real | None) -> None:
        """Keep how far the integer form of a node may be from the exact one."""
        count = node.output.type.shape[node.attr("axis")] if node.op.name in ("nn.softmax", "nn.layer_norm") else None
        if not isinstance(count, int) or (node.op.name == "nn.layer_norm" and not isinstance(x, Code)):
            return
        bound = softmax_bound(count, isinstance(x, Code))
        if node.op.name == "nn.layer_norm":
            scale = self.reals[node.inputs[1]]  # type: ignore[index]
            assert isinstance(scale, Fixed)
            bound = layer_norm_bound(count, scale.reals)
        self.bounds.setdefault(node.op.name, []).append(bound)

    def _weighted(self, node: Node) -> bool:
        """A softmax of floats whose result only becomes codes: in integers, but for the differences it starts with."""
        users = self.users.get(node.output, ()) if node.op.name == "nn.softmax" else ()
        if not users or any(n.op.name != "quant.quantize" for n, _ in users) or node.output in self.outputs:
            return False
        (x,) = node.inputs
        self._need(x)
        source = self.to.now[x]
        assert source is not None
        found = softmax_of_floats(self.editor, node, source) if source.type.elem is Float("f32") else None  # type: ignore[union-attr]
        if found is None:
            return False
        self.reals[node.output] = found
        self.done += 1
        self._bounded(node, None)
        return True

    def _note(self, node: Node, why: str) -> None:
        if node.op.name in _CASTS or node in self.casts or (node.op.has("structural") and not why):
            return
        if all(v is None or array_of(v) is not None for v in node.inputs):
            return
        if not any(isinstance(v.type, Tensor) and isinstance(v.type.elem, Float) for v in node.outputs):
            return
        self.kept.append(f"{node.op.name} {node.output.name or ''}".rstrip() + why)

    def _quantize(self, node: Node) -> bool:
        (x,) = node.inputs
        elem = node.attr("to")
        if x is None or not plain_encoding(elem) or isinstance(self.reals.get(x), Fixed):
            return False
        want = Encoding.of(elem, code(x, elem))
        real = self.reals.get(x)
        made = None
        if real is not None:
            assert not isinstance(real, Fixed)
            made = codes_of(self.editor, real, want)
            if made is not None and isinstance(real, Function):
                span = function_range(real, want)
                assert span is not None
                self.bounds.setdefault("functions of sums", []).append(function_bound(real.of, *span, ENTRIES))
        if made is None:
            made = self._rounded(x, elem, want)
        self.codes[node.output] = made
        return True

    def _rounded(self, x: Value, elem: Affine, want: Encoding) -> Code:
        """Codes of floats."""
        self._need(x)
        to = Affine(want.to, elem.real, want.scale, want.zero)
        raw = self.editor.emit("quant.store", self.editor.emit("quant.quantize", self.to.now[x], to=to), to=want.to)
        least, most = want.to.range
        for edge, bound, op in ((least, want.low, "math.maximum"), (most, want.high, "math.minimum")):
            if bound != edge:
                raw = self.editor.emit(op, raw, self.editor.constant(_scalar(bound, want.to)))
        return Code(raw, want.scale, want.zero, want.low, want.high)

    def _dequantize(self, node: Node) -> bool:
        (q,) = node.inputs
        assert q is not None
        known = self.codes.get(q)
        if known is not None:
            if node.output.type.elem.dtype != "float32":  # type: ignore[union-attr]
                return False
            self.reals[node.output] = known
            return True
        constant = self.reals.get(q)
        if isinstance(constant, Fixed):
            self._need(q)
            self.to.keep(node)
            self.reals[node.output] = constant
            return True
        elem: Any = q.type.elem  # type: ignore[union-attr]
        if not plain_encoding(elem) or node.attr("to").dtype != "float32":
            return False
        self._need(q)
        source = self.to.now[q]
        assert source is not None
        raw = self.editor.emit("quant.store", source, to=elem.store)
        if storage(elem) is not elem.store:
            raw = self.editor.emit("math.cast", raw, to=storage(elem))
        self.reals[node.output] = code(raw, elem)
        return True

    def _recoded(self, node: Node) -> bool:
        """Codes are looked at as plain integers, or integers as codes: the same bits."""
        (v,) = node.inputs
        assert v is not None
        known = self.codes.get(v)
        if known is None or not isinstance(node.output.type, Tensor):
            return False
        raw, elem = known.raw, node.output.type.elem
        if node.op.name == "quant.store" and elem is raw.type.elem:  # type: ignore[union-attr]
            self.to.put(node, (raw,))
            self.codes[node.output] = known
            return True
        return False


def _clamping(graph: Graph) -> set[Node]:
    """Clamps that only casts read: part of the rounding of floats."""
    found: set[Node] = set()
    readers: dict[Value, list[Node]] = {}
    for node in reversed(graph.nodes):
        users = readers.get(node.output, []) if len(node.outputs) == 1 else []
        clamp = node.op.name in ("math.maximum", "math.minimum", "math.relu") and node.output not in graph.outputs
        if clamp and users and all(n.op.name == "quant.quantize" or n in found for n in users):
            found.add(node)
        for v in node.inputs:
            if v is not None:
                readers.setdefault(v, []).append(node)
    return found


def _scalar(value: int, elem: Int) -> Any:
    import numpy as np

    return np.array(value, elem.dtype)
