"""What was published about accelerators, beside what the models say: the rows of docs/accelerator-validation.md.

The data are in a folder of their own (tests/zoo/data.py finds it), `accelerator/`; its README says where they are from.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from intaglio.backends.accelerator.bits import mac_energy
from intaglio.backends.accelerator.layer import Layer, conv
from intaglio.backends.accelerator.machine import Array, Level, Machine, Mode, Model
from intaglio.backends.accelerator.mapper import search
from intaglio.backends.accelerator.models import bitfusion, eie, eyeriss, eyeriss_v2, nvdla, systolic, tpu
from intaglio.backends.accelerator.presets import PRIMER, preset
from intaglio.backends.accelerator.resolve import hierarchy_of, rates_of

from ...zoo import data
from .networks import ALEXNET, BIT_FUSION, VGG16, alexnet_steps, googlenet_steps, square

__all__ = ["MISSING", "SECTIONS", "Row", "masks"]

MISSING = "" if data.folder() else data.MISSING
WIDE = ("AlexNet", "RESNET-18")


@dataclass(frozen=True)
class Row:
    """One number that was published and what the model gives.

    `fitted`: a constant of the model was chosen by it, or one of its rules with this number in sight.

    `kind` is silicon, gate level, simulator or vendor estimate; `points`: both are percentages and are subtracted.
    """

    name: str
    quantity: str
    published: float
    modelled: float
    kind: str
    fitted: bool = False
    recalled: bool = False
    points: bool = False

    @property
    def error(self) -> float:
        """Relative, or in percentage points."""
        return self.modelled - self.published if self.points else self.modelled / self.published - 1


def path(name: str) -> Path:
    return data.file(f"accelerator/{name}")


@cache
def read_json(name: str) -> Any:
    return json.loads(path(name).read_text())


def read_csv(name: str) -> list[dict[str, str]]:
    """Rows by column name; lines with # are comments."""
    lines = [line for line in path(name).read_text().splitlines() if line and not line.startswith("#")]
    return [{k: v.strip() for k, v in row.items() if k and v is not None} for row in csv.DictReader(lines)]


def scalesim() -> list[Row]:
    rows = []
    for r in read_csv("scalesim_reference.csv"):
        machine = preset(f"scalesim-{r['rows']}x{r['cols']}-{r['dataflow']}")
        layer = Layer("", (1, 1, int(r["N"]), int(r["K"]), int(r["T"]), 1, 1, 1))
        published, name = float(r["scalesim_cycles"]), f"{machine.name} {r['layer']}"
        found = search(layer, hierarchy_of(machine, ideal=True), rates_of(layer, machine), "latency")
        # SCALE-Sim reports the number of the last cycle, counted from 0
        rows.append(Row(name, "cycles, general mapper", published, found.cost.cycles - 1, "simulator"))
        rows.append(Row(name, "cycles, closed form", published, systolic.layer_cycles(machine, layer), "simulator"))
    return rows


def accelforge() -> list[Row]:
    golden = read_json("accelforge_golden.json")
    machine = Machine(
        "simple",
        Array(32, 32, ("ws",)),
        (
            Level("dram", bandwidth=16, read_energy=100, write_energy=100),
            Level("glb", 256 * 1024, read_energy=6, write_energy=6),
        ),
        modes=(Mode("i8", "i8", 1, 0.25),),
    )
    layer = conv("c", 64, 64, (58, 58), (3, 3), bits=(8, 8, 8, 8))
    found = search(layer, hierarchy_of(machine, ideal=True), rates_of(layer, machine))
    name = "64 x 64 channels, 56 x 56, 3 x 3"
    return [
        Row(name, "energy µJ", golden["closed_form_pJ"] / 1e6, found.cost.energy / 1e6, "simulator"),
        Row(name, "latency µs", golden["latency_s"] * 1e6, found.cost.cycles / machine.clock * 1e6, "simulator"),
    ]


