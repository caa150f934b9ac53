"""Mutated ONNX files and the processes that import them: a mutant is imported or refused, and nothing else happens.

    python tests/compiler/onnx_mutants.py MODEL INDEX     imports one mutant of a model here, with the full traceback

Mutants are numbered and derived from their number alone. A worker imports, verifies and, if it is small, runs each one,
under limits of memory and processor time; the parent replaces workers that crash or hang.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import random
import resource
import select
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError, EncodeError

ROOT = Path(__file__).parents[2]
MEMORY = 2 << 30  # bytes more than the worker had before its first mutant
SECONDS = 5.0  # of processor time, for one mutant
HANG = 60.0  # of wall-clock time: whatever that is, it does not react to signals
WORK = 1 << 21  # what the interpreter may compute of a mutant: elements of one result

_spec = importlib.util.spec_from_file_location("onnx_models", Path(__file__).with_name("onnx_models.py"))
assert _spec is not None and _spec.loader is not None
onnx_models: Any = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(onnx_models)


def data_folder() -> Path:
    return Path(os.environ.get("INTAGLIO_DATA", ROOT.parent / "shared" / "data"))


ZOO = ("resnet8_cifar10", "dscnn_kws", "ad01_autoencoder", "resnet20_cifar10")


@cache
def original(name: str) -> bytes:
    """The bytes of a model: one of ours, a file of the zoo, or `node/CASE` of ONNX's backend tests."""
    if name in onnx_models.MODELS:
        found: bytes = onnx_models.MODELS[name]().SerializeToString()
        return found
    if name.startswith("node/"):
        return _node_cases()[name.removeprefix("node/")]
    return (data_folder() / "models" / f"{name}.onnx").read_bytes()


@cache
def _node_cases() -> dict[str, bytes]:
    from onnx.backend.test.loader import load_model_tests

    warnings.filterwarnings("ignore")
    return {t.name: t.model.SerializeToString() for t in load_model_tests(kind="node") if t.model is not None}


def node_cases() -> list[str]:
    return sorted(_node_cases())


# --- making mutants -------------------------------------------------------------------------------------------------

INTS = (
    0, 1, -1, 2, -2, 3, 7, 8, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 255, 256, 1000, 1025, 65535, 65536, 10**6,
    1 << 24,
    1 << 30, (1 << 31) - 1, 1 << 31, -(1 << 31), 10**12, 1 << 40, 1 << 62, (1 << 63) - 1, -(1 << 63), -7,
)  # fmt: skip
FLOATS = (0.0, -0.0, 1.0, -1.0, 0.5, 1e-45, 1e30, -3e38, float("inf"), float("-inf"), float("nan"), 2.5, 1e9, 1024.0)
STRINGS = [
    "", "x", "a b", "\n", "é", "%", "?", "..", "../../etc/passwd", "/dev/zero", "NOTSET", "SAME_UPPER", "linear",
    "ai.onnx",
    "N", "f32", "a" * 5000,
]  # fmt: skip


def mutant(name: str, index: int) -> bytes:
    """Mutant `index` of a model: every third one is damaged as a file, the others are well-formed files of nonsense."""
    r = random.Random(f"{name}/{index}")
    data = original(name)
    if index % 3 == 0:
        return _damaged(data, r)
    model = onnx.ModelProto.FromString(data)
    try:
        for _ in range(r.choice((1, 1, 1, 2, 3, 6))):
            r.choice(_NONSENSE)(model, r)
            data = model.SerializeToString()
    except (DecodeError, EncodeError):  # nested deeper than protobuf reads: no file
        pass
    return data


