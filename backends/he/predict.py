"""What a circuit will take on an engine: CPU seconds of a forward pass, and bytes at the peak.

Both follow what execute.py does: which plaintexts stay encoded, which are encoded again in every pass, which
ciphertexts are alive at once. An operation takes what `intaglio he calibrate` measured on this machine, if it did.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, fields

from ...ir.graph import Node, Value
from ...ir.types import Cipher
from .circuit import Circuit, hoisted_of, layer_of
from .counting import Count, Operation, node_count
from .parameters import KeyManifest, Parameters
from .sharing import shared

__all__ = ["Memory", "Seconds", "contexts", "encodings", "few_contexts", "memory", "seconds"]

BOOTSTRAP_SECONDS = 14.0  # of one at N = 2^16 on Lattigo, one AMD EPYC core with AVX-512
SWITCHING = ("rotate", "relin", "conjugate")
PROCESS = 60 << 20  # bytes of Python, NumPy and an engine's code
ENTRY = 8  # bytes of an entry of a diagonal: its slot and its weight's number
SCRATCH = 4  # ciphertexts that an engine's operations need besides


# --- time -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Seconds:
    """Predicted CPU seconds of a forward pass that is not the first, and where the figures are from."""

    total: float
    source: str


def encodings(circuit: Circuit, parameters: Parameters) -> dict[Node, Counter[Operation]]:
    """What is encoded again in every pass, by node: plaintexts for which the cache has no room."""
    found: dict[Node, Counter[Operation]] = {}
    used = 0
    for node in circuit.graph.nodes:
        for level in _plaintexts(circuit, node):
            size = parameters.ciphertext_bytes(level, 1)
            if used + size <= circuit.room:
                used += size
            else:
                found.setdefault(node, Counter())["encode", level] += 1
    return found


def _plaintexts(circuit: Circuit, node: Node) -> Iterable[int]:
    """Levels of the plaintexts that a node multiplies by or adds, in the order of their encoding."""
    if node.constant is not None:
        return []
    operations = node_count(circuit, node).operations
    if node.op.name == "he.polynomial":
        return []  # its coefficients are encoded each time, and counted so
    return [
        level
        for name in ("mul_plain", "add_plain")
        for (n, level), k in operations.items()
        if n == name
        for _ in range(k)
    ]


def seconds(of: Count, parameters: Parameters, engine: str) -> Seconds:
    """Of these operations: by figures of this machine where `intaglio he calibrate` measured it, or built-in ones."""
    from . import calibrate

    costs = calibrate.known("seal" if engine == "sim" else engine, parameters.ring_degree)
    total = 0.0
    for (name, level), n in of.operations.items():
        if name == "bootstrap":
            one = BOOTSTRAP_SECONDS * parameters.ring_degree / (1 << 16)
        else:
            one = costs.cost(name.removeprefix("hoisted_"), level)
            if name.startswith("hoisted_"):
                one *= _hoisted(name, level)
            if name.removeprefix("hoisted_") in SWITCHING:  # figures are those of one special prime
                one *= _switching(level, len(parameters.special_bits)) / _switching(level, 1)
        total += n * one
    return Seconds(total, costs.date or "built-in")


def _switching(level: int, special: int) -> float:
    """What key switching costs: transforms of residues, of each digit and of what is the same for all (Lattigo)."""
    digits = -(-(level + 1) // special)
    return (digits + 3.6) * (level + 1 + special)


def _hoisted(name: str, level: int) -> float:
    """What an operation takes as a part of Lattigo's `EvaluateLinearTransform`, of what it takes alone."""
    primes = level + 1
    return 0.25 * primes / (primes + 3.6) if name == "hoisted_rotate" else 0.31 * (primes + 1) / primes


# --- memory -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Memory:
    """Bytes at the peak of a process that has the keys and computes."""

    keys: int
    contexts: int  # an engine's tables
    loading: int  # a key as made, as bytes and as read
    plaintexts: int  # encoded
    ciphertexts: int  # alive at once, and what operations need besides
    diagonals: int  # which weight goes where, and the weights; one layer's twice, while it is worked out
    process: int = PROCESS

    @property
    def total(self) -> int:
        return sum(getattr(self, f.name) for f in fields(self))


