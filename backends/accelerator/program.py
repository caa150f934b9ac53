"""A compiled model for an accelerator: the module, and where and how each of its layers runs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...ir.diagnostics import error
from ...ir.graph import Module
from ...ir.interpret import evaluate
from ..backend import KernelCost
from .export import to_csv, to_json, to_timeloop
from .plan import Plan, Step
from .whatif import what_if

__all__ = ["MAPPING", "AcceleratorProgram", "load_program"]

MAPPING = "mapping.json"
TABLE = "layers.csv"
TIMELOOP = "mapping.timeloop.yaml"


class AcceleratorProgram:
    """What the machine would do. `run` computes by the interpreter: the machine's results are the model's."""

    def __init__(self, module: Module, plan: Plan | None, stored: Mapping[str, Any] | None = None) -> None:
        self.module, self.plan = module, plan
        self._stored = dict(stored) if stored is not None else None

    def run(self, arrays: Sequence[Any]) -> list[Any]:
        return list(evaluate(self.module.main, arrays))

    def mapping(self) -> dict[str, Any]:
        """The content of mapping.json: every step with layer, mapping, cost and certificate."""
        if self._stored is None:
            assert self.plan is not None
            self._stored = json.loads(to_json(self.plan))
            if self.plan.described is not None:
                self._stored["what_if"] = what_if(self.plan, self.plan.described)
        return self._stored

    def kernel_costs(self, arrays: Sequence[Any] | None = None) -> list[KernelCost]:
        """See `backends.backend.Profiled`; nothing is measured: the machine exists as a description."""
        data = self.mapping()
        clock = data["clock_hz"]
        return [
            KernelCost(s["name"], tuple(s["op"].split()), s["cycles"] / clock, None, s["bound"]) for s in data["steps"]
        ]

    def save(self, folder: Path) -> dict[str, Any]:
        """mapping.json, a table of layers as CSV, and the mappings in Timeloop's form."""
        data = self.mapping()
        (folder / MAPPING).write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
        if self.plan is not None:
            (folder / TABLE).write_text(to_csv(self.plan), encoding="utf-8")
            (folder / TIMELOOP).write_text(_timeloop(self.plan.steps), encoding="utf-8")
        return {k: data[k] for k in ("machine", "clock_hz", "cycles", "energy_pj", "seconds", "notes")}


def _timeloop(steps: Sequence[Step]) -> str:
    """One YAML document a layer; layers of one mapping share theirs."""
    parts: dict[str, list[str]] = {}
    for step in steps:
        if step.result is not None:
            parts.setdefault(to_timeloop(step.result.mapping), []).append(step.work.name)
    return "".join(f"--- # {', '.join(names)}\n{text}" for text, names in parts.items())


def load_program(folder: Path, info: Mapping[str, Any], module: Module) -> AcceleratorProgram:
    """The program of an artifact; IG0534 when its mappings are not what this version writes."""
    path = folder / MAPPING
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(data["steps"], list) or data["version"] != 1:
            raise ValueError("another format version")
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise error("IG0534", f"`{path}` does not hold the mappings of a model: {e}", hint="compile it again") from None
    return AcceleratorProgram(module, None, data)
