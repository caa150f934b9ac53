"""Which segments of a fused plan run together, and their instructions.

A segment is emitted both ways and simulated (`Fusion.judge`), segments of one kind once. It runs together where it has
addresses, moves no more bits of DRAM, and takes no more cycles. Segments that take more cycles but move fewer bits are
taken besides, those that save most bits a cycle first, as long as the program as a whole takes no more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ..fusion import FusedPlan, Step
from ..fusion import Segment as Planned
from ..fusion.bands import Band, Rows
from ..isa.instructions import LINE, Queue
from ..layer import DIMS, Layer
from .contraction import Buffers, Kept
from .groups import Group
from .pieces import Piece, Program, Told, counts
from .segment import Together, laid_out, rows_layer
from .steps import steps_of_groups
from .stream import Writer
from .tensors import input_of
from .weights import places_of

if TYPE_CHECKING:
    from ....ir.graph import Value
    from .network import Network

__all__ = ["Fusion", "Segment", "Verdict", "chosen", "emit_segment", "lifetimes"]

LOAD, STORE = Queue.LOAD, Queue.STORE


@dataclass(frozen=True)
class Verdict:
    """Cycles and bits of DRAM of a segment, its layers `alone` and `together`."""

    alone: tuple[float, float]
    together: tuple[float, float]


@dataclass(frozen=True)
class Fusion:
    """`fit` gives a layer the machine's number formats, `plan` chooses segments, `judge` compares the programs of one:
    (layers one by one, fused). `slower`: single segments may take more cycles."""

    fit: Callable[[Layer], Layer]
    plan: Callable[[Sequence[Step]], FusedPlan]
    judge: Callable[[Program, Program], Verdict]
    slower: bool = True


@dataclass(frozen=True)
class Segment:
    """Groups that run together, and those whose results are loaded once a band, by tensor."""

    groups: tuple[Group, ...]
    together: Together
    tensors: dict[int, Group]  # of every step that it looks at


def chosen(network: Network, fusion: Fusion) -> tuple[dict[Group, Segment], tuple[Told, ...]]:
    """The segments that are worth it, by their first groups, and what is to be told of all."""
    names = {g: network.name(g) for g in network.groups}
    steps, of = steps_of_groups(network.groups, network.tensors, network.layers, names, fusion.fit)
    last = [max([i, *(j for j, s in enumerate(steps) if any(r.tensor == i for r in s.reads))]) for i in range(len(of))]
    found: dict[Group, Segment] = {}
    told: list[Told] = []
    known: dict[Any, Verdict] = {}
    laid: list[Segment | None] = []
    for planned in fusion.plan(steps).segments:
        if not planned.fused:
            continue
        inside = planned.candidate.steps
        leaving = {i for i in inside if steps[i].kept or last[i] >= inside.stop}
        tables = sum(
            128 * network.layers[of[i]].extent["G"] * network.layers[of[i]].extent["K"]
            for i in inside
            if of[i] in network.layers
        )
        cycles = planned.cycles + tables / network.machine.outer.reading  # of requantisation: no plan moves fewer
        about = Told(planned.names, str(planned), (cycles, planned.outer_bits + tables))
        segment = _laid(network, planned, steps, of, leaving)
        if isinstance(segment, str):
            told.append(replace(about, why=segment))
            laid.append(None)
            continue
        kind = _kind(network, segment, steps, leaving)
        if kind not in known:
            known[kind] = fusion.judge(*_both(network, segment))
        verdict = known[kind]
        told.append(replace(about, alone=verdict.alone, together=verdict.together))
        laid.append(segment)
    told = _weighed(told, slower=fusion.slower)
    for one, fits in zip(told, laid, strict=True):
        if fits is not None and not one.why:
            found[fits.groups[0]] = fits
    return found, tuple(told)


def _weighed(told: Sequence[Told], *, slower: bool) -> list[Told]:
    """Which segments run together: `why` the others do not."""
    found = list(told)
    budget = 0.0
    later: list[tuple[float, float, int]] = []
    for n, one in enumerate(told):
        if one.why:
            continue
        cycles, bits = (one.together[i] - one.alone[i] for i in (0, 1))
        if bits > 0:
            found[n] = replace(one, why=f"it moves {bits / one.alone[1]:.2%} more bits of DRAM")
        elif cycles <= 0:
            budget -= cycles
        else:
            later.append((bits / cycles, cycles, n))
    for _, cycles, n in sorted(later):
        if slower and cycles <= budget:
            budget -= cycles
        else:
            found[n] = replace(told[n], why=f"it takes {cycles / told[n].alone[0]:.2%} more cycles")
    return found


def lifetimes(network: Network) -> tuple[dict[Group, tuple[int, int]], set[Value]]:
    """Of groups in segments the steps of the whole segment, whose layers run by turns; and what is never in DRAM."""
    number = {g: n for n, g in enumerate(network.groups)}
    spans: dict[Group, tuple[int, int]] = {}
    inside: set[Value] = set()
    for s in network.segments.values():
        spans |= dict.fromkeys(s.groups, (number[s.groups[0]], number[s.groups[-1]]))
        left = {i for band in s.together.bands for i in band.leaves}
        pairs = zip(s.together.steps, s.groups, strict=True)
        inside |= {g.output for i, g in pairs if i in s.together.kept and i not in left}
    return spans, inside


def _laid(
    network: Network, planned: Planned, steps: Sequence[Step], of: Sequence[Group], leaving: set[int]
) -> Segment | str:
    """A planned segment with addresses, or why it has none."""
    inside = planned.candidate.steps
    mappings = [choice[0] for choice in planned.mappings if choice is not None]
    if len(mappings) < len(inside):
        return "it has vector work of its own"
    layers = [network.layers[of[i]] for i in inside]
    first, last = (network.groups.index(of[i]) for i in (inside.start, inside.stop - 1))
    if any(g.kind == "shape.concat" for g in network.groups[first:last]):
        return "a concatenation comes between"

    def sizes(i: int) -> dict[str, int]:
        return network.sizes(layers[i - inside.start], mappings[i - inside.start])

    def places(i: int) -> Any:
        tiles = {d: t[0] for d, t in mappings[i - inside.start].tiles.items()}
        return places_of(network.raw[of[i]][0].shape, tiles, layers[i - inside.start].bits[0])

    found = laid_out(
        steps,
        planned.candidate,
        mappings,
        layers,
        network.machine,
        leaving,
        sizes,
        places,
        lambda t: network.tensors.views[of[t].output].shape,
    )
    if isinstance(found, str):
        return found
    seen = {*inside, *found.loaded}
    segment = Segment(tuple(of[i] for i in inside), found, {t: of[t] for t in seen})
    return _odd(network, segment, steps) or segment


def _odd(network: Network, segment: Segment, steps: Sequence[Step]) -> str:
    """Why a residual cannot be added; empty if it can."""
    for i, group in zip(segment.together.steps, segment.groups, strict=True):
        add = group.node("quant.add")
        views = network.tensors.views
        if add is None:
            continue
        values = [v for v in add.inputs if v is not None and not any(v in n.outputs for n in group.nodes)]
        if any(not network.tensors.whole(v) or views[v].flat is not None for v in (*values, group.output)):
            return f"`{steps[i].work.name}` adds a part of a tensor"
    return ""


def _kind(network: Network, segment: Segment, steps: Sequence[Step], leaving: set[int]) -> Any:
    """All that the judgement depends on."""
    t, a = segment.together, segment.together.steps.start
    reads = tuple(
        tuple((r.tensor - a if r.tensor in segment.tensors else None, r.role) for r in steps[i].reads) for i in t.steps
    )
    layers = tuple(network.layers[g].key() for g in segment.groups)
    alone = tuple(id(network.mappings[g]) for g in segment.groups)
    way = (t.bands, t.cached, tuple(x - a for x in t.loaded), tuple(x - a for x in t.weights))
    moved = tuple(
        tuple(sorted((k - a, v) for k, v in part.items()))
        for band in t.bands
        for part in (band.makes, band.leaves, band.needed)
    )
    return layers, alone, reads, tuple(map(repr, t.mappings)), way[1:], moved, tuple(x - a for x in sorted(leaving))


def _both(network: Network, segment: Segment) -> tuple[Program, Program]:
    """A segment's programs by themselves, layer by layer and fused; addresses in DRAM are none yet."""
    dry = network.dry()
    programs = []
    for fused in (False, True):
        writer, pieces = Writer(), list[Piece]()
        for g, mapping in zip(segment.groups, segment.together.mappings, strict=True):
            dry.prepare_dry(g, mapping if fused else network.mappings[g])
        dry.segments = {segment.groups[0]: segment}
        dry.regions, local = dry.memories()
        if fused:
            emit_segment(dry, segment, writer, pieces, 0, _alike(segment.together.bands))
        else:
            for g in segment.groups:
                start = counts(writer)
                dry.contraction(g, writer)
                writer.sync()
                pieces.append(
                    Piece(network.name(g), g.kind, network.layers[g], network.mappings[g], start, counts(writer))
                )
        programs.append(Program(writer.finished(), b"", 0, local, (), (), tuple(pieces)))
    return programs[0], programs[1]


