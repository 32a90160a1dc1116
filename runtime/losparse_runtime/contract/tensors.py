"""Tensors of a graph by name: element type, named axes, and what part an input plays.

Names of inputs are spelt here and nowhere else. Whoever feeds a model asks for the input of a role.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray

from .fields import Fields

Arrays = dict[str, NDArray[Any]]

BATCH, SEQUENCE, PAST, SOURCE = "batch", "sequence", "past", "source"
"""Free axes: texts, tokens of this run, tokens of earlier runs, tokens that an encoder read."""
TOTAL = f"{PAST}+{SEQUENCE}"
"""Tokens of earlier runs and of this one."""

Role = Literal["tokens", "mask", "types", "positions", "memory", "memory mask", "other"]
"""What an input is for.

tokens       ids of tokens
mask         1 at tokens of a text, 0 at padding; over (batch, past+sequence) where a graph has a past
types        which text of a pair a token belongs to
positions    of tokens in their text
memory       what a decoder reads of its encoder
memory mask  1 at the encoder's tokens of a text
other        anything else: states too, which a signature names by themselves
"""

TOKENS, MASK, TYPES, POSITIONS = "input_ids", "attention_mask", "token_type_ids", "position_ids"
"""What transformers, its tokenizers and our graphs call the first four."""

TEXT_INPUTS = (TOKENS, MASK, TYPES)
"""What a tokenizer makes of texts."""

DECODER_TOKENS, DECODER_MASK = f"decoder_{TOKENS}", f"decoder_{MASK}"
"""What a batch for training an encoder-decoder calls those of its decoder."""

_ROLES: dict[str, Role] = {
    TOKENS: "tokens",
    MASK: "mask",
    TYPES: "types",
    POSITIONS: "positions",
    "encoder_hidden_states": "memory",
    f"encoder_{MASK}": "memory mask",
}

# Element types by the name onnxruntime gives them, and by the name numpy gives them.
ORT_DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(int64)": "int64",
    "tensor(int32)": "int32",
    "tensor(bool)": "bool",
}
DTYPES = tuple(ORT_DTYPES.values())
_MOST = 2**31 - 1  # of a size


LOGITS_FROM = "logits_from"
"""An initialiser of a language model's graph that may be fed, int64 (1,): the token of the run from which on logits are
computed; 0, its value otherwise, for all, -1 for the last one."""

_PAST_PREFIX, _PRESENT_PREFIX = "past_key_values.", "present."


def past_name(layer: int, kind: str) -> str:
    """Return what the ecosystem calls keys ("key") or values ("value") that a layer takes of earlier tokens."""
    return f"{_PAST_PREFIX}{layer}.{kind}"


def present_of(past: str) -> str | None:
    """Return the name of the output that belongs to such an input; None where the name is another's."""
    return f"{_PRESENT_PREFIX}{past.removeprefix(_PAST_PREFIX)}" if past.startswith(_PAST_PREFIX) else None


def role_of(name: str) -> Role:
    """Return what the input of a name is for by custom; "other" for a name that has none."""
    return _ROLES.get(name, "other")


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of the model.

    Attributes:
        name: its name in the graph.
        dtype: the numpy name of its element type.
        shape: one entry an axis: a size, or the name of an axis whose size is free ("batch", "sequence").
        stated_role: what an input is for, where its name does not say by custom.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    stated_role: Role | None = field(default=None, repr=False)

    @property
    def role(self) -> Role:
        """What an input is for."""
        return self.stated_role or role_of(self.name)

    def sized(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """Return the shape with free axes of the sizes given.

        Raises:
            KeyError: an axis has none.
        """
        return tuple(axis if isinstance(axis, int) else sizes[axis] for axis in self.shape)

    def to_dict(self) -> dict[str, Any]:
        """Return the tensor as JSON values."""
        stated = {} if self.stated_role is None else {"role": self.stated_role}
        return {"name": self.name, "dtype": self.dtype, "shape": list(self.shape), **stated}


def parse_tensor(fields: Fields) -> TensorSpec:
    """Check one tensor of a signature's JSON form.

    Raises:
        FolderError: a field is missing or of the wrong type.
    """
    name, dtype, shape = fields.text("name"), fields.choice("dtype", DTYPES), _shape(fields)
    stated = cast(Role, fields.choice("role", get_args(Role))) if "role" in fields.data else None
    return TensorSpec(name, dtype, shape, stated)


def _shape(fields: Fields) -> tuple[int | str, ...]:
    shape = fields.data.get("shape")
    if not isinstance(shape, list) or not all(_is_axis(axis) for axis in shape):
        fields.fail("shape", f"a list of axis names and sizes in 1..{_MOST}")
    return tuple(shape)


def _is_axis(axis: object) -> bool:
    if isinstance(axis, str):
        return bool(axis)
    return isinstance(axis, int) and not isinstance(axis, bool) and 1 <= axis <= _MOST


@dataclass(frozen=True)
class State:
    """What a run leaves for the next one of the same texts.

    Attributes:
        past: the input that takes it.
        present: the output that gives it.
        in_place: whether one buffer may be bound as both: a run then writes what is new behind what is there, of every
            text where its mask ends, and the buffer may have room for more than the run needs.
    """

    past: str
    present: str
    in_place: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return the state as JSON values."""
        return {"past": self.past, "present": self.present, **({"in_place": True} if self.in_place else {})}


@dataclass(frozen=True)
class Vocabulary:
    """The ids a model takes: what bounds its inputs, and what random ones are drawn from.

    Attributes:
        size: ids of tokens are below it; None where nobody says.
        types: token types are below it; None where nobody says.
        padding: the token of padding; None for none.
        end: the token that ends every text once, where a head finds its place by it (BART); None where none does.
        drawn: random ids are below it where nobody says `size`.
    """

    size: int | None = None
    types: int | None = None
    padding: int | None = None
    end: int | None = None
    drawn: int | None = None

    @property
    def filler(self) -> int:
        """What stands in the place of a token that is not there."""
        return self.padding or 0

    @property
    def below(self) -> int | None:
        """Random ids are below it; None where nobody says."""
        return self.drawn if self.size is None else self.size


def end_rows_(ids: NDArray[Any], mask: NDArray[Any], vocabulary: Vocabulary) -> None:
    """End every text, and nothing else, with the token that a head finds its place by.

    Args:
        ids: token ids (batch, length), changed in place; they stay as they are for a model that reads no such token.
        mask: 1 at the tokens of a text, 0 at padding; (batch, length).
        vocabulary: of the model.
    """
    end, size = vocabulary.end, vocabulary.below or 0
    other = next((token for token in range(min(size, 3)) if token not in (end, vocabulary.padding)), None)
    if end is None or other is None or end >= size:
        return
    ids[ids == end] = other
    ids[np.arange(len(ids)), mask.shape[1] - 1 - mask[:, ::-1].argmax(1)] = end
