from collections.abc import Iterable, Sequence

from losparse_runtime.contract.task import Task
from losparse_runtime.tasks.base import Helper, Served, Table, batches, require
from losparse_runtime.text.encoder import text_list

# How far a text leans to the second of two classes: one number from two logits.
LEANING = Task("leaning", "AutoModelForSequenceClassification", ("ForLeaning",), ("logits",), "number", helper="lean")


def lean(session: Served, texts: str | Iterable[str], batch_size: int = 32) -> list[float]:
    """Say how far texts lean: the second logit less the first."""
    require(session, HELPER.name)
    encodings = session.encoder.encodings(text_list("texts", texts))
    found: dict[int, float] = {}
    for rows, outputs, _ in batches(session, encodings, batch_size):
        logits = outputs["logits"]
        found.update(zip(rows, (logits[:, 1] - logits[:, 0]).tolist(), strict=True))
    return [found[index] for index in range(len(encodings))]


def table(task: Task, results: Sequence[float], texts: Sequence[str]) -> Table:
    """Return what `losparse run` prints."""
    return Table((task.name, "text"), [(f"{each:.3f}", text) for each, text in zip(results, texts, strict=True)], (1,))


HELPER = Helper("lean", lean, table)