def _damaged(data: bytes, r: random.Random) -> bytes:
    out = bytearray(data)
    for _ in range(r.choice((1, 1, 2, 4, 16))):
        at = r.randrange(len(out) + 1)
        if len(data) > 50_000 and r.random() < 0.7:  # the structure, not the weights: it stands at both ends
            at = r.choice((r.randrange(min(2000, len(out))), len(out) - r.randrange(min(2000, len(out)))))
        kind = r.randrange(8)
        if kind == 0:
            del out[at:]
        elif kind == 1:
            out[at:at] = bytes(r.randrange(256) for _ in range(r.randrange(1, 9)))
        elif kind == 2:
            del out[at : at + r.randrange(1, 30)]
        elif kind == 3 and at < len(out):
            out[at] ^= 1 << r.randrange(8)
        elif kind == 4:
            out[at : at + 10] = (
                b"\xff" * 9 + b"\x01"
            )  # the largest number there is, where a size or an extent may stand
        elif kind == 5:
            out[at:at] = out[at : at + r.randrange(1, 200)]
        elif kind == 6:
            start = r.randrange(len(out) + 1)
            out[at : at + 40] = out[start : start + 40]
        elif at < len(out):
            out[at] = r.randrange(256)
        if not out:
            break
    return bytes(out)


def _messages(message: Any) -> Iterator[Any]:
    """The message and all inside it."""
    yield message
    for field, value in message.ListFields():
        if field.type == field.TYPE_MESSAGE:
            for child in value if field.is_repeated else (value,):
                yield from _messages(child)


def _copy(message: Any) -> Any:
    """A message of its own: protobuf crashes on copying a message into itself."""
    return type(message).FromString(message.SerializeToString())


def _some(model: Any, r: random.Random, kind: str) -> Any:
    """A message of a kind, None if there is none."""
    found = [m for m in _messages(model) if m.DESCRIPTOR.name == kind]
    return r.choice(found) if found else None


def _any_field(model: Any, r: random.Random) -> None:
    """Some field of some message gets another value of its type, goes, or stands twice."""
    every = [m for m in _messages(model) if m.ListFields()]
    wanted = r.choice(("NodeProto", "AttributeProto", "TensorProto", "GraphProto", "Dimension", "", ""))
    message = r.choice([m for m in every if m.DESCRIPTOR.name == wanted] or every)
    field, value = r.choice(message.ListFields())
    if r.random() < 0.15:
        message.ClearField(field.name)
        return
    if field.is_repeated:
        _repeated(message, field, value, r, every)
    elif field.type == field.TYPE_MESSAGE:
        value.CopyFrom(_copy(r.choice([m for m in every if m.DESCRIPTOR is value.DESCRIPTOR] or [value])))
    else:
        with contextlib.suppress(ValueError, TypeError):
            setattr(message, field.name, _scalar(field, value, r, every))


def _repeated(message: Any, field: Any, value: Any, r: random.Random, every: list[Any]) -> None:
    items = list(value)
    kind = r.randrange(6)
    i = r.randrange(len(items))
    if kind == 0:
        del items[i]
    elif kind == 1:
        items.insert(i, items[r.randrange(len(items))])
    elif kind == 2:
        r.shuffle(items)
    elif kind == 3 and field.type != field.TYPE_MESSAGE:
        items += [items[i]] * r.choice((1, 7, 70, 3000))
    elif field.type == field.TYPE_MESSAGE:
        items[i] = r.choice([m for m in every if m.DESCRIPTOR is items[i].DESCRIPTOR])
    else:
        items[i] = _scalar(field, items[i], r, every)
    copies = [_copy(m) if field.type == field.TYPE_MESSAGE else m for m in items]
    message.ClearField(field.name)
    with contextlib.suppress(ValueError, TypeError):
        getattr(message, field.name).extend(copies)


def _scalar(field: Any, value: Any, r: random.Random, every: list[Any]) -> Any:
    if isinstance(value, str):
        names = [n for m in every if m.DESCRIPTOR.name == "NodeProto" for n in (*m.input, *m.output, m.op_type)]
        return r.choice([*STRINGS, *names, *names])
    if isinstance(value, bytes):
        return r.choice((b"", value[:-1], value + b"\0", value * 2, b"\xff" * len(value), bytes(len(value)), b"\x80"))
    if isinstance(value, float):
        return r.choice(FLOATS)
    return r.choice(INTS) if r.random() < 0.8 else value + r.choice((-1, 1))


_ATTRIBUTES = [
    "axis", "axes", "pads", "strides", "kernel_shape", "group", "perm", "to", "value", "mode", "split", "body",
    "equation", "k",
    "dilations", "blocksize", "block_size", "size", "output_shape", "num_outputs", "dtype", "batch_dims",
]  # fmt: skip


