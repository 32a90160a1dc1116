"""The files of the three packages, for tests that read what no linter can say of them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("runtime/losparse_runtime", "losparse", "export/losparse_export")


def files() -> Iterator[tuple[str, ast.Module]]:
    """Yield every file of the packages by its path in the project, parsed."""
    for package in PACKAGES:
        for file in sorted((ROOT / package).rglob("*.py")):
            yield file.relative_to(ROOT).as_posix(), ast.parse(file.read_text(encoding="utf-8"))
