"""The repository's root is the package `intaglio`: what that layout could let slip."""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path
from shutil import copytree, ignore_patterns

import pytest

import intaglio

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ["backends", "compiler", "ir", "passes"]
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
PACKAGES: list[str] = SETTINGS["packages"]
DATA: dict[str, list[str]] = SETTINGS["package-data"]


def place(package: str) -> Path:
    return ROOT.joinpath(*package.split(".")[1:])


def tree() -> dict[str, list[str]]:
    """Every package in the tree and the files in it; a folder of data only belongs to the package above it."""
    found = {"intaglio": ["__init__.py", "__main__.py", "py.typed"]}
    for file in sorted(file for folder in FOLDERS for file in (ROOT / folder).rglob("*")):
        if file.is_file() and "__pycache__" not in file.parts:
            home = file.parent
            while not any(home.glob("*.py")):
                home = home.parent
            package = ".".join(["intaglio", *home.relative_to(ROOT).parts])
            found.setdefault(package, []).append(str(file.relative_to(home)))
    return found


def test_packages_are_listed() -> None:
    assert sorted(tree()) == PACKAGES, "[tool.setuptools] packages: one for every folder, in order"


@pytest.mark.parametrize("package", tree())
def test_folder_is_a_package(package: str) -> None:
    assert (place(package) / "__init__.py").is_file()


def test_root_holds_no_other_module() -> None:
    assert {file.name for file in ROOT.glob("*.py")} == {"__init__.py", "__main__.py"}


def test_data_files_are_listed_and_exist() -> None:
    listed = {file for package, globs in DATA.items() for glob in globs for file in place(package).glob(glob)}
    present = {place(package) / name for package, names in tree().items() for name in names if not name.endswith(".py")}
    assert listed == present
    for package, globs in DATA.items():
        for glob in globs:
            assert any(place(package).glob(glob)), f"package-data: nothing in {package} matches {glob}"


@pytest.fixture(scope="module")
def loaded() -> dict[str, str]:
    """Name and file of every module that a fresh interpreter holds once each of ours has been imported."""
    names = [
        ".".join([package, *([] if name == "__init__.py" else [name.removesuffix(".py")])])
        for package, files in tree().items()
        for name in files
        if name.endswith(".py") and name != "__main__.py"
    ]
    script = (
        "import importlib, json, sys\n"
        f"for name in {names!r}: importlib.import_module(name)\n"
        "files = {name: getattr(module, '__file__', None) for name, module in sys.modules.items()}\n"
        "print(json.dumps({name: file for name, file in files.items() if file}))"
    )
    # From the root and without -P: where a top-level `import ir` would succeed.
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    files: dict[str, str] = json.loads(done.stdout)
    assert set(names) <= set(files)
    return files


def is_ours(file: str) -> bool:
    """Is it a source file of the package? (A .venv below the root is not.)"""
    path = Path(file)
    return path.is_relative_to(ROOT) and path.relative_to(ROOT).parts[0] in {
        "__init__.py",
        "__main__.py",
        *FOLDERS,
    }


def test_no_twin_modules(loaded: dict[str, str]) -> None:
    assert [name for name, file in loaded.items() if is_ours(file) and name.split(".")[0] != "intaglio"] == []


def test_pytest_makes_no_twin_of_the_root() -> None:
    root = [name for name, module in sys.modules.items() if getattr(module, "__file__", None) == intaglio.__file__]
    assert root == ["intaglio"]


def test_this_checkout_is_what_is_tested() -> None:
    assert Path(intaglio.__file__) == ROOT / "__init__.py"


def test_importing_the_root_loads_nothing_else() -> None:
    script = "import sys; before = set(sys.modules); import intaglio; print(*set(sys.modules) - before)"
    done = subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["intaglio"]


@pytest.mark.parametrize("name", intaglio.__all__)
def test_public_name(name: str) -> None:
    assert name in dir(intaglio)
    assert getattr(intaglio, name).__name__ == name


def test_unknown_name() -> None:
    with pytest.raises(AttributeError, match=r"'intaglio' has no attribute 'compil'"):
        intaglio.compil  # noqa: B018


def test_wheel_holds_the_tree(tmp_path: Path) -> None:
    """By way of the source archive, as `python -m build` goes: what one lacks, the other lacks."""
    clean = tmp_path / "clean copy"
    copytree(
        ROOT,
        clean,
        ignore=ignore_patterns(".*", "__pycache__", "build", "dist", "*.egg-info", "tests", "docs"),
    )
    archive = build("sdist", clean, tmp_path)
    with tarfile.open(archive) as source:
        source.extractall(tmp_path, filter="data")
    unpacked = tmp_path / archive.name.removesuffix(".tar.gz")
    with zipfile.ZipFile(build("wheel", unpacked, tmp_path)) as wheel:
        files = {name for name in wheel.namelist() if ".dist-info/" not in name}
    expected = {f"{package.replace('.', '/')}/{name}" for package, names in tree().items() for name in names}
    assert files == expected


def build(kind: str, source: Path, destination: Path) -> Path:
    """Build with the setuptools at hand; pip would fetch one into an environment of its own."""
    script = f"import sys; from setuptools import build_meta; build_meta.build_{kind}(sys.argv[1])"
    before = set(destination.iterdir())
    done = subprocess.run(
        [sys.executable, "-c", script, str(destination)],
        cwd=source,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (made,) = set(destination.iterdir()) - before
    return made
