"""How much of a model was looked at: a kept share of 20 % says little where it is of 6 % of the weights.

Counted are weights that multiply what tokens give: linear layers of every class, pointwise convolutions, fused experts
of three axes, raw parameters that a model multiplies by itself. Not counted are tables - embeddings, positions - and a
head that is tied to one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import prod
from typing import Any

ENOUGH = 0.9
"""Share of the linear parameters below which a report warns."""

_NAMED = 4
_TABLE = re.compile(r"(?i)emb|pos|token|bias|wte|wpe|mask|(?:^|\.)shared\.weight$")


@dataclass(frozen=True)
class Left:
    """Weights of one kind that were left as they are: name (numbers are `*`), how many, parameters of all."""

    name: str
    count: int
    parameters: int


@dataclass(frozen=True)
class Coverage:
    """What a compression looked at.

    Attributes:
        looked_at: parameters of the layers that were given to the method, dense.
        linear: of all linear weights of the model, dense.
        left: what was not looked at, largest first.
    """

    looked_at: int
    linear: int
    left: tuple[Left, ...]

    @property
    def share(self) -> float:
        """Share of the model's linear parameters that was looked at."""
        return self.looked_at / self.linear if self.linear else 1.0

    @property
    def line(self) -> str:
        """What a report prints."""
        return coverage_line(self.looked_at, self.linear)

    @property
    def warning(self) -> str | None:
        """One line that names what was left, where that is more than a tenth; else None."""
        if self.share >= ENOUGH:
            return None
        named = [f"{left.name} ({left.parameters:,})" for left in self.left[:_NAMED]]
        more = len(self.left) - len(named)
        return (
            f"only {self.share:.1%} of the model's linear parameters were looked at; left as they are: "
            f"{', '.join(named)}" + (f" and {more} more kinds" if more > 0 else "")
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for a JSON report."""
        return {"share": self.share, **asdict(self)}


def coverage_line(looked_at: int, linear: int) -> str:
    """Say how much of a model's linear parameters was looked at."""
    return f"looked at: {looked_at:,} of the model's {linear:,} linear parameters ({looked_at / linear:.1%})"


def coverage(looked_at: int, left: Mapping[str, int]) -> Coverage:
    """Sum up what was looked at beside what was left.

    Args:
        looked_at: dense parameters of the layers that were.
        left: parameters of every other linear weight, by qualified name.
    """
    kinds: dict[str, list[int]] = {}
    for name, parameters in left.items():
        kinds.setdefault(re.sub(r"(?<![^.])\d+(?![^.])", "*", name), []).append(parameters)
    found = [Left(name, len(each), sum(each)) for name, each in kinds.items()]
    largest = tuple(sorted(found, key=lambda one: (-one.parameters, one.name)))
    return Coverage(looked_at, looked_at + sum(left.values()), largest)


def is_table(name: str) -> bool:
    """Tell by its name whether a parameter is a table that is read, or a bias, and no weight that multiplies."""
    return _TABLE.search(name) is not None


def left_by_name(shapes: Mapping[str, tuple[int, ...]], taken: Mapping[str, object]) -> dict[str, int]:
    """Return the linear weights of a checkpoint that are not among the layers taken, by names and shapes alone.

    Args:
        shapes: of all tensors, by name.
        taken: layers by the names that the tensors have.
    """
    found = {}
    for name, shape in shapes.items():
        layer, _, kind = name.rpartition(".")
        if layer in taken or is_table(name):
            continue
        # Kernels of convolutions have three axes or four; so have fused experts, which are no module's "weight".
        if (kind == "weight" and len(shape) == 2) or (kind != "weight" and len(shape) in (2, 3) and shape[0] > 1):
            found[layer if kind == "weight" else name] = prod(shape)
    return found
