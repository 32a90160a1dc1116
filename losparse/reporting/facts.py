"""What a build found out, read from its folder."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import LosparseError

BUILD = "build.json"
FORMAT = 1
_WRITTEN = ("name", "recipe", "versions", "machine")
"""Keys that every build writes, and that pages read."""


@dataclass(frozen=True)
class Facts:
    """Contents of `build.json`, with what reports ask of them.

    Attributes:
        data: the file's contents.
    """

    data: Mapping[str, Any]

    @property
    def models(self) -> Mapping[str, Mapping[str, Any]]:
        """All that were compared, by name; the first is what speedups are against."""
        found: Mapping[str, Mapping[str, Any]] = self.data["models"]
        return found

    @property
    def base(self) -> str:
        """Name of the model that speedups are against."""
        return next(iter(self.models))

    @property
    def variants(self) -> dict[str, Mapping[str, Any]]:
        """The models that the build made."""
        return {name: entry for name, entry in self.models.items() if entry["kind"] == "variant"}

    @property
    def shipped(self) -> list[str]:
        """Names of those that passed every gate."""
        return [name for name, entry in self.variants.items() if entry["passed"]]

    @property
    def results(self) -> list[Mapping[str, Any]]:
        """Times of models at shapes."""
        return list((self.data.get("bench") or {}).get("results", ()))

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """Texts in a run and tokens in a text, in order."""
        return list(dict.fromkeys((row["batch"], row["length"]) for row in self.results))

    @property
    def details(self) -> Mapping[str, Any]:
        """What is known beside accuracy, size and speed."""
        return self.data.get("details") or {}

    def time(self, name: str, shape: tuple[int, int]) -> Mapping[str, Any] | None:
        """Return what was timed of a model at a shape."""
        rows = (row for row in self.results if row["model"] == name)
        return next((row for row in rows if (row["batch"], row["length"]) == shape), None)

    def best_free(self, shape: tuple[int, int]) -> Mapping[str, Any] | None:
        """Return the fastest model at a shape that costs no compression."""
        rows = [self.time(name, shape) for name, entry in self.models.items() if entry["kind"] == "baseline"]
        found = [row for row in rows if row is not None]
        return max(found, key=lambda row: float(row["speedup"])) if found else None

    def over_free(self, name: str, shape: tuple[int, int]) -> float | None:
        """Return how many times faster a model is than the fastest that costs no compression."""
        row, best = self.time(name, shape), self.best_free(shape)
        return None if row is None or best is None else float(row["speedup"] / best["speedup"])

    def best_variant(self) -> str | None:
        """Return the shipped variant that is the fastest by its worst shape; the smallest where nothing was timed."""
        found = self.shipped or list(self.variants)

        def slowest(name: str) -> tuple[float, float]:
            rows = [row for row in self.results if row["model"] == name]
            return min((float(row["speedup"]) for row in rows), default=0.0), -(self.models[name]["bytes"] or 0)

        return max(found, key=slowest, default=None)

    def deltas(self, name: str) -> Iterator[tuple[str, Mapping[str, float]]]:
        """Yield the differences of a model's accuracy from others."""
        yield from ((self.models[name].get("accuracy") or {}).get("deltas") or {}).items()


def _is_whole(data: Mapping[str, Any]) -> bool:
    """Tell whether a build wrote all that pages read, or nothing that was edited by hand."""
    if any(name not in data for name in ("format", *_WRITTEN)):
        return False
    models = data.get("models")
    return isinstance(models, dict) and bool(models) and all(_is_model(entry) for entry in models.values())


def _is_model(entry: Any) -> bool:
    of_variants = {"passed", "failures"} if isinstance(entry, dict) and entry.get("kind") == "variant" else set()
    return isinstance(entry, dict) and {"kind", "precision", "bytes"} | of_variants <= entry.keys()


def read_facts(out: Path) -> Facts:
    """Read what a build found out.

    Args:
        out: folder of the build.

    Raises:
        LosparseError: it is no build, one that did not come to its gates, or of a newer losparse.
    """
    try:
        data = json.loads((out / BUILD).read_bytes())
    except OSError:
        raise LosparseError(
            f"'{out}' has no {BUILD}: it is no folder of `losparse build`, or its build did not end; run that first"
        ) from None
    except (ValueError, RecursionError):
        raise LosparseError(f"'{out / BUILD}' is damaged; run `losparse build` with --from gate") from None
    if isinstance(data, dict) and data.get("format", FORMAT) != FORMAT:
        raise LosparseError(
            f"'{out / BUILD}' has format {data['format']!r}, this losparse reads {FORMAT}; pip install --upgrade "
            "losparse, or build again"
        )
    if not isinstance(data, dict) or not _is_whole(data):
        raise LosparseError(f"'{out / BUILD}' is damaged; run `losparse build` with --from gate")
    return Facts(data)
