"""Programs of single layers compute what `quant.conv` and `quant.requantize` do, for any tiles and any order."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from intaglio.backends.accelerator.counting import ORDERS
from intaglio.backends.accelerator.emit.contraction import (
    ENTRY,
    Activation,
    Buffers,
    Contraction,
    Packed,
    Residual,
    emit,
    sizes,
)
from intaglio.backends.accelerator.emit.stream import Writer
from intaglio.backends.accelerator.emit.weights import packed_weights
from intaglio.backends.accelerator.isa.instructions import LINE, Queue, decode, encode
from intaglio.backends.accelerator.layer import DIMS, conv
from intaglio.backends.accelerator.simulate.functional import simulate
from intaglio.ir.ops import quant_integer as q
from intaglio.ir.types import Int


def aligned(n: int) -> int:
    return -(-n // LINE) * LINE


def channels_last(base: int, n: int, g: int, c: int, h: int, w: int, **more: Any) -> Activation:
    return Activation(base, (h * w * g * c, c, 1, w * g * c, g * c), **more)


@st.composite
def cases(draw: st.DrawFn) -> dict[str, Any]:
    pick = lambda *options: draw(st.sampled_from(options))  # noqa: E731
    groups = pick(1, 1, 2, 3)
    k, c = groups * draw(st.integers(1, 5)), groups * draw(st.integers(1, 5))
    if pick(False, False, True):
        groups = k = c = draw(st.integers(2, 6))  # depthwise
    window = (draw(st.integers(1, 3)), draw(st.integers(1, 3)))
    dilations = (pick(1, 1, 2), pick(1, 1, 2))
    image = tuple(draw(st.integers(d * (r - 1) + 1, 8)) for d, r in zip(dilations, window, strict=True))
    layer = conv(
        "layer",
        k,
        c,
        image,  # type: ignore[arg-type]
        window,
        n=pick(1, 1, 2),
        groups=groups,
        strides=(pick(1, 2, 3), pick(1, 2)),
        dilations=dilations,
        pads=(draw(st.integers(0, 1)), draw(st.integers(0, 1)), draw(st.integers(0, 1)), draw(st.integers(0, 1))),
    )
    return {
        "layer": layer,
        "tiles": {d: draw(st.integers(1, layer.extent[d])) for d in DIMS},
        "order": draw(st.sampled_from(ORDERS)),
        "copies": {x: pick(1, 2) for x in ("W", "I", "O")},
        "bits": pick(8, 8, 4, 2),
        "signed": pick(False, True),
        "zero": draw(st.integers(-8, 8)),
        "residual": pick(False, False, True),
        "seed": draw(st.integers(0, 1000)),
    }


@settings(deadline=None, max_examples=150)
@given(cases())
def test_any_mapping_computes_the_layer(case: dict[str, Any]) -> None:
    layer, bits = case["layer"], case["bits"]
    e = layer.extent
    rng = np.random.default_rng(case["seed"])
    kind = np.int8 if case["signed"] else np.uint8
    span = np.iinfo(kind)
    zero = case["zero"] if case["signed"] else case["zero"] + 8
    x = rng.integers(span.min, span.max + 1, (e["N"], e["G"] * e["C"], *layer.image), kind, endpoint=False)
    w = rng.integers(-(1 << bits - 1), 1 << bits - 1, (e["G"], e["K"], e["C"], e["R"], e["S"])).astype(np.int8)
    count = e["G"] * e["K"]
    bias = rng.integers(-1000, 1000, count).astype(np.int32)
    multiplier, shift = q.fixed_point(rng.uniform(0.001, 0.02, count))
    attributes = {"low": span.min, "high": span.max, "zero": zero}
    pads = (*layer.pads, *_after(layer))
    sums = q.conv.function(
        x, w.reshape(-1, e["C"], e["R"], e["S"]), bias, strides=layer.strides, pads=pads, dilations=layer.dilations,
        g=e["G"], zero=zero,
    )  # fmt: skip
    to = Int("i8" if case["signed"] else "u8")
    expected = q.requantize.function(sums, multiplier, shift, to=to, **attributes)
    other = rng.integers(span.min, span.max + 1, expected.shape, kind, endpoint=False)
    add = {"a_multiplier": 77, "b_multiplier": 50, "shift": 7, "a_zero": zero, "b_zero": 3}
    add |= {"zero": zero, "low": span.min, "high": span.max}
    if case["residual"]:
        expected = q.add.function(expected, other, to=to, **add)

    data, places = packed_weights(w, case["tiles"], bits)
    table = np.zeros((count, 4), np.int32)
    table[:, 0], table[:, 1], table[:, 2] = bias, multiplier, shift
    blocks = {"x": x.transpose(0, 2, 3, 1).tobytes(), "w": data, "t": table.tobytes()}
    blocks |= {"r": other.transpose(0, 2, 3, 1).tobytes(), "y": bytes(expected.size)}
    at, base = 0, {}
    for name, block in blocks.items():
        base[name] = at
        at = aligned(at + len(block)) + LINE
    spill = at
    shape = (e["N"], e["G"], e["K"], e["P"], e["Q"])
    contraction = Contraction(
        layer,
        case["tiles"],
        case["order"],
        channels_last(base["x"], e["N"], e["G"], e["C"], *layer.image, signed=case["signed"], zero=zero),
        Packed(base["w"]),
        channels_last(base["y"], *shape, signed=case["signed"], zero=zero),
        table=0,
        low=span.min,
        high=span.max,
        partial=spill,
        residual=Residual(base["r"], case["signed"], **add) if case["residual"] else None,
        weight_bits=bits,
    )
    room, local, buffers = sizes(contraction), aligned(count * ENTRY), {}
    for name, size in room.items():
        copies = case["copies"][name]
        buffers[name] = Buffers(local, copies, aligned(size))
        local += copies * aligned(size)
    tiles_of_sums = int(np.prod([-(-e[d] // case["tiles"][d]) for d in ("N", "G", "K", "P", "Q")]))
    dram = np.zeros(spill + tiles_of_sums * buffers["O"].size, np.uint8)
    for name, block in blocks.items():
        dram[base[name] : base[name] + len(block)] = np.frombuffer(block, np.uint8)
    dram[base["y"] : base["y"] + expected.size] = 0xEE

    writer = Writer()
    length = count * ENTRY
    writer.emit("loadc", Queue.LOAD, stream=0, dram=base["t"], local=0, count=length, packed=length)
    writer.wait(Queue.STORE, Queue.LOAD, writer.send(Queue.LOAD, Queue.STORE))
    emit(contraction, buffers, places, writer)
    program = {queue: decode(encode(found)) for queue, found in writer.finished().items()}
    simulate(program, dram, local)
    found = dram[base["y"] : base["y"] + expected.size].view(kind)
    found = found.reshape(e["N"], e["P"], e["Q"], -1).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(found, expected)


def _after(layer: Any) -> tuple[int, int]:
    """Pads at the end of the axes that make the layer's outputs."""
    found = []
    for i in (0, 1):
        outputs, window, stride, dilation, pad, image = layer.axis(i)
        found.append(max(0, (outputs - 1) * stride + (window - 1) * dilation + 1 - pad - image))
    return found[0], found[1]
