"""What a check found, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..compare import Parity


@dataclass(frozen=True)
class CheckedPart:
    """Numbers on inputs of one kind.

    Attributes:
        passed: the verdict.
        batches: how many were compared.
        texts: how many were compared, or rows of random tokens.
        parity: the differences.
        first_layer: the first layer that differs, where that was found out.
    """

    passed: bool
    batches: int
    texts: int
    parity: Parity
    first_layer: str | None

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON values, those of the parity among them."""
        sizes = {"passed": self.passed, "batches": self.batches, "texts": self.texts}
        return {**sizes, **self.parity.to_dict(), "first_layer": self.first_layer}


@dataclass(frozen=True)
class Judgement:
    """What the numbers of a check were judged by.

    Attributes:
        against: what does the reference's arithmetic, as in "PyTorch".
        task: what the model does.
        precision: whose bounds were taken: the coarser one of both sides.
        tolerance: largest difference allowed, for the outputs at hand.
        cosine: smallest cosine allowed; None where the difference alone says it.
        variant: name of the one that was compared, of a folder that has several; None of others.
    """

    against: str
    task: str
    precision: str
    tolerance: float
    cosine: float | None
    variant: str | None = None


@dataclass(frozen=True)
class CheckReport:
    """What a check found.

    Attributes:
        differences: a line for everything but numbers that differs: files, settings, tokens.
        parts: numbers, by the kind of inputs; none without a reference.
        judgement: what the numbers were judged by; None without a reference.
        others: of a folder of several variants, what was found of those beside the one of `judgement`, by name.
        skipped: why a variant was not looked at, by name.
    """

    differences: tuple[str, ...]
    parts: Mapping[str, CheckedPart] = field(default_factory=dict)
    judgement: Judgement | None = None
    others: Mapping[str, CheckReport] = field(default_factory=dict)
    skipped: Mapping[str, str] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether nothing differs, and all numbers are near enough, in every variant that was looked at."""
        own = not self.differences and all(part.passed for part in self.parts.values())
        return own and all(report.passed for report in self.others.values())

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON values, with the verdict."""
        judged, parts = self.judgement, {name: part.to_dict() for name, part in self.parts.items()}
        others = {name: report.to_dict() for name, report in self.others.items()}
        more = {**({"others": others} if others else {}), **({"skipped": dict(self.skipped)} if self.skipped else {})}
        if judged is None:
            said = {"passed": self.passed, "against": None, "differences": list(self.differences), "parts": parts}
            return {**said, **more}
        return {
            "passed": self.passed,
            "against": judged.against,
            "task": judged.task,
            **({} if judged.variant is None else {"variant": judged.variant}),
            "differences": list(self.differences),
            "precision": judged.precision,
            "tolerance": judged.tolerance,
            "cosine": judged.cosine,
            "parts": parts,
            **more,
        }
