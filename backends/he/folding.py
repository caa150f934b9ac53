"""Polynomials give their scales and shifts to the layers around them, so that they cost few levels.

    a x^2 + b x + c  =  sgn(a) (sqrt|a| x + b / (2 sqrt|a|))^2 + (c - b^2 / 4a)

is one square. Degrees 4 and 8 become monic in the same way, without their second highest term, and cost two and three
levels. What a value means is then `sign * held + offset`, of which only `held` is computed.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from ...ir.diagnostics import error
from .network import Array, Layer, Network, product

__all__ = ["folded"]


def folded(network: Network) -> Network:
    """Quadratics become squares, their scales, shifts, signs and offsets part of the layers around them."""
    layers = network.layers
    for i, one in enumerate(layers):  # into the layer before
        if one.kind == "poly" and len(one.coeffs) == 3:
            c, b, a = one.coeffs
            scale = math.sqrt(abs(a))
            if not _scalable(layers, one.inputs[0], i):
                continue
            _scale(layers, one.inputs[0], scale, b / (2 * a) * scale)
            one.kind, one.factors, one.bias = "square", (math.copysign(1.0, a),), np.array(c - b * b / (4 * a))
        elif one.kind == "poly" and len(one.coeffs) in (5, 9) and _scalable(layers, one.inputs[0], i):
            scale, shift, sign, lower = _monic(one.coeffs)
            _scale(layers, one.inputs[0], scale, shift)
            one.kind, one.factors, one.bias = "monic", (sign,), np.array(sign * lower[0])
            one.coeffs = (0.0, *lower[1:])
    meaning: dict[int, tuple[float, Array | float]] = {}  # what sign * held + offset a layer's value is
    for i, one in enumerate(layers):
        if one.kind in ("square", "monic"):
            sign, offset = meaning[one.inputs[0]]
            if np.any(offset) or (one.kind == "monic" and sign != 1.0):  # nobody could shift it before
                raise error("IG0546", f"`{one.name}`: a square of what another square was shifted by")
            meaning[i] = (one.factors[0] if one.factors else 1.0, float(one.bias) if one.bias is not None else 0.0)
        elif one.kind == "linear":
            sign, offset = meaning[one.inputs[0]]
            assert one.weights is not None and one.geometry is not None
            if np.any(offset):
                extra = _through(one, offset)
                one.bias = extra if one.bias is None else one.bias + extra
            one.weights = one.weights * sign
            meaning[i] = (1.0, 0.0)
        elif one.kind == "sum":
            factors, offset = [], 0.0 if one.bias is None else one.bias
            for j, f in zip(one.inputs, one.factors, strict=True):
                factors.append(f * meaning[j][0])
                offset = offset + f * np.asarray(meaning[j][1])
            one.factors = tuple(factors)
            one.bias = np.broadcast_to(offset, (math.prod(one.shape),)).copy() if np.any(offset) else None
            meaning[i] = (1.0, 0.0)
        else:
            if one.kind == "poly" and (meaning[one.inputs[0]][0] != 1.0 or np.any(meaning[one.inputs[0]][1])):
                raise error("IG0546", f"`{one.name}`: a polynomial directly after another one")
            meaning[i] = (1.0, 0.0)
        one.coeffs = () if one.kind == "square" else one.coeffs
    sign, offset = meaning[network.output]
    return replace(network, sign=sign, offset=offset).pruned()


def _monic(coeffs: tuple[float, ...]) -> tuple[float, float, float, tuple[float, ...]]:
    """(k, t, sign, lower): p(x) = sign * (u^d + sum of lower[i] u^i) at u = k x + t, without a term u^(d - 1)."""
    from numpy.polynomial import Polynomial

    d, lead = len(coeffs) - 1, coeffs[-1]
    scale = abs(lead) ** (1 / d)
    shift = scale * coeffs[-2] / (d * lead)
    inside: Any = Polynomial([-shift / scale, 1 / scale])
    found = np.asarray(Polynomial(coeffs)(inside).coef, np.float64) * math.copysign(1.0, lead)
    return scale, shift, math.copysign(1.0, lead), (*map(float, found[: d - 1]), 0.0)


def _scalable(layers: list[Layer], index: int, user: int) -> bool:
    alone = [i for i, one in enumerate(layers) if index in one.inputs] == [user]
    return alone and layers[index].kind in ("linear", "sum")


def _scale(layers: list[Layer], index: int, scale: float, shift: float) -> None:
    """layers[index] becomes scale * itself + shift."""
    one = layers[index]
    size = math.prod(one.shape)
    if one.kind == "linear":
        assert one.weights is not None
        one.weights = one.weights * scale
    else:
        one.factors = tuple(f * scale for f in one.factors)
    if one.bias is not None or shift:
        one.bias = (np.zeros(size) if one.bias is None else one.bias) * scale + shift


def _through(one: Layer, offset: Array | float) -> Array:
    """What a linear layer makes of an input that is `offset` everywhere: pads do not get it."""
    assert one.geometry is not None
    return product(one, np.full(one.geometry.source, offset, np.float64))
