"""A stage of a graph as one program: layers one after the other, tensors and constants in DRAM.

DRAM holds, from address 0 on: constants (weights tile by tile, tables), tensors packed by their lifetimes, and room for
partial sums. Activations lie channels last. Layers meet at a `sync`; what is in flight within one is its own affair.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ....ir.diagnostics import error
from ....ir.graph import Node, Value
from ....ir.host import collector_paused
from ..formats import DENSE, Format, size_of
from ..fusion.bands import Rows
from ..hierarchy import Hierarchy
from ..isa.instructions import LINE, Queue
from ..layer import Layer
from ..mapping import Mapping
from ..workload import layer_of
from .contraction import Activation, Buffers, Contraction, Packed, Residual, emit, sizes
from .fused import Fusion, Segment, chosen, emit_segment, lifetimes
from .groups import PRODUCTS, Group, Stage, channel_axis
from .pieces import Piece, Program, Told, counts
from .product import emit_product, prepare_product, product_layer
from .rows import emit_rows, prepare_rows
from .rowwise import constant
from .segment import rows_layer
from .stream import Writer
from .tensors import ALIGNED, Tensors, input_of, int_of, shape_of
from .vector import Pool, Requantization, Room, Sum, Table, emit_pool, emit_sum, emit_table
from .weights import packed_weights, places_of

__all__ = ["Fusion", "Map", "Piece", "Program", "name_of", "program_of"]

TABLES = 2  # the stream of tables
SPARE = 4 * LINE  # bytes that a memory has beside its capacity: buffers start at lines


Map = Callable[[Layer], Mapping]


def program_of(
    stage: Stage,
    inputs: Sequence[Value],
    outputs: Sequence[Value],
    machine: Hierarchy,
    find: Map,
    form: Format = DENSE,
    fusion: Fusion | None = None,
) -> Program:
    """Emit a stage. `inputs` come from the host, `outputs` go to it; `find` gives the mapping of a layer.

    Weights of 8 bits are stored in `form` where that is smaller. With `fusion` the segments that it plans run together.

    Raises IG0585 where a layer does not fit in the machine's local memory.
    """
    network = Network(stage, inputs, outputs, machine, find, form)
    network.look()
    if fusion is not None:
        network.segments, network.told = chosen(network, fusion)
        network.tensors.place(*lifetimes(network))
    with collector_paused():  # instructions by the hundred thousand, none of which is garbage
        return network.program()


@dataclass
class _Constants:
    """Constants in the order in which they are met."""

    data: bytearray = field(default_factory=bytearray)

    def add(self, block: bytes) -> int:
        at = len(self.data)
        self.data += block + bytes(-len(block) % ALIGNED)
        return at


class Network:
    def __init__(self, stage: Stage, inputs: Any, outputs: Any, machine: Hierarchy, find: Map, form: Format) -> None:
        self.groups, self.inputs, self.outputs = stage.groups, inputs, outputs
        self.tensors = Tensors(stage.groups, inputs, outputs)
        self.machine, self.find, self.form = machine, find, form
        self.constants = _Constants()
        self.layers: dict[Group, Layer] = {}
        self.mappings: dict[Group, Mapping] = {}
        self.weights: dict[Group, Any] = {}
        self.raw: dict[Group, tuple[Any, Any]] = {}  # weights [G, K, C, R, S] and bias of a product
        self.segments: dict[Group, Segment] = {}  # by their first group
        self.told: tuple[Told, ...] = ()
        self.spill = 0

    def look(self) -> None:
        """The layers, and their mappings one by one."""
        for group in self.groups:
            if group.kind == "product":
                self.layers[group] = product_layer(group)
                self.mappings[group] = self.find(self.layers[group])
            if group.kind in PRODUCTS:
                self.layers[group], *raw = self._layer(group)
                self.raw[group] = (raw[0], raw[1])
                self.mappings[group] = self.find(self.layers[group])

    def program(self) -> Program:
        for segment in self.segments.values():
            self.mappings.update(zip(segment.groups, segment.together.mappings, strict=True))
        for group in self.groups:
            self._prepare(group)
        shift = -(-len(self.constants.data) // ALIGNED) * ALIGNED
        self.partial = self.tensors.after(shift)
        self.regions, self.local = self.memories()
        writer, pieces, inside = Writer(), list[Piece](), set[Group]()
        for group in self.groups:
            if group in self.segments:
                number = [*self.segments].index(group)
                emit_segment(self, self.segments[group], writer, pieces, number)
                inside.update(self.segments[group].groups)
            elif group not in inside:
                start = counts(writer)
                if self.emit(group, writer):
                    writer.sync()
                    layer, mapping = self.layers.get(group), self.mappings.get(group)
                    pieces.append(Piece(self.name(group), group.kind, layer, mapping, start, counts(writer)))
        return Program(
            queues=writer.finished(),
            constants=bytes(self.constants.data),
            dram=self.partial + self.spill,
            local=self.local,
            inputs=tuple(self.tensors.border(v, i) for i, v in enumerate(self.inputs)),
            outputs=tuple(self.tensors.border(v, i) for i, v in enumerate(self.outputs)),
            pieces=tuple(pieces),
            tensors=self.tensors.placement.peak,
            least=self.tensors.placement.lower_bound,
            segments=self.told,
        )

    def dry(self) -> Network:
        """The same with nothing packed: for programs that are only to be timed."""
        found = copy.copy(self)
        found.weights, found.segments, found.spill, found.partial = {}, {}, 0, 0
        return found

    def prepare_dry(self, group: Group, mapping: Mapping) -> None:
        """Sizes of what `_prepare` would pack."""
        weights, layer = self.raw[group][0], self.layers[group]
        tiles = {d: t[0] for d, t in mapping.tiles.items()}
        length = 16 * shape_of(group.output)[channel_axis(group.output)]
        self.weights[group] = (0, (places_of(weights.shape, tiles, layer.bits[0]), DENSE), 0, length)

    def name(self, group: Group) -> str:
        return name_of(group)

    # --- layers -------------------------------------------------------------------------------------------------------

    def _prepare(self, group: Group) -> None:
        """The mapping of a product, its weights and tables among the constants."""
        if group.kind in ("product", "rows"):
            self.weights[group] = (prepare_product if group.kind == "product" else prepare_rows)(self, group)
            return
        requantize = group.node("quant.requantize")
        if group.kind == "quant.table":
            table = _array(group.nodes[0].inputs[1]).astype(np.int64) & 0xFF
            self.weights[group] = (self.constants.add(table.astype(np.uint8).tobytes()), None)
        if requantize is None:
            return
        table = np.zeros((shape_of(group.output)[channel_axis(group.output)], 4), np.int32)
        table[:, 1], table[:, 2] = _array(requantize.inputs[1]), _array(requantize.inputs[2])
        packed: tuple[int, Any] = (0, None)
        if group.kind in PRODUCTS:
            layer, mapping = self.layers[group], self.mappings[group]
            weights, table[:, 0] = self.raw[group]
            tiles = {d: t[0] for d, t in mapping.tiles.items()}
            form = self._form(weights, layer)
            try:
                data, places = packed_weights(weights, tiles, layer.bits[0], form)
            except ValueError:  # a tile cuts groups of N:M so that one has too many
                form = DENSE
                data, places = packed_weights(weights, tiles, layer.bits[0])
            packed = (self.constants.add(data), (places, form))
        self.weights[group] = (*packed, self.constants.add(table.tobytes()), table.nbytes)

    def _form(self, weights: Any, layer: Layer) -> Format:
        """The machine's format, where it is a stream, and makes these weights smaller."""
        if layer.bits[0] != 8 or self.form.kind == "dense":
            return DENSE
        mask = (weights != 0).transpose(0, 1, 3, 4, 2).reshape(weights.shape[0] * weights.shape[1], -1)
        return self.form if size_of(self.form, mask, 8) < weights.size * 8 else DENSE

    def _layer(self, group: Group) -> tuple[Layer, Any, Any]:
        """The layer of a product, its weights [G, K, C, R, S] and its bias."""
        node = group.sums
        view = self.tensors.views[input_of(group.nodes[0])]
        if group.kind == "quant.conv":
            found = layer_of(node, {})
            assert found is not None
            weights, bias = _array(node.inputs[1]), _bias(node)
            e = found.extent
            return _bits(found, node), weights.reshape(e["G"], e["K"], *weights.shape[1:]), bias
        if group.kind == "quant.matmul":
            weights, bias = _array(node.inputs[1]).astype(np.int64) - node.attr("b_zero"), _bias(node)
            if view.flat is not None:  # [C, H, W] in the graph, [H, W, C] in memory
                weights = weights.reshape(*view.flat, -1).transpose(1, 2, 0, 3).reshape(weights.shape)
            found = layer_of(node, {})
            assert found is not None
            return _bits(found, node), weights.T[None, :, :, None, None], bias
        raise AssertionError(group.kind)

    def memories(self) -> tuple[dict[str, Any], int]:
        """Local memory: the stores of the first tier one after the other, then the tables of the layers at work."""
        alone = [g for g in self.mappings if not any(g in s.groups for s in self.segments.values())]
        regions: dict[str, Any] = {}
        at = 0
        for store in self.machine.tiers[0]:
            size = math.inf if math.isinf(store.capacity) else int(store.capacity // 8) // LINE * LINE
            needed = max((self._needed(g, store) for g in alone), default=0)
            if needed > size + SPARE:
                raise error("IG0585", f"tiles of {needed} bytes do not fit in `{store.name}`, which has {size}")
            size = max([size, needed, *(s.together.peak[store.name] for s in self.segments.values())])
            room = needed if math.isinf(size) else int(size)
            room = max(room, 1 << 16) if math.isinf(size) else room
            regions[store.name] = Room(at, room)
            at += room
        tables = [w[3] for w in self.weights.values() if len(w) == 4]
        tables += [sum(self.weights[g][3] for g in s.groups) for s in self.segments.values()]
        regions["table"] = Room(at, max(tables, default=0))
        at += max(regions["table"].size, 256)
        return regions, at

    def _held(self, store: Any) -> list[str]:
        """Operands whose tiles of the first tier lie in a store: those that none holds go to the first one."""
        stores = self.machine.tiers[0]
        homes = {x: next((s for s in stores if x in s.holds), stores[0]) for x in "WIO"}
        return [x for x, home in homes.items() if home is store]

    def _needed(self, group: Group, store: Any) -> int:
        found = self._sizes(group)
        return sum(store.copies * found[x] for x in self._held(store))

    def _sizes(self, group: Group) -> dict[str, int]:
        return self.sizes(self.layers[group], self.mappings[group])

    def sizes(self, layer: Layer, mapping: Mapping) -> dict[str, int]:
        """Bytes of the tiles of a mapping, by operand."""
        tiles = {d: t[0] for d, t in mapping.tiles.items()}
        rough = Contraction(layer, tiles, mapping.orders[0], _NOWHERE, Packed(0), _NOWHERE, 0, 0, 0,
                            weight_bits=layer.bits[0])  # fmt: skip
        return {x: -(-n // LINE) * LINE for x, n in sizes(rough).items()}

    # --- emission -----------------------------------------------------------------------------------------------------

    def emit(self, group: Group, to: Writer) -> bool:
        """Write a group's layer; False for one that is only a name."""
        if group.kind in ("shape.reshape", "name"):
            return False
        if group.kind == "product":
            emit_product(self, group, to)
            return True
        if group.kind == "rows":
            emit_rows(self, group, to, self._room())
            return True
        if group.kind == "shape.concat":
            return self._concat(group, to)
        if group in self.layers:
            self.contraction(group, to)
            return True
        room = self._room()
        node = group.nodes[0]
        x = input_of(node)
        if group.kind == "quant.table":
            line = self.regions["table"].base
            to.emit("loadc", Queue.LOAD, stream=TABLES, dram=self.weights[group][0], local=line, count=256, packed=256)
            t = Table(self.tensors.activation(x), self.tensors.activation(group.output), self._bytes(x), line // LINE)
            emit_table(t, room, to)
        elif group.kind == "quant.add":
            self._sum(node, room, to)
        else:
            self._pool(group, room, to)
        return True

    def _pool(self, group: Group, room: Room, to: Writer) -> None:
        """A maximum; or a sum, with its requantisation (and what is added to it in a layer of its own)."""
        node, x = group.nodes[0], input_of(group.nodes[0])
        sums = node if group.kind == "nn.max_pool" else group.sums
        c, h, w = self.tensors.views[x].shape
        if sums.op.name == "math.reduce_sum":
            axes = ((1, h, 1, 1, 0, h), (1, w, 1, 1, 0, w))
        else:
            window = sums.attr("kernel")
            strides, dilations = (sums.attr(a) or (1, 1) for a in ("strides", "dilations"))
            pads = sums.attr("pads") or (0, 0, 0, 0)
            out = shape_of(sums.output)[2:]
            made = [(out[i], window[i], strides[i], dilations[i], pads[i], (h, w)[i]) for i in (0, 1)]
            axes = (made[0], made[1])
        requantize = group.node("quant.requantize")
        zero = sums.attr("zero") or 0 if requantize is not None and sums.op.name == "quant.sum_pool" else 0
        if requantize is None:
            emit_pool(Pool(self.tensors.activation(x), self.tensors.activation(group.output), c, axes), room, to)
            return
        _, _, table, length = self.weights[group]
        how = Requantization(self.table(table, length, to), *_clamp(requantize))
        output = self.tensors.activation(group.output, requantize.attr("zero"))
        emit_pool(Pool(self.tensors.activation(x, zero), output, c, axes, how), room, to)

    def _room(self) -> Room:
        stores = self.machine.tiers[0]
        return self.regions[next((s for s in stores if "I" in s.holds), stores[0]).name]

    def _bytes(self, v: Value) -> int:
        if not self.tensors.whole(v):
            raise error("IG0585", f"elementwise work on a part of a tensor, `{v.name or v.type}`")
        return math.prod(self.tensors.views[v].shape)

    def _sum(self, node: Node, room: Room, to: Writer) -> None:
        a, b = (v for v in node.inputs if v is not None)
        low, high = _clamp(node)
        to_sum = Sum(
            self.tensors.activation(a, node.attr("a_zero")),
            self.tensors.activation(b, node.attr("b_zero")),
            self.tensors.activation(node.output, node.attr("zero")),
            self._bytes(node.output),
            node.attr("a_multiplier"),
            node.attr("b_multiplier"),
            node.attr("shift"),
            low,
            high,
        )
        self._bytes(a), self._bytes(b)
        emit_sum(to_sum, room, to)

    def _concat(self, group: Group, to: Writer) -> bool:
        """Parts that their writers could not put in place are copied."""
        whole, at, copied = self.tensors.views[group.output], 0, False
        room = self._room()
        for v in group.nodes[0].inputs:
            assert v is not None
            view = self.tensors.views[v]
            if view.root is not whole.root:
                c, h, w = view.shape
                target = self.tensors.activation(group.output)
                target = Activation(target.base + at, target.strides, target.signed)
                axes = ((h, 1, 1, 1, 0, h), (w, 1, 1, 1, 0, w))
                emit_pool(
                    Pool(self.tensors.activation(v), target, c, axes), room, to
                )  # a pool of one element is a copy
                copied = True
            at += view.shape[0]
        return copied

    def contraction(
        self,
        group: Group,
        to: Writer,
        mapping: Mapping | None = None,
        buffers: dict[str, Buffers] | None = None,
        line: int | None = None,
        rows: Rows | None = None,
        **near: Any,
    ) -> None:
        """A product: all of it from and to DRAM, or some rows of it in a segment. `line`: of its table, if loaded."""
        layer, mapping = self.layers[group], mapping or self.mappings[group]
        weights, (places, form), table, length = self.weights[group]
        node = group.sums
        requantize, add = group.node("quant.requantize"), group.node("quant.add")
        assert requantize is not None
        line = self.table(table, length, to) if line is None else line
        e = layer.extent
        zero = node.attr("a_zero" if node.op.name == "quant.matmul" else "zero") or 0
        source = self.tensors.activation(input_of(group.nodes[0]), zero)
        output = self.tensors.activation(group.output, requantize.attr("zero"))
        source, output = _grouped(source, e["C"]), _grouped(output, e["K"])
        if self.tensors.views[input_of(group.nodes[0])].flat is not None or node.op.name == "quant.matmul":
            source = Activation(source.base, (0, 0, 1, source.strides[3], 0), source.signed, source.zero)
        signed = int_of(requantize.output).signed
        output = Activation(output.base, output.strides, signed, output.zero)
        low, high = _clamp(requantize)
        if rows is not None:  # the output begins with the first of them
            output = Activation(output.base + rows[0] * output.strides[3], output.strides, signed, output.zero)
            layer = rows_layer(layer, rows)
        buffers = self.buffers(group) if buffers is None else buffers
        tiles = {d: t[0] for d, t in mapping.tiles.items()}
        contraction = Contraction(
            layer,
            tiles,
            mapping.orders[0],
            source,
            Packed(weights, form=form),
            output,
            table=line,
            low=low,
            high=high,
            partial=self.partial,
            residual=self._residual(group, requantize, add) if add is not None else None,
            weight_bits=layer.bits[0],
            row=rows[0] if rows is not None else 0,
            **near,
        )
        visits = math.prod(-(-e[d] // tiles[d]) for d in ("N", "G", "K", "P", "Q"))
        if any(tiles[d] < e[d] for d in ("C", "R", "S")):
            self.spill = max(self.spill, visits * buffers["O"].size)
        emit(contraction, buffers, places, to)

    def buffers(self, group: Group) -> dict[str, Buffers]:
        """Where the tiles of a layer by itself lie."""
        found, size = dict[str, Buffers](), self._sizes(group)
        for store in self.machine.tiers[0]:
            at = self.regions[store.name].base
            for x in self._held(store):
                found[x] = Buffers(at, store.copies, size[x])
                at += store.copies * size[x]
        return found

    def table(self, dram: int, length: int, to: Writer) -> int:
        """Load a table of requantisation; its local line."""
        local = self.regions["table"].base
        to.emit("loadc", Queue.LOAD, stream=TABLES, dram=dram, local=local, count=length, packed=length)
        to.wait(Queue.STORE, Queue.LOAD, to.send(Queue.LOAD, Queue.STORE))
        return int(local) // LINE

    def _residual(self, group: Group, requantize: Node, add: Node) -> Residual:
        a, b = add.inputs
        other, mine, theirs = (b, "a", "b") if a is requantize.output else (a, "b", "a")
        assert other is not None
        low, high = _clamp(add)
        mine_at, theirs_at = self.tensors.activation(group.output), self.tensors.activation(other)
        if mine_at.strides != theirs_at.strides:
            raise error("IG0585", f"a sum with a part of a tensor, `{other.name or other.type}`")
        return Residual(
            base=theirs_at.base,
            signed=theirs_at.signed,
            a_multiplier=add.attr(f"{mine}_multiplier"),
            b_multiplier=add.attr(f"{theirs}_multiplier"),
            shift=add.attr("shift"),
            a_zero=add.attr(f"{mine}_zero"),
            b_zero=add.attr(f"{theirs}_zero"),
            zero=add.attr("zero"),
            low=low,
            high=high,
        )


_NOWHERE = Activation(0, (0, 0, 1, 0, 0))


def _grouped(a: Activation, channels: int) -> Activation:
    """With the step from group to group, which are as many channels."""
    n, _, c, h, w = a.strides
    return Activation(a.base, (n, channels, c, h, w), a.signed, a.zero)


def name_of(group: Group) -> str:
    """What the plan calls the layer, too."""
    if group.kind == "rows":  # several ops: by the first of them that has a name
        named = [n for n in group.nodes if (n.loc is not None and n.loc.sources) or n.output.name]
        name = _name(named[0], named[0].output) if named else group.nodes[0].op.name
        return f"{name}.{group.nodes[0].op.name.partition('.')[2]}" if len(group.nodes) == 1 else name
    name = _name(group.nodes[0], group.output)
    moving = group.kind == "product" and not constant(group.sums.inputs[1])
    return f"{name}.product" if moving else name  # it is where its sums are asked for, by a softmax maybe


def _name(node: Node, result: Value) -> str:
    return node.loc.sources[0] if node.loc is not None and node.loc.sources else result.name or node.op.name


def _array(v: Value | None) -> Any:
    assert v is not None and v.node is not None and v.node.constant is not None
    return np.asarray(v.node.constant.array)


def _bias(node: Node) -> Any:
    return _array(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] is not None else 0


def _bits(layer: Layer, node: Node) -> Layer:
    """The layer with the bits in which its weights are stored: 2, 4 or 8."""
    from dataclasses import replace

    w = node.inputs[1]
    assert w is not None
    stored = next(b for b in (2, 4, 8) if int_of(w).bits <= b)
    return replace(layer, bits=(stored, *layer.bits[1:]))


def _clamp(node: Node) -> tuple[int, int]:
    least, most = int_of(node.output).range
    low, high = node.attr("low"), node.attr("high")
    return least if low is None else low, most if high is None else high
