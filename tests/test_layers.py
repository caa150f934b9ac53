"""Who may import whom, read off the source: nothing here runs the code it judges, but for `--help`."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

ROOT = Path(__file__).resolve().parents[1]

# compiler ─▶ passes ─▶ ir ◀─ backends ◀─ compiler
MAY_IMPORT = {
    "ir": {"ir"},
    "passes": {"passes", "ir"},
    "backends": {"backends", "ir"},
    "compiler": {"compiler", "passes", "backends", "ir"},
}

# Inside ir, from the bottom up: a module imports its own layer and those below. `ir/__init__.py`, the public
# face, is above them all.
LAYERS_OF_IR = [
    {"diagnostics", "dims", "constants", "types", "host"},
    {"packing", "diagonals", "convolutions"},
    {"graph"},
    {"shapes", "signature", "op", "ops"},
    {"edit", "verify", "interpret", "text", "weights", "target", "legality"},
    {"rewrite", "analysis", "softmax"},
    {"testing"},
]

# The ways up, each with its reason; a way that nobody goes any longer fails the tests too.
UPWARD = {
    ("intaglio.ir.graph", "intaglio.ir.op"),  # for the type checker: a node names its op
    ("intaglio.ir.graph", "intaglio.ir.text"),  # when called: print(module) shows its text
    ("intaglio.ir.ops.tile", "intaglio.ir.interpret"),  # when called: a kernel means what its body means
}

# What a module may import when it is loaded, beside the standard library; the rest is imported where it is
# called. Milliseconds by `python -X importtime -c "import X"` (Python 3.11, Zen 4), NumPy's 50 included where
# it is needed: numpy 50, ml_dtypes 57; tvm 1740, torch 800, onnx 95, hypothesis 95, onnxruntime 70,
# rich.progress 34, lark 32. `intaglio --help` has 150 in all.
LIGHT = {"numpy", "ml_dtypes"}

# Modules that are about one heavy library, and that only the people who need it load.
EXCEPTIONS: dict[str, set[str]] = {
    "intaglio.compiler.onnx_backend": {"onnx"},  # subclasses of ONNX's backend interface
    "intaglio.backends.he.server.app": {"aiohttp"},  # is nothing but its handlers
    "intaglio.ir.testing": {"hypothesis"},  # strategies: for tests and `intaglio check`
}


class Import(NamedTuple):
    source: str  # the importing module
    target: str  # intaglio.ir.graph, numpy.linalg; a name of the root: intaglio.__version__
    relative: bool
    when: Literal["load", "call", "typing"]
    line: int

    def __str__(self) -> str:
        return f"{self.source} (line {self.line}) imports {self.target}"


def modules() -> dict[str, Path]:
    files = [ROOT / "__init__.py", ROOT / "__main__.py"]
    files += [file for folder in MAY_IMPORT for file in sorted((ROOT / folder).rglob("*.py"))]
    return {".".join(["intaglio", *module_parts(file)]): file for file in files}


def module_parts(file: Path) -> tuple[str, ...]:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return parts[:-1] if parts[-1] == "__init__" else parts


def imports_of(source: str, file: Path, known: set[str]) -> Iterator[Import]:
    package = source.split(".") if file.name == "__init__.py" else source.split(".")[:-1]

    def walk(node: ast.AST, when: Literal["load", "call", "typing"]) -> Iterator[Import]:
        match node:
            case ast.Import():
                for alias in node.names:
                    yield Import(source, alias.name, False, when, node.lineno)
            case ast.ImportFrom():
                base = package[: len(package) - node.level + 1] if node.level else []
                origin = ".".join([*base, *(node.module.split(".") if node.module else [])])
                for alias in node.names:
                    full = f"{origin}.{alias.name}"
                    target = full if full in known or origin == "intaglio" else origin
                    yield Import(source, target, bool(node.level), when, node.lineno)
            case ast.If(test=ast.Name("TYPE_CHECKING") | ast.Attribute(attr="TYPE_CHECKING")):
                for child in node.body:
                    yield from walk(child, "typing")
                for child in node.orelse:
                    yield from walk(child, when)
            case _:
                inner = "call" if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) else when
                for child in ast.iter_child_nodes(node):
                    yield from walk(child, inner)

    yield from walk(ast.parse(file.read_text(encoding="utf-8"), str(file)), "load")


MODULES = modules()
IMPORTS = [found for name, file in MODULES.items() for found in imports_of(name, file, set(MODULES))]
OURS = [found for found in IMPORTS if found.target.split(".")[0] == "intaglio"]


def folder(module: str) -> str:
    """The top folder of a module, or the name itself for what is in the root."""
    return module.split(".")[1] if "." in module else ""


def is_way_up(found: Import) -> bool:
    """Is it one of `UPWARD`, which are never taken while modules load?"""
    return found.when != "load" and (found.source, found.target) in UPWARD


def report(wrong: list[Import]) -> str:
    return "\n".join(map(str, wrong))


def test_folders_import_only_what_is_below_them() -> None:
    wrong = [
        found
        for found in OURS
        if folder(found.source) in MAY_IMPORT
        and folder(found.target) not in MAY_IMPORT[folder(found.source)]
        and found.target != "intaglio.__version__"
    ]
    assert not wrong, report(wrong)


def test_every_module_of_ir_has_a_layer() -> None:
    here = {name.split(".")[2] for name in MODULES if folder(name) == "ir" and name.count(".") > 1}
    assert here <= set().union(*LAYERS_OF_IR), "give the new modules a place in LAYERS_OF_IR"


def test_ir_imports_only_what_is_below_it() -> None:
    ranks = {name: rank for rank, layer in enumerate(LAYERS_OF_IR) for name in layer}

    def rank(module: str) -> int:
        parts = module.split(".")
        return ranks[parts[2]] if len(parts) > 2 else len(LAYERS_OF_IR)

    inside = [found for found in OURS if folder(found.source) == folder(found.target) == "ir"]
    upward = [found for found in inside if rank(found.target) > rank(found.source)]
    wrong = [found for found in upward if not is_way_up(found)]
    assert not wrong, report(wrong)
    assert {(found.source, found.target) for found in upward} == UPWARD, "take unused ways out of UPWARD"


def test_no_module_imports_itself_by_a_detour() -> None:
    """Imports at call time count: they are for heavy libraries, not for dodging a cycle."""
    edges: dict[str, set[str]] = {name: set() for name in MODULES}
    for found in OURS:
        if found.when != "typing" and found.target in MODULES and not is_way_up(found):
            edges[found.source].add(found.target)
    try:
        graphlib.TopologicalSorter(edges).prepare()
    except graphlib.CycleError as error:
        raise AssertionError(" ◀ ".join(error.args[1])) from None


def test_imports_of_our_own_are_relative() -> None:
    own = {"intaglio", *MAY_IMPORT, "tests"}
    wrong = [found for found in IMPORTS if not found.relative and found.target.split(".")[0] in own]
    assert not wrong, report(wrong)


def test_tests_name_the_package() -> None:
    """In a checkout `import ir` works by accident, and loads a second copy of everything."""
    wrong = [
        found
        for file in sorted((ROOT / "tests").rglob("*.py"))
        for found in imports_of(".".join(file.relative_to(ROOT).with_suffix("").parts), file, set())
        if not found.relative and found.target.split(".")[0] in MAY_IMPORT
    ]
    assert not wrong, report(wrong)


def test_heavy_libraries_are_imported_at_call_time() -> None:
    allowed = {"intaglio", *LIGHT, *sys.stdlib_module_names}
    wrong = [
        found
        for found in IMPORTS
        if found.when == "load"
        and (library := found.target.split(".")[0]) not in allowed
        and library not in allowed_in(found.source)
    ]
    assert not wrong, report(wrong)


def allowed_in(module: str) -> set[str]:
    return {
        library
        for place, libraries in EXCEPTIONS.items()
        if module == place or module.startswith(f"{place}.")
        for library in libraries
    }


def test_help_loads_no_heavy_library() -> None:
    """The same from outside: a late import on the way to `--help` would undo all that."""
    script = """if True:
        import runpy, sys
        before = set(sys.modules)
        sys.argv = ["intaglio", "--help"]
        try:
            runpy.run_module("intaglio", run_name="__main__")
        except SystemExit:
            pass
        loaded = {name for name in set(sys.modules) - before if hasattr(sys.modules[name], "__file__")}
        print()
        print(*{name.split(".")[0] for name in loaded})
    """
    done = subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.splitlines()[-1].split())
    assert "intaglio" in loaded
    assert not loaded - {"intaglio", *LIGHT, *sys.stdlib_module_names}
