"""Accelerators as published beside our models: writes docs/accelerator-validation.md.

make validate-accelerator          or          python -P tests/benchmarks/validate_accelerator.py
"""

from __future__ import annotations

import statistics
import sys
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "accelerator-validation.md"

HEAD = """\
# Accelerators: models against what was published

Made by `make validate-accelerator` from the data folder (../shared/data/accelerator); not edited by hand.

*Silicon* was measured on a chip, *gate level* simulated after synthesis or layout, *simulator* is another program's
result, *vendor estimate* a maker's own calculation. *Fitted*: a constant of the model was chosen by this number, or one
of its rules with this number in sight. *Recalled*: the number was not seen in the source itself, but agrees with sums
that were. Everything else follows from the machine's description and the layers.
"""


def main() -> int:
    from ..backends.accelerator.ground_truth import MISSING, SECTIONS

    if MISSING:
        sys.exit(MISSING)
    parts = [HEAD]
    for section in SECTIONS:
        rows = list(section.rows())
        parts.append(f"## {section.title}\n\nGoal: {section.bar}.\n")
        if section.note:
            parts.append(f"{section.note}\n")
        parts.append(_table(rows) if section.listed else _summary(rows))
        print(f"{section.title:45s} {_short(rows)}")
    PAGE.write_text("\n".join(parts), encoding="utf-8")
    print(f"wrote {PAGE.relative_to(ROOT)}")
    return 0


def _table(rows: Sequence[Any]) -> str:
    lines = ["| what | | published | model | error | source |", "|---|---|---:|---:|---:|---|"]
    for r in rows:
        source = ", ".join([r.kind, *(["fitted"] if r.fitted else []), *(["recalled"] if r.recalled else [])])
        lines.append(f"| {r.name} | {r.quantity} | {r.published:,.6g} | {r.modelled:,.6g} | {_error(r)} | {source} |")
    return "\n".join(lines) + f"\n\n{_short(rows)}\n"


def _summary(rows: Sequence[Any]) -> str:
    groups: dict[str, list[Any]] = {}
    for r in rows:
        groups.setdefault(r.quantity, []).append(r)
    lines = ["| what | rows | exact | within 2.5 % | mean | max | source |", "|---|---:|---:|---:|---:|---:|---|"]
    for quantity, part in groups.items():
        errors = [abs(r.error) for r in part]
        source = ", ".join([part[0].kind, *(["fitted"] if part[0].fitted else [])])
        lines.append(
            f"| {quantity} | {len(part)} | {sum(e < 1e-9 for e in errors)} | {sum(e <= 0.025 for e in errors)} "
            f"| {statistics.mean(errors):.2%} | {max(errors):.2%} | {source} |"
        )
    worst = max(rows, key=lambda r: abs(r.error))
    return "\n".join(lines) + f"\n\nThe largest error: {worst.name}, {worst.quantity}, {_error(worst)}.\n"


def _short(rows: Sequence[Any]) -> str:
    """Errors of relative rows and of points, those of held-out rows apart."""
    out = []
    for label, points in (("relative", False), ("points", True)):
        part = [r for r in rows if r.points == points]
        if part:
            errors = [abs(r.error) for r in part]
            shown = (lambda v: f"{v:.1f} points") if points else (lambda v: f"{v:.1%}")
            text = f"{len(part)} rows, mean {shown(statistics.mean(errors))}, max {shown(max(errors))}"
            held = [abs(r.error) for r in part if not r.fitted]
            if 0 < len(held) < len(part):
                text += f"; not fitted: {len(held)}, mean {shown(statistics.mean(held))}, max {shown(max(held))}"
            out.append(text if label == "relative" else f"split: {text}")
    return "; ".join(out) + "."


def _error(row: Any) -> str:
    if row.points:
        return f"{row.error:+.1f} points"
    return "exact" if abs(row.error) < 1e-9 else f"{row.error:+.1%}"


if __name__ == "__main__":
    # A package `tests` without the repository's root on the path, whose folders are no top-level modules.
    package = types.ModuleType("tests")
    package.__path__ = [str(ROOT / "tests")]
    sys.modules["tests"] = package
    __package__ = "tests.benchmarks"
    sys.exit(main())
