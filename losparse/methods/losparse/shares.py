"""The rank part's share of the parameters: one for all layers, or by kind of layer and by name.

    0.05                                 of every layer
    {"attention": 0.05, "ffn": 0}        by kind: attention, ffn, other; what is not listed is 0
    {"*.value": 0.1, "attention": 0.05}  patterns of names, as in targets, win over kinds; the first that matches
    --low-rank attention=0.05 ffn=0      the same as a flag

Loads no torch.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from ...errors import LosparseError, shown
from ...layers.patterns import matches
from ...models.roles import KINDS, kind_of
from ...validation import Numeric, ShareFrom0, WrongValueError, wanted

_NUMBER = Numeric(least=0, most=1)
_WANTED = f"{wanted(ShareFrom0)}, or a table of such numbers by kind of layer ({', '.join(KINDS)}) or name pattern"


class Shares(dict[str, float]):
    """Shares by kind of layer or pattern of names, as a value of a method: a copy that nobody changes."""

    def __hash__(self) -> int:  # type: ignore[override]
        """Hash what it holds: methods are values, and keys of tables."""
        return hash(tuple(self.items()))


@dataclass(frozen=True)
class ByKind:
    """Mark of a field: a share, or a table of them; read from Python, from a file, and from a flag's texts.

    Attributes:
        wanted: what the field must be, in words.
        metavar: of the flag.
    """

    wanted: str = _WANTED
    metavar: str = "S|KIND=S"

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        """Return the check, which makes a table a value."""
        from pydantic_core import core_schema

        return core_schema.no_info_plain_validator_function(self.read)

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> dict[str, Any]:
        """Return a number or a table of them."""
        share = {"type": "number", "minimum": 0, "maximum": 1}
        kinds = {"type": "object", "properties": dict.fromkeys(KINDS, share), "additionalProperties": share}
        return {"anyOf": [share, {**kinds, "minProperties": 1}]}

    def read(self, value: Any) -> float | Shares:
        """Return a number as it is, and a table as `Shares`.

        Raises:
            WrongValueError: it is neither, or a number is out of range.
            LosparseError: a pattern is no regular expression.
        """
        if not isinstance(value, Mapping):
            return self._share("", value, self.wanted)
        if not value:
            raise WrongValueError("", f"must be {self.wanted}, got an empty table; write 0 for no rank part")
        for key in value:
            if not isinstance(key, str) or not key:
                raise WrongValueError("", f"must have kinds of layers or patterns as keys, got {shown(key)}")
            if key not in KINDS:
                matches("", key)  # refuses what is no regular expression
        return Shares({key: self._share(f"of {key!r} ", share, wanted(ShareFrom0)) for key, share in value.items()})

    def from_texts(self, texts: Sequence[str]) -> float | dict[str, float]:
        """Return what the texts of a flag say: one number, or KIND=NUMBER and PATTERN=NUMBER in a row.

        Raises:
            ValueError: they say something else; in words, to be read behind the flag.
        """
        if len(texts) == 1 and "=" not in texts[0]:
            return self._of_text(texts[0])
        pairs = [text.rpartition("=") for text in texts]
        if not all(key for key, _, _ in pairs):
            got = shown(" ".join(texts))
            raise ValueError(f"must be one number, or KIND=NUMBER in a row, got {got}; other arguments stand before it")
        return {key: self._of_text(number, f"of {key!r} ", wanted(ShareFrom0)) for key, _, number in pairs}

    def _of_text(self, text: str, of: str = "", allowed: str = _WANTED) -> float:
        try:
            return float(_NUMBER.read(text, float))
        except ValueError:
            raise ValueError(f"{of}must be {allowed}, got {shown(text)}") from None

    def _share(self, of: str, value: Any, allowed: str) -> float:
        try:
            return float(_NUMBER.read(value, float))
        except ValueError:
            raise WrongValueError("", f"{of}must be {allowed}, got {shown(value)}") from None


LowRank = Annotated[ShareFrom0 | Mapping[str, ShareFrom0], ByKind()]
"""A share of the rank part, or shares by kind of layer and by pattern of names."""


def share_of(low_rank: float | Mapping[str, float], name: str) -> float:
    """Return the share of one layer's rank part.

    Args:
        low_rank: one for all layers, or by kind and pattern.
        name: qualified name of the layer.
    """
    if not isinstance(low_rank, Mapping):
        return low_rank
    for pattern, share in low_rank.items():
        if pattern not in KINDS and matches(name, pattern):
            return share
    return low_rank.get(kind_of(name), 0.0)


def check_patterns(low_rank: float | Mapping[str, float], names: Collection[str]) -> None:
    """Refuse what is no kind of layer and matches no layer of the model.

    Raises:
        LosparseError: see above; with the nearest name.
    """
    for key in low_rank if isinstance(low_rank, Mapping) else ():
        if key in KINDS or any(matches(name, key) for name in names):
            continue
        endings = [f"*.{ending}" for ending in dict.fromkeys(name.rpartition(".")[2] for name in names)]
        found = difflib.get_close_matches(key, [*KINDS, *endings, *names], n=1)
        hint = f"did you mean {found[0]!r}?" if found else f"a layer is {next(iter(names))!r}, for example"
        raise LosparseError(
            f"low_rank names {key!r}, which is no kind of layer ({', '.join(KINDS)}) and matches none of the "
            f"{len(names)} layers; {hint}"
        )


def largest(low_rank: float | Mapping[str, float]) -> float:
    """Return the largest share that a layer may have."""
    return max(low_rank.values()) if isinstance(low_rank, Mapping) else low_rank


def scaled(low_rank: float | Mapping[str, float], share: float) -> float | Mapping[str, float]:
    """Return the same proportions with another largest share."""
    if not isinstance(low_rank, Mapping):
        return share
    most = largest(low_rank)
    return {key: share * one / most if most else 0.0 for key, one in low_rank.items()}


def in_words(low_rank: float | Mapping[str, float]) -> str:
    """Return it as the flag `--low-rank` takes it."""
    if isinstance(low_rank, Mapping):
        return " ".join(f"{key}={share:g}" for key, share in low_rank.items())
    return f"{low_rank:g}"
