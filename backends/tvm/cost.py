"""What a kernel costs, from its shapes and the machine's figures: no kernel is compiled or run for it.

    seconds = max(operations / (peak * efficiency) + rest, bytes / bandwidth of the level they are in) + call

This is the roofline model (Williams, Waterman and Patterson 2009) with three refinements: an efficiency for the
register tiles that a product is cut into; a level of the memory hierarchy for weights and one for activations; and the
rest, operations that are no multiply-adds of a product: transforms, epilogues, elementary functions.

`WORK` holds a function an op. A template that knows its own plan may put a better one there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from ...ir.dims import Dim, substitute, symbols
from ...ir.graph import Graph, Node, Value
from ...ir.target import node_cost
from ...ir.types import Tensor
from .kernels import VECTOR_UNITS, VectorUnit
from .kernels.kernel import ceil_div
from .kernels.tile import choose_tile, issue_slots
from .machine import Machine

__all__ = ["WORK", "Estimate", "Work", "estimate", "estimates", "footprint", "node_work", "traffic", "work"]

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Work:
    """What one kernel does: `operations` at `efficiency` of the peak, and `rest`, other operations, one an element.

    `read` is how many bytes of the first operand are read, where it is not all of it. Weights are `packed` times as
    large as they are in the graph.
    """

    operations: float = 0.0
    efficiency: float = 1.0
    rest: float = 0.0
    read: int | None = None
    packed: float = 1.0


@dataclass(frozen=True)
class Estimate:
    """Seconds of one kernel, and of what; `bound` names the largest part: arithmetic, rest, call or a memory level."""

    seconds: float
    arithmetic: float
    memory: float
    rest: float
    bound: str


SIMPLE = 0.25
"""Elements a second of a simple vector operation, as a part of the peak: it is no multiply-add, and waits for loads."""

LOOPS = 2.0
"""How many times longer generic loops take than simple vector operations in a template."""

GENERIC = 0.08
"""Efficiency of products in generic loops, where no template applies."""

DEPTHWISE = 0.7
"""Efficiency of depthwise convolution: each multiply-add takes a load of its own."""

INTEGER, INTEGER_DEPTHWISE = 0.9, 0.15
"""Efficiencies of products of bytes."""

SCALAR_CALL = 20.0
"""Operations of a call of libm, which handles one element; vector operations handle a register of them."""

FUNCTIONS: Mapping[str, float] = {
    "math.div": 4, "math.reciprocal": 4, "math.sqrt": 4, "math.exp": 12, "math.log": 16, "math.sigmoid": 18,
    "math.tanh": 20, "math.erf": 20, "math.softplus": 30, "nn.gelu": 24, "nn.batch_norm": 3, "nn.layer_norm": 6,
    "nn.softmax": 18, "nn.log_softmax": 18, "quant.requantize": 3, "quant.add": 3, "quant.table": 16,
}  # fmt: skip
"""Operations an element that are more than one."""

LIBM = {
    "math.acos", "math.acosh", "math.asin", "math.asinh", "math.atan", "math.atanh", "math.cos", "math.cosh",
    "math.mod", "math.pow", "math.sin", "math.sinh", "math.tan",
}  # fmt: skip


# --- shapes -----------------------------------------------------------------------------------------------------------


def shape_of(value: Value | None) -> Shape:
    """The extents, with 1 for each symbol."""
    if value is None or not isinstance(value.type, Tensor):
        return ()
    found = (substitute(d, dict.fromkeys(symbols((d,)), 1)) for d in value.type.shape)
    return tuple(1 if isinstance(d, Dim) else d for d in found)


def bytes_of(value: Value | None) -> int:
    if value is None or not isinstance(value.type, Tensor):
        return 0
    return math.prod(shape_of(value)) * value.type.dtype.itemsize


def traffic(node: Node, found: Work) -> tuple[int, int]:
    """Bytes of weights that a kernel reads, and of activations that it reads and writes."""
    weights, moved = 0, sum(map(bytes_of, node.outputs))
    for i, v in enumerate(node.inputs):
        size = bytes_of(v) if i > 0 or found.read is None else found.read
        if v is not None and v.node is not None and v.node.op.name == "const":
            weights += int(size * found.packed)
        else:
            moved += size
    return weights, moved


# --- what each op does ------------------------------------------------------------------------------------------------

Rule = Callable[[Node, VectorUnit], Work]
WORK: dict[str, Rule] = {}


def work(*names: str) -> Callable[[Rule], Rule]:
    """Declare what ops do: a function of the node and the vector unit."""

    def register(rule: Rule) -> Rule:
        WORK.update(dict.fromkeys(names, rule))
        return rule

    return register


def tile_efficiency(rows: int, columns: int, unit: VectorUnit) -> float:
    """Multiply-adds that count among the issue slots of a product's register tiles, edges included."""
    vectors = ceil_div(columns, unit.lanes)
    r, v = choose_tile(rows, vectors, unit)
    row_edges, column_edges = ((rows // r, r), (1, rows % r)), ((vectors // v, v), (1, vectors % v))
    slots = sum(n * m * issue_slots(y, x) for n, y in row_edges for m, x in column_edges if y and x)
    return min(1.0, rows * columns / unit.lanes / slots)


@work("nn.matmul")
def _matmul(node: Node, unit: VectorUnit) -> Work:
    a, b = shape_of(node.inputs[0]), shape_of(node.inputs[1])
    rows, columns = (a[-2] if len(a) > 1 else 1), (b[-1] if len(b) > 1 else 1)
    if len(b) <= 2 < len(a):  # one product for all the leading axes
        rows = math.prod(a[:-1])
    return Work(node_cost(node).flops, tile_efficiency(max(rows, 1), max(columns, 1), unit))


@work("nn.conv")
def _conv(node: Node, unit: VectorUnit) -> Work:
    """The best of direct and Winograd convolution; the latter is f32, so that of bf16 it has half of the peak."""
    x, w, y = shape_of(node.inputs[0]), shape_of(node.inputs[1]), shape_of(node.output)
    operations, groups = node_cost(node).flops, node.attr("g") or 1
    if len(x) != 4 or _element(node) not in ("f32", "bf16"):
        return Work(operations, GENERIC)
    share = 0.5 if _element(node) == "bf16" and unit.bf16 else 1.0
    pixels, out = max(1, y[0] * y[2] * y[3]), max(1, w[0] // groups)
    if w[1] == 1 and groups == x[1]:
        return Work(operations, DEPTHWISE * share)
    direct = Work(operations, tile_efficiency(pixels, out, unit))
    strides, dilations = node.attr("strides") or (1, 1), node.attr("dilations") or (1, 1)
    if w[2:] != (3, 3) or groups != 1 or {*strides, *dilations} != {1} or min(w[:2]) < unit.lanes:
        return direct
    found = [_winograd(m, x, w, y, unit) for m in (2, 4)]
    return min((direct, *(replace(f, efficiency=f.efficiency * share) for f in found)), key=_vectors)


def _winograd(m: int, x: Shape, w: Shape, y: Shape, unit: VectorUnit) -> Work:
    """F(m, 3): a product for each of the (m + 2)^2 points, and one-dimensional transforms of 2 m + 4 operations."""
    tiles, points = x[0] * ceil_div(y[2], m) * ceil_div(y[3], m), (m + 2) ** 2
    line = 2 * m + 4
    forward, back = 2 * (m + 2) * line, (2 * m + 2) * line
    efficiency = tile_efficiency(max(tiles, 1), w[0], unit)
    rest = tiles * ((forward + points) * w[1] + (back + points) * w[0])  # each point is stored and read again besides
    return Work(2 * tiles * points * w[0] * w[1], efficiency, rest, packed=points / 9)


def _vectors(found: Work) -> float:
    """Time in units of one operation at the peak."""
    return found.operations / found.efficiency + found.rest / SIMPLE


@work("quant.conv", "quant.matmul")
def _integer_product(node: Node, unit: VectorUnit) -> Work:
    """Four bytes of a channel block at a time, whole vectors of results; a depthwise one shuffles as it goes."""
    x, w, operations = shape_of(node.inputs[0]), shape_of(node.inputs[1]), node_cost(node).flops
    if node.op.name == "quant.matmul":
        depth, columns = w[-2] if len(w) > 1 else w[0], w[-1] if len(w) > 1 else 1
    else:
        depth, columns = w[1], w[0] // node.attr("g")
        if depth == 1 and node.attr("g") == x[1]:
            return Work(operations, INTEGER_DEPTHWISE)
    padded = ceil_div(depth, 4) * 4 / max(depth, 1) * ceil_div(columns, unit.lanes) * unit.lanes / max(columns, 1)
    return Work(operations, INTEGER / padded)


@work("nn.max_pool", "nn.avg_pool", "nn.lp_pool", "quant.sum_pool")
def _pool(node: Node, unit: VectorUnit) -> Work:
    return Work(rest=math.prod(shape_of(node.output)) * math.prod(node.attr("kernel")))


@work("nn.conv_transpose", "nn.deform_conv", "math.einsum")
def _generic(node: Node, unit: VectorUnit) -> Work:
    return Work(node_cost(node).flops, GENERIC)


@work("shape.transpose")
def _transpose(node: Node, unit: VectorUnit) -> Work:
    """One element at a time, unless the last axis stays where it is."""
    perm, n = node.attr("perm"), math.prod(shape_of(node.output))
    stays = perm is not None and tuple(perm)[-1:] == (len(perm) - 1,)
    return Work(rest=n if stays else n * unit.lanes)


@work("shape.gather", "shape.gather_elements", "shape.gather_nd", "shape.slice")
def _part(node: Node, unit: VectorUnit) -> Work:
    """A part of the first operand is looked at, as large as the result."""
    return Work(rest=math.prod(shape_of(node.output)), read=bytes_of(node.output))


@work("shape.reshape", "shape.squeeze", "shape.unsqueeze", "quant.store", "quant.load")
def _view(node: Node, unit: VectorUnit) -> Work:
    return Work()


def _default(node: Node, unit: VectorUnit) -> Work:
    """So many operations on each element; a reduction looks at its operand's."""
    values = [*node.inputs[:1], *node.outputs[:1]]
    n = max((math.prod(shape_of(v)) for v in values), default=0)
    each = SCALAR_CALL * unit.lanes if node.op.name in LIBM else FUNCTIONS.get(node.op.name, 1)
    return Work(rest=n * each)


def _element(node: Node) -> str:
    """The key in `Machine.peaks` for what a node multiplies; signed and unsigned bytes are as fast."""
    first = next((v for v in node.inputs if v is not None), None)
    name = "" if first is None else str(getattr(first.type, "elem", ""))
    return "i8" if name == "u8" else name


def node_work(node: Node, unit: VectorUnit) -> Work:
    """The work of a node, or of all the nodes of a kernel."""
    body = node.attrs.get("body")
    if not isinstance(body, Graph):
        found = Work() if node.op.name == "const" else WORK.get(node.op.name, _default)(node, unit)
        return found if found.operations else replace(found, rest=found.rest * LOOPS)
    total = Work()
    for inner in body.nodes:
        found = Work() if inner.op.name == "const" else WORK.get(inner.op.name, _default)(inner, unit)
        operations = total.operations + found.operations
        slots = total.operations / total.efficiency + found.operations / found.efficiency
        packed = max(total.packed, found.packed)
        total = Work(operations, operations / slots if slots else 1.0, total.rest + found.rest, packed=packed)
    return total if total.operations else replace(total, rest=total.rest * LOOPS)


# --- seconds ----------------------------------------------------------------------------------------------------------


def footprint(graph: Graph, unit: VectorUnit) -> int:
    """Bytes that one run goes through: all weights that are read, and the most activations of one kernel."""
    found = [traffic(n, node_work(n, unit)) for n in graph.nodes if n.op.name != "const"]
    return sum(weights for weights, _ in found) + max((moved for _, moved in found), default=0)


def estimate(node: Node, machine: Machine, threads: int = 1, whole: int = 0) -> Estimate:
    """The cost of one kernel in a program that goes through `whole` bytes a run (see `footprint`).

    Weights lie where the whole program fits, since a run later they are wanted again; activations where this kernel's
    own data fit, since the kernel before has just made them.
    """
    if node.op.name == "const" or (WORK.get(node.op.name) is _view):
        return Estimate(0.0, 0.0, 0.0, 0.0, "nothing")
    unit, scaling = VECTOR_UNITS[machine.isa], machine.scaled(threads)
    found, peak = node_work(node, unit), machine.peaks.get(_element(node), machine.peaks["f32"]) * scaling.compute
    weights, moved = traffic(node, found)
    places = ((machine.level(max(whole, weights + moved)), weights), (machine.level(weights + moved), moved))
    arithmetic = found.operations / (peak * found.efficiency)
    rest = found.rest / (machine.peaks["f32"] * scaling.compute * SIMPLE)
    streams: dict[str, float] = {}
    for level, size in places:
        shared = scaling.compute if level.size else scaling.memory
        streams[level.name] = streams.get(level.name, 0.0) + size / (level.bandwidth * shared)
    memory = sum(streams.values())
    call = machine.call + (machine.fork if threads > 1 else 0.0)
    parts = {"arithmetic": arithmetic, "rest": rest, "call": call, **streams}
    seconds = max(arithmetic + rest, memory) + call
    return Estimate(seconds, arithmetic, memory, rest, max(parts, key=parts.__getitem__))


def estimates(graph: Graph, machine: Machine, threads: int = 1) -> list[tuple[Node, Estimate]]:
    """Every node but constants, with its estimate."""
    whole = footprint(graph, VECTOR_UNITS[machine.isa])
    return [(n, estimate(n, machine, threads, whole)) for n in graph.nodes if n.op.name != "const"]
