"""Reading rules: text to `Rule`s, with every mistake found here, at its line and column.

Op names are resolved, arity and attribute names checked, and every name of a right side or condition is bound.
"""

from __future__ import annotations

import difflib
import functools
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..diagnostics import Position, error
from ..op import Op
from ..ops import OPS
from .contracts import Bounded, Contract, Exact, Lossy, Real
from .language import (
    Absent,
    Apply,
    AttrName,
    AttrValue,
    Expr,
    Literal,
    Pattern,
    Rule,
    Variable,
    bound_names,
    find_op,
    short_names,
)

__all__ = ["parse_left", "parse_rules", "read_rules"]


@functools.cache
def _grammar() -> Any:
    from lark import Lark

    text = Path(__file__).with_name("rules.lark").read_text(encoding="utf-8")
    return Lark(text, parser="lalr", propagate_positions=True, maybe_placeholders=True, start=["start", "left"])


def read_rules(path: Path) -> list[Rule]:
    """The rules of a `.rules` file, or IG0410..IG0413 with line and column."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise error("IG0001", f"`{path}` cannot be read: {e}") from None
    return parse_rules(text, str(path))


def parse_rules(text: str, file: str = "<rules>") -> list[Rule]:
    """The rules in a text."""
    reader = _Reader(text, file)
    rules = [reader.rule(tree) for tree in reader.parse("start").children]
    seen: dict[str, Rule] = {}
    for rule in rules:
        if rule.name in seen:
            first = seen[rule.name].position
            raise error(
                "IG0411", f"rule `{rule.name}` is written twice", position=rule.position, notes=[f"first: {first}"]
            )
        seen[rule.name] = rule
    return rules


def parse_left(text: str, file: str = "<pattern>") -> tuple[Apply, tuple[Expr, ...]]:
    """A left side: pattern and conditions."""
    reader = _Reader(text, file)
    left, conditions = reader.left(reader.parse("left"))
    return left, conditions


class _Reader:
    """Trees of lark to rules, with positions."""

    def __init__(self, text: str, file: str) -> None:
        self.text, self.file = text, file
        self.lines = text.splitlines() or [""]

    def at(self, thing: Any) -> Position:
        meta = getattr(thing, "meta", thing)
        line, column = getattr(meta, "line", None) or 1, getattr(meta, "column", None) or 1
        end = getattr(meta, "end_column", None) if getattr(meta, "end_line", line) == line else None
        source = self.lines[min(line, len(self.lines)) - 1]
        return Position(self.file, line, column, max(1, (end or column + 1) - column), source)

    def parse(self, start: str) -> Any:
        from lark.exceptions import UnexpectedCharacters, UnexpectedInput, UnexpectedToken

        try:
            return _grammar().parse(self.text, start=start)
        except UnexpectedInput as e:
            line, column = (e.line, e.column) if e.line and e.line > 0 else (len(self.lines), len(self.lines[-1]) + 1)
            source = self.lines[min(line, len(self.lines)) - 1]
            expected = sorted(_spelled(t) for t in (getattr(e, "expected", None) or getattr(e, "allowed", None) or ()))
            what = "the text ends too early"
            if isinstance(e, UnexpectedToken) and e.token.type != "$END":
                what = f"`{e.token}` is not expected here"
            elif isinstance(e, UnexpectedCharacters):
                what = f"`{self.text[e.pos_in_stream or 0]}` is not expected here"
            hint = f"expected {', '.join(expected[:8])}" if expected else ""
            raise error("IG0410", what, position=Position(self.file, line, column, 1, source), hint=hint) from None

    def rule(self, tree: Any) -> Rule:
        *docs, name, contract, left_tree, right_tree = tree.children
        left, conditions = self.left(left_tree)
        made = Rule(
            str(name),
            self._contract(contract),
            left,
            conditions,
            tuple(self.expr(t) for t in right_tree.children),
            " ".join(str(d)[3:].strip() for d in docs),
            self.at(name),
        )
        names = made.bound()
        for e in made.right:  # type: ignore[union-attr]
            self._check_names(e, names)
        results = len(made.right)  # type: ignore[arg-type]
        wanted = len(left.op.signature.results) if not left.op.signature.results[0].repeated else results
        if results != wanted:
            raise error(
                "IG0412",
                f"rule `{name}` replaces the {wanted} result(s) of `{left.op.name}` by {results}",
                position=self.at(right_tree),
            )
        return made

    def left(self, tree: Any) -> tuple[Apply, tuple[Expr, ...]]:
        pattern_tree, where = tree.children
        pattern = self.pattern(pattern_tree)
        if not isinstance(pattern, Apply):
            raise error("IG0412", "the left side is an op applied to something", position=self.at(pattern_tree))
        conditions = tuple(self.expr(t) for t in where.children) if where is not None else ()
        names = bound_names(pattern)
        for c in conditions:
            self._check_names(c, names)
        return pattern, conditions

    def _contract(self, tree: Any) -> Contract:
        if tree.data == "exact":
            return Exact()
        if tree.data == "real":
            return Real()
        if tree.data == "lossy":
            metric, budget = tree.children
            return Lossy(str(metric), float(budget.children[0]))
        found: dict[str, Any] = {}
        for t in tree.children:
            numbers = tuple(float(n.children[0]) for n in t.children[1:])
            name = str(t.children[0])
            if name not in ("abs", "rel", "on") or (name == "on") != (t.data == "interval"):
                raise error(
                    "IG0412",
                    f"`bounded` has no `{name}` of this form",
                    position=self.at(t),
                    hint="abs=, rel=, on=[low, high]",
                )
            found[name] = numbers if name == "on" else numbers[0]
        return Bounded(**found)

    # --- patterns -----------------------------------------------------------------------------------------------------

    def pattern(self, tree: Any) -> Pattern:
        where = self.at(tree)
        if tree.data == "variable":
            return Variable(str(tree.children[0]), where)
        if tree.data == "constant":
            return Variable(str(tree.children[0]), where, const=True)
        if tree.data == "optional":
            return Variable(str(tree.children[0]), where, optional=True)
        if tree.data == "absent":
            return Absent(where)
        if tree.data == "literal":
            return Literal(float(tree.children[0].children[0]), where)
        label, name_tree, plist, result = tree.children
        op = self._op(name_tree)
        made = Apply(op, (), (), where, str(label or ""), result=int(result or 0))
        args: list[Pattern] = []
        attrs: list[tuple[str, AttrName | AttrValue]] = []
        for item in plist.children if plist is not None else ():
            if item.data in ("bind", "equals"):
                key = str(item.children[0])
                self._check_attr(op, key, item)
                value = AttrName(str(item.children[1])) if item.data == "bind" else AttrValue(_plain(item.children[1]))
                attrs.append((key, value))
            elif item.data == "rest":
                made = replace(made, rest=str(item.children[0]))
            elif item.data == "variadic":
                made = replace(made, variadic=str(item.children[0]))
            else:
                args.append(self.pattern(item))
        self._check_arity(op, len(args), bool(made.variadic), tree)
        return replace(made, args=tuple(args), attrs=tuple(attrs))

    def _op(self, tree: Any) -> Op:
        name = ".".join(str(t) for t in tree.children if t is not None)
        found = find_op(name)
        if isinstance(found, Op):
            return found
        if found:
            choices = ", ".join(o.name for o in found)
            raise error("IG0412", f"`{name}` may be {choices}", position=self.at(tree), hint="write the full name")
        close = difflib.get_close_matches(name, [*OPS, *short_names()], n=3)
        hint = f"did you mean {', '.join(close)}?" if close else "see `intaglio ops`"
        raise error("IG0412", f"there is no op `{name}`", position=self.at(tree), hint=hint)

    def _check_attr(self, op: Op, name: str, tree: Any) -> None:
        if name not in op.attrs:
            hint = f"it has: {', '.join(op.attrs) or 'none'}"
            raise error("IG0412", f"`{op.name}` has no attribute `{name}`", position=self.at(tree), hint=hint)

    def _check_arity(self, op: Op, count: int, variadic: bool, tree: Any) -> None:
        operands = op.signature.operands
        open_ended = bool(operands) and operands[-1].variadic
        least = sum(not o.optional and not o.variadic for o in operands)
        if (count > len(operands) and not open_ended) or (count < least and not variadic):
            wants = (
                f"{least}" if least == len(operands) else f"{least} to {'any number' if open_ended else len(operands)}"
            )
            raise error("IG0412", f"`{op.name}` takes {wants} operands, {count} are given", position=self.at(tree))
        if variadic and not open_ended:
            raise error("IG0412", f"`{op.name}` takes no variable number of operands", position=self.at(tree))

    # --- expressions --------------------------------------------------------------------------------------------------

    def expr(self, tree: Any) -> Expr:
        where = self.at(tree)
        kind = str(tree.data)
        if kind == "call":
            name_tree, plist = tree.children
            name = ".".join(str(t) for t in name_tree.children if t is not None)
            args, keywords, rest = [], [], None
            for item in plist.children if plist is not None else ():
                if item.data == "keyword":
                    keywords.append((str(item.children[0]), self.expr(item.children[1])))
                elif item.data == "rest":
                    rest = self.expr(item.children[0])
                elif item.data == "variadic":
                    args.append(Expr("variadic", (str(item.children[0]),), self.at(item)))
                else:
                    args.append(self.expr(item))
            return Expr("call", (name, tuple(args), tuple(keywords), rest), where)
        parts: list[Any] = []
        for c in tree.children:
            if hasattr(c, "data"):
                parts.extend(self.expr(e) for e in c.children) if c.data == "plist" else parts.append(self.expr(c))
            else:
                parts.append(None if c is None else str(c))
        return Expr(kind, tuple(parts), where)

    def _check_names(self, e: Expr, names: dict[str, str], local: frozenset[str] = frozenset()) -> None:
        """Every name is bound on the left side, every called thing is an op or a helper."""
        from .helpers import HELPERS

        if e.kind == "name" and e.args[0] not in names and e.args[0] not in local:
            close = difflib.get_close_matches(e.args[0], names, n=2)
            hint = f"did you mean {' or '.join(close)}?" if close else f"bound are: {', '.join(sorted(names))}"
            raise error("IG0413", f"`{e.args[0]}` is not bound on the left side", position=e.position, hint=hint)
        if e.kind == "comprehension":
            body, name, source, condition = e.args
            self._check_names(source, names, local)
            for inner in (body, condition):
                if inner is not None:
                    self._check_names(inner, names, local | {name})
            return
        if e.kind == "call":
            called, args, keywords, rest = e.args
            if called not in HELPERS:
                found = find_op(called)
                if not isinstance(found, Op):
                    close = difflib.get_close_matches(called, [*HELPERS, *short_names()], n=3)
                    hint = (
                        f"did you mean {', '.join(close)}?"
                        if close
                        else "see docs/rules.md for the functions there are"
                    )
                    raise error("IG0412", f"`{called}` is neither an op nor a function", position=e.position, hint=hint)
                for key, _ in keywords:
                    if key not in found.attrs:
                        hint = f"it has: {', '.join(found.attrs) or 'none'}"
                        raise error(
                            "IG0412", f"`{found.name}` has no attribute `{key}`", position=e.position, hint=hint
                        )
            for a in args:
                if a.kind == "variadic" and names.get(a.args[0]) != "values":
                    raise error("IG0413", f"`{a.args[0]}` is not bound by a `*` of the left side", position=a.position)
            if rest is not None and rest.kind == "name" and names.get(rest.args[0]) != "attrs":
                what = f"`{rest.args[0]}` is not bound by a `**` of the left side"
                raise error("IG0413", what, position=rest.position)
            others = [*(a for a in args if a.kind != "variadic"), *(v for _, v in keywords)]
            for a in others if rest is None else [*others, rest]:
                self._check_names(a, names, local)
            return
        for a in e.args:
            if isinstance(a, Expr):
                self._check_names(a, names, local)


def _plain(tree: Any) -> Any:
    """The value of a literal attribute."""
    kind = tree.data
    if kind == "number":
        text = str(tree.children[0])
        return float(text) if any(c in text for c in ".einf") else int(text)
    if kind == "string":
        return str(tree.children[0])[1:-1]
    if kind == "list":
        return tuple(_plain(t) for t in (tree.children[0].children if tree.children[0] is not None else ()))
    return {"true": True, "false": False, "nothing": None}[kind]


_SPELLED = {
    "NAME": "a name",
    "RULE": "a rule's name",
    "INT": "a number",
    "SIGNED": "a number",
    "FLOAT": "a number",
    "STRING": "a string",
    "LPAR": "(",
    "RPAR": ")",
    "LSQB": "[",
    "RSQB": "]",
    "COMMA": ",",
    "EQUAL": "=",
    "STAR": "*",
    "COLON": ":",
    "DOC": "/// ...",
    "COMPARE": "a comparison",
    "SUM": "+ or -",
    "PRODUCT": "* or /",
    "$END": "the end",
}


def _spelled(terminal: str) -> str:
    """A terminal of the grammar as the writer of a rule would write it."""
    found = _SPELLED.get(terminal)
    if found is None:
        pattern = next((t.pattern.value for t in _grammar().terminals if t.name == terminal), terminal)
        found = pattern.replace("\\", "")
    return found
