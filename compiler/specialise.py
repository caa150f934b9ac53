"""Programs for given sizes of a model's symbolic dimensions, made when they are first needed.

A kernel that knows the batch size or the length of a sequence has better tiles and fewer branches than one that takes
any. Compiling one takes a second or so, so it is worth it where the same few sizes come back.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..backends.backend import Backend, Program
from ..ir.graph import Module
from ..ir.interpret import bind_symbols
from ..passes.syntax import parse_pipeline
from .pipeline import run_pipeline

__all__ = ["Specialised", "specialised"]

Build = Callable[[Mapping[str, int]], Program]


class Specialised:
    """See `backends.backend.Program`. `general` serves any sizes; it is what `save` writes.

    At most `limit` programs are kept, those used last. A first call with new sizes compiles; calls from other threads
    with sizes that are ready do not wait for it.
    """

    def __init__(self, module: Module, general: Program, build: Build, limit: int) -> None:
        self._shapes = [v.type.shape for v in module.main.inputs]
        self._general, self._build, self._limit = general, build, limit
        self._programs: OrderedDict[tuple[tuple[str, int], ...], Program] = OrderedDict()
        self._lock, self._building = threading.Lock(), threading.Lock()

    def run(self, arrays: Sequence[Any]) -> list[Any]:
        sizes: dict[str, int] = {}
        for shape, array in zip(self._shapes, arrays, strict=True):
            bind_symbols(shape, array.shape, sizes)
        return self._for(tuple(sorted(sizes.items()))).run(arrays)

    def _for(self, sizes: tuple[tuple[str, int], ...]) -> Program:
        found = self._known(sizes)
        if found is not None:
            return found
        with self._building:
            found = self._known(sizes)  # by a thread that was here before
            if found is None:
                found = self._build(dict(sizes))
                with self._lock:
                    self._programs[sizes] = found
                    while len(self._programs) > self._limit:
                        self._programs.popitem(last=False)
        return found

    def _known(self, sizes: tuple[tuple[str, int], ...]) -> Program | None:
        with self._lock:
            found = self._programs.get(sizes)
            if found is not None:
                self._programs.move_to_end(sizes)
            return found

    def save(self, folder: Path) -> dict[str, Any]:
        return self._general.save(folder)


def specialised(backend: Backend, module: Module, options: Any, general: Program, limit: int) -> Program:
    """`general`, or what compiles up to `limit` others beside it; `module` is as `backend` builds it."""
    if limit <= 0 or all(v.type.static for v in module.main.inputs):
        return general

    def build(sizes: Mapping[str, int]) -> Program:
        frozen = ",".join(f"{name}={size}" for name, size in sizes.items())
        steps = parse_pipeline(f"freeze{{{frozen}}}")
        return backend.build(run_pipeline(module, steps, target=backend.target(options)).module, options)

    return Specialised(module, general, build, limit)