def masks(name: str, c: int, m: int, side: int) -> tuple[Any, Any]:
    """Non-zeros of the weights [M, C] and the inputs [pixels, C] of a layer of sparse MobileNet."""
    packed = np.load(path("eyerissv2_pe_masks.npz"))
    weights = np.unpackbits(packed[f"{name}_weights"])[: m * c].reshape(m, c)
    inputs = np.unpackbits(packed[f"{name}_iacts"])[: side * side * c].reshape(side * side, c)
    return weights, inputs


def eyeriss_v2_pe() -> list[Row]:
    rows = []
    for r in read_csv("eyerissv2_pe_cycles.csv"):
        if not r["C"]:
            continue
        weights, inputs = masks(r["layer"], int(r["C"]), int(r["M"]), int(r["H_eq_W"]))
        rows.append(Row(r["layer"], "cycles", float(r["ground_truth_cycles"]), eyeriss_v2.pe_cycles(weights, inputs),
                        "simulator"))  # fmt: skip
    return rows


def nvdla_resnet50() -> list[tuple[nvdla.Step, dict[str, float]]]:
    """ResNet-50 as the vendor's sheet lists it, and its cycles: multiplications and the longest, with second memory."""
    table = list(csv.reader(path("nvdla_perf_resnet50.csv").read_text().splitlines()))
    out = []
    for r in table[1:]:
        if r[3] not in ("conv", "conv + elwise", "fc"):
            continue
        c, h, w, k, window, window_w = (int(v) for v in r[4:10])
        stride, stride_w, p, q = (int(v) for v in r[11:15])
        layer = Layer(r[2], (1, 1, k, c, p, q, window, window_w), (stride, stride_w), image=(h, w))
        pooled = int(r[20]) * int(r[21]) * k if r[15] == "True" else 0
        step = nvdla.Step(layer, pooled, k * p * q if "elwise" in r[3] else 0)
        out.append((step, {"products": float(r[35]), "longest": float(r[36]), "longest from DRAM": float(r[44])}))
    return out


def nvdla_sheet() -> list[Row]:
    published = nvdla_resnet50()
    steps = [s for s, _ in published]
    kind, rows = "vendor estimate", []
    for (step, was), got in zip(published, nvdla.times(preset("nvdla-sram"), steps), strict=True):
        name = f"ResNet-50 {step.layer.name}"
        rows.append(Row(name, "multiplication cycles", was["products"], got.products, kind))
        rows.append(Row(name, "cycles with second memory", was["longest"], got.cycles, kind, fitted=True))
    for (step, was), got in zip(published, nvdla.times(preset("nvdla"), steps), strict=True):
        name = f"ResNet-50 {step.layer.name}"
        rows.append(Row(name, "cycles from DRAM", was["longest from DRAM"], got.cycles, kind, fitted=True))
    return rows


def nvdla_frames() -> list[Row]:
    steps = [s for s, _ in nvdla_resnet50()]
    sheet, kind = read_json("nvdla_perf_readme.json"), "vendor estimate"
    frames = nvdla.frames_per_second
    batched = preset("nvdla")
    rows = [
        Row("ResNet-50, 2048, 10 GB/s", "frames/s", sheet["summary_fps"]["ResNet50"], frames(batched, steps), kind,
            fitted=True),
        Row("ResNet-50, 2048, second memory", "frames/s", sheet["resnet50_fps_with_cvsram"],
            frames(preset("nvdla-sram"), steps), kind, fitted=True),
    ]  # fmt: skip
    for r in read_csv("nvdla_primer_configs.csv"):
        macs = int(r["macs"])
        assert PRIMER[macs][2:] == (int(r["conv_buffer_KB"]), float(r["sdram_GBps"]))
        rows.append(Row(f"ResNet-50, primer {macs}", "frames/s", float(r["resnet50_fps"]),
                        frames(preset(f"nvdla-{macs}"), steps), kind, fitted=128 <= macs <= 1024))  # fmt: skip
    larger = preset("nvdla-sram")
    larger = replace(larger, levels=tuple(replace(v, size=4.0 * 2**20) if v.name == "cvsram" else v
                                          for v in larger.levels),
                     model=Model("nvdla", (("winograd", 1.0), ("fc_batch", 16.0), ("batch", 16.0))))  # fmt: skip
    rows.append(Row("AlexNet, 2048, 4 MiB second memory", "frames/s", sheet["summary_fps"]["AlexNet(4MB CVSRAM)"],
                    frames(larger, alexnet_steps()), kind, fitted=True))  # fmt: skip
    shared = replace(batched, model=Model("nvdla", (("winograd", 1.0), ("fc_batch", 16.0), ("batch", 1.0))))
    rows.append(Row("AlexNet, 2048, 10 GB/s", "frames/s", sheet["summary_fps"]["AlexNet"],
                    frames(shared, alexnet_steps()), kind, fitted=True))  # fmt: skip
    rows.append(Row("GoogLeNet, 2048, second memory", "frames/s", sheet["summary_fps"]["GoogLeNet"],
                    frames(preset("nvdla-sram"), googlenet_steps()), kind, fitted=True))  # fmt: skip
    return rows


