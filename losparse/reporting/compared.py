"""Two builds side by side: what changed in accuracy, size and speed, and in their recipes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from . import numbers
from .content import flat
from .facts import Facts
from .tables import Cell, Table, dropping_empty, number, words


def compared(facts: Facts, other: Facts) -> list[Table]:
    """Return the tables that compare a build with another one.

    Args:
        facts: of the build that the page is about.
        other: of the one that it is compared with.
    """
    return [table for table in (_models(facts, other), _recipes(facts, other)) if table.rows]


def _models(facts: Facts, other: Facts) -> Table:
    shapes = [shape for shape in facts.shapes if shape in other.shapes]
    metrics = [str(each.data.get("metric") or "accuracy") for each in (facts, other)]
    columns = ["model", f"{metrics[0]} here", f"{metrics[1]} there", "difference", "size here", "there"]
    columns += [heading for batch, length in shapes for heading in (f"{batch} x {length} here", "there", "ratio")]
    rows = []
    for name in dict.fromkeys([*facts.models, *other.models]):
        here, there = facts.models.get(name, {}), other.models.get(name, {})
        row = [Cell(name), *_accuracies(here, there, same=metrics[0] == metrics[1])]
        row += [number(each.get("bytes"), numbers.megabytes) for each in (here, there)]
        for shape in shapes:
            row += _times(facts.time(name, shape), other.time(name, shape))
        rows.append(row)
    kept, cells = dropping_empty(columns, rows)
    same = facts.data.get("machine") == other.data.get("machine")
    note = (
        "Differences of accuracy are those of two measurements, with both of their errors: the texts are not paired. "
        "Times are of two runs, not in turns"
    )
    note += "." if same else ", and of two machines: compare speed-ups, not milliseconds."
    names = f"{facts.data['name']} (here) and {other.data['name']} (there)"
    return Table("compared", f"Two builds: {names}", note, tuple(kept), cells)


def _accuracies(here: Mapping[str, Any], there: Mapping[str, Any], *, same: bool) -> list[Cell]:
    """Return both, and their difference where they are of one metric."""
    ours, theirs = here.get("accuracy") or {}, there.get("accuracy") or {}
    cells = [
        Cell(numbers.plus_minus(each.get("value"), each.get("error")), each.get("value")) for each in (ours, theirs)
    ]
    if not ours or not theirs or not same:
        return [*cells, Cell("")]
    delta = ours["value"] - theirs["value"]
    known = ours["error"] is not None and theirs["error"] is not None
    error = math.hypot(ours["error"], theirs["error"]) if known else None
    return [*cells, Cell(numbers.plus_minus(delta, error, signed=True), delta)]


def _times(here: Mapping[str, Any] | None, there: Mapping[str, Any] | None) -> list[Cell]:
    ours, theirs = (None if row is None else float(row["median_ms"]) for row in (here, there))
    ratio = None if ours is None or theirs is None else theirs / ours
    return [number(ours, numbers.milliseconds), number(theirs, numbers.milliseconds), number(ratio, numbers.times)]


def _recipes(facts: Facts, other: Facts) -> Table:
    ours, theirs = (dict(flat(each.data.get("recipe", {}))) for each in (facts, other))
    names = [name for name in dict.fromkeys([*ours, *theirs]) if ours.get(name) != theirs.get(name)]
    rows = tuple(words(name, ours.get(name, ""), theirs.get(name, "")) for name in names)
    return Table("recipes", "What changed in the recipe", "", ("key", "here", "there"), rows)
