"""How a text is continued: how long, by which choice of the next token, and where it ends."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypedDict, cast

import numpy as np

from ..errors import InputError

MOST_BY_DEFAULT = 128
"""New tokens where nobody says how many, and the model has positions for them."""

MOST_STOPS, MOST_CHARACTERS = 64, 1000
"""Stop strings of one call, and characters of one: every piece of text is compared with all of them."""


class Choices(TypedDict, total=False):
    """The arguments of `GenerationSettings`, as `Session.generate` and `Session.stream` take them."""

    max_new_tokens: int | None
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float
    seed: int | None
    stop: str | Iterable[str]
    stop_tokens: Iterable[int] | None


@dataclass(frozen=True)
class GenerationSettings:
    """How texts are continued. What each number does is as in transformers, and in the same order.

    Attributes:
        max_new_tokens: tokens that a text may get, >= 1; by default 128, or as many as the model has positions for.
        temperature: logits are divided by it before a token is drawn, >= 0. At 0 the most likely token is taken, and of
            the four numbers below only repetition_penalty matters.
        top_k: draw from the so many most likely tokens; 0 for all.
        top_p: draw from the fewest tokens whose probabilities sum to it, in 0..1.
        min_p: draw from tokens whose probability is at least this share of the largest one, in 0..1.
        repetition_penalty: logits of tokens that the prompt or the text has already are divided by it where they are
            above 0, multiplied where they are below; > 0, and 1 changes nothing.
        seed: of the random numbers, >= 0: the same seed draws the same tokens. None for another one every time.
        stop: texts that end a text, and are no part of it; a bare string is one.
        stop_tokens: ids of tokens that end a text; by default those of the folder. None at all is ().

    Raises:
        InputError: one of them is wrong.
    """

    max_new_tokens: int | None = None
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    stop: str | Iterable[str] = ()
    stop_tokens: Iterable[int] | None = None

    def __post_init__(self) -> None:
        """Check every one of them."""
        if self.max_new_tokens is not None:
            _whole("max_new_tokens", self.max_new_tokens, 1)
        _whole("top_k", self.top_k, 0, "; 0 is all tokens")
        if self.seed is not None:
            _whole("seed", self.seed, 0, ", or None")
        _number("temperature", self.temperature, 0.0, math.inf, "; 0 takes the most likely token")
        _number("top_p", self.top_p, 0.0, 1.0, "; 1 is all tokens")
        _number("min_p", self.min_p, 0.0, 1.0, "; 0 is all tokens")
        _number("repetition_penalty", self.repetition_penalty, 0.0, math.inf, "; 1 changes nothing", above=True)
        object.__setattr__(self, "stop", _stops(self.stop))
        if self.stop_tokens is not None:
            object.__setattr__(self, "stop_tokens", _ids("stop_tokens", self.stop_tokens))

    @property
    def stops(self) -> tuple[str, ...]:
        """The texts that end a text."""
        return cast(tuple[str, ...], self.stop)

    @property
    def samples(self) -> bool:
        """Whether tokens are drawn."""
        return self.temperature > 0

    def ends(self, of_folder: Iterable[int]) -> frozenset[int]:
        """Return the tokens that end a text.

        Args:
            of_folder: those that the folder names.
        """
        return frozenset(of_folder if self.stop_tokens is None else self.stop_tokens)


def _whole(name: str, value: object, least: int, hint: str = "") -> None:
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < least:
        raise InputError(f"{name} must be a whole number >= {least}{hint}, got {value!r}")


def _number(name: str, value: object, least: float, most: float, hint: str, *, above: bool = False) -> None:
    right = isinstance(value, int | float | np.floating | np.integer) and not isinstance(value, bool)
    number = float(cast(Any, value)) if right else math.nan
    inside = least < number < most if above else least <= number <= most and number < math.inf
    if not inside:
        allowed = f"in {least:g}..{most:g}" if most < math.inf else f"{'>' if above else '>='} {least:g}"
        raise InputError(f"{name} must be a number {allowed}{hint}, got {value!r}")


def _stops(stop: object) -> tuple[str, ...]:
    listed: tuple[object, ...] = (stop,) if isinstance(stop, str) else tuple(_items("stop", stop, "texts"))
    for each in listed:
        if not isinstance(each, str) or not each:
            raise InputError(f"stop must hold texts that are not empty, got {each!r}")
        if len(each) > MOST_CHARACTERS:
            raise InputError(
                f"stop must hold texts of at most {MOST_CHARACTERS:,} characters, got one of {len(each):,}"
            )
    if len(listed) > MOST_STOPS:
        raise InputError(f"stop must hold at most {MOST_STOPS} texts, got {len(listed)}")
    return cast(tuple[str, ...], listed)


def _ids(name: str, ids: object) -> tuple[int, ...]:
    listed = tuple(_items(name, ids, "token ids"))
    for each in listed:
        if not isinstance(each, int | np.integer) or isinstance(each, bool) or each < 0:
            raise InputError(f"{name} must hold token ids, whole numbers >= 0, got {each!r}")
    return tuple(map(int, cast(tuple[Any, ...], listed)))


def _items(name: str, value: object, what: str) -> Iterable[object]:
    if not isinstance(value, Iterable) or isinstance(value, str | bytes | dict):
        raise InputError(f"{name} must be a list of {what}, got {value!r}")
    return value
