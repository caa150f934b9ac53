"""The sections of the report, from a compiled model to HTML. Everything that is not ours is escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...backends.backend import KernelCost
from ...passes.quantize.settings import SIGNALS
from ..outline import Outline, OutlineNode
from .accelerator import accelerator
from .drawing import draw, kind
from .he import encrypted
from .html import bar as _bar
from .html import code as _code
from .html import count
from .html import fold as _fold
from .html import section as _section
from .html import table as _table

if TYPE_CHECKING:
    from ..api import Compiled

__all__ = ["render"]

STYLE = Path(__file__).with_name("style.css")

LEGEND = {
    "heavy": "convolution, matrix product",
    "nn": "other network ops",
    "math": "arithmetic",
    "shape": "data movement",
    "quant": "quantised, approximate",
    "tile": "fused kernel",
    "dyn": "dynamic",
    "port": "input, output",
}
ROWS = 60  # of the node table; the rest is the tail that nobody optimises


def render(compiled: Compiled, kernels: Sequence[KernelCost] = ()) -> str:
    """The page; `kernels` are the program's, in the order in which they run."""
    from ..outline import outline

    manifest = compiled.manifest
    after = outline(compiled.graph)
    before = compiled.source
    weights = sum(c.array.nbytes for c in compiled.module.constants())
    sections = [
        _header(compiled, before, after, weights),
        _section("Inputs and outputs", _ports(compiled)),
        _section(
            "Graph",
            _legend(after, before)
            + _graph("as compiled", after, "a", True)
            + _graph("before the passes", before, "b", False),
        ),
        _section("Where the work is", _costs(after)),
        _section("Kernels", _kernels(kernels, manifest.cost.notes)) if kernels else "",
        _section("Ledger", _ledger(compiled)),
        _signals(compiled),
        _section("Passes", _timings(compiled)),
        _accelerator(compiled),
        encrypted(manifest.backend) if "predicted_bytes" in manifest.backend else _backend(manifest.backend),
        _section("Files", _files(compiled)) if manifest.files else "",
    ]
    versions = " · ".join(f"{escape(k)} {escape(v)}" for k, v in manifest.versions.items())
    title = f"{manifest.name} for {manifest.target}"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{escape(title)}</title><style>{STYLE.read_text(encoding='utf-8')}</style></head><body><main>\n"
        + "\n".join(s for s in sections if s)
        + f"\n<footer>{versions}<br>module {_code(manifest.digest)}</footer></main></body></html>\n"
    )


def _header(compiled: Compiled, before: Outline, after: Outline, weights: int) -> str:
    manifest = compiled.manifest
    flops = sum(n.flops for n in after.nodes)
    facts = [
        (f"{_ops(before)} → {_ops(after)}", "nodes, before and after"),
        (count(flops), "operations in one run"),
        (size(weights), "of constants"),
        (size(sum(f.bytes for f in manifest.files.values())), "on disk")
        if manifest.files
        else ("not saved", "on disk"),
    ]
    if manifest.cost.seconds is not None:
        facts.append((duration(manifest.cost.seconds), "predicted for one run"))
    facts.append((escape(compiled.ledger.contract), "contract of all passes together"))
    shown = "".join(f'<div class="fact"><b>{value}</b><span>{escape(label)}</span></div>' for value, label in facts)
    given = ", ".join(f"{k}={v}" for k, v in manifest.options.items())
    options = f" ({_code(given)})" if given else ""
    origin = f" from {_code(manifest.origin.path)}" if manifest.origin is not None else ""
    passes = f"<p>pipeline {_code(manifest.pipeline)}</p>" if manifest.pipeline else ""
    return (
        f'<header><div class="word">Intaglio report</div><h1>{escape(manifest.name)}</h1>'
        f"<p>compiled for <b>{escape(manifest.target)}</b>{options}{origin}</p>{passes}</header>"
        f'<div class="facts">{shown}</div>'
    )


def _ops(graph: Outline) -> int:
    return sum(n.op not in ("input", "const") for n in graph.nodes)


