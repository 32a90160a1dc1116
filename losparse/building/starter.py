"""A recipe to begin with: what most builds say, and every other key as a comment with its default.

It is made from the fields of the configs and their docstrings, so that it says what they say.
"""

from __future__ import annotations

import dataclasses
import json
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from losparse_runtime.contract.task import TASKS

from ..data.tasks.registry import TASK_DATA
from ..methods import METHODS, method_to_dict
from ..validation.fields import attribute_docs, field_types
from .recipe import BuildRecipe, Gates

TASKS_TO_BUILD = tuple(name for name, task in TASKS.items() if task.built)

_WIDTH = 110
_TRAINED: Mapping[str, Any] = {
    "model": "MODEL",
    "data": {"train": "train.csv", "validation": "dev.csv", "test": "test.csv"},
    "dense": {"epochs": 3},
    "compress": {"method": {"name": "losparse", "keep": 0.2}, "training": {"epochs": 6, "distill_weight": 0.5}},
    "export": {"precision": ["fp32", "int8"]},
    "gates": {"max_accuracy_drop": 1.0, "min_speedup": 3},
}
"""What a recipe for a task with labels says."""
_UNTRAINED: Mapping[str, Any] = {
    "model": "MODEL",
    "data": {"calibration": "texts.txt"},
    "compress": {"method": {"name": "rom", "keep": 0.8}},
    "export": {"precision": ["fp32", "int8"]},
    "gates": {"min_speedup": 1.1},
}
"""What one for a task without labels says: a method that needs texts alone."""


def starter(task: str) -> str:
    """Return a commented recipe.

    Args:
        task: one of `TASKS_TO_BUILD`.
    """
    said = values(task)
    recipe = BuildRecipe.from_dict(said)
    lines = [
        f"# A build for {task}: losparse build THIS-FILE OUT",
        "# Lines that begin with '#' and a key are what else can be said, with its default.",
        "",
    ]
    return "\n".join([*lines, *_table(type(recipe), recipe.to_dict(), said, 0)]).rstrip() + "\n"


def values(task: str) -> dict[str, Any]:
    """Return what the recipe for a task says, without comments."""
    found = json.loads(json.dumps(_TRAINED if task in TASK_DATA else _UNTRAINED))
    if TASKS[task].per_token or TASKS[task].labels == "span":  # rows of lists, which csv cannot hold
        found["data"] = {name: file.replace(".csv", ".jsonl") for name, file in found["data"].items()}
    if task in TASK_DATA:
        found["compress"] = {"task": task, **found["compress"]}
    return dict(found)


def _table(kind: Any, defaults: Mapping[str, Any], said: Mapping[str, Any], depth: int) -> Iterator[str]:
    """Yield the lines of a table: what is said, and the rest as comments."""
    docs, indent = attribute_docs(kind), "  " * depth
    for name in field_types(kind):
        for line in textwrap.wrap(docs.get(name, ""), _WIDTH - 2 * depth - 2):
            yield f"{indent}# {line}"
        inner = _kind_of(name)
        if name not in said:
            yield from _comment(name, defaults[name], indent)
        elif name == "method":
            yield from _method(said[name], indent)
        elif inner is not None:
            yield f"{indent}{name}:"
            yield from _table(inner, defaults[name] or {}, said[name], depth + 1)
        else:
            yield f"{indent}{name}: {_text(said[name])}"
        if depth == 0:
            yield ""


def _method(said: Mapping[str, Any], indent: str) -> Iterator[str]:
    """Yield a method: its name, and every setting that it has."""
    kind: Any = METHODS[said["name"]]
    docs, defaults = attribute_docs(kind), method_to_dict(kind(**{key: said[key] for key in said if key != "name"}))
    yield f"{indent}method:"
    yield f"{indent}  name: {said['name']}"
    for name in field_types(kind):
        for line in textwrap.wrap(docs.get(name, ""), _WIDTH - len(indent) - 4):
            yield f"{indent}  # {line}"
        if name in said:
            yield f"{indent}  {name}: {_text(said[name])}"
        else:
            yield from _comment(name, defaults[name], f"{indent}  ")


def _comment(name: str, default: Any, indent: str) -> Iterator[str]:
    yield f"{indent}# {name}: {_text(default)}"


def _text(value: Any) -> str:
    """Return a value as YAML reads it, on one line: JSON is YAML."""
    if isinstance(value, str) and value.replace("-", "").replace(".", "").replace("/", "").isalnum():
        return value
    return json.dumps(value, ensure_ascii=False)


def _kind_of(name: str) -> type | None:
    """Return the dataclass of a key that is a table, or None."""
    hint = _TABLES.get(name)
    return hint if hint is not None and dataclasses.is_dataclass(hint) else None


def _tables() -> dict[str, type]:
    from losparse_export.settings import ExportSettings

    from ..training.recipe import Recipe, Training
    from .recipe import Bench, Data

    return {
        "data": Data,
        "dense": Training,
        "compress": Recipe,
        "training": Training,
        "export": ExportSettings,
        "bench": Bench,
        "gates": Gates,
    }


_TABLES = _tables()
