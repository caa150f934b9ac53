"""Linear layers after one another become one, so that a way through the network costs a level less.

Two convolutions are one with a larger window, borders included (ir/convolutions.py); convolutions and matrices are one
matrix; what is done to a sum is done to its operands. So where an activation was dropped, a level or two go with it.
Copies of a layer for several readers, or for the operands of a sum, are more work: they are made only where the network
takes fewer levels afterwards.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ...ir.convolutions import Conv, after, dense_weights, plus
from .levels import place
from .network import Array, Layer, Network, product
from .plans import Geometry

__all__ = ["merged"]

MOST = 1 << 26  # weights of a merged layer


def merged(network: Network) -> Network:
    """The same function in fewer layers."""
    network = _joined(network, copies=False)
    spread = _joined(network, copies=True)
    return spread if place(spread).needed < place(network).needed else network


def _joined(network: Network, *, copies: bool) -> Network:
    """Linear after linear, sums of sums and sums of layers of one value, until nothing of the kind is left."""
    while True:
        changed = next(filter(None, (_step(network, i, copies) for i in range(len(network.layers)))), None)
        if changed is None:
            return network
        network = changed.pruned()


def _step(network: Network, i: int, copies: bool) -> Network | None:
    one = network.layers[i]
    if one.kind == "linear":
        j = one.inputs[0]
        if network.layers[j].kind == "linear" and (copies or _only(network, j, i)):
            return _with(network, i, _after(one, network.layers[j]))
        return _over_sum(network, i) if copies and network.layers[j].kind == "sum" else None
    if one.kind == "sum":
        return _with(network, i, _flat(network, i) or _alone(network, i)) or _together(network, i)
    return None


def _with(network: Network, i: int, layer: Layer | None) -> Network | None:
    if layer is None:
        return None
    return replace(network, layers=[*network.layers[:i], layer, *network.layers[i + 1 :]])


def _only(network: Network, j: int, user: int) -> bool:
    return network.users(j) == [user] and j != network.output


def _plus(a: Array | None, b: Array | None) -> Array | None:
    return b if a is None else a if b is None else a + b


# --- linear after linear --------------------------------------------------------------------------------------------


def _after(second: Layer, first: Layer) -> Layer | None:
    """`second` of `first`; None where they have no common form, or one that is too large."""
    g, h, w, v = second.geometry, first.geometry, second.weights, first.weights
    assert g is not None and h is not None and w is not None and v is not None
    bias = _plus(second.bias, None if first.bias is None else product(second, first.bias))
    rows: tuple[int, ...] = ()
    columns: tuple[int, ...] = ()
    if not g.window:
        if len(w) * int(np.prod(h.source)) > MOST:
            return None
        made, geometry = w @ v if not h.window else _of_convolution(w, conv_of(first)), replace(h, target=g.target)
        geometry = Geometry(h.source, g.target)
    elif not h.window or g.source != h.target:
        return None
    elif _factors(first):  # of channels
        each = v.reshape(g.groups, 1, -1, 1, 1).repeat(len(w) // g.groups if not second.rows else 1, 1)
        made, rows, columns = (
            w * each.reshape(-1 if not second.rows else 1, w.shape[-3], 1, 1),
            second.rows,
            second.columns,
        )
        geometry = g
    elif _factors(second):
        made, rows, columns = v * w.reshape(-1, 1, 1, 1), first.rows, first.columns
        geometry = h
    else:
        a, b = conv_of(second), conv_of(first)
        if b.size(a) > MOST:
            return None
        return replace(of_conv(after(a, b), second), inputs=first.inputs, bias=bias)
    return replace(second, inputs=first.inputs, geometry=geometry, weights=made, bias=bias, rows=rows, columns=columns)


def _factors(one: Layer) -> bool:
    """Whether it is a factor for every channel."""
    g, w = one.geometry, one.weights
    assert g is not None and w is not None
    return g == Geometry(g.source, g.source, (1, 1), groups=g.source[0]) and w.shape == (g.source[0], 1, 1, 1)


def conv_of(one: Layer) -> Conv:
    """A convolution, its groups written out."""
    g, w = one.geometry, one.weights
    assert g is not None and w is not None
    source, target = g.source, g.target
    if one.rows:
        return Conv(source, target, w, one.rows, one.columns, g.strides, g.pads)  # type: ignore[arg-type]
    return Conv.plain(source, target, dense_weights(w, g.groups), g.strides, g.pads)  # type: ignore[arg-type]


def of_conv(made: Conv, like: Layer) -> Layer:
    """The layer of a convolution, with the rest of another one."""
    window = made.weights.shape[4:]
    geometry = Geometry(made.source, made.result, window, made.strides, made.pads)
    if made.uniform:
        return replace(like, geometry=geometry, weights=made.weights[0, 0], rows=(), columns=())
    return replace(like, geometry=geometry, weights=made.weights, rows=made.rows, columns=made.columns)


def _of_convolution(w: Array, first: Conv) -> Array:
    """The matrix w[rows, M * P * Q] of a convolution's results, as one of its source."""
    maps, p, q = first.result
    of = w.reshape(len(w), maps, p, q)
    (channels, tall, wide), (kh, kw) = first.source, first.weights.shape[4:]
    rows, columns = np.array(first.rows), np.array(first.columns)
    made = np.zeros((len(w), channels, tall, wide))
    for a, b, ky, kx in np.ndindex(*first.weights.shape[:2], kh, kw):
        y, x = (
            np.arange(n) * s - pad + k for n, s, pad, k in zip((p, q), first.strides, first.pads, (ky, kx), strict=True)
        )
        at_y = np.flatnonzero((rows == a) & (y >= 0) & (y < tall))
        at_x = np.flatnonzero((columns == b) & (x >= 0) & (x < wide))
        seen = of[:, :, at_y[:, None], at_x]
        made[:, :, y[at_y][:, None], x[at_x]] += np.einsum("rmpq,mc->rcpq", seen, first.weights[a, b, :, :, ky, kx])
    return made.reshape(len(w), -1)


