"""What training knows of a task beside its facts (`losparse_runtime.contract.task`).

A new task is a `Task` in the contract, a subclass of `TaskData` in a file of its own here, and a line in `registry`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from losparse_runtime.text.panics import is_panic

from ...errors import LosparseError
from ..columns import Columns, texts_and_pairs
from ..examples import Examples
from ..metrics import Metric
from ..tables import Table
from ..tokens import Tokenized, check_tokenizer, count_truncated, model_inputs

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Progress = Callable[[int], None]
Collator = Callable[[list[dict[str, Any]]], Mapping[str, Any]]


class TaskData:
    """How a task's rows are read, tokenised, padded and measured.

    As it stands here: a row a text, or pair of texts, with the label that reading gives it. A task overrides what is
    otherwise with it. All of it is stateless.

    Attributes:
        plain: whether .txt files will do, since there are no labels.
        full_rows: whether rows are cut from all texts together, all of one length, so that none is padded.
        usual_length: most tokens of a row where nobody says how many; None for as many as a model reads.
        label_keys: of a row, what the model takes as labels.
        chunk: texts tokenised between two reports of progress.
        notes: what a metric must know of a row beside its labels, as a message says it; "" where that is nothing.
    """

    plain: ClassVar[bool] = False
    full_rows: ClassVar[bool] = False
    usual_length: ClassVar[int | None] = None
    label_keys: ClassVar[tuple[str, ...]] = ("labels",)
    notes: ClassVar[str] = ""
    chunk: ClassVar[int] = 1000

    def read(self, table: Table, columns: Columns, names: Sequence[str] | None) -> Examples:
        """Return a table's labelled texts.

        Args:
            table: what was read of a file or data set.
            columns: those that are named by option.
            names: classes by id; None takes those that occur, sorted.

        Raises:
            LosparseError: a column is not there, a value is missing or of the wrong kind, or the labels do not do.
        """
        return Examples.unlabelled(*self.read_texts(table, columns))

    def read_texts(self, table: Table, columns: Columns) -> tuple[list[str], list[str] | None]:
        """Return a table's texts without labels, as a session would be given them.

        Raises:
            LosparseError: a column is not there, or a text is missing or empty.
        """
        return texts_and_pairs(table, Columns() if table.plain else columns)  # such columns are of other files

    def tokenize(
        self,
        examples: Examples,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int,
        progress: Progress | None = None,
    ) -> Tokenized:
        """Return the rows of labelled texts, not padded; see `losparse.data.loading.tokenize`.

        Raises:
            LosparseError: see there.
        """
        check_tokenizer(tokenizer, max_length, pair=examples.pairs is not None)
        try:
            return self._all_rows(examples, tokenizer, max_length, progress)
        except BaseException as error:
            if not is_panic(error):  # stderr is not held meanwhile, as `panics_caught` does: a bar is drawn there
                raise
            reason = " ".join(str(error).split())[:200]
            raise LosparseError(
                f"the tokenizer fails on one of the texts ({reason}); mend its tokenizer.json, or leave that text out"
            ) from error

    def tokenize_texts(
        self,
        texts: Examples,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int,
        progress: Progress | None = None,
    ) -> Tokenized:
        """Return rows of texts without labels, for calibration: a row a text, whatever the task makes of labelled ones.

        Raises:
            LosparseError: see `tokenize`.
        """
        return TaskData().tokenize(texts, tokenizer, max_length, progress)

    def rows(self, examples: Examples, tokenizer: PreTrainedTokenizerBase, max_length: int, first: int) -> Tokenized:
        """Return the rows of some examples.

        Args:
            examples: not many, so that they are tokenised in one call.
            tokenizer: a fast one.
            max_length: in tokens.
            first: number of the first of them among all examples.
        """
        encoded = tokenizer(examples.texts, examples.pairs, truncation=True, max_length=max_length)
        inputs = model_inputs(encoded, len(examples))
        rows = [{**row, **self.targets(label, examples)} for row, label in zip(inputs, examples.labels, strict=True)]
        return Tokenized(rows, count_truncated(encoded))

    def targets(self, label: Any, examples: Examples) -> dict[str, Any]:
        """Return what a row says of an example's label, as the model takes it.

        Args:
            label: of the example.
            examples: it is one of these.
        """
        return {} if label is None else {"labels": label}

    def collator(self, tokenizer: PreTrainedTokenizerBase) -> Collator:
        """Return what makes a batch of rows: tensors, padded to the longest row."""
        from transformers import DataCollatorWithPadding  # reading files loads neither torch nor transformers

        collate: Collator = DataCollatorWithPadding(tokenizer)
        return collate

    def metric(self) -> Metric | None:
        """Return what the Trainer computes of predictions; None where the loss tells everything."""
        return None

    def metrics_of_loss(self, loss: float) -> dict[str, float]:
        """Return the metrics that follow from the mean loss, in nats."""
        return {}

    def _all_rows(
        self, examples: Examples, tokenizer: PreTrainedTokenizerBase, max_length: int, progress: Progress | None
    ) -> Tokenized:
        parts = []
        for first in range(0, len(examples), self.chunk):
            part = examples.select(range(first, min(first + self.chunk, len(examples))))
            parts.append(self.rows(part, tokenizer, max_length, first))
            if progress is not None:
                progress(len(part))
        return Tokenized.joined(parts)
