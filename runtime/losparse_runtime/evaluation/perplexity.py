"""How well a language model predicts texts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from ..contract.progress import SILENT, Progress
from ..errors import InputError
from ..text.encoder import text_list
from .likelihood import perplexity
from .rows import RUN_TOKENS, Row, Scored, score_rows
from .windows import WINDOW, windows

Item = TypeVar("Item")


@dataclass(frozen=True)
class Perplexity:
    """How well a model predicts texts, all of them read as one row.

    Attributes:
        texts: how many.
        tokens: of the row, with those that begin and end texts.
        counted: tokens of it that were predicted.
        window: most tokens that were read at once.
        stride: tokens between the beginnings of two windows.
        loss: mean of the counted tokens, in nats.
        first: share of them that no token is likelier than, in 0..1.
        bytes: of the texts, in UTF-8.
        words: of the texts: what white space separates.
    """

    texts: int
    tokens: int
    counted: int
    window: int
    stride: int
    loss: float
    first: float
    bytes: int
    words: int

    @property
    def perplexity(self) -> float:
        """Of a token, >= 1: the exponential of the loss."""
        return perplexity(self.loss)

    @property
    def bits_per_byte(self) -> float:
        """The loss of all tokens, in bits, over the bytes of the texts: comparable between tokenizers."""
        return self.loss * self.tokens / (self.bytes * math.log(2))

    @property
    def word_perplexity(self) -> float:
        """The same over words: the exponential of the loss of all tokens over the number of words."""
        return perplexity(self.loss * self.tokens / max(self.words, 1))

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return {
            "perplexity": self.perplexity,
            "bits_per_byte": self.bits_per_byte,
            "word_perplexity": self.word_perplexity,
            **self.__dict__,
        }


def measure_perplexity(
    model: Scored,
    texts: str | Sequence[str],
    *,
    window: int | None = None,
    stride: int | None = None,
    whole: bool = False,
    limit: int | None = None,
    run_tokens: int = RUN_TOKENS,
    progress: Progress = SILENT,
) -> Perplexity:
    """Measure how well a model predicts texts.

    The texts are one row of tokens: each as the tokenizer has it, and behind it the token that ends a text, as training
    packs them. The row is read in windows; see `windows.windows`.

    Args:
        model: to ask.
        texts: to predict; of one character or more each.
        window: most tokens that are read at once; default: 512, or all positions of a model that has fewer.
        stride: tokens between the beginnings of two windows, below `window` for tokens to be predicted with more before
            them; default: `window`.
        whole: each text is a document of its own: the last one ends without a token that says so, so one text alone is
            what its tokenizer makes of it, as papers measure WikiText.
        limit: look at so many windows, evenly taken; default: at all.
        run_tokens: most tokens in one run, padding included.
        progress: shows a stage.

    Raises:
        InputError: window, stride or limit is out of its range, or the texts have too few tokens.
        RunError: the model failed, or its logits have NaN.
    """
    given = text_list("texts", texts)
    size = min(WINDOW, model.positions) if window is None else window
    if size > model.positions:
        raise InputError(f"window must be at most the {model.positions} positions of {model.name}, got {size}")
    step = size if stride is None else stride
    stream = packed(model, given, ends_last=not whole)
    cut = spread(windows(len(stream), size, step), limit)
    rows = [Row(stream[each.begin : each.end], each.counted) for each in cut]
    with progress.stage("measuring perplexity", len(rows)) as advance:
        scores = score_rows(model, rows, run_tokens=run_tokens, advance=advance)
    counted = sum(each.counted for each in scores)
    return Perplexity(
        texts=len(given),
        tokens=len(stream),
        counted=counted,
        window=size,
        stride=step,
        loss=-math.fsum(each.log for each in scores) / counted,
        first=sum(each.first for each in scores) / counted,
        bytes=sum(len(text.encode("utf-8")) for text in given),
        words=sum(len(text.split()) for text in given),
    )


def packed(model: Scored, texts: Sequence[str], *, ends_last: bool = True) -> list[int]:
    """Return the tokens of all texts, each with the one that ends a text.

    Args:
        model: whose tokens they are.
        texts: one or more.
        ends_last: whether the last text is ended too.

    Raises:
        InputError: there is no such token and it is needed.
    """
    if model.end is None and (ends_last or len(texts) > 1):
        raise InputError(f"{model.name}: has no token that ends a text; set eos_token in tokenizer_config.json")
    stream: list[int] = []
    for place, text in enumerate(texts):
        stream += model.tokens(text)
        ends = ends_last or place < len(texts) - 1
        if ends and model.end is not None and (not stream or stream[-1] != model.end):
            stream.append(model.end)
    return stream


def spread(items: list[Item], limit: int | None) -> list[Item]:
    """Return so many items, evenly taken; all of them where there are no more.

    Raises:
        InputError: the limit is below 1.
    """
    if limit is None:
        return items
    if limit < 1:
        raise InputError(f"limit must be 1 or more, got {limit}")
    if limit >= len(items):
        return items
    return [items[place] for place in np.linspace(0, len(items) - 1, limit).round().astype(int)]
