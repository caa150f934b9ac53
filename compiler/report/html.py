"""Pieces of the report's HTML. Text that is not ours is escaped by whoever passes it in, unless said otherwise."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

__all__ = ["bar", "code", "count", "fold", "section", "table"]


def section(title: str, body: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{body}</section>"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], right: Sequence[int] = ()) -> str:
    """A table of cells that are HTML already; the columns `right` hold numbers."""
    side = ['class="right"' if i in right else "" for i in range(len(heads))]
    head = "".join(f"<th {s}>{escape(h)}</th>" for h, s in zip(heads, side, strict=True))
    body = "".join(
        "<tr>" + "".join(f"<td {s}>{c}</td>" for c, s in zip(row, side, strict=True)) + "</tr>" for row in rows
    )
    return f'<div class="card scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def code(text: str) -> str:
    return f"<code>{escape(text)}</code>"


def bar(share: float) -> str:
    return f'<div class="bar"><i><b style="width:{max(0.0, min(1.0, share)):.2%}"></b></i></div>'


def fold(title: str, aside: str, body: str, *, is_open: bool = False) -> str:
    """What opens and closes at a click."""
    start = '<details class="card" open>' if is_open else '<details class="card">'
    return f"{start}<summary>{escape(title)}<small>{escape(aside)}</small></summary>{body}</details>"


def count(n: int) -> str:
    """12.3 M"""
    for unit, step in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if n >= step:
            return f"{n / step:.3g} {unit}"
    return str(n)
