"""The machine that the compiler runs on."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest

from intaglio.ir.host import cache_folder, collector_paused, cpu_name


def test_one_variable_moves_every_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from intaglio.backends.accelerator.cache import folder
    from intaglio.backends.he.calibrate import default_path as he_figures
    from intaglio.backends.tvm.machine import default_path as cpu_figures

    monkeypatch.setenv("INTAGLIO_CACHE", str(tmp_path))
    assert {folder().parent, he_figures("seal", 8192).parent, cpu_figures("avx2").parent} == {tmp_path}


def test_without_it_the_cache_is_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("INTAGLIO_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "intaglio"
    monkeypatch.setenv("XDG_CACHE_HOME", "not/absolute")  # the specification says: to be ignored
    assert cache_folder() == Path.home() / ".cache" / "intaglio"


def test_the_collector_comes_back_as_it_was() -> None:
    with pytest.raises(KeyError), collector_paused():
        assert not gc.isenabled()
        raise KeyError
    assert gc.isenabled()
    gc.disable()
    try:
        with collector_paused():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_the_processor_has_a_name() -> None:
    assert cpu_name().strip()
