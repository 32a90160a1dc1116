"""What was found of one thing, and how bad it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Level = Literal["ok", "warning", "problem"]
"""How bad a finding is: "problem" stops something from working, "warning" makes it slow or may stop it later."""


@dataclass(frozen=True)
class Finding:
    """What was found of one thing.

    Attributes:
        about: the thing, in a word or two.
        level: how bad it is.
        said: what was found; one line.
        way_out: what to do about it; empty where nothing need be done.
        facts: the same for programs, as JSON values.
    """

    about: str
    level: Level
    said: str
    way_out: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Diagnosis:
    """All that was found.

    Attributes:
        findings: in the order in which they are to be read.
    """

    findings: tuple[Finding, ...]

    @property
    def passed(self) -> bool:
        """Whether there is no problem."""
        return all(finding.level != "problem" for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return {"format": 1, "passed": self.passed, "findings": [asdict(finding) for finding in self.findings]}
