"""How right all variants of a folder are on labelled texts, beside PyTorch and other folders, with standard errors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from losparse.data.examples import Examples
from losparse.errors import LosparseError
from losparse.saving.source import find_model
from losparse_runtime import Session
from losparse_runtime.contract.files import read_metadata
from losparse_runtime.contract.progress import SILENT, Progress
from losparse_runtime.contract.task import TASKS, Task
from losparse_runtime.contract.variant import DEFAULT_PROVIDER
from losparse_runtime.engine.choice import overflowing
from losparse_runtime.engine.options import Provider
from losparse_runtime.same_model import same_labels

from ..folder.assets import endless_limit
from ..opening.load import load_model
from ..opening.task_model import TaskModel
from ..opening.wrapping import wrap_model
from .measure import PYTORCH, ask, open_variant, read_for
from .model import of_pytorch, of_session
from .outcomes import Outcomes, Score, score_all
from .texts import TextFile

Other = str | Path | tuple[str | Path, str]
"""Another exported folder, of which the first variant is meant, or a folder and the name of one."""


def measure_variants(
    folder: str | Path,
    data: TextFile | str | Path,
    *,
    reference: str | Path | TaskModel | None = None,
    against: Mapping[str, Other] | None = None,
    providers: Sequence[Provider] = (DEFAULT_PROVIDER,),
    progress: Progress = SILENT,
) -> dict[str, Any]:
    """Measure all variants of a folder on labelled texts, and how much of each difference is chance.

    Every model answers once: texts and lists of words in runs of 32, in their order and padded to the longest of the
    run, windows of a context in runs of 8. The last run may be smaller. In int8 a text's numbers hang a little on
    the others of its run, so single texts may be answered otherwise: what is measured is what `Session` gives in such
    batches. PyTorch reads the tokens of the folder, and so does every variant; a folder of `against` reads its own.

    Standard errors come from 300 draws of the examples with replacement, always the same ones. Of a difference both
    models are measured on the same draw, so examples that both answer alike add nothing to its error.

    Args:
        folder: that `losparse export` wrote.
        data: labelled texts, as `losparse.data` reads them.
        reference: the checkpoint that the folder was exported from, a folder or hub id, or the model itself; None to
            leave PyTorch out.
        against: other exported folders of the same task and labels, by the name they are to have here.
        providers: onnxruntime's names of what runs all folders.
        progress: shows a stage.

    Returns:
        JSON values: "file", its name; "texts", how many examples; "metric", the one of the task; "models", by name of
        a variant, "pytorch", or of `against`: "value" and standard "error" of that metric, in its own unit (accuracy
        and F1 in 0..1, correlations in -1..1), and the same of all "metrics" of the task by name; "differences", by
        name of a variant and of any other model: "delta", the variant's value minus the other's, and its "error"; and
        "skipped", by name of a variant that cannot run on this CPU: why. An error is null where one example is all.

    Raises:
        LosparseError: the task has no labels, the texts or the reference cannot be read, a folder has no tokenizer, a
            name stands twice, or a folder of `against` has another task or other labels.
        LosparseRuntimeError: a folder cannot be opened.
    """
    folder, against = Path(folder), dict(against or {})
    first = read_metadata(folder)
    names = list(first.folder.variants)
    _refuse_twice(names, against)
    skipped = overflowing(first.folder)
    ready = [name for name in names if name not in skipped]
    if not ready:
        raise LosparseError(f"{folder}: {next(iter(skipped.values()))}; measure on a CPU with VNNI, or export int8")
    with progress.stage("measuring accuracy", len(ready) + len(against) + (reference is not None)) as advance:
        session = open_variant(folder, ready[0], providers)
        task = TASKS[session.task]
        name, examples = read_for(data, task, session.labels if task.has_classes else None, len(session.labels or ()))
        scores: dict[str, Mapping[str, Score]] = {}
        for model, outcomes in _answers(session, task, examples, ready[1:], reference, against, providers):
            scores[model] = score_all(outcomes)
            advance(1)
    return {"file": name, "texts": len(examples), **_as_json(str(task.metric), scores, ready), "skipped": skipped}


def _answers(
    session: Session,
    task: Task,
    examples: Examples,
    others: Sequence[str],
    reference: str | Path | TaskModel | None,
    against: Mapping[str, Other],
    providers: Sequence[Provider],
) -> Iterator[tuple[str, Outcomes]]:
    """Yield the name of every model and what it says; one folder is open at a time."""
    if reference is not None:
        model = _open_checkpoint(reference, task) if isinstance(reference, str | Path) else reference
        yield PYTORCH, ask(of_pytorch(model, session), task, examples)
    yield session.metadata.variant_name, ask(of_session(session, told=reference is not None), task, examples)
    for variant in others:
        opened = open_variant(session.folder, variant, providers)
        yield variant, ask(of_session(opened, told=True), task, examples)
    for name, other in against.items():
        place = other[0] if isinstance(other, tuple) else other
        opened = open_variant(Path(place), other[1] if isinstance(other, tuple) else None, providers)
        for what, one, two in (("task", session.task, opened.task), ("labels", session.labels, opened.labels)):
            if one != two and not (what == "labels" and same_labels(session.labels, opened.labels)):
                raise LosparseError(
                    f"only folders of the same task and labels can be measured together; the {what} of "
                    f"'{session.folder}' and '{place}' differ: {one!r} and {two!r}"
                )
        yield name, ask(of_session(opened, told=True), task, examples)


def _open_checkpoint(reference: str | Path, task: Task) -> TaskModel:
    loaded = load_model(find_model(reference), task.name)
    return wrap_model(loaded.model, loaded.task, endless_limit(loaded))


def _as_json(metric: str, scores: Mapping[str, Mapping[str, Score]], variants: Sequence[str]) -> dict[str, Any]:
    models = {
        name: {**found[metric].to_json(), "metrics": {each: score.to_json() for each, score in found.items()}}
        for name, found in scores.items()
    }
    differences = {
        name: {other: scores[name][metric].minus(scores[other][metric]) for other in scores if other != name}
        for name in variants
    }
    return {"metric": metric, "models": models, "differences": differences}


def _refuse_twice(variants: Sequence[str], against: Mapping[str, Other]) -> None:
    for name in against:
        if name in (*variants, PYTORCH):
            raise LosparseError(f"against= must have names that no variant has ({', '.join(variants)}), got {name!r}")
