"""What the compiler says when something is wrong.

One `Diagnostic` is one thing a person can act on; an `IntaglioError` carries one or more of them. Codes are stable
and documented in docs/diagnostics.md:

    IG00xx  files and the command line         IG03xx  text form (lexing, parsing)
    IG01xx  front ends (ONNX, torch)           IG04xx  passes and pipelines
    IG02xx  types, shapes, verification        IG05xx  backends and artifacts
                                               IG06xx  running: inputs, names, shapes
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

__all__ = ["Diagnostic", "IntaglioError", "Position", "error"]


@dataclass(frozen=True, slots=True)
class Position:
    """A place in a text file; lines and columns count from 1. `length` is the width of the marked part."""

    file: str
    line: int
    column: int
    length: int = 1
    source: str = ""  # the line's own text, for the excerpt

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One finding: what is wrong, where, and what to do.

    `notes` say where the thing came from ("from: ONNX node ..."), `hint` says what to do about it.
    """

    code: str
    message: str
    position: Position | None = None
    label: str = ""  # printed under the marker, usually the offending type
    notes: tuple[str, ...] = ()
    hint: str = ""
    severity: str = "error"

    def render(self) -> str:
        """The diagnostic as the command line prints it."""
        out = [f"{self.severity}[{self.code}]: {self.message}"]
        margin = ""
        if self.position is not None:
            at = self.position
            number = str(at.line)
            margin = " " * len(number)
            out.append(f"{margin}--> {at}")
            if at.source:
                out.append(f"{number} | {at.source}")
                marker = " " * (at.column - 1) + "^" * max(1, at.length)
                out.append(f"{margin} | {marker} {self.label}".rstrip())
        elif self.label:
            out.append(f"  {self.label}")
        out.extend(f"{margin} = {note}" for note in self.notes)
        if self.hint:
            out.append(f"{margin} = help: {self.hint}")
        return "\n".join(out)

    def __str__(self) -> str:
        return self.render()


@dataclass(eq=False)
class IntaglioError(Exception):
    """The user's mistake, or a model the compiler cannot take; never a bug of ours (those raise as they are)."""

    diagnostics: tuple[Diagnostic, ...] = field(default_factory=tuple)

    def __post_init__(self) -> None:
        super().__init__(*self.diagnostics)

    def __str__(self) -> str:
        return "\n".join(d.render() for d in self.diagnostics)

    @classmethod
    def of(cls, diagnostics: Iterable[Diagnostic]) -> IntaglioError:
        return cls(tuple(diagnostics))


def error(
    code: str,
    message: str,
    *,
    position: Position | None = None,
    label: str = "",
    notes: Iterable[str] = (),
    hint: str = "",
) -> IntaglioError:
    """An exception of one diagnostic: `raise error("IG0201", "...")`."""
    return IntaglioError((Diagnostic(code, message, position, label, tuple(notes), hint),))