def tpu_v1() -> list[Row]:
    machine, rows = preset("tpu_v1"), []
    for name, a in read_json("tpu_v1_isca2017.json")["apps"].items():
        bits = (8, 16) if name.startswith("LSTM") else (8, 8)
        got = tpu.of_sums(machine, a["weights_M"] * 1e6, a["ops_per_weight_byte"],
                          a["useful_macs"] / a["array_active"], bits)  # fmt: skip
        fitted = name in ("MLP0", "CNN0")
        rows.append(Row(name, "TOPS", a["TOPS"], got.tops, "silicon", fitted))
        for label, key, value in (
            ("active %", "array_active", got.active),
            ("weight stall %", "weight_stall", got.stall),
            ("weight shift %", "weight_shift", got.shift),
            ("non-matrix %", "non_matrix", got.vector),
        ):
            rows.append(Row(name, label, a[key], 100 * value, "silicon", fitted, points=True))
    return rows


def eie_layers() -> list[Row]:
    machine, rows = preset("eie"), []
    for r in read_csv("eie_isca2016.csv"):
        weights, inputs = eie.random_problem(int(r["out"]), int(r["in"]), float(r["weight_density"]),
                                             float(r["act_density"]))  # fmt: skip
        took = eie.run(machine, weights, inputs) / machine.clock * 1e6
        rows.append(Row(r["layer"], "µs", float(r["actual_us"]), took, "gate level", True))
    return rows


def bit_fusion(only: Callable[[dict[str, str]], bool] = lambda r: True) -> list[Row]:
    rows = []
    done: dict[tuple[Any, ...], bitfusion.Result] = {}
    for r in read_csv("bitfusion_sim.csv"):
        if not only(r):
            continue
        layers = BIT_FUSION[r["network"]]
        name = r["layer"].rsplit("/", 1)[0]
        name = name if name in layers else name.rsplit("_", 1)[0]
        base, wide = preset("bitfusion"), int(r["M"]) / 32
        machine = replace(
            base,
            array=replace(base.array, rows=int(r["N"]), cols=int(r["M"])),
            levels=tuple(
                replace(v, bandwidth=int(r["bw_bits_per_cycle"]) / 8)
                if v.name == "dram"
                else replace(v, size=v.size * wide)
                for v in base.levels
            ),
        )
        key = (r["M"], r["bw_bits_per_cycle"], layers[name])
        guessed = wide != 1 or r["network"] in WIDE
        if key not in done:
            k, out, stride, c, filters, inputs, weights = layers[name]
            layer = square(k, out, stride, c, filters, inputs, weights, int(r["batch"]))
            done[key] = bitfusion.run(machine, layer, unrolled=name == next(iter(layers)) and k > 1)
        rows.append(Row(f"{r['N']}x{r['M']}, {r['bw_bits_per_cycle']} b/cycle, {r['network']} {name}", "cycles",
                        float(r["cycles"]), done[key].cycles, "simulator", guessed))  # fmt: skip
    return rows


