"""From a graph of tensors to a circuit: network, packings, levels, parameters, ops, keys. The passes of docs/he.md."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from ...ir.diagnostics import error
from ...ir.graph import Graph
from ...ir.types import Cipher
from ...ir.verify import verify
from .choose import Chosen, choose
from .circuit import Circuit
from .counting import Count, check_keys, count, manifest
from .engine import Meta
from .gate import bootstrapped
from .interface import Interface, Tensor
from .levels import Levels, place
from .lower import lower
from .network import Network
from .parameters import KeyManifest, Parameters
from .predict import few_contexts
from .ranges import largest, scaled, spread
from .reading import read_network
from .search import parameters
from .security import check

__all__ = ["Compiled", "compile_graph"]

RINGS = tuple(1 << log for log in range(12, 17))
ENGINE_RINGS = {"seal": 1 << 15}
BOOTSTRAP_LEVELS = 9  # that Lattigo's bootstrapping leaves at N = 2^16


@dataclass(frozen=True)
class Compiled:
    """A circuit with all that a client and a server need, and what it is made of."""

    circuit: Circuit
    interface: Interface
    network: Network
    chosen: Chosen
    levels: Levels
    counted: Count

    @property
    def parameters(self) -> Parameters:
        return self.interface.parameters

    @property
    def keys(self) -> KeyManifest:
        return self.interface.manifest

    @property
    def bootstraps(self) -> int:
        return self.counted.total("bootstrap")


def compile_graph(
    graph: Graph,
    engine: str = "sim",
    *,
    ring: int | None = None,
    scale: int | None = None,
    bootstrap: bool | None = None,
    insecure: bool = False,
    hoist: bool = False,
    samples: Sequence[Any] = (),
) -> Compiled:
    """The circuit of a graph; IG0546 for what has none, IG0549 where no parameters do.

    `samples` are inputs: values are scaled to fit where these make them too large (ranges.py).

    `bootstrap`: True plans bootstraps, False forbids them, None plans them where the levels are too many otherwise.
    `insecure` admits any ring for tests. `hoist` takes more keys for less time (hoisting.py; IG0563 for SEAL).
    """
    if hoist and engine == "seal":
        raise error("IG0563", "engine `seal` does not hoist rotations", hint="leave `hoist` out, or use engine lattigo")
    network = read_network(graph)
    sizes = largest(network, samples)
    plain = place(network)
    special = 1 if engine == "seal" else 0
    tried = []
    for n in RINGS if ring is None else (ring,):
        if n > ENGINE_RINGS.get(engine, max(RINGS)) and ring is None:
            continue
        for levels in _plans(network, plain, n, engine, bootstrap):
            made = _insecure(n, levels.needed, scale) if insecure else _secure(n, levels, special, scale)
            if made is None:
                tried.append(f"N = {n} has no room for {levels.needed} levels")
                continue
            chosen = choose(network, n // 2)
            if chosen is None:
                tried.append(f"{n // 2} slots are too few")
                continue
            if not len(samples):
                return _finished(network, chosen, levels, made, engine, graph, hoist)
            fits = scaled(network, levels, sizes)
            first = _finished(fits, chosen, levels, made, engine, graph, hoist)
            if not levels.raised:
                return first
            again = spread(network, levels, sizes, bootstrapped(first.circuit, first.interface, samples[0]))
            return _finished(scaled(network, levels, again), chosen, levels, made, engine, graph, hoist)
    why = "; ".join(tried) or f"engine `{engine}` ends at N = {ENGINE_RINGS.get(engine)}"
    hint = "fewer activations, polynomials of lower degree, or engine lattigo with bootstrapping"
    raise error("IG0549", f"no secure parameters for {plain.needed} levels: {why}", hint=hint)


def _plans(network: Network, plain: Levels, ring: int, engine: str, bootstrap: bool | None) -> list[Levels]:
    if bootstrap is False or engine == "seal":
        return [plain]
    raised = [place(network, BOOTSTRAP_LEVELS)] if ring >= 1 << 16 and plain.needed > BOOTSTRAP_LEVELS else []
    return raised if bootstrap else [plain, *raised]


def _secure(ring: int, levels: Levels, special: int, scale: int | None) -> Parameters | None:
    return parameters(ring, levels.needed, special=special, scale=scale, bootstrap=bool(levels.raised))


def _insecure(ring: int, levels: int, scale: int | None) -> Parameters:
    bits = scale or 40
    return Parameters(ring, (min(bits + 10, 59), *(bits,) * levels), (min(bits + 15, 59),), bits, insecure=True)


def _finished(
    network: Network, chosen: Chosen, levels: Levels, made: Parameters, engine: str, graph: Graph, hoist: bool
) -> Compiled:
    check(made)
    emitted = lower(network, chosen, levels, made, hoist=hoist)
    verify(emitted)
    circuit = Circuit(emitted)
    counted = count(circuit)
    keys = manifest(counted)
    if engine == "seal":
        keys = few_contexts(keys, made)
    keys.check(made)
    check_keys(circuit, keys)
    return Compiled(
        circuit, _interface(network, chosen, made, keys, engine, emitted, graph), network, chosen, levels, counted
    )


def _interface(
    network: Network,
    chosen: Chosen,
    made: Parameters,
    keys: KeyManifest,
    engine: str,
    emitted: Graph,
    graph: Graph,
) -> Interface:
    x, y = emitted.inputs[0].type, emitted.outputs[0].type
    assert isinstance(x, Cipher) and isinstance(y, Cipher)
    taps = None
    if (g := chosen.client.geometry) is not None:
        taps = {"window": g.window, "strides": g.strides, "pads": g.pads, "result": g.target[1:]}
    into: dict[str, Any] = {"kind": "packed", "packing": x.packing, "taps": taps}
    offset: Any = np.asarray(network.offset, np.float64)
    back = {"kind": "packed", "packing": y.packing, "sign": network.sign, "offset": offset.tolist()}
    shapes = [tuple(int(d) for d in v.type.shape) for v in (graph.inputs[0], graph.outputs[0])]  # type: ignore[arg-type]
    inputs = (Tensor(graph.inputs[0].name, shapes[0], into, (Meta(x.level, Fraction(1 << made.scale_bits)),)),)
    outputs = (Tensor(graph.output_names[0], shapes[1], back, (Meta(y.level, Fraction(1 << made.scale_bits)),)),)
    return Interface(engine, made, keys, inputs, outputs)
