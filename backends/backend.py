"""What a backend is: something that turns a module into a program that runs.

program = backend.build(module, options)        compiled, in memory
outputs = program.run(arrays)                   arrays in the order of the entry graph's inputs
info    = program.save(folder)                  its files, and what the manifest records of them
program = backend.load(folder, info, module)    the same program, from an artifact
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from ..ir.graph import Module
from ..ir.target import Target

__all__ = ["Backend", "Calibrated", "KernelCost", "Profiled", "Program", "Sampled", "Simulated"]


class Program(Protocol):
    """A compiled model, ready to run. Calls from several threads are safe."""

    def run(self, arrays: Sequence[Any]) -> list[Any]:
        """Output arrays for input arrays that `check_inputs` has accepted."""

    def save(self, folder: Path) -> dict[str, Any]:
        """Write the files that `load` needs into an existing folder; what is returned is JSON for the manifest."""


@dataclass(frozen=True)
class KernelCost:
    """One kernel of a program: its name, the ops in it, and the seconds that it should take and took."""

    name: str
    ops: tuple[str, ...]
    predicted: float
    measured: float | None = None
    bound: str = ""  # what the prediction says takes longest


@runtime_checkable
class Profiled(Protocol):
    """A program that tells its kernels apart; not every one does."""

    def kernel_costs(self, arrays: Sequence[Any] | None = None) -> list[KernelCost]:
        """The kernels in the order in which they run; measured on these inputs, if given."""


@runtime_checkable
class Simulated(Protocol):
    """A program whose machine is simulated: what was predicted can be compared with what the simulator took."""

    def simulation(self) -> str:
        """A table of layers, predicted beside simulated; empty where nothing was simulated."""


class Backend(Protocol):
    """One target family. `options` is a frozen dataclass; its fields are the `:option=value` of `--target`."""

    name: str
    summary: str
    options: type

    def target(self, options: Any) -> Target:
        """The target as passes see it."""

    def pipeline(self, options: Any) -> str:
        """The passes that make a module ready for `build`, run after the user's own."""

    def build(self, module: Module, options: Any) -> Program:
        """Compile; raises IG05xx for what the target cannot run, with the node's location."""

    def load(self, folder: Path, info: Mapping[str, Any], module: Module, options: Any) -> Program:
        """A program from the files that `save` wrote; raises IG05xx when this machine cannot run them."""


@runtime_checkable
class Sampled(Protocol):
    """A backend that looks at calibration data when it builds, to make values fit or to refuse; not every one does."""

    def build_on(self, module: Module, options: Any, batches: Sequence[Mapping[str, Any]]) -> Program:
        """`build`, with inputs by name in batches; none if there are no calibration data."""


@runtime_checkable
class Calibrated(Protocol):
    """A backend whose predictions come from figures of the machine, which it can measure; not every one does."""

    calibration_steps: int

    def figures(self, options: Any) -> str:
        """Which figures are in use, and where they are from, in a line."""

    def calibrate(self, options: Any, observe: Callable[[str], None]) -> tuple[Path, str]:
        """Measure the machine: where the file of its figures belongs, and its text. `observe` is told each step."""