def _attribute_kind(model: Any, r: random.Random) -> None:
    """An attribute of another kind, with absurd values, or one that the op does not have."""
    node = _some(model, r, "NodeProto")
    if node is None:
        return
    names = [a.name for a in node.attribute]
    if not names or r.random() < 0.4:
        names = _ATTRIBUTES
    name = r.choice(names)
    for i in [i for i, a in enumerate(node.attribute) if a.name == name][::-1]:
        del node.attribute[i]
    rank = r.choice((0, 1, 2, 3, 4, 5, 70))
    value: Any = r.choice(
        (
            r.choice(INTS), [r.choice(INTS) for _ in range(rank)], [r.randrange(-2, 5) for _ in range(rank)],
            r.choice(FLOATS),
            [r.choice(FLOATS) for _ in range(rank)], r.choice(STRINGS), STRINGS[:rank], onnx.helper.make_tensor("t",
            1, [1], [0.5]),
        )
    )  # fmt: skip
    if value == []:
        node.attribute.add(name=name, type=r.choice((6, 7, 8)))
    elif r.random() < 0.1 and len(model.graph.node) < 60:
        body = _copy(model.graph)
        node.attribute.add(name=name, type=5).g.CopyFrom(body)
    else:
        node.attribute.append(onnx.helper.make_attribute(name, value))


def _op(model: Any, r: random.Random) -> None:
    """Another operator, or the same one in another opset."""
    if r.random() < 0.3:
        for entry in model.opset_import:
            entry.version = r.choice((0, 1, 2, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 16, 18, 20, 22, 24, 26, 1 << 40, -1))
        return
    node = _some(model, r, "NodeProto")
    if node is not None:
        node.op_type = r.choice(_OPS)
        if r.random() < 0.3:
            node.input.extend(r.choice(_names(model)) for _ in range(r.randrange(4)))


_OPS = [*sorted({s.name for s in onnx.defs.get_all_schemas() if s.domain == ""}), "Scale", "Block", "NoSuchOp"]


def _names(model: Any) -> list[str]:
    return [n for node in model.graph.node for n in (*node.input, *node.output)] or [""]


def _rewire(model: Any, r: random.Random) -> None:
    """An operand or result called differently: cycles, doubles, names from nowhere."""
    node = _some(model, r, "NodeProto")
    if node is None:
        return
    ends = node.input if len(node.input) and r.random() < 0.6 else node.output
    if len(ends):
        ends[r.randrange(len(ends))] = r.choice([*_names(model), "", "nowhere"])
    else:
        node.input.append(r.choice(_names(model)))


def _reorder(model: Any, r: random.Random) -> None:
    """The nodes in another order: some are used before they are defined."""
    nodes = [_copy(n) for n in model.graph.node]
    r.shuffle(nodes)
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _data(model: Any, r: random.Random) -> None:
    """Initializers with other numbers, sizes, types or places."""
    t = _some(model, r, "TensorProto")
    if t is None:
        return
    kind = r.randrange(6)
    if (kind <= 1 and t.data_type in (6, 7)) or kind == 0:  # the shapes and axes that a model states as data
        count = int(np.prod(t.dims, dtype=np.float64)) if len(t.dims) < 5 else 1
        numbers = [r.choice(INTS) for _ in range(max(0, min(count, 20)))]
        name = t.name
        t.Clear()
        t.CopyFrom(onnx.numpy_helper.from_array(np.array(numbers, dtype=np.int64), name))
        if count == 1 and r.random() < 0.5:
            del t.dims[:]
    elif kind == 2:
        t.data_type = r.randrange(28)
    elif kind == 3:
        t.dims.append(r.choice(INTS))
    elif kind == 4 and len(t.dims):
        t.dims[r.randrange(len(t.dims))] = r.choice(INTS)
    else:
        t.data_location = 1
        for key in ("location", "offset", "length"):
            if r.random() < 0.8:
                t.external_data.add(key=key, value=r.choice((*STRINGS, *map(str, INTS), "weights.bin", "weights.bin")))


