"""Rules to Python: one function per root op, that tries its rules in the order in which they were written.

Each rule becomes a block that leaves by `break` as soon as something does not fit. The source is registered in
`linecache`, so a traceback shows the line and the rule's place in its file. Where the operands of a commutative op can
stand in either order, the rest of the block is in a loop over both.
"""

from __future__ import annotations

import linecache
import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from ..graph import NO_ATTRS, Node
from ..op import Op
from ..ops import OPS
from . import build
from .helpers import HELPERS, is_number, same_value
from .language import Absent, Apply, AttrName, Expr, Literal, Pattern, Rule, Variable, find_op

__all__ = ["Matcher", "generate"]

# (rule number, replacement values) or None
Matcher = Callable[[Node, Any], Any]

_INFIX = {"+": "math.add", "-": "math.sub", "*": "math.mul", "/": "math.div"}


def generate(rules: Sequence[Rule], name: str) -> tuple[dict[Op, Matcher], str]:
    """Matchers by root op, and the source they were compiled from."""
    by_op: dict[Op, list[tuple[int, Rule]]] = {}
    for number, rule in enumerate(rules):
        by_op.setdefault(rule.left.op, []).append((number, rule))
    out = _Writer()
    for op, group in by_op.items():
        out.line(0, f"def {_function(op)}(n, e):")
        for i in range(_guarded(op)):
            out.line(1, f"o{i} = n.inputs[{i}].node")
            out.line(1, f"if o{i} is not None: o{i} = o{i}.op")
        for number, rule in group:
            _Block(out, rule, number).write()
        out.line(1, "return None")
        out.line(0, "")
    source = "\n".join(out.lines) + "\n"
    filename = f"<rules {name}>"
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    scope: dict[str, Any] = dict(out.scope)
    exec(compile(source, filename, "exec"), scope)
    return {op: scope[_function(op)] for op in by_op}, source


def _function(op: Op) -> str:
    return f"rewrite_{op.name.replace('.', '_')}"


def _guarded(op: Op) -> int:
    """How many operands are always there: their ops are looked at once, before any rule is tried."""
    return sum(not o.optional and not o.variadic for o in op.signature.operands)


def _number(value: float) -> str:
    return repr(value) if math.isfinite(value) else f"float('{value}')"


def _names(thing: Any) -> Counter[str]:
    """How often each name occurs in a pattern or an expression."""
    if isinstance(thing, Variable):
        return Counter([thing.name])
    if isinstance(thing, Apply):
        return sum(map(_names, thing.args), Counter())
    if isinstance(thing, Expr):
        return _names(thing.args)
    if isinstance(thing, tuple):
        return sum(map(_names, thing), Counter())
    return Counter([thing] if isinstance(thing, str) else [])


class _Writer:
    def __init__(self) -> None:
        self.lines: list[str] = []
        self.scope: dict[str, Any] = {
            "NO_ATTRS": NO_ATTRS,
            "CONST": OPS["const"],
            "is_number": is_number,
            "same_value": same_value,
            "build": build,
            **{f"H_{k}": v for k, v in HELPERS.items()},
        }
        self.count = 0

    def line(self, depth: int, text: str) -> None:
        self.lines.append("    " * depth + text)

    def fresh(self, prefix: str) -> str:
        self.count += 1
        return f"{prefix}{self.count}"

    def constant(self, prefix: str, value: Any) -> str:
        """A name in the functions' scope for an object."""
        for name, have in self.scope.items():
            if have is value and name.startswith(prefix):
                return name
        name = self.fresh(prefix)
        self.scope[name] = value
        return name

    def op(self, op: Op) -> str:
        name = f"OP_{op.name.replace('.', '_')}"
        self.scope[name] = op
        return name


