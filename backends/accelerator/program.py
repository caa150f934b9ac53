"""A compiled model for an accelerator: the module, and where and how each of its layers runs."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...ir.diagnostics import error
from ...ir.graph import Module
from ...ir.interpret import evaluate
from ..backend import KernelCost
from .deploy import Deployment, loaded
from .export import to_csv, to_json, to_timeloop
from .plan import Plan, Step
from .whatif import what_if

__all__ = ["MAPPING", "AcceleratorProgram", "load_program"]

MAPPING = "mapping.json"
TABLE = "layers.csv"
TIMELOOP = "mapping.timeloop.yaml"


class AcceleratorProgram:
    """What the machine does. Integer graphs run as programs on the functional simulator, others in the interpreter."""

    def __init__(
        self,
        module: Module,
        plan: Plan | None,
        deployment: Deployment | None = None,
        stored: Mapping[str, Any] | None = None,
    ) -> None:
        self.module, self.plan, self.deployment = module, plan, deployment
        self._stored = dict(stored) if stored is not None else None

    def run(self, arrays: Sequence[Any]) -> list[Any]:
        if self.deployment is not None:
            return self.deployment.run(arrays)
        return list(evaluate(self.module.main, arrays))

    def mapping(self) -> dict[str, Any]:
        """The content of mapping.json: every step with layer, mapping, cost and certificate."""
        if self._stored is None:
            assert self.plan is not None
            self._stored = json.loads(to_json(self.plan))
            self._simulated(self._stored["steps"])
            if self.deployment is not None and self.deployment.fused:
                self._stored["fused"] = {"segments": self.deployment.fused}
            elif (fused := self.plan.fused) is not None:
                self._stored["fused"] = {
                    "energy_pj": fused.energy,
                    "cycles": fused.cycles,
                    "outer_bits": fused.outer_bits,
                    "certificate": str(fused.certificate),
                    "segments": [str(s) for s in fused.segments],
                }
            if self.plan.described is not None:
                self._stored["what_if"] = what_if(self.plan, self.plan.described)
        return self._stored

    def _simulated(self, steps: Sequence[dict[str, Any]]) -> None:
        """Beside each layer of the plan what its program took on the event simulator."""
        times: dict[tuple[str, bool], deque[float | None]] = {}
        for t in self.deployment.times if self.deployment is not None else ():
            alone = t.get("segment", -1) < 0  # of fused layers whole segments are compared
            times.setdefault((t["name"], t["product"]), deque()).append(t["cycles"] if alone else None)
        for step in steps:
            queue = None if step.get("host") else times.get((step["name"], "layer" in step))
            if queue and (cycles := queue.popleft()) is not None:
                step["simulated_cycles"] = cycles

    def kernel_costs(self, arrays: Sequence[Any] | None = None) -> list[KernelCost]:
        """See `backends.backend.Profiled`; what is measured is the event simulator, whatever the arrays."""
        data = self.mapping()
        clock = data["clock_hz"]
        found = []
        for s in data["steps"]:
            simulated = s["simulated_cycles"] / clock if "simulated_cycles" in s and arrays is not None else None
            found.append(KernelCost(s["name"], tuple(s["op"].split()), s["cycles"] / clock, simulated, s["bound"]))
        return found

    def simulation(self) -> str:
        """See `backends.backend.Simulated`."""
        rows = [f"{'layer':32} {'predicted':>12} {'simulated':>12} {'error':>7}"]
        for s in self.mapping()["steps"]:
            if "simulated_cycles" in s:
                real = s["simulated_cycles"]
                error = (s["cycles"] - real) / real if real else 0.0
                rows.append(f"{s['name'][:32]:32} {s['cycles']:12,.0f} {real:12,.0f} {error:7.1%}")
        rows = rows if len(rows) > 1 else []
        if rows and (host := [s["op"] for s in self.mapping()["steps"] if s.get("host")]):
            rows += ["", f"on the host: {', '.join(dict.fromkeys(host))}"]
        segments = [s for s in self.mapping().get("fused", {}).get("segments", ()) if isinstance(s, dict)]
        if segments:
            rows += ["", f"{'fused segment':44} {'cycles':>11} {'predicted':>11} {'alone':>11} "
                     f"{'KB of DRAM':>11} {'predicted':>11} {'alone':>11}"]  # fmt: skip
        for s in segments:
            what = [s[which][i] / (1, 8e3)[i] for i in (0, 1) for which in ("together", "predicted", "alone")]
            rows.append(f"{s['way'][:44]:44} " + " ".join(f"{x:11,.0f}" for x in what) + f"  {s['why']}".rstrip())
        return "\n".join(rows)

    def save(self, folder: Path) -> dict[str, Any]:
        """mapping.json, a table of layers as CSV, and the mappings in Timeloop's form."""
        data = self.mapping()
        (folder / MAPPING).write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
        if self.plan is not None:
            (folder / TABLE).write_text(to_csv(self.plan), encoding="utf-8")
            (folder / TIMELOOP).write_text(_timeloop(self.plan.steps), encoding="utf-8")
        made = {} if self.deployment is None else {"deployment": self.deployment.save(folder)}
        return made | {k: data[k] for k in ("machine", "clock_hz", "cycles", "energy_pj", "seconds", "notes")}


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
    deployment = loaded(module.main, folder, info["deployment"]) if "deployment" in info else None
    return AcceleratorProgram(module, None, deployment, data)
