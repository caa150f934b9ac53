"""Bugs of ours: what is said, and the folder from which anybody can make them happen again."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
import shlex
import traceback
from collections.abc import Sequence
from pathlib import Path

from ..ir.diagnostics import Diagnostic
from ..ir.graph import Module

__all__ = ["InternalError", "versions", "write_traceback"]


def versions() -> dict[str, str]:
    """What ran: Python, this package, and the libraries that matter."""
    from .. import __version__

    found = {"intaglio": __version__, "python": platform.python_version(), "platform": platform.platform()}
    for name in ("numpy", "ml_dtypes", "onnx", "apache-tvm"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


class InternalError(Exception):
    """A pass or a backend broke: it raised something that is no diagnostic, or made an ill-formed graph.

    `before` is the module it was given, `step` what was done with it (a pass,
    `build for cpu`, `run on cpu`).
    """

    def __init__(self, step: str, before: Module, findings: Sequence[Diagnostic] = ()) -> None:
        self.step, self.before, self.findings = step, before, tuple(findings)
        super().__init__(f"bug in `{step}`")

    def __str__(self) -> str:
        if self.findings:
            return "\n".join([f"`{self.step}` made an ill-formed graph", *(d.render() for d in self.findings)])
        cause = self.__cause__
        return (
            f"`{self.step}` failed: {type(cause).__name__}: {cause}" if cause is not None else f"`{self.step}` failed"
        )

    def write(self, parent: Path, command: Sequence[str] = ()) -> Path:
        """Write `intaglio-crash-<digest>/`: the module before the failure, the command, the traceback, the versions."""
        from ..ir.text import write_file

        folder = write_traceback(parent, self, command, f"{self.before.digest}{self.step}{self}")
        (folder / "again.txt").write_text(self._again(), encoding="utf-8")
        write_file(self.before, folder / "module.ig")
        return folder

    def _again(self) -> str:
        kind, _, target = self.step.rpartition(" ")
        if kind in ("build for", "run on"):
            again = f"intaglio compile module.ig --target {shlex.quote(target)} -o after"
        else:
            again = f"intaglio opt module.ig -p {shlex.quote(self.step)} -o after.ig"
        return f"failed in: {self.step}\nagain, in this folder: {again}\n"


def write_traceback(parent: Path, e: Exception, command: Sequence[str], key: str = "") -> Path:
    """The folder, with what is known of any bug: the traceback, the command line, the versions."""
    told = "".join(traceback.format_exception(e))
    folder = parent / f"intaglio-crash-{hashlib.blake2b((key or told).encode(), digest_size=5).hexdigest()}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "traceback.txt").write_text(told, encoding="utf-8")
    (folder / "command.txt").write_text(shlex.join(command) + "\n", encoding="utf-8")
    (folder / "versions.txt").write_text("".join(f"{k} {v}\n" for k, v in versions().items()), encoding="utf-8")
    return folder