def _input(model: Any, r: random.Random) -> None:
    """Inputs of another shape or type."""
    if not len(model.graph.input):
        return
    info = r.choice(list(model.graph.input))
    tensor = info.type.tensor_type
    if r.random() < 0.3:
        tensor.elem_type = r.randrange(28)
    dims = tensor.shape.dim
    if len(dims) and r.random() < 0.7:
        d = r.choice(list(dims))
        d.Clear()
        if r.random() < 0.4:
            d.dim_param = r.choice(("N", "M", "f32", "2", "", "a b", "batch", "?", "N*2"))
        else:
            d.dim_value = r.choice(INTS)
    elif r.random() < 0.5:
        dims.add().dim_value = r.choice(INTS)
    elif len(dims):
        del dims[r.randrange(len(dims))]


def _recursion(model: Any, r: random.Random) -> None:
    """A function that calls itself, or many others; a body inside itself."""
    if len(model.functions) and r.random() < 0.5:
        f = r.choice(list(model.functions))
        inputs, outputs = [*f.input, "x"][:1], [*f.output, "y"][:1]
        for _ in range(r.choice((1, 2, 10))):
            f.node.add(op_type=f.name, domain=f.domain, input=inputs, output=outputs)
        f.output[:] = outputs
        return
    if len(model.graph.node):
        target = r.choice(list(model.graph.node))
        f = model.functions.add(name=target.op_type, domain=target.domain)
        f.input.extend(["x"])
        f.output.extend(["y"])
        f.node.add(op_type=target.op_type, domain=target.domain, input=["x"], output=["y"])
        f.opset_import.add(domain=target.domain, version=r.choice((1, 21)))


def _bodies(model: Any, r: random.Random) -> None:
    """Nodes that were plain get bodies: branches and loops made of parts of the model, nested."""
    if len(model.graph.node) > 60:
        return
    node = _some(model, r, "NodeProto")
    if node is None:
        return
    body = _copy(model.graph)
    for _ in range(r.choice((0, 0, 1, 4, 40))):
        outer = onnx.GraphProto(name="outer")
        outer.output.add(name="out")
        inner = outer.node.add(op_type="If", input=[r.choice(_names(model))], output=["out"])
        inner.attribute.add(name="then_branch", type=5).g.CopyFrom(body)
        inner.attribute.add(name="else_branch", type=5).g.CopyFrom(body if r.random() < 0.1 else onnx.GraphProto())
        if outer.ByteSize() > 400_000:
            break
        body = outer
    node.op_type = r.choice(("If", "Loop", "Scan"))
    del node.attribute[:]
    for name in {"If": ("then_branch", "else_branch"), "Loop": ("body",), "Scan": ("body",)}[node.op_type]:
        node.attribute.add(name=name, type=5).g.CopyFrom(body)
    if node.op_type == "Scan":
        node.attribute.append(onnx.helper.make_attribute("num_scan_inputs", r.choice((0, 1, 2, -1, 1 << 40))))


_NONSENSE = (
    _any_field, _any_field, _any_field, _any_field, _attribute_kind, _attribute_kind, _op, _op, _rewire, _rewire,
    _reorder, _data,
    _data, _input, _recursion, _bodies,
)  # fmt: skip


# --- the worker -----------------------------------------------------------------------------------------------------


class TooSlow(BaseException):
    """Not an Exception: nothing that is tested may catch it."""


def import_and_run(data: bytes, folder: Path | None) -> str:
    """What happens to a mutant: `ran`, `imported`, or the code of the diagnostic."""
    from intaglio.compiler.frontends.onnx import load_onnx
    from intaglio.ir import IntaglioError, evaluate, verify
    from intaglio.ir.dims import Dim, substitute, symbols

    try:
        module = load_onnx(data, folder=folder)
    except IntaglioError as e:
        assert e.diagnostics, "an error without a diagnostic"
        str(e)
        return "refused " + e.diagnostics[0].code
    verify(module)  # the importer makes well-formed modules, whatever the file says
    free = {s: 2 for v in module.main.inputs for s in symbols(v.type.shape)}
    shapes = [tuple(substitute(d, free) for d in v.type.shape) for v in module.main.inputs]
    if (
        any(isinstance(d, Dim) or d > 64 for s in shapes for d in s)
        or sum(np.prod(s, dtype=float) for s in shapes) > WORK
    ):
        return "imported"
    rng = np.random.default_rng(0)
    arrays = [rng.integers(0, 3, s).astype(v.type.dtype) for s, v in zip(shapes, module.main.inputs, strict=True)]
    try:
        evaluate(module.main, arrays, limit=WORK)
    except IntaglioError as e:
        str(e)
        return "stopped " + e.diagnostics[0].code
    return "ran"


