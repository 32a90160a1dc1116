"""What may be set of a deployment, and which values are allowed."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from math import isfinite
from typing import Any

from ..errors import InputError

_MIB = 1024 * 1024
_AT_LEAST: dict[str, float] = {
    "cpus": 1,
    "min_replicas": 0,
    "max_replicas": 1,
    "target_ongoing": 1,
    "max_batch": 1,
    "max_tokens_in_batch": 1,
    "max_wait_ms": 0,
    "max_ongoing": 1,
    "max_queued": 1,
    "max_texts": 1,
    "body_bytes": 1024,
}
_FRACTIONS = ("max_wait_ms", "deadline_s")


@dataclass(frozen=True)
class RaySettings:
    """How to serve a folder on Ray.

    Attributes:
        folder: an exported ONNX folder, by a path that every node of the cluster has.
        name: of the deployment.
        variant: of the folder; None for the one that is best where a replica runs.
        cpus: of one replica; as many threads has one run.
        min_replicas: there always are.
        max_replicas: there ever are; more than `min_replicas` come as requests do.
        target_ongoing: requests a replica works at, or has waiting, beyond which another one comes.
        max_batch: texts in one run.
        max_tokens_in_batch: tokens in one run, padding included; a longer text runs alone.
        max_wait_ms: milliseconds that a text may wait for others while nothing runs.
        max_ongoing: requests that a replica takes at a time: those that share runs, and those that wait for the next.
        max_queued: requests that wait beyond that, for each proxy or handle; further ones are refused with 503.
        deadline_s: seconds after which a request without an answer is refused with 504.
        max_texts: texts, windows over a context or rows of tensors that one request may have.
        body_bytes: size of the largest body that is taken over HTTP.
        mixed: join texts in a run also where their answers then depend on each other (int8 with one scale a run).
    """

    folder: str
    name: str = "losparse"
    variant: str | None = None
    cpus: int = 1
    min_replicas: int = 1
    max_replicas: int = 1
    target_ongoing: int = 16
    max_batch: int = 32
    max_tokens_in_batch: int = 4096
    max_wait_ms: float = 0.0
    max_ongoing: int = 64
    max_queued: int = 512
    deadline_s: float = 30.0
    max_texts: int = 256
    body_bytes: int = 8 * _MIB
    mixed: bool = False

    def __post_init__(self) -> None:
        """Check every value.

        Raises:
            InputError: one is out of its range.
        """
        for name, least in _AT_LEAST.items():
            value = getattr(self, name)
            whole = name not in _FRACTIONS
            if not (_is_number(value) and least <= value) or (whole and not isinstance(value, int)):
                raise InputError(f"{name} must be a {'whole ' if whole else ''}number >= {least:g}, got {value!r}")
        if not (_is_number(self.deadline_s) and self.deadline_s > 0):
            raise InputError(f"deadline_s must be a number of seconds above 0, got {self.deadline_s!r}")
        if self.max_replicas < self.min_replicas:
            raise InputError(f"max_replicas must be >= min_replicas ({self.min_replicas}), got {self.max_replicas}")
        for name in ("folder", "name"):
            if not isinstance(getattr(self, name), str) or not getattr(self, name):
                raise InputError(f"{name} must be a text, got {getattr(self, name)!r}")

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as JSON values, which `parse_settings` reads."""
        return asdict(self)


def parse_settings(given: Mapping[str, Any]) -> RaySettings:
    """Read settings from a command line's texts, a configuration file or a user_config.

    Args:
        given: values by name; numbers may be texts, as in `serve run ... cpus=2`.

    Raises:
        InputError: a name is unknown, or a value is no value of it.
    """
    kinds = {field.name: str(field.type) for field in fields(RaySettings)}
    values: dict[str, Any] = {}
    for name, value in given.items():
        if name not in kinds:
            near = difflib.get_close_matches(name, kinds, n=1)
            hint = f"; did you mean {near[0]}?" if near else f"; they are {', '.join(kinds)}"
            raise InputError(f"there is no setting {name!r}{hint}")
        values[name] = _read(name, kinds[name], value)
    if "folder" not in values:
        raise InputError("folder must be given, as in folder=small-onnx")
    return RaySettings(**values)


_SWITCH = {"true": True, "1": True, "false": False, "0": False}


def _read(name: str, kind: str, value: Any) -> Any:
    """Return the value that a text means, of the type of its field."""
    if not isinstance(value, str) or kind.startswith("str"):
        return value
    try:
        if kind == "bool":
            return _SWITCH[value.lower()]
        return int(value) if kind == "int" else float(value)
    except (ValueError, KeyError):
        what = {"bool": "true or false", "int": "a whole number", "float": "a number"}[kind]
        raise InputError(f"{name} must be {what}, got {value!r}") from None


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)
