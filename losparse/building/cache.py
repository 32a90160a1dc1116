"""What was done already: a record of every step, and why a step runs again.

A step is done again when its settings, the contents of what it reads, losparse's code for it, a package's version, or
what it wrote is not as it was. Its record is written when all else is, so a build that is killed leaves either a step
that is done or one that is done again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from losparse_runtime.contract.files import write_json

from .digests import combine

FOLDER = ".steps"
"""Within OUT."""
_SHOWN = 40
"""Most characters of a value that a reason shows."""


@dataclass(frozen=True)
class Record:
    """A step that was done.

    Attributes:
        parts: all that determines its result: settings, digests of what it reads, of the code, versions.
        digest: of what it wrote.
        seconds: that it took.
    """

    parts: Mapping[str, Any]
    digest: str
    seconds: float

    @property
    def key(self) -> str:
        """Digest of the parts."""
        return combine([(name, json.dumps(value, sort_keys=True)) for name, value in self.parts.items()])


def record_file(out: Path, step: str) -> Path:
    """Return where the record of a step is."""
    return out / FOLDER / f"{step}.json"


def read_record(out: Path, step: str) -> Record | None:
    """Return the record of a step; None where there is none that can be read."""
    try:
        found = json.loads(record_file(out, step).read_bytes())
        return Record(dict(found["parts"]), str(found["digest"]), float(found["seconds"]))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def write_record(out: Path, step: str, record: Record) -> None:
    """Write the record of a step, whole or not at all."""
    write_json(record_file(out, step), asdict(record))


def forget(out: Path, step: str) -> None:
    """Remove the record of a step, before what it wrote is touched."""
    record_file(out, step).unlink(missing_ok=True)


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return what changed between the parts of a record and those of now, a reason each.

    Args:
        before: of the record.
        now: of the step as it would run.
    """
    old, new = _flat(before), _flat(now)
    reasons = []
    for name in dict.fromkeys([*new, *old]):
        if old.get(name) != new.get(name):
            reasons.append(_reason(name, old.get(name), new.get(name)))
    return list(dict.fromkeys(reasons))


def _reason(name: str, old: Any, new: Any) -> str:
    kind, _, inner = name.partition(".")
    if kind == "code":
        return "losparse's code for it changed"
    if kind == "after":
        return f"{inner} wrote something else"
    if kind == "inputs":
        return f"the contents of {inner} changed"
    return f"{inner}: {_short(old)} -> {_short(new)}"


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."


def _flat(value: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, inner in value.items():
        name = f"{before}.{key}" if before else str(key)
        if isinstance(inner, Mapping) and inner:
            found |= _flat(inner, name)
        else:
            found[name] = list(inner) if isinstance(inner, tuple) else inner
    return found