def memory(circuit: Circuit, parameters: Parameters, keys: KeyManifest, engine: str) -> Memory:
    """See `Memory`; `sim` is told what SEAL would take."""
    plaintexts, tables, largest, encoded = 0, 0, 0, set[int]()
    for node in circuit.graph.nodes:
        if node.constant is not None:
            tables += node.constant.array.nbytes
            continue
        for level in _plaintexts(circuit, node):
            size = parameters.ciphertext_bytes(level, 1)
            plaintexts += size if plaintexts + size <= circuit.room else 0
            encoded.add(level)
        if node.op.name == "he.linear" and node.attr("hoist"):  # encoded for all primes, and kept in any case
            level = node.inputs[0].type.level  # type: ignore[union-attr]
            each = parameters.ciphertext_bytes(level + len(parameters.special_bits), 1)
            plaintexts += len(hoisted_of(circuit, node)) * each
        if node.op.name in ("he.linear", "he.repack"):
            entries = layer_of(circuit, node)[1].entries.values()
            one = sum(len(at) * (ENTRY + (0 if share is None else 8)) for at, _, share in entries)
            tables, largest = tables + one, max(largest, one)
    alive = _alive(circuit, parameters) + SCRATCH * parameters.ciphertext_bytes()
    loading = 3 * max(map(parameters.key_bytes, _levels(keys)), default=0)
    shared = contexts(parameters, keys, encoded, engine)
    return Memory(keys.bytes(parameters), shared, loading, plaintexts, alive, tables + largest)


def _alive(circuit: Circuit, parameters: Parameters) -> int:
    """The most bytes of ciphertexts at once: those with readers to come, and what a layer makes on the way."""

    def size(v: Value) -> int:
        return parameters.ciphertext_bytes(v.type.level, v.type.size) if isinstance(v.type, Cipher) else 0

    nodes = circuit.graph.nodes
    last = {v: i for i, node in enumerate(nodes) for v in node.inputs if v is not None}
    last |= dict.fromkeys(circuit.graph.outputs, len(nodes))
    held = {v: size(v) for v in circuit.graph.inputs}
    turned: dict[Value, int] = {}  # rotations that are kept for other layers
    most = 0
    for i, node in enumerate(nodes):
        if node.constant is not None:
            continue
        inside = size(node.output)
        if node.op.name in ("he.linear", "he.repack"):
            plan = layer_of(circuit, node)[0]
            inside += size(node.inputs[0]) * (math.prod(n for n, _ in plan.babies) + len(plan.giants))  # type: ignore[arg-type]
            if share := shared(circuit).get(node):
                turned[share.of] = len(share.kept) * size(node.inputs[0])  # type: ignore[arg-type]
        most = max(most, sum(held.values()) + sum(turned.values()) + inside)
        held[node.output] = size(node.output)
        held = {v: n for v, n in held.items() if last.get(v, -1) > i}
    return most


# SEAL keeps tables in every context, and in one for each level below it that keys may be used at. So keys for many
# different levels, small as they are, may take more than keys for a few levels.


def contexts(parameters: Parameters, keys: KeyManifest, encoded: Iterable[int], engine: str) -> int:
    """Bytes of an engine's tables for keys and for plaintexts at these levels."""
    if engine == "lattigo":
        return 64 * parameters.ring_degree * (len(parameters.prime_bits) + len(parameters.special_bits))
    chains = {parameters.max_level, *_levels(keys)}
    alone = sum(_tables(parameters, level + 2) + _tables(parameters, level + 1) for level in set(encoded) - chains)
    return alone + sum(_chain(parameters, level) for level in chains)


def _tables(parameters: Parameters, primes: int) -> int:
    """Roots and inverse roots, with their quotients, for those primes and as many auxiliary ones and two."""
    return 32 * parameters.ring_degree * (2 * primes + 2)


def _chain(parameters: Parameters, level: int) -> int:
    return sum(_tables(parameters, primes) for primes in range(1, level + 3))


def _levels(keys: KeyManifest) -> list[int]:
    return [*keys.steps.values(), *(x for x in (keys.relin, keys.conjugate) if x is not None)]


def few_contexts(keys: KeyManifest, parameters: Parameters) -> KeyManifest:
    """The same keys, some of them for higher levels, so that keys and SEAL's contexts together are smallest.

    Levels are parted into runs, each with the keys and the context of its highest: a shortest path.
    """
    levels = Counter(_levels(keys))
    order = sorted(levels)
    best: list[tuple[int, list[int]]] = [(0, [])]  # of the lowest i levels: bytes, and the level that each is raised to
    for end in range(1, len(order) + 1):
        top = order[end - 1]
        context = _chain(parameters, top) if top != parameters.max_level else 0
        ways = []
        for start in range(end):
            count = sum(levels[x] for x in order[start:end])
            size, raised = best[start]
            ways.append((size + context + count * parameters.key_bytes(top), [*raised, *[top] * (end - start)]))
        best.append(min(ways))
    to = dict(zip(order, best[-1][1], strict=True))
    return KeyManifest.of(
        {step: to[level] for step, level in keys.rotations},
        relin=None if keys.relin is None else to[keys.relin],
        conjugate=None if keys.conjugate is None else to[keys.conjugate],
    )
