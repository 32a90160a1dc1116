"""Which class a label is: names by class id, as files spell them and as models know them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import LosparseError, shown
from .tables import Table

LABEL_COLUMNS = ("label", "labels", "category", "class", "target")
"""Columns in which the class of a text is looked for."""


def label_text(table: Table, row: int, column: str, value: Any, *, several: str = "") -> str:
    """Return a label as text; integers and booleans are allowed, numbers with a fraction are not labels.

    Args:
        table: where it stands.
        row: of the table.
        column: of labels.
        value: what stands there.
        several: what to do where a list or nothing stands in its place.

    Raises:
        LosparseError: it is none.
    """
    if isinstance(value, bool):
        return str(value).lower()
    text = str(value).strip() if isinstance(value, str | int) else ""
    if not text or re.fullmatch(r"[-+]?\d*\.\d+", text):
        way_out = f"; {several}" if several and (isinstance(value, list) or value == "") else ""
        raise LosparseError(
            f"{table.where(row)}: '{column}' must be a label (a text or an integer), got {shown(value)}{way_out}"
        )
    return table.whole(row, column, text)


def class_names(
    table: Table, column: str, values: Sequence[str], names: Sequence[str] | None, *, least: int = 2
) -> tuple[str, ...]:
    """Return the classes by id: those given, those the data set declares, or those that occur, sorted.

    Args:
        table: whose labels they are.
        column: of the labels.
        values: labels that occur; at least one where `names` is None.
        names: classes by id; None where nothing says them.
        least: how many classes training needs.

    Raises:
        LosparseError: nothing says what classes there are, and fewer occur.
    """
    declared = names if names is not None else table.classes.get(column)
    if declared is not None:
        return tuple(declared)
    distinct = set(values)
    if len(distinct) < least:
        raise LosparseError(
            f"{table.name}: column '{column}' has one class only ({shown(values[0])}); training needs at least two"
        )
    integers = all(re.fullmatch(r"-?\d+", value) for value in distinct)
    return tuple(sorted(distinct, key=int) if integers else sorted(distinct))


def names_of_config(id2label: Mapping[Any, object]) -> list[str]:
    """Return class names by class id as config.json has them; some are numbers, some null, which names none.

    Args:
        id2label: by class id, as a number or as text.
    """
    values = [id2label[number] if number in id2label else id2label.get(str(number)) for number in range(len(id2label))]
    return [f"LABEL_{number}" if value is None else str(value) for number, value in enumerate(values)]


def class_lookup(values: Sequence[str], names: Sequence[str]) -> dict[str, int]:
    """Map labels to class ids; where none of them is a name but one is a class id, they are taken as class ids.

    A label that is a name but for upper and lower case is that name, where no two names differ in it alone.
    """
    by_name = {name: number for number, name in enumerate(names)}
    by_number = {str(number): number for number in range(len(names))}
    distinct = set(values)
    folded = {name.casefold(): number for name, number in by_name.items()}
    if len(folded) == len(by_name):
        by_name |= {value: folded[value.casefold()] for value in distinct if value.casefold() in folded}
    return by_number if distinct & by_number.keys() and not distinct & by_name.keys() else by_name


def class_id(table: Table, row: int, value: str, lookup: dict[str, int], names: Sequence[str]) -> int:
    """Return the class of a row's label, as `class_lookup` has it.

    Raises:
        LosparseError: it is none of `names`.
    """
    if value not in lookup:
        some = ", ".join(names[:10]) + (f", ... ({len(names)} in all)" if len(names) > 10 else "")
        raise LosparseError(f"{table.where(row)}: label {shown(value)} was not seen in training; its labels are {some}")
    return lookup[value]


def matching_ids(given: Sequence[str], names: Sequence[str]) -> list[int]:
    """Return the class id of every label: as named, as named in another case, or as an id; none if they are others."""
    folded = [name.casefold() for name in names]
    for wanted, known in (
        (list(given), list(names)),
        ([name.casefold() for name in given], folded),
        (list(given), [str(number) for number in range(len(names))]),
    ):
        if set(wanted) <= set(known) and len(set(wanted)) == len(wanted) and len(set(known)) == len(known):
            return [known.index(name) for name in wanted]
    return []
