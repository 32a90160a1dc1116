"""argparse as losparse uses it: one line for an error, and flags made from the fields of a dataclass."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import json
import typing
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, Literal, NoReturn

from ..errors import LosparseError, shown
from ..validation import Numeric, OneOf, wanted
from ..validation.fields import attribute_docs, field_types, members, unwrap
from ..validation.marks import TOO_LARGE
from ..validation.words import did_you_mean, in_range


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
        if self.rest is not None:
            at = left.index("--") if "--" in left else len(left)
            late = [each for each in left[:at] if not each.startswith("-")] + left[at + 1 :]
            setattr(found, self.rest, [*getattr(found, self.rest), *late])
            left = [each for each in left[:at] if each.startswith("-")]
        if left:
            self._refuse(left)
        return found, left

    def _refuse(self, left: Sequence[str]) -> NoReturn:
        """Raise what argparse would say of arguments it does not know, with the flag that is nearest to the first."""
        flag = next((each.partition("=")[0] for each in left if each.startswith("--")), "")
        names = [each.lstrip("-") for each in self._option_string_actions]
        found = difflib.get_close_matches(flag.lstrip("-"), names, n=1)
        self.error(f"unrecognized arguments: {' '.join(left)}" + (f"; did you mean --{found[0]}?" if found else ""))

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """Refuse a value that is not among a flag's, with the nearest of them."""
        try:
            super()._check_value(action, value)
        except argparse.ArgumentError as error:
            error.message += did_you_mean(value, list(map(str, action.choices or ())))
            raise

    def error(self, message: str) -> NoReturn:
        """Raise what argparse would print with its usage.

        Raises:
            LosparseError: always.
        """
        raise LosparseError(f"{message}; see {self.prog} --help")


class PrintSchema(argparse.Action):
    """A flag that prints the JSON schema of a file and ends the command; `const` returns the schema."""

    def __init__(self, option_strings: Sequence[str], dest: str, const: Callable[[], Any], **options: Any) -> None:
        """Build the flag; it takes no value."""
        super().__init__(option_strings, dest=argparse.SUPPRESS, nargs=0, const=const, help=options["help"])

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> NoReturn:
        """Print the schema."""
        print(json.dumps(self.const(), indent=2, ensure_ascii=False))
        raise SystemExit(0)


