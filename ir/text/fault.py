"""Mistakes in a text: found with an offset only, turned into diagnostics where text and file are known."""

from __future__ import annotations

from collections.abc import Iterable

from ..diagnostics import Diagnostic, IntaglioError, Position

__all__ = ["Fault", "located", "position"]

LONGEST = 400  # characters of a source line that a diagnostic shows


class Fault(Exception):
    """One mistake at offset `pos`, `length` characters wide."""

    def __init__(self, code: str, message: str, pos: int, length: int = 1, *, label: str = "", hint: str = "") -> None:
        super().__init__(message)
        self.code, self.message, self.pos, self.length = code, message, pos, length
        self.label, self.hint = label, hint
        self.notes: tuple[str, ...] = ()

    @classmethod
    def inside(cls, found: Diagnostic, pos: int, length: int) -> Fault:
        """The fault of a finding that something else made, at a place in the text."""
        made = cls(found.code, found.message, pos, length, label=found.label, hint=found.hint)
        made.notes = found.notes
        return made


def position(text: str, file: str, pos: int, length: int) -> Position:
    """Line and column of an offset."""
    start = text.rfind("\n", 0, pos) + 1
    end = text.find("\n", pos)
    end = len(text) if end < 0 else end
    source = text[start:end].rstrip("\r") if end - start <= LONGEST else ""
    return Position(file, text.count("\n", 0, pos) + 1, pos - start + 1, max(1, min(length, end - pos)), source)


def located(faults: Iterable[Fault], text: str, file: str) -> IntaglioError:
    """The error that reports `faults`."""
    return IntaglioError.of(
        Diagnostic(f.code, f.message, position(text, file, f.pos, f.length), f.label, f.notes, f.hint) for f in faults
    )