def _alike(bands: Sequence[Band]) -> dict[int, int]:
    """One band of each kind, and how many are like it; the first one loads more than any other."""
    kinds: dict[Any, int] = {}
    found: dict[int, int] = {}
    for n, band in enumerate(bands):
        parts = (band.makes, band.leaves, band.needed)
        lengths = tuple(tuple((i, r[1] - r[0]) for i, r in sorted(part.items())) for part in parts)
        at = kinds.setdefault((n == 0, lengths), n)
        found[at] = found.get(at, 0) + 1
    return found


def emit_segment(
    network: Network,
    segment: Segment,
    to: Writer,
    pieces: list[Piece],
    number: int,
    only: Mapping[int, int] | None = None,
) -> None:
    """Write a segment band by band; of a program that is only to be timed `only` some bands, each for so many."""
    t, regions = segment.together, network.regions
    base = {x: regions[name].base for x, name in t.homes.items()}
    kept = {i: replace(k, base=k.base + base["I"]) for i, k in t.kept.items()}
    lines, at = {}, regions["table"].base
    for g in segment.groups:
        lines[g] = at
        at += network.weights[g][3]
    done: dict[int, int] = {}  # rows that are in a ring already
    begun: set[Group] = set()
    for n, band in enumerate(t.bands):
        if only is not None and n not in only:
            if t.cached:
                done.update({x: max(done.get(x, 0), band.needed.get(x, (0, 0))[1]) for x in t.loaded})
            continue
        times = only[n] if only is not None else 1
        for i, group in zip(t.steps, segment.groups, strict=True):
            mapping = t.mappings[i - t.steps.start]
            leaves, weights = band.leaves.get(i, (0, 0)), t.weights.get(i)
            buffers = {o: Buffers(b.base + base[o], b.copies, b.size) for o, b in t.buffers[i - t.steps.start].items()}
            for rows in _heights(band.makes[i], mapping.sizes[DIMS.index("P")]):
                start = counts(to)
                _load_shared(network, segment, group, band.needed, kept, done, to)
                if group not in begun:
                    _load_table(network, group, lines[group], to)
                x = _tensor(segment, network, input_of(group.nodes[0]), kept)
                near: dict[str, Any] = {"near_input": _seen(network, group, x, kept)}
                if weights is not None:
                    near["near_weights"] = {tile: local + base["W"] for tile, local in weights.items()}
                    near["loads_weights"] = group not in begun
                if i in kept:
                    near |= {"near_output": kept[i], "copied": (leaves[0] - rows[0], leaves[1] - leaves[0])}
                near["near_residual"] = _residual(network, segment, group, kept)
                network.contraction(group, to, mapping, buffers, lines[group] // LINE, rows, **near)
                to.set(Queue.COMPUTE, spaced=0, skip=0)  # as all other layers expect it
                to.set(STORE, near2=0, residual_near=0)
                to.sync()
                begun.add(group)
                layer = rows_layer(network.layers[group], rows)
                name = network.name(group)
                pieces.append(Piece(name, group.kind, layer, mapping, start, counts(to), number, times))
        if not t.cached:
            done.clear()


def _heights(rows: Rows, most: int) -> list[Rows]:
    """Rows that are made in a band, in parts no taller than the mapping's stripe: a first band has the halo besides."""
    return [(at, min(at + most, rows[1])) for at in range(rows[0], rows[1], most)]


def _tensor(segment: Segment, network: Network, value: Any, kept: dict[int, Kept]) -> int | None:
    """The step whose result a value is, if it stays."""
    root = network.tensors.views[value].root
    return next((t for t in kept if segment.tensors[t].output is root), None)


def _seen(network: Network, group: Group, tensor: int | None, kept: dict[int, Kept]) -> Kept | None:
    """The input that stays, as the layer sees it: one pixel where all of a tensor are channels."""
    if tensor is None:
        return None
    view = network.tensors.views[input_of(group.nodes[0])]
    ring = kept[tensor]
    if view.flat is not None:
        c, h, w = view.flat
        return Kept(ring.base, 1, c * h * w, c * h * w)
    return ring


def _residual(network: Network, segment: Segment, group: Group, kept: dict[int, Kept]) -> Kept | None:
    add = group.node("quant.add")
    if add is None:
        return None
    own = {v for n in group.nodes for v in n.outputs}
    other = next(v for v in add.inputs if v is not None and v not in own)
    found = _tensor(segment, network, other, kept)
    return None if found is None else kept[found]


def _load_table(network: Network, group: Group, local: int, to: Writer) -> None:
    _, _, dram, length = network.weights[group]
    to.emit("loadc", LOAD, stream=2, dram=dram, local=local, count=length, packed=length)
    to.wait(STORE, LOAD, to.send(LOAD, STORE))


def _load_shared(
    network: Network,
    segment: Segment,
    group: Group,
    needed: dict[int, tuple[int, int]],
    kept: dict[int, Kept],
    done: dict[int, int],
    to: Writer,
) -> None:
    """Rows of inputs that several layers read, before the first of them."""
    own = {v for n in group.nodes for v in n.outputs}
    values = {v for n in group.nodes for v in n.inputs if v is not None and v not in own and v in network.tensors.views}
    roots = {network.tensors.views[v].root for v in values}
    loads = False
    for t in segment.together.loaded:
        value = segment.tensors[t].output
        if value not in roots or t not in needed or done.get(t, 0) >= needed[t][1]:
            continue
        ring, source = kept[t], network.tensors.activation(value)
        c, _, w = network.tensors.views[value].shape
        _, _, _, by_row, by_column = source.strides
        first = max(done.get(t, 0), needed[t][0])
        to.set(LOAD, row1=by_row, pixel1=by_column, local_row1=ring.row, local_pixel1=ring.pixel)
        for row, rows in ring.runs(first, needed[t][1] - first):
            local = ring.base + ring.place(row)
            to.emit("load", LOAD, stream=1, dram=source.base + row * by_row, local=local, rows=rows, columns=w, bytes=c)
        done[t] = needed[t][1]
        loads = True
    if loads:
        to.wait(Queue.COMPUTE, LOAD, to.send(LOAD, Queue.COMPUTE))
        to.wait(STORE, LOAD, to.send(LOAD, STORE))
