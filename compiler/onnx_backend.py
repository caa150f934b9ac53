"""ONNX's own backend interface, so that anyone can run ONNX's suites on us.

    import onnx.backend.test
    from intaglio.compiler import onnx_backend
    suite = onnx.backend.test.BackendTest(onnx_backend.IntaglioBackend, __name__)

Devices: `reference` (the interpreter) and `cpu` (compiled); ONNX's name `CPU` means `cpu`. Shapes that the model
computes from its inputs are interpreted on `reference`; on `cpu` the program is compiled for the values of these
inputs, and again when they change.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx.backend.base import Backend, BackendRep

from ..backends import backend
from ..ir.interpret import check_inputs
from ..passes.syntax import parse_pipeline
from .frontends.onnx import load_specialized
from .pipeline import run_pipeline

__all__ = ["IntaglioBackend", "IntaglioRep", "is_compatible", "prepare", "run_model", "supports_device"]

_DEVICES = {"reference": "reference", "cpu": "cpu", "CPU": "cpu"}


class IntaglioRep(BackendRep):
    """A model ready to run; compiled on first use, once for each set of values that decide about its shapes."""

    def __init__(self, model: Any, target: str) -> None:
        self.model, self.target = model, target
        initial = {t.name for t in model.graph.initializer}
        self.names = [i.name for i in model.graph.input if i.name not in initial]
        self._programs: list[tuple[dict[str, Any], Any, Any]] = []

    def run(self, inputs: Any, **_: Any) -> tuple[Any, ...]:
        """Outputs for inputs in the model's order (or by name)."""
        given = dict(inputs) if isinstance(inputs, dict) else dict(zip(self.names, inputs, strict=False))
        module, program = self._program(given)
        left = {v.name: np.asarray(given[v.name]) for v in module.main.inputs if v.name in given}
        arrays = check_inputs([(v.name, v.type) for v in module.main.inputs], left, module.dims)
        return tuple(program.run(arrays))

    def _program(self, given: dict[str, Any]) -> tuple[Any, Any]:
        for bound, module, program in self._programs:
            if all(np.array_equal(given[n], a) for n, a in bound.items()):
                return module, program
        module, left = load_specialized(self.model, given, static=self.target != "reference")
        bound = {n: np.array(a) for n, a in given.items() if n not in left}
        chosen = backend(self.target)
        options = chosen.options()
        steps = parse_pipeline(chosen.pipeline(options), f"pipeline of target {chosen.name}")
        module = run_pipeline(module, steps, target=chosen.target(options)).module
        program = chosen.build(module, options)
        self._programs.append((bound, module, program))
        return module, program


class IntaglioBackend(Backend):
    """See the module."""

    @classmethod
    def is_compatible(cls, model: Any, device: str = "cpu", **_: Any) -> bool:
        """Whether every op of the model is supported."""
        from ..ir.diagnostics import IntaglioError
        from .frontends.onnx import load_onnx

        try:
            load_onnx(model)
        except IntaglioError as e:
            return all(d.code == "IG0108" for d in e.diagnostics)
        return True

    @classmethod
    def prepare(cls, model: Any, device: str = "cpu", **_: Any) -> IntaglioRep:
        """A model ready to run on `device`; raises ValueError for an unknown one."""
        if device not in _DEVICES:
            raise ValueError(f"unknown device {device!r}; one of {', '.join(_DEVICES)}")
        return IntaglioRep(model, _DEVICES[device])

    @classmethod
    def run_model(cls, model: Any, inputs: Sequence[Any], device: str = "cpu", **options: Any) -> tuple[Any, ...]:
        """Prepare and run once."""
        return cls.prepare(model, device, **options).run(inputs)

    @classmethod
    def run_node(
        cls, node: Any, inputs: Any, device: str = "cpu", outputs_info: Any = None, **options: Any
    ) -> tuple[Any, ...]:
        """Run a single node on arrays, in the newest opset unless `opset_version` says otherwise."""
        import onnx

        names = [n for n in node.input if n]
        arrays = [np.asarray(a) for a in inputs]
        made = [
            onnx.helper.make_tensor_value_info(n, onnx.helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
            for n, a in zip(names, arrays, strict=True)
        ]
        results = [onnx.ValueInfoProto(name=n) for n in node.output if n]
        graph = onnx.helper.make_graph([node], "node", made, results)
        version = options.pop("opset_version", onnx.defs.onnx_opset_version())
        model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", version)])
        return cls.run_model(model, arrays, device, **options)

    @classmethod
    def supports_device(cls, device: str) -> bool:
        return device in _DEVICES


is_compatible = IntaglioBackend.is_compatible
prepare = IntaglioBackend.prepare
run_model = IntaglioBackend.run_model
supports_device = IntaglioBackend.supports_device