def _ports(compiled: Compiled) -> str:
    manifest = compiled.manifest
    rows = [("input", _code(p.name), _code(p.type)) for p in manifest.inputs]
    rows += [("output", _code(p.name), _code(p.type)) for p in manifest.outputs]
    spans = {k: f"{low}..{'' if high is None else high}" for k, (low, high) in manifest.dims.items()}
    rows += [("dimension", _code(name), escape(span)) for name, span in spans.items()]
    return _table(("", "name", "type"), rows)


def _legend(*graphs: Outline) -> str:
    there = {kind(n.op) for g in graphs for n in g.nodes} | {"port"}
    items = "".join(f'<span><i class="{k}"></i>{escape(words)}</span>' for k, words in LEGEND.items() if k in there)
    return f'<div class="legend">{items}<span>the bar in a box is its work, relative to the heaviest</span></div>'


def _graph(title: str, graph: Outline, identity: str, is_open: bool) -> str:
    drawing = f'<div class="drawing">{draw(graph, identity)}</div>'
    return _fold(title, f"{_ops(graph)} nodes", drawing, is_open=is_open)


def _costs(graph: Outline) -> str:
    total = sum(n.flops for n in graph.nodes) or 1
    groups: dict[str, list[OutlineNode]] = {}
    for n in graph.nodes:
        if n.op not in ("input", "const"):
            groups.setdefault(n.op, []).append(n)
    rows = []
    for op, nodes in sorted(groups.items(), key=lambda g: -sum(n.flops for n in g[1])):
        flops = sum(n.flops for n in nodes)
        moved, held = sum(n.bytes for n in nodes), sum(n.weights for n in nodes)
        rows.append(
            (
                _code(op),
                str(len(nodes)),
                count(flops),
                size(moved),
                size(held),
                f"{flops / total:.1%}",
                _bar(flops / total),
            )
        )
    by_op = _table(("op", "nodes", "operations", "bytes moved", "constants", "share", ""), rows, right=(1, 2, 3, 4, 5))
    heaviest = sorted((n for n in graph.nodes if n.op != "input"), key=lambda n: -n.flops)[:ROWS]
    each = [
        (
            _code(n.name or "-"),
            _code(n.op),
            _code(n.type),
            count(n.flops),
            size(n.bytes),
            _intensity(n),
            _bar(n.flops / total),
        )
        for n in heaviest
    ]
    table = _table(("node", "op", "result", "operations", "bytes moved", "op/byte", ""), each, right=(3, 4, 5))
    return by_op + _fold("Node by node", f"the {len(each)} heaviest", table)


def _intensity(n: OutlineNode) -> str:
    return f"{n.flops / n.bytes:.1f}" if n.bytes else "-"


def _kernels(kernels: Sequence[KernelCost], notes: Sequence[str]) -> str:
    """Kernels of one name are one row: they are one function, called several times."""
    groups: dict[tuple[str, tuple[str, ...]], list[KernelCost]] = {}
    for k in kernels:
        groups.setdefault((k.name, k.ops), []).append(k)
    taken = [sum(_taken(k) for k in group) for group in groups.values()]
    total = sum(taken) or 1.0
    rows = []
    for ((name, ops), group), seconds in sorted(zip(groups.items(), taken, strict=True), key=lambda row: -row[1]):
        measured = [k.measured for k in group if k.measured is not None]
        rows.append(
            (
                _code(name),
                _code(" ".join(ops)),
                str(len(group)),
                _microseconds(sum(k.predicted for k in group)),
                _microseconds(sum(measured)) if measured else "",
                escape(group[0].bound),
                f"{seconds / total:.1%}",
                _bar(seconds / total),
            )
        )
    heads = ("kernel", "ops in it", "calls", "predicted µs", "measured µs", "bound by", "share", "")
    how = "Sums over the calls of one run. " + " ".join(f"{note[:1].upper()}{note[1:]}." for note in notes)
    if not any(k.measured is not None for k in kernels):
        how += " Not measured: `intaglio report --measure` does that."
    return _table(heads, rows, right=(2, 3, 4, 6)) + f'<p class="quiet">{escape(how)}</p>'


def _taken(k: KernelCost) -> float:
    return k.predicted if k.measured is None else k.measured


def _microseconds(seconds: float) -> str:
    return f"{seconds * 1e6:,.1f}"


