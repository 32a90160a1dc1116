"""What an embedding folder does with texts before the tokens and with vectors behind the pooling.

The settings and their meaning are those of sentence-transformers, so that a vector is the same number by number.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ..errors import InputError
from .fields import Fields

POOLINGS = ("mean", "cls", "max", "lasttoken", "mean_sqrt_len_tokens", "weightedmean")
SIMILARITIES = ("cosine", "dot", "euclidean", "manhattan")


@dataclass(frozen=True)
class Embedding:
    """Settings of an embedding folder beside its pooling; folders of earlier writers have the defaults.

    Attributes:
        prompts: what is put in front of a text, by name: "query: " for one that searches, say.
        default_prompt_name: the prompt of texts for which none is asked; None for none.
        include_prompt: whether the tokens of a prompt count when tokens are pooled.
        truncate_dim: numbers of a vector that are kept, the first ones; None for all.
        similarity: how its makers compare two vectors, one of `SIMILARITIES`; None where they do not say.
    """

    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt_name: str | None = None
    include_prompt: bool = True
    truncate_dim: int | None = None
    similarity: str | None = None

    def prompt(self, text: str | None = None, name: str | None = None) -> str:
        """Return what is put in front of texts.

        Args:
            text: the prompt itself; "" for none.
            name: of one of `prompts`.

        Raises:
            InputError: both are given, the text is no string, or there is no prompt of that name.
        """
        if text is not None and name is not None:
            raise InputError("prompt and prompt_name must not be given both; leave one of them out")
        if text is not None:
            if not isinstance(text, str):
                raise InputError(f"prompt must be a string, got {type(text).__name__}")
            return text
        name = self.default_prompt_name if name is None else name
        if name is None:
            return ""
        if name not in self.prompts:
            known = ", ".join(map(repr, self.prompts)) or "none"
            raise InputError(f"prompt_name must be one of the folder's prompts ({known}), got {name!r}")
        return self.prompts[name]


def parse_embedding(fields: Fields) -> Embedding:
    """Check the object `embedding` of `losparse.json`.

    Raises:
        FolderError: a field is missing, of the wrong type, or the default names no prompt.
    """
    prompts = fields.object("prompts").data
    if not all(isinstance(text, str) for text in prompts.values()):
        fields.fail("prompts", "an object of strings")
    default = None if fields.is_null("default_prompt_name") else fields.choice("default_prompt_name", tuple(prompts))
    return Embedding(
        prompts=prompts,
        default_prompt_name=default,
        include_prompt=fields.flag("include_prompt"),
        truncate_dim=None if fields.is_null("truncate_dim") else fields.integer("truncate_dim", 1),
        similarity=None if fields.is_null("similarity") else fields.choice("similarity", SIMILARITIES),
    )


def parse_pooling(fields: Fields) -> str | None:
    """Check the field `pooling`: one of `POOLINGS`, or several joined by "+", or null.

    Raises:
        FolderError: it is something else.
    """
    if fields.is_null("pooling"):
        return None
    value = fields.data.get("pooling")
    if not isinstance(value, str) or not set(value.split("+")) <= set(POOLINGS):
        fields.fail("pooling", f"one of {', '.join(POOLINGS)}, or several joined by +")
    return value