def eyeriss_alexnet() -> list[Row]:
    machine = preset("eyeriss")
    published = {r["layer"]: r for r in read_csv("eyeriss_v1_alexnet.csv")}
    zeros = {n: float(r["zeros_in_ifmap_pct"]) / 100 for n, r in published.items()}
    rows, total = [], []
    names = list(ALEXNET)
    for i, name in enumerate(names):
        k, c, image, window, groups, stride, pad = ALEXNET[name]
        layer = conv(name, k, c, (image, image), (window, window), n=4, groups=groups, strides=(stride, stride),
                     pads=(pad,) * 4, bits=(16, 16, 16, 16), density=(1.0, 1 - zeros[name]))  # fmt: skip
        after = zeros[names[i + 1]] if i + 1 < len(names) else zeros[name]
        got = eyeriss.run(machine, layer, 1 - after)
        was, ms = published[name], machine.clock / 1e3
        total.append(got)
        rows += [
            Row(name, "latency ms", float(was["total_latency_ms"]), got.cycles / ms, "silicon", True, True),
            Row(name, "processing ms", float(was["processing_latency_ms"]), got.processing / ms, "silicon", True, True),
            Row(name, "busy elements", float(was["active_pes"]), got.elements, "silicon", True, True),
            Row(name, "DRAM MB", float(was["dram_accesses_MB"]), got.dram / 1e6, "silicon", True, True),
            Row(name, "power mW", float(was["power_mW"]), _milliwatts(got.energy, got.cycles), "silicon", True, True),
        ]
    cycles = sum(g.cycles for g in total)
    chip = read_json("eyeriss_v1_chip.json")["verbatim"]
    rows += [
        Row("AlexNet", "frames/s", chip["alexnet_fps"], 4 * machine.clock / cycles, "silicon", True),
        Row("AlexNet", "DRAM MB", chip["alexnet_dram_MB_per_batch4"], sum(g.dram for g in total) / 1e6, "silicon",
            True),
        Row("AlexNet", "power mW", chip["alexnet_mW"], _milliwatts(sum(g.energy for g in total), cycles), "silicon",
            True),
    ]  # fmt: skip
    return rows


def eyeriss_vgg() -> list[Row]:
    machine, total = preset("eyeriss"), []
    density = read_json("timeloop_cnn_densities.json")["densities"]
    for name, (k, c, image) in VGG16.items():
        layer = conv(name, k, c, (image, image), (3, 3), n=3, pads=(1,) * 4, bits=(16, 16, 16, 16),
                     density=(1.0, density[name]["input"]))  # fmt: skip
        total.append(eyeriss.run(machine, layer, density[name]["output"]))
    cycles, chip = sum(g.cycles for g in total), read_json("eyeriss_v1_chip.json")["verbatim"]
    return [
        Row("VGG-16", "frames/s", chip["vgg_fps"], 3 * machine.clock / cycles, "silicon"),
        Row("VGG-16", "DRAM MB", chip["vgg_dram_MB_per_batch3"], sum(g.dram for g in total) / 1e6, "silicon"),
        Row("VGG-16", "power mW", chip["vgg_mW"], _milliwatts(sum(g.energy for g in total), cycles), "silicon"),
    ]


def _milliwatts(energy: float, cycles: float) -> float:
    return energy / cycles * preset("eyeriss").clock / 1e9


def multipliers() -> list[Row]:
    """Energy of multipliers against the synthesis table."""
    rows = []
    for r in read_csv("bitfusion_synth45nm.csv"):
        widest, least = int(r["max_bits"]), int(r["min_bits"])
        if (r["N"], r["M"]) != ("1", "1") or (widest != least and (widest, least) != (8, 2)):
            continue
        kind = "fixed" if widest == least else "composable"
        rows.append(Row(f"{kind} {widest} x {widest} bits", "pJ", float(r["total_nW"]) / 500e6 * 1e3,
                        mac_energy(kind, widest, widest, widest=(widest, widest)), "gate level", True))  # fmt: skip
    return rows


