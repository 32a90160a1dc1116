"""argparse as losparse uses it: one line for an error, and flags made from the fields of a dataclass."""

from __future__ import annotations

import argparse
import dataclasses
import re
import types
import typing
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, NoReturn

from ..errors import LosparseError


class CommandParser(argparse.ArgumentParser):
    """A parser that raises instead of exiting, and takes no abbreviated flags.

    Attributes:
        rest: destination of the positional that takes any number, wherever they stand: argparse itself gives such a
            positional what follows the others at once, and calls what comes behind a flag unrecognized.
    """

    rest: str | None = None

    def __init__(self, **options: Any) -> None:
        """Build the parser; `allow_abbrev` is off, so that a new flag cannot change what an old command means."""
        super().__init__(**{"allow_abbrev": False, **options})

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """Parse as argparse does, and give `rest` what it left over, but for what looks like a flag."""
        found, left = super().parse_known_args(args, namespace)
        if self.rest is None:
            return found, left
        at = left.index("--") if "--" in left else len(left)
        late = [each for each in left[:at] if not each.startswith("-")] + left[at + 1 :]
        setattr(found, self.rest, [*getattr(found, self.rest), *late])
        return found, [each for each in left[:at] if each.startswith("-")]

    def error(self, message: str) -> NoReturn:
        """Raise what argparse would print with its usage.

        Raises:
            LosparseError: always.
        """
        raise LosparseError(f"{message}; see {self.prog} --help")


class OneMore(argparse.Action):
    """A flag that may be given several times, a value each; the first one takes the place of the default."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        """Keep one more value."""
        before = getattr(namespace, self.dest)
        setattr(namespace, self.dest, [*([] if before is self.default else before), values])


def refuse_idle(options: argparse.Namespace, names: Sequence[str], needed: Sequence[str]) -> None:
    """Refuse options that would change nothing: whoever gives one expects it to matter.

    Args:
        options: what was given.
        names: of options that are None, or missing, unless given.
        needed: of options of which one must be given (not None, not False) for the others to matter.

    Raises:
        LosparseError: one of `names` is given and none of `needed`.
    """
    idle = [name for name in names if getattr(options, name, None) is not None]
    if idle and all(getattr(options, name) in (None, False) for name in needed):
        flags = " or ".join(f"--{name.replace('_', '-')}" for name in needed)
        raise LosparseError(f"--{idle[0].replace('_', '-')} does nothing without {flags}; add that, or leave it out")


def add_dataclass_flags(parser: argparse.ArgumentParser, title: str, *kinds: type, names: Sequence[str] = ()) -> None:
    """Add one flag for every field of the dataclasses; a field that several have is one flag.

    Flags that are not given leave nothing in the namespace, so that a recipe file can be told from a flag.

    Args:
        parser: gets a group of flags.
        title: of the group; flags end up in the namespace as `title.field`.
        kinds: dataclasses; their docstrings' `Attributes` sections are the help.
        names: what the user calls them; the help then says which of them have a field, and what it means to each.
    """
    called = dict(zip(kinds, names or [kind.__name__ for kind in kinds], strict=True))
    group = parser.add_argument_group(f"{title} (keys of `{title}` in a recipe file)")
    for name, owners in _fields(kinds).items():
        kind = typing.get_type_hints(owners[0])[name]
        options: dict[str, Any] = {"dest": f"{title}.{name}", "default": argparse.SUPPRESS}
        options["help"] = _help(name, owners, called if names else {})
        if kind is bool:
            options["action"] = argparse.BooleanOptionalAction
        else:
            options |= _value_options(kind, name)
        if (default := _default(name, owners, called)) is not None:
            options["help"] += f" (default {default})"
        group.add_argument(f"--{name.replace('_', '-')}", **options)


def _help(name: str, owners: Sequence[type], called: dict[type, str]) -> str:
    """Return what a field means; where it is called by several names of dataclasses, to each of them."""
    meanings: dict[str, list[type]] = {}
    for kind in owners:
        meanings.setdefault(_attribute_docs(kind).get(name, ""), []).append(kind)
    if not called or (len(meanings) == 1 and len(owners) == len(called)):
        return next(iter(meanings))
    parts = (f"{text} [{', '.join(called[kind] for kind in kinds)}]" for text, kinds in meanings.items())
    return " ".join(parts)


def _default(name: str, owners: Iterable[type], called: dict[type, str]) -> str | None:
    """Return the default of a field in words; of each dataclass where they differ."""
    by_value: dict[Any, list[str]] = {}
    for kind in owners:
        default = next(field.default for field in dataclasses.fields(kind) if field.name == name)
        if default is not dataclasses.MISSING:
            by_value.setdefault(default, []).append(called[kind])
    if len(by_value) > 1:
        common = max(by_value, key=lambda value: len(by_value[value]))
        others = (f"{value} for {', '.join(kinds)}" for value, kinds in by_value.items() if value != common)
        return "; ".join([str(common), *others])
    return next((str(value) for value in by_value if value is not None), None)


def given(options: argparse.Namespace, title: str) -> dict[str, Any]:
    """Return the flags of a group that the user gave, by field name."""
    prefix = f"{title}."
    return {name.removeprefix(prefix): value for name, value in vars(options).items() if name.startswith(prefix)}


def _fields(kinds: Iterable[Any]) -> dict[str, list[type]]:
    """Return the dataclasses that have each field."""
    found: dict[str, list[type]] = {}
    for kind in kinds:
        for field in dataclasses.fields(kind):
            if field.init:
                found.setdefault(field.name, []).append(kind)
    return found


def _attribute_docs(kind: type) -> dict[str, str]:
    """Return the `Attributes` sections of a dataclass and its bases, one line a field."""
    docs: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        section = re.search(r"^    Attributes:\n((?:        .*\n?|\s*\n)+)", base.__doc__ or "", re.MULTILINE)
        for entry in re.finditer(r"^ {8}(\w+): (.+(?:\n {9,}.+)*)", section[1] if section else "", re.MULTILINE):
            docs[entry[1]] = " ".join(entry[2].split()).replace("%", "%%")
    return docs


def _value_options(kind: Any, name: str) -> dict[str, Any]:
    """Return argparse options for a field's type: int, float, str, a Literal, or one of them or None."""
    inner = [part for part in typing.get_args(kind) if part is not type(None)]
    optional = isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union
    if typing.get_origin(kind) is Literal:
        return {"choices": inner}
    if optional and len(inner) == 1 and inner[0] in (int, float, str):
        return {"type": _or_none(inner[0]), "metavar": inner[0].__name__.upper()}
    if kind in (int, float, str):
        return {"type": kind, "metavar": kind.__name__.upper()}
    raise TypeError(f"field {name!r} of type {kind} cannot be a flag")


def _or_none(kind: type) -> Callable[[str], Any]:
    def parse(text: str) -> Any:
        return None if text.lower() == "none" else kind(text)

    parse.__name__ = kind.__name__  # argparse names it in "invalid float value"
    return parse


def positive_int(text: str) -> int:
    """Parse a whole number above 0, for argparse."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, got {value}")
    return value