class OneOrSeveral(argparse.Action):
    """A flag of several values, of which a single one is meant alone."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        """Keep the value, or the list of them."""
        setattr(namespace, self.dest, values[0] if len(values) == 1 else values)


class Together(argparse.Action):
    """A flag of several texts that say one value; `const` is the mark of the field, which reads them."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        """Keep the value."""
        try:
            setattr(namespace, self.dest, self.const.from_texts(values))
        except ValueError as error:
            raise argparse.ArgumentError(self, str(error)) from None


def texts_options(mark: Any) -> dict[str, Any]:
    """Return argparse options of a flag whose texts a mark reads."""
    return {"nargs": "+", "metavar": mark.metavar, "action": Together, "const": mark}


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
    """Add one flag for every field of checked dataclasses; a field that several have is one flag.

    Flags that are not given leave nothing in the namespace, so that a recipe file can be told from a flag.

    Args:
        parser: gets a group of flags.
        title: of the group; flags end up in the namespace as `title.field`.
        kinds: dataclasses; their docstrings' `Attributes` sections are the help, and their types say the ranges.
        names: what the user calls them; the help then says which of them have a field, and what it means to each.

    Raises:
        TypeError: a field of a type that one flag cannot give, or that several dataclasses have with different types.
    """
    called = dict(zip(kinds, names or [kind.__name__ for kind in kinds], strict=True))
    group = parser.add_argument_group(f"{title} (keys of `{title}` in a recipe file)")
    for name, owners in _fields(kinds).items():
        hint = _common(name, [field_types(owner)[name] for owner in owners])
        group.add_argument(
            f"--{name.replace('_', '-')}",
            dest=f"{title}.{name}",
            help=_help(name, owners, called if names else {}) + _notes(hint, _default(name, owners, called)),
            **_value_options(name, hint),
        )


def _common(name: str, hints: Sequence[Any]) -> Any:
    """Return the one type of a field that several dataclasses have; that with None, where some have it.

    Raises:
        TypeError: they differ in more than that.
    """
    widest = max(hints, key=lambda hint: len(members(hint)))
    for hint in hints:
        if hint != widest and (*members(hint), type(None)) != members(widest):
            raise TypeError(f"field {name!r} has several types, so one flag cannot give it")
    return widest


def add_field_flags(parser: argparse._ActionsContainer, title: str, kind: type, leave_out: Sequence[str]) -> None:
    """Add one flag for every field of a checked dataclass but some; as `add_dataclass_flags`, in no group.

    Args:
        parser: gets the flags.
        title: flags end up in the namespace as `title.field`.
        kind: dataclass.
        leave_out: fields that get none.
    """
    for name, hint in field_types(kind).items():
        if name not in leave_out:
            parser.add_argument(
                f"--{name.replace('_', '-')}",
                dest=f"{title}.{name}",
                help=_help(name, [kind], {}) + _meanings(hint) + _notes(hint, _default(name, [kind], {kind: title})),
                **_value_options(name, hint),
            )


def _meanings(hint: Any) -> str:
    """Return what each of some texts means that a field is chosen from, where their mark says it; else nothing."""
    kind, _ = unwrap(hint)
    item = typing.get_args(kind)[0] if _is_tuple(kind) else hint
    known = next((mark.meanings for mark in unwrap(item)[1] if isinstance(mark, OneOf) and mark.meanings), None)
    meanings = {} if known is None else known()
    said = "; ".join(f"{name}: {meaning}" for name, meaning in meanings.items()).replace("%", "%%")
    return f" {said}" if said else ""


def _notes(hint: Any, default: str) -> str:
    """Return the range and the default of a field, for the end of its help."""
    notes = [note for note in (in_range(hint).removeprefix(" of").strip(), default) if note]
    return f" ({'; '.join(notes)})" if notes else ""


def _help(name: str, owners: Sequence[type], called: dict[type, str]) -> str:
    """Return what a field means; where it is called by several names of dataclasses, to each of them."""
    meanings: dict[str, list[type]] = {}
    for kind in owners:
        meanings.setdefault(attribute_docs(kind).get(name, "").replace("%", "%%"), []).append(kind)
    if not called or (len(meanings) == 1 and len(owners) == len(called)):
        return next(iter(meanings))
    parts = (f"{text} [{', '.join(called[kind] for kind in kinds)}]" for text, kinds in meanings.items())
    return " ".join(parts)


def _default(name: str, owners: Iterable[type], called: dict[type, str]) -> str:
    """Return the default of a field in words; of each dataclass where they differ; empty for None."""
    by_value: dict[Any, list[str]] = {}
    for kind in owners:
        default = next(field.default for field in dataclasses.fields(kind) if field.name == name)
        if default is not dataclasses.MISSING and default != ():
            by_value.setdefault(default, []).append(called[kind])
    if len(by_value) > 1:
        common = max(by_value, key=lambda value: len(by_value[value]))
        others = (f"{value} for {', '.join(kinds)}" for value, kinds in by_value.items() if value != common)
        return "default " + "; ".join([str(common), *others])
    return next((f"default {_shown(value)}" for value in by_value if value is not None), "")


def _shown(value: Any) -> str:
    """Return a default as a command line has it."""
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def given(options: argparse.Namespace, title: str) -> dict[str, Any]:
    """Return the flags of a group that the user gave, by field name."""
    prefix = f"{title}."
    return {name.removeprefix(prefix): value for name, value in vars(options).items() if name.startswith(prefix)}


def _fields(kinds: Iterable[Any]) -> dict[str, list[type]]:
    """Return the dataclasses that have each field."""
    found: dict[str, list[type]] = {}
    for kind in kinds:
        for name in field_types(kind):
            found.setdefault(name, []).append(kind)
    return found


def _value_options(name: str, hint: Any) -> dict[str, Any]:
    """Return argparse options for a field's type.

    That is bool, int, float, str, texts that are chosen from, several of one of them, one or several, one or None, or
    what a mark of the type reads of several texts.
    """
    marks_of_all = [mark for member in members(hint, said=True) for mark in unwrap(member)[1]]
    together = next((mark for mark in marks_of_all if hasattr(mark, "from_texts")), None)
    if together is not None:
        return {"default": argparse.SUPPRESS, **texts_options(together)}
    choices = [member for member in members(hint) if member is not type(None)]
    kind, marks = unwrap(choices[0])
    several = next((typing.get_args(kind)[0] for kind, _ in map(unwrap, choices) if _is_tuple(kind)), None)
    listed = next((mark.values() for mark in marks if isinstance(mark, OneOf)), None)
    options: dict[str, Any] = {"default": argparse.SUPPRESS}
    if several is not None:
        item, item_marks = unwrap(several)
        action = {"action": OneOrSeveral} if len(choices) > 1 else {}
        metavar = "NAME" if any(isinstance(mark, OneOf) for mark in item_marks) else item.__name__.upper()
        return options | {"type": _reader(several), "nargs": "+", "metavar": metavar, **action}
    if len(choices) == 1 and kind is bool:
        return options | {"action": argparse.BooleanOptionalAction}
    if len(choices) == 1 and (listed is not None or typing.get_origin(kind) is Literal):
        texts = list(listed or typing.get_args(kind))
        return options | {"choices": texts, **({} if isinstance(texts[0], str) else {"type": type(texts[0])})}
    if len(choices) > 1 or kind not in (int, float, str):
        raise TypeError(f"field {name!r} of type {hint} cannot be a flag")
    return options | {"type": _reader(hint), "metavar": kind.__name__.upper()}


def _is_tuple(kind: Any) -> bool:
    return typing.get_origin(kind) is tuple


def _reader(hint: Any) -> Callable[[str], Any]:
    """Return what reads the text of a flag as a field's type; `none` is None where the field may be."""
    optional = type(None) in members(hint)
    present = next(member for member in members(hint) if member is not type(None))
    kind, marks = unwrap(present)
    none = ", or none" if optional else ""
    number = next((mark for mark in marks if isinstance(mark, Numeric)), None)

    def read(text: str) -> Any:
        if optional and text.lower() == "none":
            return None
        try:
            return kind(text) if number is None else replace(number, texts=True).read(text, kind)
        except ValueError as error:
            allowed = wanted(present, largest=str(error) == TOO_LARGE) + none
            raise argparse.ArgumentTypeError(f"must be {allowed}, got {shown(text)}") from None

    return read


def positive_int(text: str) -> int:
    """Parse a whole number above 0, for argparse."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, got {value}")
    return value
