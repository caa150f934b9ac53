"""Greedy rewriting of 10^4 and 10^5 nodes: ours beside xDSL's pattern rewriter and onnxscript's, in one run.

    make bench          or          python tests/benchmarks/bench_rewrite.py [nodes]

The program is a chain of sums, products, maxima and double negations; one rule removes these, the others look at
every node and find nothing. All have RULES of them; ours also runs with every rule of `canonicalize`. Medians of
process time, collected garbage aside; nothing is asserted, for the machine may be busy. xDSL walks until nothing
changes, as ours does; onnxscript's rewriter goes through the graph once.
"""

from __future__ import annotations

import gc
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

from intaglio.ir import Editor, Graph, Tensor
from intaglio.ir.rewrite import Ruleset, parse_rules, rewrite
from intaglio.passes.canonicalize import FILES
from intaglio.passes.rulebook import ruleset

RULES = 40
ROUNDS = 5
MOTIF = 6  # nodes, two of them a double negation
UNARY = ("exp", "log", "sqrt", "abs", "sin", "cos", "tan", "tanh", "sinh", "cosh", "erf", "floor", "ceil")
BINARY = ("add", "mul", "maximum")

Task = Callable[[], Any]


def chain(nodes: int) -> Graph:
    e = Editor()
    a, b = e.input("x", Tensor((8, 16), "f32")), e.input("z", Tensor((8, 16), "f32"))
    for _ in range(nodes // MOTIF):
        y = e.emit("math.neg", e.emit("math.neg", e.emit("math.add", a, b)))
        y = e.emit("math.maximum", e.emit("math.mul", y, b), a)
        a, b = b, e.emit("math.add", y, b)
    e.output(b, "y")
    return e.freeze()


def forty() -> Ruleset:
    """The rule that fires, and those that do not: f(g(x), y) for every binary f and unary g."""
    text = ["/// -(-x) = x.\nrule neg-neg exact: neg(neg(x)) => x"]
    pairs = [(f, g) for g in UNARY for f in BINARY]
    text += [f"/// Never.\nrule {f}-{g} exact: {f}({g}(x), y) => {f}(x, y)" for f, g in pairs[: RULES - 1]]
    found = parse_rules("\n".join(text))
    assert len(found) == RULES
    return Ruleset(found, "forty")


def ours(nodes: int, rules: Ruleset) -> Task:
    graph = chain(nodes)

    def task() -> Any:
        after, found = rewrite(graph, rules)
        assert found.fired["neg-neg"] == nodes // MOTIF
        return after

    return task


# --- xDSL, on scalars -----------------------------------------------------------------------------------------------


def xdsl(nodes: int) -> Task:
    from xdsl.dialects import arith, builtin, func, math
    from xdsl.ir import Block, Region
    from xdsl.pattern_rewriter import GreedyRewritePatternApplier, PatternRewriter, PatternRewriteWalker, RewritePattern

    class NegNeg(RewritePattern):
        def match_and_rewrite(self, op: Any, rewriter: PatternRewriter) -> None:
            if isinstance(op, arith.NegfOp) and isinstance(op.operand.owner, arith.NegfOp):
                rewriter.replace(op, [], [op.operand.owner.operand])

    def never(outer: Any, inner: Any) -> RewritePattern:
        class Never(RewritePattern):
            def match_and_rewrite(self, op: Any, rewriter: PatternRewriter) -> None:
                if isinstance(op, outer):
                    for x, y in ((op.lhs, op.rhs), (op.rhs, op.lhs)):
                        if isinstance(x.owner, inner):
                            rewriter.replace(op, outer(x.owner.operands[0], y))
                            return

        return Never()

    unary = [math.ExpOp, math.LogOp, math.SqrtOp, math.AbsFOp, math.SinOp, math.CosOp, math.TanOp, math.TanhOp]
    unary += [math.SinhOp, math.CoshOp, math.ErfOp, math.FloorOp, math.CeilOp]
    binary = [arith.AddfOp, arith.MulfOp, arith.MaximumfOp]
    patterns = [NegNeg(), *[never(f, g) for g in unary for f in binary][: RULES - 1]]

    def module() -> Any:
        block = Block(arg_types=[builtin.f32, builtin.f32])
        a, b = block.args
        for _ in range(nodes // MOTIF):
            ops = [arith.AddfOp(a, b)]
            ops.append(arith.NegfOp(ops[-1].results[0]))
            ops.append(arith.NegfOp(ops[-1].results[0]))
            ops.append(arith.MulfOp(ops[-1].results[0], b))
            ops.append(arith.MaximumfOp(ops[-1].results[0], a))
            ops.append(arith.AddfOp(ops[-1].results[0], b))
            block.add_ops(ops)
            a, b = b, ops[-1].results[0]
        block.add_op(func.ReturnOp(b))
        made = func.FuncOp("main", ((builtin.f32, builtin.f32), (builtin.f32,)), Region(block))
        return builtin.ModuleOp([made])

    fresh = [module() for _ in range(ROUNDS + 1)]  # it rewrites in place

    def task() -> Any:
        made = fresh.pop()
        walker = PatternRewriteWalker(GreedyRewritePatternApplier(patterns), apply_recursively=True)
        assert walker.rewrite_module(made)
        return made

    return task


# --- onnxscript -----------------------------------------------------------------------------------------------------


def onnxscript(nodes: int) -> Task:
    import onnx
    import onnx_ir
    from onnxscript.rewriter import pattern, rewrite

    info = onnx.helper.make_tensor_value_info
    listed, a, b = [], "x", "z"
    for i in range(nodes // MOTIF):
        for op, operands in (("Add", [a, b]), ("Neg", 0), ("Neg", 0), ("Mul", b), ("Max", a), ("Add", b)):
            last = listed[-1].output[0] if listed else a
            inputs = operands if isinstance(operands, list) else [last] if operands == 0 else [last, operands]
            listed.append(onnx.helper.make_node(op, inputs, [f"v{len(listed)}"], name=f"n{i}_{len(listed)}"))
        a, b = b, listed[-1].output[0]
    ends = [info(n, onnx.TensorProto.FLOAT, [8, 16]) for n in ("x", "z", b)]
    proto = onnx.helper.make_model(onnx.helper.make_graph(listed, "main", ends[:2], ends[2:]))

    names = ["Exp", "Log", "Sqrt", "Abs", "Sin", "Cos", "Tan", "Tanh", "Sinh", "Cosh", "Erf", "Floor", "Ceil"]

    def never(f: str, g: str) -> Any:
        def target(op: Any, x: Any, y: Any) -> Any:
            return getattr(op, f)(getattr(op, g)(x), y)

        def instead(op: Any, x: Any, y: Any) -> Any:
            return getattr(op, f)(x, y)

        return pattern.RewriteRule(target, instead, name=f"{f}{g}")

    first = pattern.RewriteRule(lambda op, x: op.Neg(op.Neg(x)), lambda op, x: op.Identity(x), name="negneg")
    pairs = [(f, g) for g in names for f in ("Add", "Mul", "Max")][: RULES - 1]
    rules = pattern.RewriteRuleSet([first, *[never(f, g) for f, g in pairs]])
    fresh = [onnx_ir.from_proto(proto) for _ in range(ROUNDS + 1)]

    def task() -> Any:
        return rewrite(fresh.pop(), rules)

    return task


# --- measuring ------------------------------------------------------------------------------------------------------


def seconds(task: Task) -> float:
    """The median of a few runs; the first one is not counted."""
    found = []
    for _ in range(ROUNDS + 1):
        gc.collect()
        start = time.process_time()
        result = task()
        found.append(time.process_time() - start)
        del result
    return statistics.median(found[1:])


def report(nodes: int) -> dict[str, float]:
    """Nodes per second of everything that is installed, and of ours at ten times the size."""
    full, few = ruleset(FILES, ("exact", "real")), forty()
    found: dict[str, float] = {}
    tasks: list[tuple[str, int, Callable[[], Task]]] = [
        (f"ours, {RULES} rules", nodes, lambda: ours(nodes, few)),
        (f"ours, {RULES} rules", 10 * nodes, lambda: ours(10 * nodes, few)),
        (f"ours, {len(full.rules)} rules", nodes, lambda: ours(nodes, full)),
        (f"ours, {len(full.rules)} rules", 10 * nodes, lambda: ours(10 * nodes, full)),
        (f"xDSL, {RULES} rules", nodes, lambda: xdsl(nodes)),
        (f"onnxscript, {RULES} rules", nodes, lambda: onnxscript(nodes)),
    ]
    for name, size, make in tasks:
        try:
            task = make()
        except ImportError as e:
            print(f"{name}: not installed ({e})")
            continue
        speed = size / seconds(task)
        found[f"{name}, {size}"] = speed
        print(f"{name:26} {size:7} nodes {speed / 1000:9.1f} k nodes/s")
    return found


@pytest.mark.bench
def test_rewriting(capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        print()
        found = report(10_000)
        slower = found[f"ours, {RULES} rules, 10000"] / found[f"ours, {RULES} rules, 100000"]
        print(f"a node costs {slower:.2f} times as much among 100,000")


if __name__ == "__main__":
    report(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000)