# --- sums -----------------------------------------------------------------------------------------------------------


def _flat(network: Network, i: int) -> Layer | None:
    """A sum of sums."""
    one = network.layers[i]
    for n, j in enumerate(one.inputs):
        inner = network.layers[j]
        if inner.kind == "sum" and (network.users(j) == [i] and j != network.output) and one.inputs.count(j) == 1:
            factor = one.factors[n]
            return replace(
                one,
                inputs=(*one.inputs[:n], *inner.inputs, *one.inputs[n + 1 :]),
                factors=(*one.factors[:n], *(f * factor for f in inner.factors), *one.factors[n + 1 :]),
                bias=_plus(one.bias, None if inner.bias is None else inner.bias * factor),
            )
    return None


def _alone(network: Network, i: int) -> Layer | None:
    """A sum with one operand, which is a linear layer that nobody else reads."""
    one = network.layers[i]
    if len(one.inputs) != 1 or network.layers[one.inputs[0]].kind != "linear" or not _only(network, one.inputs[0], i):
        return None
    inner, factor = network.layers[one.inputs[0]], one.factors[0]
    assert inner.weights is not None
    bias = _plus(one.bias, None if inner.bias is None else inner.bias * factor)
    return replace(inner, weights=inner.weights * factor, bias=bias)


def _together(network: Network, i: int) -> Network | None:
    """Two operands of a sum that are layers of one value, or that value itself: one layer."""
    one = network.layers[i]
    of: dict[int, int] = {}  # the value that an operand is a layer of, and which operand that is
    for n, j in enumerate(one.inputs):
        layer = network.layers[j]
        own = layer.kind == "linear" and _only(network, j, i)
        value = layer.inputs[0] if own else j
        if value not in of:
            of[value] = n
            continue
        m = of[value]
        first = j if own else one.inputs[m]  # where the new layer goes
        if network.layers[first].kind != "linear" or first == value:
            continue
        pair = [(network.layers[x] if x != value else None, one.factors[y]) for x, y in ((one.inputs[m], m), (j, n))]
        made = _summed(pair, network.layers[first])
        if made is None:
            continue
        layers = list(network.layers)
        layers[first] = made
        rest = [x for x in range(len(one.inputs)) if x not in (m, n)]
        inputs = (first, *(one.inputs[x] for x in rest))
        layers[i] = replace(one, inputs=inputs, factors=(1.0, *(one.factors[x] for x in rest)))
        return replace(network, layers=layers)
    return None


def _summed(pair: list[tuple[Layer | None, float]], like: Layer) -> Layer | None:
    """The sum of two linear layers of one value with factors; None stands for the value itself."""
    g = like.geometry
    assert g is not None
    bias = None
    for layer, factor in pair:
        if layer is not None and layer.bias is not None:
            bias = _plus(bias, layer.bias * factor)
    if not g.window:
        if any(x is not None and x.geometry != g for x, _ in pair) or (
            g.source != g.target and any(x is None for x, _ in pair)
        ):
            return None
        made = sum((np.eye(len(like.weights)) if x is None else x.weights) * f for x, f in pair)
        return replace(like, weights=made, bias=bias)
    parts = []
    for layer, factor in pair:
        if layer is None:
            c = g.source[0]
            own = Conv.plain(g.source, g.source, np.eye(c)[:, :, None, None])  # type: ignore[arg-type]
        elif layer.geometry is None or not layer.geometry.window:
            return None
        else:
            own = conv_of(layer)
        parts.append(replace(own, weights=own.weights * factor))
    a, b = parts
    if (a.strides, a.source, a.result) != (b.strides, b.source, b.result):
        return None
    return replace(of_conv(plus(a, b), like), bias=bias)


def _over_sum(network: Network, i: int) -> Network:
    """A linear layer of a sum becomes the sum of that layer of each operand."""
    one = network.layers[i]
    inner = network.layers[one.inputs[0]]
    assert one.weights is not None
    parts = [
        replace(one, inputs=(j,), weights=one.weights * f, bias=None)
        for j, f in zip(inner.inputs, inner.factors, strict=True)
    ]
    bias = _plus(one.bias, None if inner.bias is None else product(one, inner.bias))
    total = Layer(
        "sum", tuple(range(i, i + len(parts))), one.shape, bias=bias, factors=(1.0,) * len(parts), source=one.source
    )
    total.name = one.name
    shift = len(parts)
    later = [replace(x, inputs=tuple(j + shift if j >= i else j for j in x.inputs)) for x in network.layers[i + 1 :]]
    output = network.output + shift if network.output >= i else network.output
    return replace(network, layers=[*network.layers[:i], *parts, total, *later], output=output)
