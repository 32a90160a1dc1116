"""Marks that a field's type carries in `Annotated`: what of the type is allowed.

Each gives pydantic its part of the check when that is asked for; none imports it before.
"""

from __future__ import annotations

import math
import numbers
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
NOT_FINITE = "not finite"
TOO_LARGE = "too large"
LARGEST = 2**31 - 1
"""Of a whole number, where nothing else is said: many are handed to libraries that count in 32 bits."""
_Number = TypeVar("_Number", int, float)
_WHOLE = re.compile(r"[-+]?\d{1,18}")


@dataclass(frozen=True)
class Numeric:
    """A finite number in a range, of numpy too; booleans are none.

    YAML's own rules are not what people expect: PyYAML reads `2e-4` as a text, since YAML 1.1 wants a point in it. So a
    number may be written as text, and a whole number with a fraction of nothing (8.0).

    Attributes:
        above: it is larger than this.
        least: it is this or larger.
        below: it is smaller than this.
        most: it is this or smaller; a whole number is never above `LARGEST` where neither this nor `below` is given.
        texts: whether it may be written as text.
    """

    above: float | None = None
    least: float | None = None
    below: float | None = None
    most: float | None = None
    texts: bool = True

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        """Return a check that converts first."""
        from pydantic_core import core_schema

        limits = {"gt": self.above, "ge": self.least, "lt": self.below, "le": self.most}
        inner = {**handler(source), **{key: limit for key, limit in limits.items() if limit is not None}}
        convert = self._as_whole if inner["type"] == "int" else self._as_float
        return core_schema.no_info_before_validator_function(convert, inner)

    def read(self, value: Any, kind: type) -> float | int:
        """Return a value as this number, without pydantic.

        Args:
            value: number, or a text that spells one.
            kind: int or float.

        Raises:
            ValueError: it is none, or out of range.
        """
        return self._as_whole(value) if kind is int else self._as_float(value)

    def _as_float(self, value: Any) -> float:
        try:
            number = float(self._number(value))
        except OverflowError:  # an integer beyond the range of a float
            number = math.inf
        if not math.isfinite(number):
            raise ValueError(NOT_FINITE)
        return self._in_range(number)

    def _as_whole(self, value: Any) -> int:
        number = self._number(value)
        if isinstance(number, float) and not number.is_integer():
            raise ValueError("it has a fraction, or is not finite")
        if self.most is None and self.below is None and number > LARGEST:
            raise ValueError(TOO_LARGE)
        return self._in_range(int(number))

    def _number(self, value: Any) -> float | int:
        if isinstance(value, str) and self.texts and _NUMBER.fullmatch(value.strip()):
            text = value.strip()
            return int(text) if _WHOLE.fullmatch(text) else float(text)
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            raise ValueError("not a number")
        return int(value) if isinstance(value, numbers.Integral) else float(value)

    def _in_range(self, number: _Number) -> _Number:
        """Refuse here, where the message can still show what came; pydantic's own limits are for the JSON schema."""
        above = (self.above is None or number > self.above) and (self.least is None or number >= self.least)
        below = (self.below is None or number < self.below) and (self.most is None or number <= self.most)
        if not (above and below):
            raise ValueError("out of range")
        return number


@dataclass(frozen=True)
class Strictly:
    """Of this very type: 1 is not true."""

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        """Return the type's own check, without conversions."""
        return {**handler(source), "strict": True}


@dataclass(frozen=True)
class Writable:
    """A text that a file can hold: halves of characters, as JSON can say them, have no UTF-8."""

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        """Return the type's own check, and this one after it."""
        from pydantic_core import core_schema

        return core_schema.no_info_after_validator_function(self._written, handler(source))

    def _written(self, value: str) -> str:
        value.encode()  # raises UnicodeEncodeError, a ValueError
        return value


@dataclass(frozen=True)
class NotEmpty:
    """A text, list or table that holds something."""

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        """Return the type's own check, with a shortest length."""
        found = handler(source)
        if "schema" in found:  # of a type with another check after its own, as `Writable`
            return {**found, "schema": {**found["schema"], "min_length": 1}}
        return {**found, "min_length": 1}


@dataclass(frozen=True)
class AloneToo:
    """A list of texts, of which a single one may stand alone: `precision: int8`."""

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        """Return a check that makes a list of a text first."""
        from pydantic_core import core_schema

        return core_schema.no_info_before_validator_function(self._listed, handler(source))

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> dict[str, Any]:
        """Return the list, or what it is a list of."""
        listed = handler(schema)
        return {"anyOf": [listed, listed["items"]]}

    def _listed(self, value: Any) -> Any:
        return [value] if isinstance(value, str) else value


@dataclass(frozen=True)
class OneOf:
    """One of some texts, where they are known from a table and not from a `Literal`.

    Attributes:
        values: returns them; it is asked at every check, so that what is added to the table counts.
        meanings: returns what each of them means, for help; None where a docstring says it.
    """

    values: Callable[[], Iterable[str]]
    meanings: Callable[[], Mapping[str, str]] | None = None

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        """Return the check of a text."""
        from pydantic_core import core_schema

        return core_schema.no_info_after_validator_function(self._known, core_schema.str_schema(strict=True))

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> dict[str, Any]:
        """Return the texts."""
        return {"type": "string", "enum": list(self.values())}

    def _known(self, value: str) -> str:
        if value not in self.values():
            raise ValueError("none of them")
        return value


@dataclass(frozen=True)
class Says:
    """What a field must be, in words, where its type says it badly."""

    wanted: str


_SIZE = re.compile(r"(\d+\.?\d*|\.\d+)\s*([kKMG]?i?)B?")
_UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "ki": 2**10, "Mi": 2**20, "Gi": 2**30}


@dataclass(frozen=True)
class Bytes:
    """A number of bytes above 0, which may be written with a unit: 20MB, 1.5 GiB."""

    wanted: str = "a number of bytes above 0, as in 20MB or 20000000"

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        """Return a check that converts."""
        from pydantic_core import core_schema

        return core_schema.no_info_plain_validator_function(self._read)

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> dict[str, Any]:
        """Return a schema of a number or a text."""
        return {"anyOf": [{"type": "integer", "exclusiveMinimum": 0}, {"type": "string"}]}

    def _read(self, value: Any) -> int:
        if isinstance(value, str):
            match = _SIZE.fullmatch(value.strip())
            if match is None or match[2].replace("K", "k") not in _UNITS:
                raise ValueError("no size")
            value = float(match[1]) * _UNITS[match[2].replace("K", "k")]
        whole = Numeric(above=0, most=2**62).read(round(value) if isinstance(value, float) else value, int)
        return int(whole)


OneOrMore = Annotated[int, Numeric(least=1)]
Threads = Annotated[int, Numeric(least=1, most=1024)]
ZeroOrMore = Annotated[int, Numeric(least=0)]
Positive = Annotated[float, Numeric(above=0)]
NotNegative = Annotated[float, Numeric(least=0)]
Share = Annotated[float, Numeric(above=0, most=1)]
ShareFrom0 = Annotated[float, Numeric(least=0, most=1)]
ShareBelow1 = Annotated[float, Numeric(least=0, below=1)]
ShareBetween = Annotated[float, Numeric(above=0, below=1)]
Flag = Annotated[bool, Strictly()]
AnyText = Annotated[str, Strictly(), Writable()]
Size = Annotated[int, Bytes()]
