"""The next token of a text.

text    see `losparse.data.loading`; no label                         (also txt)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from losparse_runtime.contract.task import CAUSAL_LM
from losparse_runtime.contract.tensors import MASK, TOKENS
from losparse_runtime.evaluation.likelihood import perplexity
from losparse_runtime.evaluation.windows import WINDOW

from ...errors import LosparseError
from ..columns import TEXT_COLUMNS, Columns, find_column, texts_of
from ..examples import Examples
from ..tables import Table
from ..tokens import Tokenized
from .base import Collator, Progress, TaskData

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class CausalLm(TaskData):
    """Blocks of one length; labels = their token ids.

    All texts, each with the token that ends a text, are one long row that is cut into rows of the maximum length. The
    rest at its end is left out: so all rows are full, need no padding, and the mean over rows is the mean over tokens.
    """

    plain = True
    full_rows = True
    usual_length = WINDOW

    def read(self, table: Table, columns: Columns, names: Sequence[str] | None) -> Examples:
        """Return texts; see `TaskData.read`."""
        _refuse("label", columns.label)
        return super().read(table, columns, names)

    def read_texts(self, table: Table, columns: Columns) -> tuple[list[str], list[str] | None]:
        """Return texts; see `TaskData.read_texts`."""
        _refuse("pair", columns.pair)
        return texts_of(table, find_column(table, None if table.plain else columns.text, TEXT_COLUMNS, "text")), None

    def tokenize_texts(
        self,
        texts: Examples,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int,
        progress: Progress | None = None,
    ) -> Tokenized:
        """Return blocks without labels; see `TaskData.tokenize_texts`."""
        blocks = self.tokenize(texts, tokenizer, max_length, progress)
        return Tokenized([{key: row[key] for key in row if key not in self.label_keys} for row in blocks])

    def collator(self, tokenizer: PreTrainedTokenizerBase) -> Collator:
        """Return what stacks rows of one length."""
        from transformers import default_data_collator

        collate: Collator = default_data_collator
        return collate

    def metrics_of_loss(self, loss: float) -> dict[str, float]:
        """Return the perplexity."""
        return {"perplexity": perplexity(loss)}

    def _all_rows(
        self, examples: Examples, tokenizer: PreTrainedTokenizerBase, max_length: int, progress: Progress | None
    ) -> Tokenized:
        end = tokenizer.eos_token_id
        if end is None:
            raise LosparseError("the tokenizer has no token that ends a text; set eos_token in tokenizer_config.json")
        if max_length < 2:
            raise LosparseError(f"max_length must be 2 tokens or more, so that one can be predicted, got {max_length}")
        stream: list[int] = []
        for first in range(0, len(examples), self.chunk):
            texts = examples.texts[first : first + self.chunk]
            # It would warn of texts longer than the model takes.
            stream += _joined(tokenizer(texts, verbose=False)[TOKENS], end)
            if progress is not None:
                progress(len(texts))
        if len(stream) < max_length:
            raise LosparseError(
                f"max_length must be at most the {len(stream)} tokens of all texts together, got {max_length}; "
                "lower it (--max-length), or give more text"
            )
        starts = range(0, len(stream) - max_length + 1, max_length)
        blocks = (stream[start : start + max_length] for start in starts)
        return Tokenized([{TOKENS: b, MASK: [1] * max_length, "labels": list(b)} for b in blocks])


def _joined(texts: Iterable[list[int]], end: int) -> list[int]:
    """Return the tokens of all texts, each with the one that ends a text."""
    return [token for ids in texts for token in (ids if ids and ids[-1] == end else [*ids, end])]


def _refuse(option: str, column: str | None) -> None:
    if column is not None:
        raise LosparseError(f"{CAUSAL_LM.name} learns from texts alone; leave out --{option}-column, got '{column}'")
