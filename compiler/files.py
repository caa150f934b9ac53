"""Writing files and folders so that nobody ever sees half of one.

Everything is written under a temporary name beside its destination and renamed when it is complete. The temporary thing
is locked while its writer lives, so the next run can tell what a killed one has left behind, and removes it.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import hashlib
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from ..ir.diagnostics import IntaglioError, error

__all__ = ["new_file", "new_folder", "sha256"]


def sha256(path: Path) -> str:
    """The digest of a file."""
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """A temporary name to write to; it becomes `path` when the block ends without an exception."""
    with _temporary(path, folder=False) as made:
        yield made
        with _explained(path):
            os.replace(made, path)


@contextlib.contextmanager
def new_folder(path: Path, *, replaces: Callable[[Path], bool]) -> Iterator[Path]:
    """An empty folder to fill; it becomes `path`. What is there already goes if `replaces` says so, else IG0510."""
    if (path.exists() or path.is_symlink()) and not replaces(path):
        raise error(
            "IG0510", f"`{path}` exists and is no artifact: it is left alone", hint="choose another output folder"
        )
    with _temporary(path, folder=True) as made:
        yield made
        with _explained(path):
            if path.exists():
                _exchange(made, path)  # the old one now has the temporary name, and goes with it
            else:
                os.rename(made, path)


@contextlib.contextmanager
def _temporary(path: Path, *, folder: bool) -> Iterator[Path]:
    with _explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _clear(path)
        made, lock = _claim(path, folder)
    try:
        with _explained(path):
            yield made
    finally:
        _remove(made)
        os.close(lock)


def _claim(path: Path, folder: bool) -> tuple[Path, int]:
    """A fresh temporary and the descriptor that locks it."""
    while True:
        made = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
        if folder:
            made.mkdir()
        else:
            made.touch(exist_ok=False)
        lock = os.open(made, os.O_RDONLY)
        with contextlib.suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if made.exists():
                return made, lock
        os.close(lock)  # another run took it for a leftover before it was locked


def _clear(path: Path) -> None:
    """Remove what killed runs have left behind."""
    for old in path.parent.glob(f".{_literal(path.name)}.????????.tmp"):
        with contextlib.suppress(OSError):
            lock = os.open(old, os.O_RDONLY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove(old)
            finally:
                os.close(lock)


def _literal(name: str) -> str:
    """A name for use in a glob pattern."""
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _exchange(a: Path, b: Path) -> None:
    """Let two names change places at once, or as nearly at once as the system can."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    here, swap = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    if rename is not None and rename(here, os.fsencode(a), here, os.fsencode(b), swap) == 0:
        return
    aside = a.with_name(f"{a.name[:-4]}.old.tmp")
    os.rename(b, aside)
    os.rename(a, b)
    os.rename(aside, a)


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    """The system's refusal as a diagnostic."""
    try:
        yield
    except IntaglioError:
        raise
    except OSError as e:
        if e.errno == errno.EPIPE:
            raise
        raise error("IG0005", f"`{path}` cannot be written: {e.strerror or e}") from e
