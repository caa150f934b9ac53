"""The exact mapper: seconds a layer, mappings a second, whole graphs; and beside ZigZag on its own machine and layers.

    make bench          or          python tests/benchmarks/bench_mapper.py

ZigZag (package zigzag-dse) runs in the same run if INTAGLIO_ZIGZAG names a Python that has it; otherwise its figures
are those of the reference in the data folder (zigzag_reference.json). One thread, process time; nothing is asserted.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from intaglio.backends.accelerator.cost import energy_of, fits, latency_of
from intaglio.backends.accelerator.counting import Block
from intaglio.backends.accelerator.hierarchy import Dataflow, Hierarchy, Rates, Store
from intaglio.backends.accelerator.layer import Layer, conv, gemm
from intaglio.backends.accelerator.mapper import search
from intaglio.backends.accelerator.presets import preset
from intaglio.backends.accelerator.resolve import hierarchy_of, rates_of
from intaglio.backends.accelerator.space import Space, unrollings

WORKER = Path(__file__).with_name("zigzag_worker.py")
ALL = frozenset("WIO")

RESNET18 = [
    # K, C, output, window, stride
    (64, 3, 112, 7, 2), (64, 64, 56, 3, 1), (128, 64, 28, 3, 2), (128, 128, 28, 3, 1), (128, 64, 28, 1, 2),
    (256, 128, 14, 3, 2), (256, 256, 14, 3, 1), (256, 128, 14, 1, 2), (512, 256, 7, 3, 2), (512, 512, 7, 3, 1),
    (512, 256, 7, 1, 2), (1000, 512, 1, 1, 1),
]  # fmt: skip
"""The distinct layers, and how often each occurs below."""
TIMES = (1, 4, 1, 3, 1, 1, 3, 1, 1, 3, 1, 1)


def layer_of(k: int, c: int, out: int, window: int, stride: int) -> Layer:
    if out == 1:
        return gemm(f"fc {c} -> {k}", 1, c, k)
    name = f"{window}x{window}/{stride} {c} -> {k}, {out}x{out}"
    return conv(name, k, c, (out * stride,) * 2, (window,) * 2, strides=(stride,) * 2, pads=(window // 2,) * 4)


LAYERS = [layer_of(*row) for row in RESNET18]


def cpu(run: Any) -> tuple[float, Any]:
    begin = time.process_time()
    found = run()
    return time.process_time() - begin, found


# --- our own figures --------------------------------------------------------------------------------------------------


def resnet18(name: str = "gemmini16") -> None:
    machine = preset(name)
    hierarchy = hierarchy_of(machine)
    total, points = 0.0, 0
    print(f"\nexact mapping of the distinct layers of ResNet-18 on {name}")
    for layer in LAYERS:
        seconds, found = cpu(lambda layer=layer: search(layer, hierarchy, rates_of(layer, machine)))
        total, points = total + seconds, points + found.certificate.points
        print(f"  {layer.name:28} {seconds * 1e3:6.0f} ms   {found.certificate}")
    print(f"  all: {total:.2f} CPU-s for {points:.3g} mappings, {points / total / 1e6:.1f} M mappings decided a second")


def throughput() -> None:
    """Mappings evaluated a second, none left out by a bound."""
    machine = preset("gemmini16")
    layer, hierarchy = LAYERS[6], hierarchy_of(machine)
    flow = hierarchy.dataflows[0]
    space = Space(layer, hierarchy, flow, unrollings(layer, flow, hierarchy)[0])
    index = space.all_outer()
    size, block = len(index["K"]), 1 << 14
    best = math.inf
    for _ in range(5):
        count, begin = 0, time.process_time()
        for a in range(0, size, block):
            part = {d: i[a : a + block] for d, i in index.items()}
            tilings = Block(hierarchy, rates_of(layer, machine), flow.held, space.chains, part)
            fits(tilings)
            for orders in space.sequences:
                edp = energy_of(tilings, orders) * latency_of(tilings, flow, orders)
                edp.argmin()
                count += edp.size
        best = min(best, (time.process_time() - begin) / count)
    print(f"\nevaluated one by one: {1e-6 / best:.1f} M mappings a second (energy, latency, fit; NumPy, one thread)")


def transformer(layers: int = 12, length: int = 512, width: int = 768, heads: int = 12) -> list[Layer]:
    """The products of an encoder of BERT-base's size."""
    found = []
    for i in range(layers):
        found += [gemm(f"{i}.{x}", length, width, width) for x in ("q", "k", "v", "out")]
        found += [gemm(f"{i}.qk", length, width // heads, length, batch=heads)]
        found += [gemm(f"{i}.pv", length, length, width // heads, batch=heads)]
        found += [gemm(f"{i}.up", length, width, 4 * width), gemm(f"{i}.down", length, 4 * width, width)]
    return found


def resnet50() -> list[Layer]:
    found = [layer_of(64, 3, 112, 7, 2)]
    c = 64
    for width, out, blocks in ((64, 56, 3), (128, 28, 4), (256, 14, 6), (512, 7, 3)):
        for i in range(blocks):
            stride = 2 if i == 0 and width > 64 else 1
            found += [layer_of(width, c, out * stride, 1, 1), layer_of(width, width, out, 3, stride)]
            found += [layer_of(4 * width, width, out, 1, 1)]
            found += [layer_of(4 * width, c, out, 1, stride)] if i == 0 else []
            c = 4 * width
    return [*found, layer_of(1000, 2048, 1, 1, 1)]


def graphs() -> None:
    print("\nwhole graphs, each kind of layer searched once")
    for name in ("gemmini16", "eyeriss"):
        machine = preset(name)
        hierarchy = hierarchy_of(machine)
        for title, layers in (("ResNet-50", resnet50()), ("BERT-base, 512 tokens", transformer())):
            kinds = {layer.key(): layer for layer in layers}
            begin = time.process_time()
            found = {k: search(v, hierarchy, rates_of(v, machine)) for k, v in kinds.items()}
            seconds = time.process_time() - begin
            cycles = sum(found[v.key()].cost.cycles for v in layers)
            energy = sum(found[v.key()].cost.energy for v in layers)
            print(
                f"  {title:22} on {name:10} {len(layers):3} layers, {len(kinds):2} kinds: {seconds:6.2f} CPU-s; "
                f"{cycles / machine.clock * 1e3:.2f} ms, {energy * 1e-9:.3f} mJ"
            )


# --- beside ZigZag ----------------------------------------------------------------------------------------------------

PORT = 64.0  # bits a cycle of its DRAM, reads and writes together


def tpu_like(*, prologue: bool) -> Hierarchy:
    """ZigZag's inputs/hardware/tpu_like.yaml: its energies are per access of the widest word."""
    unrolled = (("C", 32), ("K", 32))
    flows = [Dataflow(h, frozenset(h), ("C",), ("K",), pinned=unrolled) for h in ("WO", "W")]
    sram = Store("sram_2MB", frozenset("IO"), 16777216, 416.16 / 2048, 378.4 / 2048)
    return Hierarchy(
        "tpu_like",
        Store("dram", ALL, read=700 / 64, write=750 / 64, bandwidth=PORT),
        ((Store(**{**sram.__dict__, "read_bandwidth": 2048.0, "write_bandwidth": 2048.0}),),),
        (
            Store("rf_128B", frozenset("W"), 1024, 0.095 / 8, 0.095 / 8),
            Store("rf_2B", frozenset("O"), 16, 0.021 / 16, 0.021 / 16),
        ),
        32,
        32,
        tuple(flows),
        prologue=prologue,
    )


RATES = Rates(bits={"W": 8.0, "I": 8.0, "O": 8.0}, accumulator=16.0, energy=0.04)


def zigzag_found() -> tuple[str, list[dict[str, float]]]:
    """Energy and latency of the distinct layers, and where they are from."""
    python = os.environ.get("INTAGLIO_ZIGZAG", "")
    if python:
        asked = [
            {"k": k, "c": c, "oy": o, "ox": o, "fy": w, "fx": w, "stride": s, "pad": w // 2, "opt": "EDP"}
            for k, c, o, w, s in RESNET18
        ]
        done = subprocess.run(
            [python, str(WORKER), "tpu_like", "tpu_like"],
            input=json.dumps(asked), capture_output=True, text=True, check=True,
        )  # fmt: skip
        return "in this run", json.loads(done.stdout)
    data = Path(os.environ.get("INTAGLIO_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data")
    runs = json.loads((data / "accelerator" / "zigzag_reference.json").read_text(encoding="utf-8"))["runs"]
    run = next(r for r in runs if r["workload"] == "resnet18.onnx" and r["hw"] == "tpu_like.yaml")
    found = []
    for k, c, o, w, _ in RESNET18:
        match = next(
            x
            for x in run["layers"]
            if (x["dims"]["K"], x["dims"]["C"], x["dims"].get("OX", 1), x["dims"].get("FX", 1)) == (k, c, o, w)
        )
        found.append({"energy": match["energy_pJ"], "latency": match["latency2"], "seconds": 74 / 21})
    return "recorded", found


def beside_zigzag() -> None:
    where, theirs = zigzag_found()
    print(f"\nbeside ZigZag 3.9.1 ({where}) on its tpu_like, ResNet-18: ours over what it found")
    print(
        "  E: energy of the mapping of least energy; L: cycles of that of least latency; EL: of that of least product"
    )
    sums = np.zeros(6)
    ours = 0.0
    machine = tpu_like(prologue=True)
    for layer, found, times in zip(LAYERS, theirs, TIMES, strict=True):
        spent, best = cpu(
            lambda layer=layer: [search(layer, machine, RATES, o).cost for o in ("energy", "latency", "edp")]
        )
        ours += spent
        energy, latency, edp = best
        words = sum(layer.words(x) for x in "WIO") * 8
        port = words / PORT
        notes = []
        if energy.energy > found["energy"]:
            # in ZigZag finished sums leave the array at the result's 8 bits, in ours at the accumulator's 16
            sram = machine.tiers[0][0]
            same = energy.energy - layer.words("O") * 8 * (sram.read + sram.write)
            notes.append(f"E {same / found['energy']:.3f} with finished sums of 8 bits in SRAM, as ZigZag has them")
        if latency.cycles > found["latency"]:
            notes.append(
                f"its {found['latency']:.0f} cycles are fewer than the port needs, {port:.0f}"
                if found["latency"] < port
                else "unexplained"
            )
        print(
            f"  {layer.name:28} E {energy.energy / found['energy']:.3f}  L {latency.cycles / found['latency']:.3f}  "
            f"EL {edp.edp / (found['energy'] * found['latency']):.3f}   {'; '.join(notes)}"
        )
        sums += times * np.array(
            [energy.energy, found["energy"], latency.cycles, found["latency"], edp.energy, edp.cycles]
        )
    print(
        f"  whole network                E {sums[0] / sums[1]:.3f}  L {sums[2] / sums[3]:.3f}   "
        f"of one mapping each (EDP): E {sums[4] / sums[1]:.3f} and L {sums[5] / sums[3]:.3f}"
    )
    print(f"  CPU-s: ours {ours / 3:.2f} a search of all layers, ZigZag {sum(f['seconds'] for f in theirs):.1f}")


@pytest.mark.bench
def test_mapper() -> None:
    main()


def main() -> None:
    resnet18()
    throughput()
    graphs()
    beside_zigzag()


if __name__ == "__main__":
    main()