@dataclass(frozen=True)
class Section:
    """Rows of one machine: what the bar is, which rows it is about, and what a reader should know."""

    title: str
    bar: str
    rows: Callable[[], Iterable[Row]]
    note: str = ""
    listed: bool = True  # every row; else the errors in short


NOTES = {
    "v2": """From the non-zeros of real weights and inputs; uniform densities (Sparseloop) are 3.5 % off on
average.""",
    "sheet": """The size of the second memory (2.5 MiB) and the rounding to four groups of kernels are read off
these cycles; the rest is geometry.""",
    "frames": """The primer's machines differ in array, buffer, bandwidth and Winograd only; that the smaller ones
have no Winograd and keep groups of 32 kernels was decided with those of 128 to 1024 in sight. So were the batch
of 16 for AlexNet and the second memory for GoogLeNet, of which the sheet's summary says nothing. The sheet
packs any number of channels into the array without loss; the model rounds up as the array does.""",
    "tpu": """Fitted: DRAM efficiency and vector cycles per tile, on MLP0 and CNN0. That LSTMs have activations of
16 bits is read off their own counters (8.2 % active, 3.7 TOPS). Counters and TOPS of the paper contradict each
other by 20 % for CNN0. Not met: LSTM1 and CNN1, of which only sums are published; CNN1 mixes convolutions of
few channels with fully connected layers, and the sums hide which waits for what.""",
    "eie": """Random zeros at the published densities, which have one or two digits (VGG-6: 4 %); the model takes
real masks. Real weights are less even than random ones: most rows are too fast. That an empty column still
takes a cycle was decided with these rows in sight (11.8 % without).""",
    "bits": """No constants. That buffers grow with the columns, and that AlexNet and ResNet-18 are of twice the
width, was read off these rows.""",
    "alexnet": """Fitted here: turn, link, unit, static; and 100 kB (not KiB) of buffer, at most two sets that add
up. The mapping of each layer is found, not given. Values of layers are recalled, the sums verbatim.""",
    "vgg": """Not met: the chip took twice as long as the mapping that the model finds, and moved less; how VGG-16
was mapped is not published. Densities are those of the pruned network in Timeloop's table.""",
}

SECTIONS = (
    Section("SCALE-Sim, stall-free cycles", "14 of 14 exact", scalesim),
    Section("AccelForge, the optimum of its simple machine", "1e-6", accelforge, "Found by the general mapper."),
    Section("Eyeriss v2, one element on sparse MobileNet", "8 of 8 exact", eyeriss_v2_pe, NOTES["v2"]),
    Section(
        "NVDLA, ResNet-50 layer by layer",
        "multiplication cycles of 53 of 54 within 2.5 %",
        nvdla_sheet,
        NOTES["sheet"],
        listed=False,
    ),
    Section(
        "NVDLA, frames per second",
        "ResNet-50 within 1 %, the primer's machines within 10 %",
        nvdla_frames,
        NOTES["frames"],
    ),
    Section("TPU v1", "MLP0, MLP1, LSTM0, CNN0: TOPS within 10 %, split within 10 points", tpu_v1, NOTES["tpu"]),
    Section("EIE", "mean of 9 layers within 10 %", eie_layers, NOTES["eie"]),
    Section("Bit Fusion", "within 5 %", bit_fusion, NOTES["bits"], listed=False),
    Section(
        "Eyeriss v1, AlexNet",
        "latency mean 5 %, max 10 %; DRAM and total power within 10 %",
        eyeriss_alexnet,
        NOTES["alexnet"],
    ),
    Section("Eyeriss v1, VGG-16", "none; fitted on AlexNet, not on this", eyeriss_vgg, NOTES["vgg"]),
    Section("Multipliers at 45 nm", "the table of the cost rules", multipliers),
)
