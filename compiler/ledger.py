"""The ledger: what every pass promised, what it was measured to cost, and whether that is within the budget."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..ir.diagnostics import error
from ..passes.quantize.settings import SIGNALS

__all__ = ["METRICS", "Budget", "Entry", "Ledger"]

METRICS: dict[str, str] = {
    "top1": "accuracy lost, or without labels the share of answers that changed",
    "max_abs": "largest absolute error of an output",
    "rel_l2": "norm of the error over norm of the output",
}


@dataclass(frozen=True)
class Budget:
    """The loss that a compilation may cost at most: `Budget("top1", 0.005)`, on the command line `top1<=0.005`."""

    metric: str
    loss: float

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise error("IG0407", f"there is no metric `{self.metric}`", hint=f"one of {', '.join(METRICS)}")
        if not (isinstance(self.loss, (int, float)) and 0 <= self.loss < math.inf):
            raise error("IG0407", f"a budget is a number of at least 0, not {self.loss!r}")

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Read `metric<=loss`."""
        found = re.fullmatch(r"\s*(\w+)\s*(?:<=|≤)\s*([0-9]*\.?[0-9]+(?:[eE][+-]?[0-9]+)?)\s*", text)
        if found is None:
            raise error("IG0407", f"`{text}` is no budget", hint="write METRIC<=LOSS, for example top1<=0.005")
        return cls(found[1], float(found[2]))

    def __str__(self) -> str:
        return f"{self.metric}<={self.loss:g}"


@dataclass(frozen=True)
class Entry:
    """One pass that ran: its contract, the losses it claims and those measured, by metric."""

    step: str
    contract: str
    claimed: Mapping[str, float] = field(default_factory=dict)
    measured: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Ledger:
    """The entries in the order the passes ran, and `measured` from end to end (empty without calibration data)."""

    entries: tuple[Entry, ...] = ()
    measured: Mapping[str, float] = field(default_factory=dict)
    budget: Budget | None = None

    @property
    def contract(self) -> str:
        """The weakest promise made: what may be said of the whole."""
        order = ["exact", "real", "bounded", "lossy"]
        return max((e.contract for e in self.entries), key=order.index, default="exact")

    @property
    def claimed(self) -> dict[str, float]:
        """Claims composed: losses of one metric add up, which no composition of them exceeds to first order."""
        return total(e.claimed for e in self.entries)

    def check(self) -> None:
        """IG0408 when the budget is exceeded, IG0407 when nothing tells whether it is."""
        if self.budget is None or self.contract == "exact":
            return
        metric, limit = self.budget.metric, self.budget.loss
        loss = self.measured.get(metric)
        kind = "measured"
        if loss is None:
            if any(e.contract in ("bounded", "lossy") and metric not in e.claimed for e in self.entries):
                what = (
                    f"nothing tells whether the budget {self.budget} holds: no calibration data, no claim in `{metric}`"
                )
                raise error("IG0407", what, hint="give calibration data")
            loss, kind = self.claimed.get(metric, 0.0), "claimed"
        if not loss <= limit:
            notes = [f"{e.step}: {_losses(e)}" for e in self.entries if e.claimed or e.measured]
            what = f"the budget {self.budget} is exceeded: {kind} {metric} = {loss:.4g}"
            raise error("IG0408", what, hint=self._advice(), notes=notes)

    def _advice(self) -> str:
        """What to do about a budget that quantization exceeds; nothing if it is not to blame."""
        step = next((e for e in self.entries if re.match(r"quantize\b", e.step)), None)
        if step is None or self.budget is None:
            return ""
        if self.budget.metric == "rel_l2":
            loss = f"{self.budget.loss:g}"
        else:  # half of what it was off by: a start
            loss = f"{step.measured['rel_l2'] / 2:.2g}" if step.measured.get("rel_l2", math.nan) > 0 else "0.05"
        name, _, options = step.step.partition("{")
        options = ",".join(o for o in (options.removesuffix("}"), f"loss={loss}") if o)
        noisy = _noisiest(step)
        if not noisy:
            asked = f"`{name}{{{options}}}` names the layers to keep in 8 bits"
            return f"{asked}; keep=[...] keeps them; or take more bits"
        kept = f"keep the noisiest layers in 8 bits, keep=[{', '.join(noisy)}], or take more bits"
        return f"{kept}; `{name}{{{options}}}` tells how much each layer does alone"

    # --- JSON ---------------------------------------------------------------------------------------------------------

    def to_json(self) -> dict[str, Any]:
        return {
            "entries": [
                {
                    "step": e.step,
                    "contract": e.contract,
                    "claimed": _numbers(e.claimed),
                    "measured": _numbers(e.measured),
                    "notes": list(e.notes),
                }
                for e in self.entries
            ],
            "measured": _numbers(self.measured),
            "budget": None if self.budget is None else {"metric": self.budget.metric, "loss": self.budget.loss},
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Ledger:
        """What `to_json` gave; KeyError, TypeError or ValueError for anything else."""
        entries = [
            Entry(
                str(e["step"]),
                str(e["contract"]),
                _floats(e["claimed"]),
                _floats(e["measured"]),
                tuple(map(str, e["notes"])),
            )
            for e in data["entries"]
        ]
        budget = data["budget"]
        return cls(
            tuple(entries),
            _floats(data["measured"]),
            None if budget is None else Budget(str(budget["metric"]), float(budget["loss"])),
        )

    def rows(self) -> list[Sequence[str]]:
        """A table: step, contract, claimed, measured."""
        return [(e.step, e.contract, _show(e.claimed) or "0", _show(e.measured) or "-") for e in self.entries]

    def __str__(self) -> str:
        lines = [
            f"{step}: {contract}, claimed {claimed}, measured {measured}"
            for step, contract, claimed, measured in self.rows()
        ]
        if self.measured:
            lines.append(f"end to end: {_show(self.measured)}")
        return "\n".join(lines) or "nothing was changed"


NAMED = 5


def _noisiest(step: Entry) -> list[str]:
    """The layers of fewer than 8 bits whose outputs have the least signal to noise, by what the step noted."""
    told = next((n for n in step.notes if n.startswith(SIGNALS)), "").removeprefix(SIGNALS)
    found = re.findall(r"([^;]+) \((\w+)\) (-?[\d.]+)", told)
    few = [(float(noise), name.strip()) for name, form, noise in found if form not in ("8", "float")]
    return [name for _, name in sorted(few)[:NAMED]]


def _losses(entry: Entry) -> str:
    parts = [f"claimed {_show(entry.claimed)}"] if entry.claimed else []
    return "; ".join([*parts, *([f"measured {_show(entry.measured)}"] if entry.measured else [])])


def _show(losses: Mapping[str, float]) -> str:
    return ", ".join(f"{k} {v:.3g}" for k, v in losses.items())


def _numbers(losses: Mapping[str, float]) -> dict[str, float | str]:
    # JSON has no infinity and no nan
    return {k: v if math.isfinite(v) else str(v) for k, v in losses.items()}


def _floats(losses: Mapping[str, Any]) -> dict[str, float]:
    return {str(k): float(v) for k, v in losses.items()}


def total(losses: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """The sum by metric."""
    found: dict[str, float] = {}
    for one in losses:
        for metric, loss in one.items():
            found[metric] = found.get(metric, 0.0) + loss
    return found
