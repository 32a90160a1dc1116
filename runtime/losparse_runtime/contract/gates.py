"""What a variant had to reach to be shipped, and what it reached: so that a folder says itself what it was gated by."""

from __future__ import annotations

from dataclasses import dataclass

from .fields import LARGEST, Fields


@dataclass(frozen=True)
class PassedGate:
    """One gate of a build that a variant passed.

    Attributes:
        gate: its name in the recipe, as in "max_accuracy_drop".
        limit: that was set there.
        value: that was measured of the variant, in the unit of the limit: points of a metric, a factor, milliseconds or
            bytes.
    """

    gate: str
    limit: float
    value: float

    @property
    def line(self) -> str:
        """All of it, as in "passed max_accuracy_drop 1: 0.23"."""
        return f"passed {self.gate} {self.limit:g}: {self.value:.6g}"


def parse_gate(fields: Fields) -> PassedGate:
    """Read one gate.

    Raises:
        FolderError: a field is missing or of the wrong type.
    """
    # What is below a limit may be negative: an accuracy that rose is a drop below 0.
    return PassedGate(fields.text("gate"), fields.number("limit", -LARGEST), fields.number("value", -LARGEST))
