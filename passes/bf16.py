"""Products in bf16: half the bytes of weights and activations, sums in f32."""

from __future__ import annotations

from dataclasses import dataclass

from ..ir.constants import Constant
from ..ir.diagnostics import error
from ..ir.graph import Graph, Node, Value
from ..ir.types import Float, Tensor
from .canonicalize import Canonicalize, canonicalize
from .definition import Context, define_pass
from .options import option
from .rebuild import Rebuild, array_of

__all__ = ["FOLLOW", "PRODUCTS", "Bf16", "bf16"]

BF16, F32 = Float("bf16"), Float("f32")

PRODUCTS = {"nn.conv", "nn.matmul"}
FOLLOW = {
    "math.add",
    "math.sub",
    "math.mul",
    "math.minimum",
    "math.maximum",
    "math.relu",
    "math.leaky_relu",
    "nn.max_pool",
    "nn.avg_pool",
    "math.reduce_mean",
    "shape.concat",
    "shape.reshape",
    "shape.squeeze",
    "shape.unsqueeze",
    "shape.transpose",
}
"""What stays in bf16 between products. All else, norms, softmax and functions among it, is computed in f32."""


@dataclass(frozen=True)
class Bf16:
    keep: tuple[str, ...] = option((), "layers that stay in f32, by the names of their results")
    last: bool = option(False, "the last products, too")


@define_pass("bf16", contract="lossy", options=Bf16)
def bf16(graph: Graph, options: Bf16, context: Context) -> Graph:
    """Convolutions and products with constant weights in bf16: they sum in f32 and round once.

    So are sums, rectifiers, pools and changes of shape between them, as long as all that they read is bf16 anyway.
    Products of two activations, and whatever else there is, stay in f32; so do the last products, whose results are
    what answers are told apart by (unless `last`), and images of one pixel. Rounding to bf16 keeps 8 bits: a relative
    error of 2^-9.

    Before:

        graph @main(%x: f32[1, 2]) -> (y: f32[1, 1]) {
          %w = const [0.5, -0.5, 1.0, 3.0] : f32[2, 2]
          %v = const [2.0, 1.0] : f32[2, 1]
          %h = nn.matmul(%x, %w) : f32[1, 2]
          %r = math.relu(%h) : f32[1, 2]
          %y = nn.matmul(%r, %v) : f32[1, 1]
          return %y
        }

    After `bf16`:

        graph @main(%x: f32[1, 2]) -> (y: f32[1, 1]) {
          %0 = math.cast(%x) {to = bf16} : bf16[1, 2]
          %w = const [0.5, -0.5, 1.0, 3.0] : bf16[2, 2]
          %h = nn.matmul(%0, %w) : bf16[1, 2]
          %r = math.relu(%h) : bf16[1, 2]
          %1 = math.cast(%r) {to = f32} : f32[1, 2]
          %v = const [2.0, 1.0] : f32[2, 1]
          %y = nn.matmul(%1, %v) : f32[1, 1]
          return %y
        }
    """
    graph = canonicalize.run(graph, Canonicalize(), context)
    return _Narrowing(graph, options, context).run()


class _Narrowing:
    def __init__(self, graph: Graph, options: Bf16, context: Context) -> None:
        self.to, self.options, self.context = Rebuild(graph), options, context
        self.narrow: dict[Value, Value] = {}  # values of the old graph that were computed in bf16, or cast to it
        self.computed: set[Value] = set()  # the former; those in f32 are casts of these
        self.layers = 0
        self.final = set() if options.last else _last_products(graph)

    def run(self) -> Graph:
        made = self.to.finish(self._step)
        self.context.note(f"{self.layers} layers in bf16" if self.layers else "no layer has constant weights in f32")
        return made

    def _step(self, to: Rebuild, node: Node) -> None:
        product = self._is_product(node)
        if not product and not self._follows(node):
            for v in node.inputs:
                self._widen(v)
            to.keep(node)
            return
        operands = [None if v is None else self._narrowed(v) for v in node.inputs]
        made = to.editor.apply(node.op, operands, node.attrs, loc=node.loc)
        self._check(made)
        self.layers += product
        for old, new in zip(node.outputs, made.outputs, strict=True):
            new.name = old.name
            self.narrow[old] = new
            self.computed.add(old)
            if old in to.graph.outputs:
                self._widen(old)

    def _is_product(self, node: Node) -> bool:
        if node.op.name not in PRODUCTS or node.output.name in self.options.keep or node in self.final:
            return False
        if not all(v is None or _is(v, F32) for v in (*node.inputs, *node.outputs)):
            return False
        x, *weights = node.inputs
        if x is None or array_of(x) is not None or any(v is not None and array_of(v) is None for v in weights):
            return False
        assert weights[0] is not None
        if node.op.name == "nn.matmul":
            return len(weights[0].type.shape) == 2
        return len(x.type.shape) == 4 and x.type.shape[2:] != (1, 1)

    def _follows(self, node: Node) -> bool:
        """Whether all that a node reads is bf16, but for constants of few numbers."""
        if node.op.name not in FOLLOW or not all(_is(v, F32) for v in node.outputs):
            return False
        given = [v for v in node.inputs if v is not None]
        return any(v in self.computed for v in given) and all(
            v in self.computed or (_is(v, F32) and array_of(v) is not None) for v in given
        )

    def _narrowed(self, v: Value) -> Value:
        """The value in bf16."""
        made = self.narrow.get(v)
        if made is None:
            now, constant = self.to.now[v], None if v.node is None else v.node.constant
            assert now is not None
            if constant is None:
                made = self.to.editor.emit("math.cast", now, to=BF16)
            else:
                made = self.to.editor.constant(Constant(constant.array.astype(BF16.dtype), constant.name))
                made.name = v.name
            self.narrow[v] = made
        return made

    def _widen(self, v: Value | None) -> None:
        """Have the value in f32."""
        if v in self.computed and self.to.now.get(v) is None:
            made = self.to.editor.emit("math.cast", self.narrow[v], to=F32)
            made.name = ""
            self.to.now[v] = made

    def _check(self, node: Node) -> None:
        """IG0452 where the target does not compute in bf16."""
        target = self.context.target
        reason = target.legal(node) if target is not None else ""
        if reason:
            assert target is not None
            what = f"the target `{target.name}` does not run `{node.op.name}` of bf16"
            raise error("IG0452", what, label=reason, hint="leave out `bf16`, or choose another target")


def _is(v: Value, elem: Float) -> bool:
    return isinstance(v.type, Tensor) and v.type.elem is elem


def _last_products(graph: Graph) -> set[Node]:
    """Products from whose results no other is computed."""
    before: set[Value] = set()
    found: set[Node] = set()
    for node in reversed(graph.nodes):
        is_product = node.op.name in PRODUCTS
        earlier = any(v in before for v in node.outputs)
        if is_product and not earlier:
            found.add(node)
        if is_product or earlier:
            before.update(v for v in node.inputs if v is not None)
    return found
