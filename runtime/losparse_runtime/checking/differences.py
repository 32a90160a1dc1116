"""Where two JSON values differ, in words."""

from __future__ import annotations

import json
from typing import Any

_SHOWN = 60  # characters of a value in a message


def first_difference(actual: Any, reference: Any, path: str, other: str = "the reference") -> str | None:
    """Say where two JSON values first differ; None where they are equal.

    Args:
        actual: what is checked.
        reference: what is right.
        path: what the values are called; empty for a whole file.
        other: what the message calls the side that is right.
    """
    if actual == reference:
        return None
    if isinstance(actual, dict) and isinstance(reference, dict):
        for key in [*actual, *(key for key in reference if key not in actual)]:
            place = f"{path}.{key}" if path else str(key)
            if key not in reference or key not in actual:
                return f"{place} is {f'not in {other}' if key in actual else f'missing, {other} has it'}"
            if actual[key] != reference[key]:
                return first_difference(actual[key], reference[key], place, other)
    if isinstance(actual, list) and isinstance(reference, list) and len(actual) == len(reference):
        index = next(i for i, (a, b) in enumerate(zip(actual, reference, strict=True)) if a != b)
        return first_difference(actual[index], reference[index], f"{path}[{index}]", other)
    return f"{path} is {shown(actual)}, {other} has {shown(reference)}"


def shown(value: Any) -> str:
    """Write a JSON value for a message, cut where it is long."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