class _Block:
    """The code of one rule."""

    def __init__(self, out: _Writer, rule: Rule, number: int) -> None:
        self.out, self.rule, self.number = out, rule, number
        self.leave = "break"  # how to give up: on the rule, or on the order of operands that is being tried
        self.kinds = rule.bound()
        self.names: dict[str, str] = {}  # rule's names -> Python variables
        self.nodes: list[str] = []
        self.shorts: dict[str, str] = {}
        self.uses = _names(rule.left) + _names(rule.conditions)
        self.depth = 2

    def line(self, text: str) -> None:
        self.out.line(self.depth, text)

    def unless(self, test: str) -> None:
        """Give up when `test` does not hold."""
        self.line(f"if not ({test}): {self.leave}")

    def when(self, test: str) -> None:
        """Give up when `test` holds."""
        self.line(f"if {test}: {self.leave}")

    def write(self) -> None:
        guard = self.guard()
        if guard:
            self.out.line(1, f"if {guard}:")
            self.depth += 1
        self.out.line(self.depth - 1, f"while True:  # {self.rule.name} ({self.rule.position})")
        start = self.depth
        self.names["root"] = "n"
        self.match(self.rule.left, "n")
        for name, kind in self.kinds.items():  # ops that occur once are their nodes
            if kind == "node" and name not in self.names:
                self.names[name] = self.shorts[name]
        for condition in self.rule.conditions:
            self.unless(f"{self.python(condition)}")
        rule = self.out.constant("RULE_", self.rule)
        self.line(f"build.enter(e, {rule}, ({', '.join(self.nodes)},))")
        if callable(self.rule.right):
            bound = ", ".join(f"{k!r}: {v}" for k, v in self.names.items())
            self.line(f"r = build.call({rule}, e, n, {{{bound}}})")
            self.when("r is None")
            self.line(f"return {self.number}, r")
        else:
            results = [self.whole(e, i) for i, e in enumerate(self.rule.right)]
            self.line(f"return {self.number}, ({', '.join(results)},)")
        if self.leave == "continue":
            self.out.line(start, "break")

    def guard(self) -> str:
        """What the ops of the root's operands must be, in terms of o0, o1, ...: most rules end here."""
        p = self.rule.left
        wanted = [self.wanted(a) for a in p.args[: _guarded(p.op)]]
        straight = [f"o{i} is {w}" for i, w in enumerate(wanted) if w]
        if not self.both_orders(p) or not straight or wanted[0] == wanted[1]:
            return " and ".join(straight)
        crossed = [f"o{1 - i} is {w}" for i, w in enumerate(wanted) if w]
        return f"{' and '.join(straight)} or {' and '.join(crossed)}"

    def wanted(self, a: Pattern) -> str:
        """The op that an operand must be made by, if only one will do."""
        if isinstance(a, Apply):
            return self.out.op(a.op)
        return "CONST" if isinstance(a, Literal) or (isinstance(a, Variable) and a.const) else ""

    # --- matching -----------------------------------------------------------------------------------------------------

    def match(self, p: Apply, node: str) -> None:
        self.nodes.append(node)
        self.shorts[p.op.name.rpartition(".")[2]] = node
        if p.label:
            self.names[p.label] = node
        operands = self.out.fresh("i") if p.args or p.variadic else ""
        required = sum(not o.optional and not o.variadic for o in p.op.signature.operands)
        if operands:
            if self.both_orders(p):
                self.line(f"for {operands} in ({node}.inputs, {node}.inputs[::-1]):")
                self.depth, self.leave = self.depth + 1, "continue"
            else:
                self.line(f"{operands} = {node}.inputs")
            if p.variadic:
                self.when(f"len({operands}) < {len(p.args)}")
            elif len(p.args) < len(p.op.signature.operands) or p.op.signature.operands[-1].variadic:
                self.when(f"len({operands}) > {len(p.args)}")
                if p.op.signature.operands[-1].variadic:
                    self.when(f"len({operands}) < {len(p.args)}")
        # ops of operands first: that is what most often does not fit
        inner: list[tuple[Apply, str]] = []
        for i, a in enumerate(p.args):
            if isinstance(a, Apply):
                v, m = f"{operands}[{i}]", self.out.fresh("n")
                if i >= required:
                    self.when(f"len({operands}) <= {i} or {v} is None")
                self.line(f"{m} = {v}.node")
                self.when(f"{m} is None or {m}.op is not {self.out.op(a.op)}")
                if a.result or len(a.op.signature.results) > 1 or a.op.signature.results[0].repeated:
                    self.when(f"{v}.index != {a.result}")
                inner.append((a, m))
        self.attributes(p, node)
        for i, a in enumerate(p.args):
            if not isinstance(a, Apply):
                self.operand(a, operands, i, i >= required)
        if p.variadic:
            self.bind(p.variadic, f"{operands}[{len(p.args)}:]")
        for a, m in inner:
            self.match(a, m)

    def both_orders(self, p: Apply) -> bool:
        """Whether the operands of `p` may change places, and it makes a difference."""
        if not p.op.has("commutative") or len(p.args) != 2:
            return False
        plain = all(isinstance(a, Variable) and not a.const and self.uses[a.name] == 1 for a in p.args)
        return not plain or callable(self.rule.right)

    def operand(self, a: Pattern, operands: str, i: int, may_lack: bool) -> None:
        v = f"{operands}[{i}]"
        lacking = f"len({operands}) <= {i} or {v} is None"
        if isinstance(a, Absent):
            self.unless(f"{lacking}")
            return
        if isinstance(a, Literal):
            self.when(f"{lacking + ' or ' if may_lack else ''}not is_number({v}, {_number(a.value)})")
            return
        assert isinstance(a, Variable)
        if a.optional:
            self.bind(a.name, f"({v} if len({operands}) > {i} else None)")
            return
        if may_lack:
            self.when(f"{lacking}")
        if a.const:
            self.when(f"{v}.node is None or {v}.node.op is not CONST")
        self.bind(a.name, v)

    def bind(self, name: str, source: str) -> None:
        if name == "_":
            return
        if name in self.names:
            self.when(f"not same_value({self.names[name]}, {source})")
            return
        self.names[name] = f"v_{name}"
        self.line(f"v_{name} = {source}")

    def attributes(self, p: Apply, node: str) -> None:
        if not p.op.attrs:
            return
        if not p.attrs and not p.rest:
            self.when(f"{node}.attrs is not NO_ATTRS")
            return
        a = self.out.fresh("a")
        self.line(f"{a} = {node}.attrs")
        mentioned = [k for k, _ in p.attrs]
        if not p.rest and set(mentioned) != set(p.op.attrs):
            self.when(f"not {a}.keys() <= {set(mentioned)!r}")
        for key, pattern in p.attrs:
            default = p.op.defaults.get(key)
            got = f"{a}.get({key!r}, {default!r})" if key in p.op.defaults else f"{a}[{key!r}]"
            if isinstance(pattern, AttrName):
                if pattern.name in self.names:
                    self.when(f"{got} != {self.names[pattern.name]}")
                elif pattern.name != "_":
                    self.names[pattern.name] = f"v_{pattern.name}"
                    self.line(f"v_{pattern.name} = {got}")
            else:
                self.when(f"{got} != {pattern.value!r}")
        if p.rest:
            others = f"{{k: w for k, w in {a}.items() if k not in {set(mentioned)!r}}}" if mentioned else f"dict({a})"
            if p.rest in self.names:
                self.when(f"{others} != {self.names[p.rest]}")
            else:
                self.names[p.rest] = f"v_{p.rest}"
                self.line(f"v_{p.rest} = {others}")

    # --- attribute values and conditions ------------------------------------------------------------------------------

    def python(self, e: Expr, local: frozenset[str] = frozenset()) -> str:
        """An expression over names, as Python source."""
        args = e.args

        def of(x: Any) -> str:
            return self.python(x, local) if isinstance(x, Expr) else "None" if x is None else str(x)

        match e.kind:
            case "name":
                return str(args[0]) if args[0] in local else self.names[args[0]]
            case "int" | "float" | "string":
                return str(args[0])
            case "true" | "false" | "nothing":
                return {"true": "True", "false": "False", "nothing": "None"}[e.kind]
            case "or_" | "and_":
                return "(" + f" {e.kind[:-1]} ".join(of(a) for a in args) + ")"
            case "not_":
                return f"(not {of(args[0])})"
            case "negative":
                return f"(-{of(args[0])})"
            case "compare" | "arithmetic":
                return "(" + " ".join(of(a) if isinstance(a, Expr) else str(a) for a in args) + ")"
            case "choice":
                return f"({of(args[0])} if {of(args[1])} else {of(args[2])})"
            case "list":
                return "(" + "".join(of(a) + ", " for a in args if a is not None) + ")"
            case "spread":
                return f"*{of(args[0])}"
            case "subscript":
                return f"{of(args[0])}[{self._index(args[1], local)}]"
            case "comprehension":
                body, name, source, condition = args
                inner = local | {name}
                text = f"{self.python(body, inner)} for {name} in {of(source)}"
                text += f" if {self.python(condition, inner)}" if condition is not None else ""
                return f"tuple([{text}])"
            case "call":
                called, values, keywords, _ = args
                if called not in HELPERS:
                    raise ValueError(
                        f"{e.position}: op `{called}` makes a value; an attribute or condition needs a number"
                    )
                inside = [of(v) for v in values] + [f"{k}={of(v)}" for k, v in keywords]
                return f"H_{called}({', '.join(inside)})"
        raise ValueError(f"{e.position}: `{e.kind}` has no place in an attribute or condition")

    def _index(self, e: Any, local: frozenset[str]) -> str:
        if isinstance(e, Expr) and e.kind == "slice":
            return ":".join("" if a is None else self.python(a, local) for a in e.args)
        return self.python(e, local)

    # --- values -------------------------------------------------------------------------------------------------------

    def whole(self, e: Expr, result: int) -> str:
        """A result of the right side: a bare number fills the type of what it replaces."""
        if self.is_number(e):
            return f"build.filled(e, n.outputs[{result}].type, {self.python(e)})"
        return self.value(e)

    def is_number(self, e: Expr) -> bool:
        if e.kind == "name":
            return self.kinds.get(e.args[0]) == "attr"
        if e.kind in ("int", "float"):
            return True
        if e.kind == "call":
            return e.args[0] in HELPERS
        if e.kind in ("negative", "arithmetic"):
            return all(self.is_number(a) for a in e.args if isinstance(a, Expr))
        return e.kind == "subscript"

    def value(self, e: Expr, like: str = "n.outputs[0]") -> str:
        """Code that builds nodes; the Python name of the value."""
        if self.is_number(e):
            return f"build.scalar(e, {like}, {self.python(e)})"
        t = self.out.fresh("t")
        if e.kind == "name":
            kind = self.kinds.get(e.args[0])
            variable = self.names[e.args[0]]
            return f"{variable}.outputs[0]" if kind == "node" else variable
        if e.kind == "result":
            self.line(f"{t} = {self.node(e.args[0])}.outputs[{e.args[1]}]")
        elif e.kind == "negative":
            self.line(
                f"{t} = build.node(e, {self.out.op(OPS['math.neg'])}, ({self.value(e.args[0])},), {{}}).outputs[0]"
            )
        elif e.kind == "arithmetic":
            self.line(f"{t} = {self.infix(e)}")
        elif e.kind == "choice":
            self.line(f"if {self.python(e.args[1])}:")
            for branch, after in ((e.args[0], "else:"), (e.args[2], "")):
                self.depth += 1
                self.line(f"{t} = {self.value(branch)}")
                self.depth -= 1
                if after:
                    self.line(after)
        else:
            self.line(f"{t} = {self.node(e)}.outputs[0]")
        return t

    def operand_value(self, e: Expr, like: str) -> str:
        """An operand of a call: a value, none, or all of a variadic's."""
        if e.kind == "nothing":
            return "None"
        return f"*{self.names[e.args[0]]}" if e.kind == "variadic" else self.value(e, like)

    def infix(self, e: Expr) -> str:
        left = e.args[0]
        others = [a for a in e.args if isinstance(a, Expr) and not self.is_number(a)]
        known = {id(a): self.value(a) for a in others}
        like = known[id(others[0])]
        text = known.get(id(left)) or self.value(left, like)
        for symbol, right in zip(e.args[1::2], e.args[2::2], strict=True):
            if symbol not in _INFIX:
                raise ValueError(f"{e.position}: `{symbol}` does not combine tensors")
            operand = known.get(id(right)) or self.value(right, like)
            text = f"build.node(e, {self.out.op(OPS[_INFIX[symbol]])}, ({text}, {operand}), {{}}).outputs[0]"
        return text

    def node(self, e: Expr) -> str:
        """Code for a call of an op: an expression that gives its node."""
        if e.kind != "call":
            raise ValueError(f"{e.position}: `{e.kind}` makes no node")
        name, args, keywords, rest = e.args
        op = find_op(name)
        assert isinstance(op, Op)
        like = next((self.value(a) for a in args if not self.is_number(a) and a.kind == "name"), "n.outputs[0]")
        inside = "".join(f"{self.operand_value(a, like)}, " for a in args)
        attrs = "" if rest is None else f"**{self.python(rest)}, "
        attrs += "".join(f"{k!r}: {self.python(v)}, " for k, v in keywords)
        return f"build.node(e, {self.out.op(op)}, ({inside}), {{{attrs}}})"
