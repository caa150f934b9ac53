"""NVDLA as its vendor estimates it: every layer takes max(multiplications, DRAM, second memory).

Rows of the array share atomic-C input channels, columns are atomic-K kernels:

    products     ceil(C/rows) ceil(K/cols) P Q R S, a Winograd 3x3 of stride 1 by 2.25 less; images of up to 4 channels
                 fill the rows with pixels: R S 4 / rows
    weights      K C ceil(R/stride) stride ceil(S/stride) stride bytes; 4 x 4 for Winograd

Without a second memory (level `cvsram`) features come from and go to DRAM:

    the smaller of weights and inputs stays in `cbuf`, in as many parts as leave room for one group of kernels or one
    window of rows of the other, which is read once for each part; where nothing fits, the other way round
    kernels are rounded up to 4 groups: a layer of 64 kernels takes as long as one of 128

With it, features stay on the chip while there is room for all that was written so far; then every output pushes as many
bytes out to DRAM. `batch` images share the weights of a layer if the memory has room for the features of all.

`fc_batch` images share the weights of fully connected layers.

Read from NVIDIA's spreadsheet (nvdla/hw, perf/, 2048 multipliers) and the primer: Winograd and weights, the smaller
operand that stays and the second memory of 2.5 MiB are its numbers, not its documentation; groups of 32 kernels in
`cbuf` are those of the primer's smaller machines too. Vendor's estimates, not silicon.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..layer import Layer
from ..machine import Machine

__all__ = ["Step", "Time", "frames_per_second", "times"]

IMAGE = 4  # channels of an image, padded
GROUP = 32  # kernels whose weights lie in the buffer together
UNSHARED = 4  # kernel groups that are filled up without a second memory
WINOGRAD = 2.25


@dataclass(frozen=True)
class Step:
    """A convolution or product with what follows it on the way out: elements after pooling, an elementwise operand."""

    layer: Layer
    pooled: int = 0  # elements written per image; 0: all outputs
    residual: int = 0  # elements of a second operand, read


@dataclass(frozen=True)
class Time:
    """Cycles of one step by what takes them, and bytes from and to DRAM."""

    products: float
    dram: float
    read: float
    write: float
    bytes: float

    @property
    def cycles(self) -> float:
        return max(self.products, self.dram, self.read, self.write)


def times(machine: Machine, steps: Sequence[Step]) -> list[Time]:
    """Every step of a network, one image; with a second memory the first step reads its image from DRAM."""
    on_chip = any(level.name == "cvsram" for level in machine.levels)
    if not on_chip:
        return [_from_dram(machine, step) for step in steps]
    memory, dram = machine.level("cvsram"), machine.level("dram").bandwidth
    held = _inputs(steps[0].layer) if steps else 0
    out = []
    for i, step in enumerate(steps):
        layer = step.layer
        inputs, outputs = _inputs(layer), _outputs(step)
        connected = _connected(layer)
        shared = _sharing(machine, layer)
        if not connected and (inputs + outputs) * shared > memory.size:
            shared = 1.0
        moved = _weights(machine, layer) / shared
        if i == 0 or connected:
            moved += inputs
        held += outputs
        if held > memory.size and not connected:
            moved += outputs
        out.append(Time(_products(machine, layer, 1), moved / dram, inputs / memory.read_bandwidth if i else 0.0,
                        outputs / memory.write_bandwidth, moved))  # fmt: skip
    return out


def frames_per_second(machine: Machine, steps: Sequence[Step]) -> float:
    """Images per second, one step after the other."""
    return machine.clock / sum(t.cycles for t in times(machine, steps))


def _from_dram(machine: Machine, step: Step) -> Time:
    layer, buffer = step.layer, machine.level("cbuf").size
    e = layer.extent
    inputs, weights = _inputs(layer), _weights(machine, layer)
    rows = max(e["R"], layer.strides[0]) * layer.image[1] * _channels(layer) * e["G"]
    kernels = weights * min(1.0, GROUP / (e["K"] * e["G"]))
    small, large, part = (weights, inputs, rows) if weights <= inputs else (inputs, weights, kernels)
    if buffer <= part:
        small, large, part = large, small, kernels if part == rows else rows
    if _connected(layer):
        moved = inputs + weights / _sharing(machine, layer)
    else:
        moved = max(1, -(-small // max(1, int(buffer - part)))) * large + small
    moved += _outputs(step) + step.residual
    return Time(_products(machine, layer, UNSHARED), moved / machine.level("dram").bandwidth, 0.0, 0.0, moved)


def _products(machine: Machine, layer: Layer, groups: int) -> float:
    """Cycles of the multipliers; kernels are rounded up to `groups` groups of columns."""
    e = layer.extent
    rows, cols = machine.array.rows, machine.array.cols
    if _image(layer):
        reduction = IMAGE * e["R"] * e["S"] / rows
    else:
        reduction = -(-e["C"] // rows) * e["R"] * e["S"]
    kernels = e["K"] * (e["G"] if e["K"] == 1 else 1)
    turns = e["G"] if e["K"] > 1 else 1
    outputs = e["N"] * e["P"] * e["Q"] * turns
    columns = -(-kernels // (cols * groups)) * groups if kernels < cols * groups else -(-kernels // cols)
    cycles = reduction * columns * outputs
    return cycles / WINOGRAD if _winograd(machine, layer) else cycles


def _weights(machine: Machine, layer: Layer) -> float:
    e = layer.extent
    window = [-(-e[d] // s) * s for d, s in zip(("R", "S"), layer.strides, strict=True)]
    if _winograd(machine, layer):
        window = [4, 4]
    return e["G"] * e["K"] * _channels(layer) * window[0] * window[1] * layer.bits[0] / 8


def _inputs(layer: Layer) -> float:
    e = layer.extent
    return e["N"] * e["G"] * _channels(layer) * layer.image[0] * layer.image[1] * layer.bits[1] / 8


def _outputs(step: Step) -> float:
    e = step.layer.extent
    return (step.pooled or e["N"] * e["G"] * e["K"] * e["P"] * e["Q"]) * step.layer.bits[2] / 8


def _channels(layer: Layer) -> int:
    return IMAGE if _image(layer) else layer.extent["C"]


def _sharing(machine: Machine, layer: Layer) -> float:
    """Images that share the weights of a layer."""
    if machine.model is None:
        return 1.0
    return machine.model["fc_batch" if _connected(layer) else "batch"]


def _image(layer: Layer) -> bool:
    return layer.extent["C"] <= IMAGE and layer.extent["G"] == 1


def _connected(layer: Layer) -> bool:
    e = layer.extent
    return e["P"] * e["Q"] == 1 and layer.image[0] * layer.image[1] == 1


def _winograd(machine: Machine, layer: Layer) -> bool:
    e = layer.extent
    on = machine.model is not None and bool(machine.model["winograd"])
    return on and (e["R"], e["S"]) == (3, 3) and layer.strides == (1, 1) and layer.dilations == (1, 1)
