"""Make build/typing/intaglio/, a folder of links through which type checkers see the package.

The repository's root is the package `intaglio`, and neither mypy nor pyright can follow setuptools' editable
install of such a layout. One link to the root would contain itself, so each part of the package gets its own.
"""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def parts() -> list[str]:
    """What of the root belongs to the package: its files, and the top folders that pyproject.toml lists."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = settings["tool"]["setuptools"]["packages"]
    folders = {name.split(".")[1] for name in packages if "." in name}
    return ["__init__.py", "__main__.py", "py.typed", *sorted(folders)]


def main() -> None:
    links = ROOT / "build" / "typing" / "intaglio"
    links.mkdir(parents=True, exist_ok=True)
    for old in links.iterdir():
        old.unlink()
    for part in parts():
        # Relative, so that a moved checkout keeps working.
        (links / part).symlink_to(os.path.relpath(ROOT / part, links))


if __name__ == "__main__":
    main()