def _work() -> None:
    """Mutants on stdin, a JSON line each on stdout."""
    out = os.fdopen(os.dup(1), "w", buffering=1)
    sink = os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, 1)
    os.dup2(sink, 2)
    warnings.filterwarnings("ignore")
    import_and_run(original("cnn"), None)  # what this imports and allocates is not a mutant's
    signal.signal(signal.SIGPROF, _too_slow)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    folder = Path(sys.argv[2])
    for line in sys.stdin:
        name, index = line.rsplit(maxsplit=1)
        data = mutant(name, int(index))
        start = time.process_time()
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        try:
            status = import_and_run(data, folder)
        except TooSlow:
            status = f"BAD more than {SECONDS:.0f} s"
        except MemoryError:
            status = "BAD more than 2 GB"
        except BaseException as e:
            status = f"BAD {type(e).__name__}: {e}"[:300]
        signal.setitimer(signal.ITIMER_PROF, 0)
        out.write(json.dumps([name, int(index), status, round(time.process_time() - start, 3)]) + "\n")


def _too_slow(*_: Any) -> None:
    raise TooSlow


# --- the parent -----------------------------------------------------------------------------------------------------


class _Worker:
    """A process that works through mutants, restarted behind the one that killed it."""

    def __init__(self, mutants: list[tuple[str, int]], folder: Path) -> None:
        self.left, self.folder = list(mutants), folder
        self.results: dict[tuple[str, int], tuple[str, float]] = {}
        self._start()

    def _start(self) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        with tempfile.TemporaryFile() as todo:
            todo.write("".join(f"{n} {i}\n" for n, i in self.left).encode())
            todo.seek(0)
            command = [sys.executable, "-P", __file__, "--worker", str(self.folder)]
            self.process = subprocess.Popen(
                command, stdin=todo, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
            )
        assert self.process.stdout is not None
        self.stdout = self.process.stdout
        os.set_blocking(self.stdout.fileno(), False)
        self.buffer, self.since = b"", time.monotonic()

    def poll(self) -> None:
        chunk = self.stdout.read()
        if chunk:
            self.buffer += chunk
            *lines, self.buffer = self.buffer.split(b"\n")
            for line in lines:
                name, index, status, seconds = json.loads(line)
                assert self.left.pop(0) == (name, index)
                self.results[name, index] = (status, seconds)
            self.since = time.monotonic()
        elif chunk == b"" or self.process.poll() is not None:
            self._replace(f"BAD the process ended with {self.process.wait()}")
        elif time.monotonic() - self.since > HANG:
            self.process.kill()
            self.process.wait()
            self._replace("BAD it hangs")
        if not self.left:
            self.process.wait()

    def _replace(self, status: str) -> None:
        if self.left:
            self.results[self.left.pop(0)] = (status, 0.0)
        if self.left:
            self._start()


def run(mutants: list[tuple[str, int]], folder: Path, workers: int = 2) -> dict[tuple[str, int], tuple[str, float]]:
    """What became of each mutant, and the processor seconds it took. `folder` is where external data may lie."""
    running = [_Worker(share, folder) for share in (mutants[i::workers] for i in range(workers)) if share]
    while waiting := [w for w in running if w.left]:
        select.select([w.stdout for w in waiting], [], [], 0.5)
        for w in waiting:
            w.poll()
    return {key: found for w in running for key, found in w.results.items()}


def summary(results: dict[tuple[str, int], tuple[str, float]]) -> str:
    """How many mutants ended how."""
    counts = Counter(status if not status.startswith("BAD") else "BAD" for status, _ in results.values())
    return ", ".join(f"{n} {status}" for status, n in counts.most_common())


if __name__ == "__main__":
    if sys.argv[1] == "--worker":
        _work()
    else:
        print(import_and_run(mutant(sys.argv[1], int(sys.argv[2])), None))
