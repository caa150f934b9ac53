"""The machine that the compiler itself runs on: its processor, the user's cache folder, the cycle collector."""

from __future__ import annotations

import gc
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

__all__ = ["cache_folder", "collector_paused", "cpu_name"]


@cache
def cpu_name() -> str:
    """The processor as the kernel names it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def cache_folder() -> Path:
    """Where what was measured or found is kept: INTAGLIO_CACHE, else a folder in XDG_CACHE_HOME or ~/.cache."""
    own = os.environ.get("INTAGLIO_CACHE", "")
    if own:
        return Path(own)
    home = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(home) if Path(home).is_absolute() else Path.home() / ".cache") / "intaglio"


@contextmanager
def collector_paused() -> Iterator[None]:
    """No cycle collection: who makes ten thousand nodes and drops few would spend a third of the time on it."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
