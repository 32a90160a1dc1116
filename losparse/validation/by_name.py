"""A field that holds one of several dataclasses, which a file chooses by their names."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import shown
from .checked import json_schema, read_as
from .messages import WrongValueError
from .words import TABLE, did_you_mean


@dataclass(frozen=True, eq=False)
class ByName:
    """Mark of a field: one of several checked dataclasses, whose key `name` in a file says which.

    Attributes:
        kinds: by name; what is added later counts.
        nothing: name that stands for None and has no settings.
        is_value: tells a value that is taken as it is: of these classes, or of a user's own.
        example: of such a value, for the message.
    """

    kinds: Mapping[str, type]
    nothing: str
    is_value: Callable[[Any], bool]
    example: str

    @property
    def wanted(self) -> str:
        """What the field must be, in words."""
        return f"{TABLE}, or a value such as {self.example}"

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        """Return the check, which reads a table as the class that it names."""
        from pydantic_core import core_schema

        return core_schema.no_info_plain_validator_function(self.read)

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> dict[str, Any]:
        """Return a schema for each class, with its name as a constant."""
        choices: list[dict[str, Any]] = [_named(self.nothing, {"type": "object", "additionalProperties": False})]
        choices += [_named(name, json_schema(kind)) for name, kind in self.kinds.items()]
        return {"anyOf": choices}

    def read(self, value: Any) -> Any:
        """Return a table as the class that it names, or None; other values as they are.

        Raises:
            WrongValueError: no such name, or a key or value that its class does not take.
        """
        if value is None or self.is_value(value):
            return value
        if not isinstance(value, Mapping):
            raise WrongValueError("", f"must be {self.wanted}, got {shown(value)}{self._as_table(value)}")
        if "name" not in value:
            got = f", got {', '.join(map(str, value))}" if value else ""
            raise WrongValueError("", f"needs a name, one of {', '.join(self._names)}{got}")
        name = value["name"]
        settings = {key: setting for key, setting in value.items() if key != "name"}
        if name == self.nothing:
            if settings:
                raise WrongValueError(
                    "", f"{name!r} has no settings, got {', '.join(map(str, settings))}; leave them out"
                )
            return None
        if not isinstance(name, str) or name not in self.kinds:
            hint = did_you_mean(name, self._names)
            raise WrongValueError("name", f"must be one of {', '.join(self._names)}, got {shown(name)}{hint}")
        try:
            return read_as(self.kinds[name], settings)
        except WrongValueError as error:
            if not error.unknown:
                raise
            raise WrongValueError(error.path, f" of {name!r}{error.said}", unknown=True) from None

    @property
    def _names(self) -> list[str]:
        return [*sorted(self.kinds), self.nothing]

    def _as_table(self, value: Any) -> str:
        """Return how a name that stands alone is written in a file; nothing of other values."""
        found = difflib.get_close_matches(value, self._names, n=1) if isinstance(value, str) else []
        return f"; in a file write {{name: {found[0]}}}" if found else ""


def _named(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    properties = {"name": {"const": name}, **schema.get("properties", {})}
    return {**schema, "title": name, "properties": properties, "required": ["name", *schema.get("required", ())]}
