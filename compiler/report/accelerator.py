"""The report's sections on an accelerator: roofline, energy by memory and operand, where the cycles go, what-if."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from .html import bar, code, count, fold, section, table

__all__ = ["accelerator"]

WIDTH, HEIGHT, MARGIN = 900, 340, 46
COLOURS = {"W": "--heavy-line", "I": "--math-line", "O": "--tile-line"}
OPERANDS = {"W": "weights", "I": "input", "O": "result"}


def accelerator(data: Mapping[str, Any]) -> str:
    """The sections for what mapping.json holds (see docs/accelerator-mapper.md)."""
    steps = data["steps"]
    mapped = [s for s in steps if "cost" in s]
    parts = [section("Accelerator", _summary(data))]
    if mapped:
        parts.append(section("Roofline", _roofline(data, mapped)))
        parts.append(section("Energy by memory and operand", _energy(data, mapped)))
    parts.append(section("Where the cycles go", _cycles(data)))
    segments = [s for s in data.get("fused", {}).get("segments", ()) if isinstance(s, dict)]
    if segments:
        parts.append(section("Fused segments", _segments(segments)))
    if data.get("what_if"):
        parts.append(section("What if", _what_if(data["what_if"])))
    return "".join(parts)


def _summary(data: Mapping[str, Any]) -> str:
    facts = [
        (escape(data["machine"]), "machine"),
        (f"{data['seconds'] * 1e3:.4g} ms", f"{data['cycles']:,.0f} cycles at {data['clock_hz'] / 1e6:g} MHz"),
        (f"{data['energy_pj'] * 1e-9:.4g} mJ", "of energy"),
        (f"{data['energy_pj'] * 1e-12 / data['seconds']:.3g} W" if data["seconds"] else "-", "on average"),
    ]
    shown = "".join(f'<div class="fact"><b>{value}</b><span>{escape(label)}</span></div>' for value, label in facts)
    notes = "".join(f'<p class="quiet">{escape(note)}.</p>' for note in data["notes"])
    return f'<div class="facts">{shown}</div>{notes}'


# --- roofline ---------------------------------------------------------------------------------------------------------


def _roofline(data: Mapping[str, Any], steps: Sequence[Mapping[str, Any]]) -> str:
    """Multiplications a cycle against multiplications a byte of outer traffic, both in powers of two."""
    peak, speed = float(data["peak_macs_per_cycle"]), data["outer_bits_per_cycle"] / 8
    points = []
    for s in steps:
        macs = math.prod(s["layer"]["sizes"].values())
        moved = max(s["cost"]["outer_bits"] / 8, 1.0)
        points.append((macs / moved, macs / max(s["cycles"], 1.0), s))
    xs = [math.log2(p[0]) for p in points] + [math.log2(peak / speed)]
    ys = [math.log2(p[1]) for p in points] + [math.log2(peak)]
    x0, x1, y0, y1 = math.floor(min(xs)) - 0.5, math.ceil(max(xs)) + 0.5, math.floor(min(ys)) - 0.5, max(ys) + 0.5

    def at(x: float, y: float) -> tuple[float, float]:
        right = MARGIN + (math.log2(x) - x0) / (x1 - x0) * (WIDTH - 2 * MARGIN)
        return right, HEIGHT - MARGIN - (math.log2(y) - y0) / (y1 - y0) * (HEIGHT - 2 * MARGIN)

    ridge = peak / speed
    roof = [(2.0**x0, 2.0**x0 * speed), (ridge, peak), (2.0**x1, peak)]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in (at(*p) for p in roof))
    dots = ""
    for intensity, rate, s in points:
        x, y = at(intensity, rate)
        words = f"{s['name']}: {rate:.1f} multiplications a cycle, {intensity:.1f} a byte, bound by {s['bound']}"
        dots += f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" style="fill:var(--accent);fill-opacity:.55"><title>'
        dots += f"{escape(words)}</title></circle>"
    labels = ""
    for x in range(math.ceil(x0), math.floor(x1) + 1):
        labels += f'<text x="{at(2.0**x, 1)[0]:.1f}" y="{HEIGHT - MARGIN + 18}">{2.0**x:g}</text>'
    for y in range(math.ceil(y0), math.floor(y1) + 1):
        labels += f'<text x="{MARGIN - 22}" y="{at(1, 2.0**y)[1] + 4:.1f}">{2.0**y:g}</text>'
    titles = f'<text x="{WIDTH / 2}" y="{HEIGHT - 8}">multiplications a byte of the outermost memory</text>'
    titles += f'<text x="{MARGIN + 70}" y="16">multiplications a cycle (peak {peak:g})</text>'
    return (
        f'<div class="card drawing"><svg class="graph" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" role="img">'
        f'<polyline points="{line}" style="fill:none;stroke:var(--edge);stroke-width:1.6"/>{dots}{labels}{titles}'
        '</svg></div><p class="quiet">One point a layer; the line is what memory and array allow. '
        "A point below it waits for filling, for edges of tiles, or for a shared memory.</p>"
    )


# --- energy -----------------------------------------------------------------------------------------------------------


def _energy(data: Mapping[str, Any], steps: Sequence[Mapping[str, Any]]) -> str:
    sums: dict[str, dict[str, float]] = {}
    for s in steps:
        for e in s["cost"]["entries"]:
            at = sums.setdefault(e["store"], {})
            at[e["operand"]] = at.get(e["operand"], 0.0) + e["energy"]
    total = max(data["energy_pj"], 1e-12)
    rows = []
    for store, parts in sums.items():
        whole = sum(parts.values())
        cells = [f"{parts.get(x, 0.0) * 1e-6:,.2f}" for x in OPERANDS]
        rows.append((code(store), *cells, f"{whole * 1e-6:,.2f}", f"{whole / total:.1%}", _stack(parts, total)))
    for name, key in (("multiplying", "mac_energy"), ("every cycle", "static_energy")):
        whole = sum(s["cost"][key] for s in steps)
        rows.append((escape(name), "", "", "", f"{whole * 1e-6:,.2f}", f"{whole / total:.1%}", bar(whole / total)))
    rest = sum(s["vector_energy_pj"] for s in data["steps"])
    rows.append(("vector work", "", "", "", f"{rest * 1e-6:,.2f}", f"{rest / total:.1%}", bar(rest / total)))
    heads = ("memory", *(f"{w}, µJ" for w in OPERANDS.values()), "all, µJ", "share", "")
    return table(heads, rows, right=(1, 2, 3, 4, 5))


def _stack(parts: Mapping[str, float], total: float) -> str:
    pieces = "".join(
        f'<b style="display:inline-block;width:{parts[x] / total:.2%};background:var({COLOURS[x]})"></b>'
        for x in OPERANDS
        if parts.get(x)
    )
    return f'<div class="bar"><i style="font-size:0;white-space:nowrap">{pieces}</i></div>'


# --- cycles -----------------------------------------------------------------------------------------------------------


def split(step: Mapping[str, Any]) -> dict[str, float]:
    """Cycles of a step: array busy, filled or drained, waiting for a shared memory, for the outermost one, vectors."""
    if "cost" not in step:
        return {"vector": step["cycles"]}
    c = step["cost"]
    fill = min(c["fill"], max(c["work"] - c["array"], 0.0))
    return {
        "active": c["array"],
        "fill": fill,
        "buffer": max(c["work"] - c["array"] - fill, 0.0),
        "memory": max(c["cycles"] - c["work"], 0.0),
        "vector": max(step["cycles"] - c["cycles"], 0.0),
    }


PARTS = {
    "active": "array at work",
    "fill": "filling and draining the array",
    "buffer": "waiting for a shared memory",
    "memory": "waiting for the outermost memory",
    "vector": "vector work",
}


def _cycles(data: Mapping[str, Any]) -> str:
    whole = max(data["cycles"], 1e-12)
    sums = dict.fromkeys(PARTS, 0.0)
    rows = []
    for s in data["steps"]:
        parts = split(s)
        for name, cycles in parts.items():
            sums[name] += cycles
        shares = [f"{parts.get(p, 0.0) / max(s['cycles'], 1e-12):.0%}" if parts.get(p) else "" for p in PARTS]
        used = f"{s['cost']['utilisation']:.1%}" if "cost" in s else ""
        rows.append(
            (
                code(s["name"]),
                code(s["op"]),
                _unrolled(s),
                f"{s['cycles']:,.0f}",
                f"{s['simulated_cycles']:,.0f}" if "simulated_cycles" in s else "",
                used,
                *shares,
                bar(s["cycles"] / whole),
            )
        )
    whole_rows = []
    for p, words in PARTS.items():
        share = sums[p] / whole
        whole_rows.append((escape(words), count(round(sums[p])), f"{share:.1%}", bar(share)))
    top = table(("", "cycles", "share", ""), whole_rows, right=(1, 2))
    heads = ("step", "op", "mapping", "cycles", "simulated", "array used", *PARTS, "")
    return top + fold("Step by step", str(len(rows)), table(heads, rows, right=(3, 4, 5, 6, 7, 8, 9, 10)))


def _unrolled(step: Mapping[str, Any]) -> str:
    if "mapping" not in step:
        return ""
    m = step["mapping"]
    sides = [" ".join(f"{d}{f}" for d, f in m[side].items()) or "-" for side in ("rows", "cols")]
    return code(f"{m['dataflow']} {sides[0]} / {sides[1]}")


def _segments(segments: Sequence[Mapping[str, Any]]) -> str:
    """Segments of the fused plan: cycles and DRAM on the event simulator, by the plan, and of the layers one by one."""
    cells = []
    for s in segments:
        numbers = [f"{s[which][0]:,.0f}" for which in ("together", "predicted", "alone")]
        numbers += [f"{s[which][1] / 8e3:,.1f}" for which in ("together", "predicted", "alone")]
        cells.append((code(s["way"]), *numbers, escape(s["why"] and f"one by one: {s['why']}")))
    heads = ("segment", "cycles", "predicted", "one by one", "KB of DRAM", "predicted", "one by one", "")
    return table(heads, cells, right=(1, 2, 3, 4, 5, 6))


def _what_if(rows: Sequence[Mapping[str, Any]]) -> str:
    base = rows[0]
    cells = [
        (
            escape(r["weight bits"]),
            escape(r["density"]),
            code(r["format"]) if r["format"] else "",
            f"{r['cycles']:,.0f}",
            f"{r['cycles'] / max(base['cycles'], 1e-12):.2f}",
            f"{r['energy_pj'] * 1e-6:,.1f}",
            f"{r['energy_pj'] / max(base['energy_pj'], 1e-12):.2f}",
        )
        for r in rows
    ]
    heads = ("weight bits", "density", "format, action", "cycles", "x", "µJ", "x")
    note = "The products alone, with the mappings that were found: a search with these weights may do better."
    return table(heads, cells, right=(3, 4, 5, 6)) + f'<p class="quiet">{note}</p>'
