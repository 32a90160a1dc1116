"""No code asks for a task by its name: what it asks stands in the task's entry, or in a registry under the entry."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from losparse_runtime.contract.task import TASKS

from .sources import files

# Where the names are given; and sentence-transformers' own word for what a transformer is loaded as.
ALLOWED = {"runtime/losparse_runtime/contract/task.py", "export/losparse_export/opening/sentence.py"}


def names_in(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield line and text of every string that is a task's name; texts of several words are none."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and node.value in TASKS:
            yield node.lineno, str(node.value)


def test_tasks_are_not_asked_by_name() -> None:
    found = [f"{path}:{line}: {name}" for path, tree in files() if path not in ALLOWED for line, name in names_in(tree)]
    assert found == []


def test_a_planted_name_is_seen() -> None:
    planted = ast.parse('"""A regression."""\nif task == "regression":\n    pass\n')
    assert list(names_in(planted)) == [(2, "regression")]
