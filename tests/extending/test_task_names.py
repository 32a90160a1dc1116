"""No code asks for a task by its name: what it asks stands in the task's entry, or in a registry under the entry."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from losparse_runtime.contract.task import TASKS

ROOT = Path(__file__).parents[2]
PACKAGES = ("runtime/losparse_runtime", "losparse", "export/losparse_export")

# Where the names are given; and sentence-transformers' own word for what a transformer is loaded as.
ALLOWED = {"runtime/losparse_runtime/contract/task.py", "export/losparse_export/opening/sentence.py"}


def names_in(source: str) -> Iterator[tuple[int, str]]:
    """Yield line and text of every string that is a task's name; texts of several words are none."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and node.value in TASKS:
            yield node.lineno, str(node.value)


def test_tasks_are_not_asked_by_name() -> None:
    found = []
    for package in PACKAGES:
        for file in sorted((ROOT / package).rglob("*.py")):
            path = file.relative_to(ROOT).as_posix()
            if path not in ALLOWED:
                found += [f"{path}:{line}: {name}" for line, name in names_in(file.read_text(encoding="utf-8"))]
    assert found == []


def test_a_planted_name_is_seen() -> None:
    assert list(names_in('"""A regression."""\nif task == "regression":\n    pass\n')) == [(2, "regression")]
