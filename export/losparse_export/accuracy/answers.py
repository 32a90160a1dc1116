"""Right answers to questions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from losparse.data.examples import Examples
from losparse.data.metrics import Prediction
from losparse.data.tasks.question_answering import answer_span
from losparse_runtime.contract.task import Task
from losparse_runtime.contract.tensors import MASK
from losparse_runtime.tasks.scoring import ANSWER_STRIDE, SpanLogits, best_span, no_answer_score

from .model import Measured
from .outcomes import Outcomes

if TYPE_CHECKING:
    from tokenizers import Encoding

_WINDOWS_IN_A_RUN = 8


def answer_outcomes(model: Measured, task: Task, examples: Examples) -> Outcomes:
    """Answer questions as `Session.answer` does, by its windows and its `best_span`.

    An answer is right if its first and last token are those of the labelled one. Where some questions have none, there
    may be none, as `Session.answer(may_be_none=True)` says it.

    Args:
        model: what answers.
        task: of it.
        examples: questions, contexts and answers.

    Returns:
        Of every question whether its answer is right, whose metric is "accuracy".
    """
    assert examples.pairs is not None, "load_examples gives every question its context"
    may_be_none = not all(answer.text for answer in examples.labels)
    right: list[bool] = []
    for question, context, answer in zip(examples.texts, examples.pairs, examples.labels, strict=True):
        encodings = model.session.encoder.windows(question, context, ANSWER_STRIDE)
        windows = _span_logits(model, task, encodings)
        span = best_span(windows)
        if span is None or (may_be_none and span.score <= no_answer_score(windows)):
            right.append(not answer.text)
            continue
        encoding, inside = encodings[span.window], windows[span.window].inside.tolist()
        wanted = answer_span(encoding.offsets, inside, answer)
        right.append(bool(answer.text) and (span.first, span.last) == wanted)
    return Outcomes.one_row_each(np.array(right), np.ones(len(right), bool), _share)


def _share(prediction: Prediction) -> dict[str, float]:
    return {"accuracy": float(np.mean(prediction.predictions == prediction.label_ids))}


def _span_logits(model: Measured, task: Task, encodings: Sequence[Encoding]) -> list[SpanLogits]:
    """Return what a model says of windows, without padding."""
    found: list[SpanLogits] = []
    for begin in range(0, len(encodings), _WINDOWS_IN_A_RUN):
        part = encodings[begin : begin + _WINDOWS_IN_A_RUN]
        arrays = model.session.encoder.arrays(part)
        named = model.run(model.session.feed(arrays))
        for row, encoding in enumerate(part):
            real = arrays[MASK][row].astype(bool)
            inside = np.array([sequence == 1 for sequence in encoding.sequence_ids])
            start, end = (named[name][row][real] for name in task.outputs)
            found.append(SpanLogits(start, end, inside))
    return found
