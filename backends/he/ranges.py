"""How large values get, from samples in the clear, and scaling them so that they fit.

A value is held k times as large as it is; k goes into the weights of the layers around it and costs nothing. Results of
linear layers, sums and polynomials may have any k, a square and a monic polynomial of degree d have that of their
operand, squared or to the d-th power. What is bootstrapped is scaled below 1 (bootstrapping knows no more), everything
else below what a ciphertext of level 0 holds. Samples do not show the largest value there is: SPARE bits are kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ...ir.diagnostics import error
from .levels import Levels, absorbed
from .network import Layer, Network, product
from .noise import MARGIN
from .search import ROOM

__all__ = ["held", "largest", "scaled", "spread"]

SPARE = 0.5  # bits beside the margin that the gate asks for: other inputs are larger than the samples
BOOTSTRAPPED = 2.0 ** -(MARGIN + SPARE)
EXPLODED = 2.0**20  # beyond, scaling leaves no bits
HELD = 2.0 ** (ROOM - 1 - MARGIN - SPARE)


def held(network: Network, sample: Any) -> list[Any]:
    """The value of every layer, flat, for an array of the input's shape."""
    values: list[Any] = []
    for one in network.layers:
        given = [values[j] for j in one.inputs]
        values.append(_value(one, given) if one.inputs else np.asarray(sample, np.float64).reshape(-1))
    return values


def _value(one: Layer, given: list[Any]) -> Any:
    bias = 0.0 if one.bias is None else one.bias
    match one.kind:
        case "linear":
            return product(one, given[0]) + bias
        case "sum":
            return sum(f * x for f, x in zip(one.factors, given, strict=True)) + bias
        case "square":
            return given[0] ** 2
    coeffs = (*one.coeffs, 1.0) if one.kind == "monic" else one.coeffs
    return np.polynomial.polynomial.polyval(given[0], coeffs)


def largest(network: Network, samples: Iterable[Any]) -> list[float]:
    """The largest size of every layer's value on these samples; IG0551 where they explode."""
    most = np.zeros(len(network.layers))
    with np.errstate(all="ignore"):
        for sample in samples:
            most = np.maximum(most, [np.abs(v).max(initial=0.0) for v in held(network, sample)])
    for one, size in zip(network.layers, most, strict=True):
        if not size < EXPLODED:
            what = f"on calibration data, values of `{one.name}` come to {size:.3g}: the polynomials before it explode"
            hint = "polynomials of a higher degree, or fine-tuned ones, whose range penalty keeps values small"
            raise error("IG0551", what, hint=hint)
    return [float(x) for x in most]


def scaled(network: Network, levels: Levels, sizes: Sequence[float]) -> Network:
    """The same function with values that fit; `sizes` are those of `largest`."""
    layers = network.layers
    allowed = [BOOTSTRAPPED if i in levels.raised else HELD for i in range(len(layers))]
    factor = [1.0] * len(layers)
    wanted = [min(1.0, a / size) if size else 1.0 for a, size in zip(allowed, sizes, strict=True)]
    for i in reversed(range(len(layers))):  # what a square must not exceed, its operand must not either
        if layers[i].kind in ("square", "monic"):
            j = layers[i].inputs[0]
            wanted[j] = min(wanted[j], wanted[i] ** (1 / _degree(layers[i])))
        for j, f in zip(layers[i].inputs, layers[i].factors, strict=False):
            if layers[i].kind == "sum" and absorbed(network, j, i) and f:  # held as a part of the sum
                wanted[i] = min(wanted[i], wanted[j] / abs(f))
    made = []
    for i, one in enumerate(layers):
        given = [factor[j] for j in one.inputs]
        if one.kind in ("square", "monic"):
            factor[i] = given[0] ** _degree(one)
        elif one.inputs:  # the client does not scale
            factor[i] = wanted[i]
        made.append(_scaled(one, given, factor[i]))
    return Network(made, network.output, network.sign / factor[network.output], network.offset)


def spread(network: Network, levels: Levels, sizes: Sequence[float], seen: Sequence[float]) -> list[float]:
    """`sizes` with what else is in the slots of a ciphertext: partial sums may be larger than what they are part of.

    `seen` is the largest number in each bootstrap of the circuit of `scaled(network, levels, sizes)`.
    """
    found = list(sizes)
    for j, size in zip(sorted(levels.raised), seen, strict=True):
        if size > BOOTSTRAPPED:
            found[j] = max(found[j], max(sizes[j], BOOTSTRAPPED) * size / BOOTSTRAPPED)
    return found


def _degree(one: Layer) -> int:
    return 2 if one.kind == "square" else len(one.coeffs)


def _scaled(one: Layer, given: Sequence[float], factor: float) -> Layer:
    """The layer whose operands are held `given` times as large, and its result `factor` times."""
    bias = None if one.bias is None else one.bias * factor
    match one.kind:
        case "linear":
            assert one.weights is not None
            return replace(one, weights=one.weights * (factor / given[0]), bias=bias)
        case "sum":
            factors = tuple(f * factor / g for f, g in zip(one.factors, given, strict=True))
            return replace(one, factors=factors, bias=bias)
        case "poly":
            return replace(one, coeffs=tuple(c * factor / given[0] ** i for i, c in enumerate(one.coeffs)))
        case "monic":
            d = len(one.coeffs)
            return replace(one, coeffs=tuple(c * given[0] ** (d - i) for i, c in enumerate(one.coeffs)))
    return one