def _ledger(compiled: Compiled) -> str:
    ledger = compiled.ledger
    rows = []
    for entry, (step, contract, claimed, measured) in zip(ledger.entries, ledger.rows(), strict=True):
        notes = "<br>".join(escape(n) for n in entry.notes if not n.startswith(SIGNALS))
        tag = f'<span class="tag {escape(contract)}">{escape(contract)}</span>'
        rows.append((_code(step), tag, escape(claimed), escape(measured), notes))
    table = (
        _table(("pass", "promise", "claimed loss", "measured loss", "notes"), rows)
        if rows
        else '<p class="quiet">No pass ran.</p>'
    )
    whole = ", ".join(f"{k} {v:.3g}" for k, v in ledger.measured.items())
    budget = f"Budget {_code(str(ledger.budget))}, kept." if ledger.budget is not None else "No budget was given."
    end = (
        f"Measured from end to end: {escape(whole)}."
        if whole
        else "Nothing was measured from end to end: no lossy pass, or no data."
    )
    return f'{table}<p class="quiet">{budget} {end}</p>'


def _signals(compiled: Compiled) -> str:
    """Where the loss of quantization arises: signal to noise of each layer's output, in the order of the network."""
    parts = []
    for entry in compiled.ledger.entries:
        for note in entry.notes:
            if note.startswith(SIGNALS):
                found = [text.rsplit(" ", 1) for text in note.removeprefix(SIGNALS).split("; ")]
                worst = max((-float(v) for _, v in found), default=0.0)
                # a bar as long as the noise: 6 dB are one bit
                rows = [(_code(n), escape(v), _bar(10 ** ((-float(v) - worst) / 20))) for n, v in found]
                parts.append(
                    _table(("layer (format)", "signal to noise, dB", "noise, relative to the worst"), rows, right=(1,))
                )
    return _section("Where rounding is heard", "".join(parts)) if parts else ""


def _timings(compiled: Compiled) -> str:
    if not compiled.timings:
        return '<p class="quiet">No pass ran.</p>'
    longest = max(t.seconds for t in compiled.timings) or 1.0
    rows = [
        (_code(t.step), duration(t.seconds), f"{t.nodes_before} → {t.nodes_after}", _bar(t.seconds / longest))
        for t in compiled.timings
    ]
    return _table(("pass", "time", "nodes", ""), rows, right=(1, 2))


def _accelerator(compiled: Compiled) -> str:
    """The sections of a program that knows how its layers are mapped to an accelerator."""
    mapping = getattr(compiled.program, "mapping", None)
    if mapping is None:
        return ""
    return accelerator(mapping())


def _backend(info: Mapping[str, Any]) -> str:
    """What the target recorded: lists of records as tables, the rest as names and values."""
    parts, plain = [], []
    for name, value in info.items():
        if name == "kernels":
            continue  # has a section of its own
        if isinstance(value, list) and value and all(isinstance(v, dict) for v in value):
            heads = list(dict.fromkeys(k for v in value for k in v))
            rows = [[_code(_brief(v.get(h, ""))) for h in heads] for v in value]
            table = _table(heads, rows)
            parts.append(_fold(name, str(len(rows)), table, is_open=True))
        else:
            plain.append((_code(name), _code(_brief(value))))
    table = _table(("", ""), plain) if plain else ""
    return _section("Target", table + "".join(parts)) if plain or parts else ""


def _brief(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    text = value if isinstance(value, str) else str(value)
    return text if len(text) <= 300 else text[:297] + "..."


def _files(compiled: Compiled) -> str:
    total = sum(f.bytes for f in compiled.manifest.files.values()) or 1
    files = sorted(compiled.manifest.files.items(), key=lambda f: -f[1].bytes)
    rows = [(_code(name), size(f.bytes), _bar(f.bytes / total), _code(f.sha256[:16])) for name, f in files]
    return _table(("file", "size", "", "sha256"), rows, right=(1,))


def size(n: int) -> str:
    """12.3 kB"""
    for unit, step in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n >= step:
            return f"{n / step:.3g} {unit}"
    return f"{n} B"


def duration(seconds: float) -> str:
    """1.2 ms"""
    if seconds >= 1:
        return f"{seconds:.3g} s"
    return f"{seconds * 1e3:.3g} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.3g} µs"
