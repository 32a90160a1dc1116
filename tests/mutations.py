"""Ways to spoil a JSON file: any value in the place of any other, or a value that is gone."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

GONE = "(gone)"
DEEP = "(deep)"
VALUES: tuple[Any, ...] = (
    *(None, True, False, -1, 0, 1.5, 7, 10**9, 10**30, float("nan"), float("inf"), "", "abc", "\0", "1"),
    *([], {}, [1], ["a", "b"], [[[]]], {"a": 1}, GONE, DEEP),
)

Place = tuple[Any, ...]


def places(data: Any, at: Place = ()) -> Iterator[Place]:
    """Yield the way to every value of a JSON file, the whole file first."""
    yield at
    for key in data if isinstance(data, dict) else range(len(data)) if isinstance(data, list) else ():
        yield from places(data[key], (*at, key))


def spoiled(data: Any, place: Place, value: Any) -> Any:
    """Return data with a value, `GONE` for none, in a place; but for the whole, which is not taken away."""
    root = copy.deepcopy([data])
    holder: Any = root
    *way, last = (0, *place)
    for key in way:
        holder = holder[key]
    if value == GONE and place:
        del holder[last]
    else:
        holder[last] = value
    return root[0]


def spoil(file: Path, place: Place, value: Any) -> None:
    """Put a value, `GONE` for none, `DEEP` for a list in 200,000 lists, in a place of a file."""
    data = spoiled(json.loads(file.read_text()), place, value)
    deep = "[" * 200_000 + "]" * 200_000
    file.write_text(json.dumps(data).replace(json.dumps(DEEP), deep))
