"""Right answers to questions, of a PyTorch model and of the folder exported from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from losparse.data.examples import Examples
from losparse.data.tasks.question_answering import answer_span
from losparse_runtime import Session
from losparse_runtime.contract.tensors import MASK
from losparse_runtime.tasks.scoring import ANSWER_STRIDE, SpanLogits, best_span, no_answer_score

from ..opening.task_model import TaskModel

if TYPE_CHECKING:
    from tokenizers import Encoding

_WINDOWS_IN_A_RUN = 8


def answer_metrics(model: TaskModel, session: Session, examples: Examples) -> tuple[dict[str, float], dict[str, float]]:
    """Answer questions as `Session.answer` does, by its windows and its `best_span`.

    An answer is right if its first and last token are those of the labelled one. Where some questions have none, there
    may be none, as `Session.answer(may_be_none=True)` says it.

    Args:
        model: the PyTorch model.
        session: of the folder exported from it.
        examples: questions, contexts and answers.

    Returns:
        "accuracy", the share of right answers, of PyTorch and of the folder.
    """
    assert examples.pairs is not None, "load_examples gives every question its context"
    may_be_none = not all(answer.text for answer in examples.labels)
    pytorch: list[bool] = []
    onnx: list[bool] = []
    for question, context, answer in zip(examples.texts, examples.pairs, examples.labels, strict=True):
        encodings = session.encoder.windows(question, context, ANSWER_STRIDE)
        by_both = _span_logits(model, session, encodings)
        for windows, right in zip(by_both, (pytorch, onnx), strict=True):
            span = best_span(windows)
            if span is None or (may_be_none and span.score <= no_answer_score(windows)):
                right.append(not answer.text)
                continue
            encoding, inside = encodings[span.window], windows[span.window].inside.tolist()
            wanted = answer_span(encoding.offsets, inside, answer)
            right.append(bool(answer.text) and (span.first, span.last) == wanted)
    return {"accuracy": sum(pytorch) / len(pytorch)}, {"accuracy": sum(onnx) / len(onnx)}


def _span_logits(
    model: TaskModel, session: Session, encodings: Sequence[Encoding]
) -> tuple[list[SpanLogits], list[SpanLogits]]:
    """Return what PyTorch and the folder say of windows, without padding."""
    found: tuple[list[SpanLogits], list[SpanLogits]] = ([], [])
    for begin in range(0, len(encodings), _WINDOWS_IN_A_RUN):
        part = encodings[begin : begin + _WINDOWS_IN_A_RUN]
        arrays = session.encoder.arrays(part)
        feeds = session.feed(arrays)
        reference = model.reference({name: torch.from_numpy(array) for name, array in feeds.items()})
        outputs: tuple[Mapping[str, NDArray[Any]], ...] = (
            {name: tensor.numpy() for name, tensor in reference.items()},
            session.run(feeds),
        )
        for named, windows in zip(outputs, found, strict=True):
            for row, encoding in enumerate(part):
                real = arrays[MASK][row].astype(bool)
                inside = np.array([sequence == 1 for sequence in encoding.sequence_ids])
                start, end = (named[name][row][real] for name in model.task.outputs)
                windows.append(SpanLogits(start, end, inside))
    return found
