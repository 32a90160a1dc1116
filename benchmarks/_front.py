"""What is on the front: no other model is both cheaper and more accurate."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

GROUPS = {  # of a picture's points: what a name begins with, and the colour
    "dense": (("dense",), "#222222"),
    "fewer dense blocks": (tuple(f"{blocks} of " for blocks in range(1, 10)), "#2a8a4a"),
    "LoSparse": (("losparse",), "#c8501e"),
    "narrow": (("narrow",), "#7a3fa8"),
    "pruning alone": (("pruning",), "#1f5fa8"),
    "low rank alone": (("svd", "fwsvd", "rom", "lpaf"), "#8a8a8a"),
}


def first_seeds(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the row of the first seed of every method and keep, dense first: the others are compared with it."""
    found: dict[tuple[str, float], dict[str, Any]] = {}
    for row in sorted(rows, key=lambda row: (row["method"] != "dense", row["seed"])):
        found.setdefault((row["method"], row["keep"]), row)
    return list(found.values())


def group_of(method: str) -> str:
    """Return the group of a method by its name."""
    return next(name for name, (starts, _) in GROUPS.items() if method.startswith(starts))


def on_front(points: Iterable[dict[str, Any]], cost: str) -> list[str]:
    """Return the names of the points that no other beats in accuracy and cost, cheapest first."""
    front: list[str] = []
    best = -math.inf
    for point in sorted(points, key=lambda point: (point[cost], -point["accuracy"])):
        if point["accuracy"] > best:
            front.append(point["name"])
            best = point["accuracy"]
    return front


def points_of(rows: dict[str, dict[str, Any]], shape: str) -> list[dict[str, Any]]:
    """Return the models as points: time as a share of the first one's in the same rounds, bytes, accuracy."""
    return [
        row | {"name": name, "time": 1.0 / row["latency"][shape]["speedup"], "accuracy": row["value"]}
        for name, row in rows.items()
    ]
