"""Checked dataclasses: recipes, plans and files say what a value may be once, in the types of their fields.

    @checked
    class Training:
        epochs: Positive = 4.0          # Training(epochs=-1) is refused in one line, and so is a file that says it

A field's type and its marks (`marks`) give the check, the words of the message, the flag of the command line with its
range, and the JSON schema. pydantic does the work; it is imported when the first value is made, so that classes cost
nothing to define, and commands that make none do without it.

checked     dataclasses whose values are checked
marks       what of a type is allowed
by_name     a field that holds one of several dataclasses
fields      the fields of a dataclass, and what its docstring says of them
words       what a type allows, in words
messages    what is wrong, in one line
documents   JSON and YAML files, and the line of every key
"""

from .by_name import ByName
from .checked import checked, json_schema, read_as
from .marks import (
    AloneToo,
    AnyText,
    Flag,
    NotEmpty,
    NotNegative,
    Numeric,
    OneOf,
    OneOrMore,
    Positive,
    Says,
    Share,
    ShareBelow1,
    ShareBetween,
    ShareFrom0,
    Size,
    Threads,
    ZeroOrMore,
)
from .messages import WrongValueError
from .words import wanted

__all__ = [
    "AloneToo",
    "AnyText",
    "ByName",
    "Flag",
    "NotEmpty",
    "NotNegative",
    "Numeric",
    "OneOf",
    "OneOrMore",
    "Positive",
    "Says",
    "Share",
    "ShareBelow1",
    "ShareBetween",
    "ShareFrom0",
    "Size",
    "Threads",
    "WrongValueError",
    "ZeroOrMore",
    "checked",
    "json_schema",
    "read_as",
    "wanted",
]
