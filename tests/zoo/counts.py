"""How many nodes are left of the zoo's models: ours beside ONNX Runtime's and onnxsim's optimised graphs.

    python -m tests.zoo.counts        writes the table of docs/passes.md, and prints it; uses onnxsim if it is there

Nodes that only hold constants do not count.
"""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import intaglio
from intaglio.ir import Graph
from intaglio.passes import PASSES
from intaglio.passes.definition import Context
from intaglio.passes.syntax import parse_pipeline

from .models import MODELS, Model

__all__ = ["PAGE", "PIPELINE", "Row", "count", "optimised", "read", "row"]

PAGE = Path(__file__).resolve().parents[2] / "docs" / "passes.md"
MARK = re.compile(r"(?<=<!-- counts -->\n)(?:.|\n)*?(?=<!-- /counts -->)")
PIPELINE = "canonicalize,cleanup"
HEAD = (
    "model",
    "ONNX",
    "imported",
    f"`{PIPELINE}`",
    "`… ,fuse`",
    "ORT basic",
    "ORT extended",
    "onnxsim",
    "beside the best of them",
)


@dataclass(frozen=True)
class Row:
    """Counts of one model; None for what was not there to count."""

    name: str
    onnx: int
    imported: int
    ours: int
    fused: int | None
    basic: int
    extended: int
    onnxsim: int | None
    clips: int
    biases: int

    @property
    def reason(self) -> str:
        """Why ours is not fewer than the best of the others, as far as it is not."""
        best = min(n for n in (self.basic, self.onnxsim) if n is not None)
        parts = []
        if self.ours > best:
            parts = [f"{self.clips} Clip are a pair of ops here"] * bool(self.clips)
            parts += [f"{self.biases} Gemm are product and sum"] * bool(self.biases)
        if self.fused is None and self.ours > self.extended:
            parts.append("extended fuses activations into convolutions, as `fuse` does")
        elif self.fused is not None and self.fused > self.extended:
            parts.append(f"{self.fused - self.extended} more kernels than extended")
        return "; ".join(parts)

    def explained(self) -> bool:
        """Whether what we have more than the others is what `reason` names."""
        best = min(n for n in (self.basic, self.onnxsim) if n is not None)
        return self.ours - self.clips - self.biases <= best

    def cells(self) -> list[str]:
        numbers = [self.onnx, self.imported, self.ours, self.fused, self.basic, self.extended, self.onnxsim]
        return [self.name, *("-" if n is None else str(n) for n in numbers), self.reason]


def optimised(graph: Graph, pipeline: str, context: Context) -> Graph:
    for step in parse_pipeline(pipeline):
        graph = step.rewrite.run(graph, step.options, context)
    return graph


def count(graph: Graph) -> int:
    return sum(n.op.name != "const" for n in graph.nodes)


def row(model: Model) -> Row:
    proto = model.proto()
    module = intaglio.load(proto)
    context = Context(dims=module.dims)
    ours = optimised(module.main, PIPELINE, context)
    fused = count(optimised(ours, "fuse", context)) if "fuse" in PASSES else None
    return Row(
        model.name,
        len(proto.graph.node),
        count(module.main),
        count(ours),
        fused,
        _onnxruntime(proto, "BASIC"),
        _onnxruntime(proto, "EXTENDED"),
        _onnxsim(proto),
        *_pairs(ours),
    )


def _pairs(graph: Graph) -> tuple[int, int]:
    """Clips, and matrix products with a bias: two nodes in our IR, one in ONNX."""
    found: Counter[str] = Counter()
    for node in graph.nodes:
        makers = [v.node for v in node.inputs if v is not None and v.node is not None]
        ops = [m.op.name for m in makers]
        if node.op.name == "math.minimum" and {"math.relu", "math.maximum"} & set(ops):
            found["clip"] += 1
        if node.op.name == "math.add" and "nn.matmul" in ops and "const" in ops:
            found["gemm"] += len(node.outputs[0].type.shape) == 2
    return found["clip"], found["gemm"]


def _onnxruntime(proto: Any, level: str) -> int:
    import onnx
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, f"ORT_ENABLE_{level}")
        options.optimized_model_filepath = f"{folder}/optimised.onnx"
        options.log_severity_level = 3
        onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return _nodes(onnx.load(options.optimized_model_filepath))


def _onnxsim(proto: Any) -> int | None:
    try:
        import onnxsim
    except ImportError:
        return None
    return _nodes(onnxsim.simplify(proto)[0])


def _nodes(proto: Any) -> int:
    return sum(n.op_type != "Constant" for n in proto.graph.node)


def read() -> dict[str, dict[str, str]]:
    """The table as it stands on the page, by model and column."""
    found = MARK.search(PAGE.read_text(encoding="utf-8"))
    assert found is not None
    lines = [[c.strip() for c in line.strip("|").split("|")] for line in found[0].splitlines() if line.startswith("|")]
    return {cells[0]: dict(zip(lines[0], cells, strict=True)) for cells in lines[2:]}


def main() -> None:
    rows = [row(m) for m in MODELS if not m.missing]
    lines = [
        "| " + " | ".join(HEAD) + " |",
        "|" + "---|" * len(HEAD),
        *("| " + " | ".join(r.cells()) + " |" for r in rows),
    ]
    table = "\n".join(lines) + "\n"
    print(table)
    PAGE.write_text(MARK.sub(lambda _: table, PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
