"""README.md of a model on the hub: the header that the hub reads, a table of variants, and how to use it.

Nothing of the machine that made the model is in it: names and numbers of the folder, no paths.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from losparse_runtime.contract.task import MULTI_LABEL_CLASSIFICATION, REGRESSION, TASKS, TEXT_CLASSIFICATION

from .facts import Facts, Measured, Row
from .settings import CardSettings

if TYPE_CHECKING:
    from huggingface_hub import ModelCardData

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_PIPELINES = {MULTI_LABEL_CLASSIFICATION.name: TEXT_CLASSIFICATION.name, REGRESSION.name: "text-ranking"}
"""What the hub calls tasks that it has no name of its own for."""
_CALLS = {
    "classify": 'Session(folder).classify(["a fine film"])',
    "rank": 'Session(folder).rank("a query", ["one text", "another"])',
    "tag": 'Session(folder).tag(["Ada lives in Rome"])',
    "answer": 'Session(folder).answer("Where does Ada live?", "Ada lives in Rome.")',
}
_MOST_CALLS = 3  # columns of times; more make a table that nobody reads


def model_card(facts: Facts, repo: str, settings: CardSettings | None = None) -> str:
    """Return the text of a model card.

    Args:
        facts: of the folder.
        repo: hub id that it will have.
        settings: what else is to be said.
    """
    settings = settings or CardSettings()
    title = settings.title or repo.rpartition("/")[2]
    parts = [
        f"---\n{_header(facts, title, settings).to_yaml()}\n---\n\n# {title}",
        settings.summary,
        _about(facts),
        _table(facts),
        _usage(facts, repo),
        _made(facts),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _header(facts: Facts, title: str, settings: CardSettings) -> ModelCardData:
    from huggingface_hub import EvalResult, ModelCardData

    task, folder = facts.folder.task, facts.folder
    embeds = TASKS[task].embeds and folder.pooling is not None
    pipeline = "sentence-similarity" if embeds else _PIPELINES.get(task, task)
    layout = ["transformers.js"] if any((row.file or "").startswith("onnx/") for row in facts.rows) else []
    data = settings.datasets[0] if settings.datasets else "the makers' own"
    results = [
        EvalResult(
            task_type=pipeline,
            dataset_type=data if settings.datasets else "private",
            dataset_name=data,
            metric_type=facts.metric,
            metric_value=row.accuracy.value,
            metric_name=f"{facts.metric} of {row.name}",
        )
        for row in facts.rows
        if row.file is not None and row.accuracy is not None and facts.metric is not None
    ]
    return ModelCardData(
        language=list(settings.language) or None,
        license=settings.license,
        library_name="sentence-transformers" if embeds else "onnx",
        tags=list(dict.fromkeys(["losparse", "onnx", "onnxruntime", *layout, *settings.tags])),
        base_model=settings.base_model or _from_hub(folder.source.model),
        datasets=list(settings.datasets) or None,
        metrics=None if facts.metric is None else [facts.metric],
        eval_results=results or None,
        model_name=title,
        pipeline_tag=pipeline,
        ignore_metadata_errors=False,
    )


def _from_hub(name: str) -> str | None:
    """Return a hub id; None for the name of a folder."""
    return name if _HUB_ID.fullmatch(name) else None


def _about(facts: Facts) -> str:
    folder, count = facts.folder, facts.folder.parameters
    kept = (
        f", {count['layers']:,} of the {count['layers_dense']:,} in its linear layers" if count["layers_dense"] else ""
    )
    how = "compressed by losparse (low rank plus structured sparse) and " if folder.source.compressed else ""
    return (
        f"A {folder.source.model_type} model for {folder.task}, {how}exported to ONNX for onnxruntime: "
        f"{count['model']:,} parameters{kept}. Every form of it was compared with PyTorch before it was written."
    )


def _table(facts: Facts) -> str:
    """Return the table of variants, of columns that say something."""
    calls = list(dict.fromkeys(call for row in facts.rows for call in (*row.speedups, *row.milliseconds)))[:_MOST_CALLS]
    columns: dict[str, list[str]] = {
        "model": [row.name for row in facts.rows],
        "file": ["" if row.file is None else f"`{row.file}`" for row in facts.rows],
        "MB": ["" if row.bytes is None else f"{row.bytes / 1e6:.1f}" for row in facts.rows],
        facts.metric or "": [_number(row.accuracy) for row in facts.rows],
        f"against {facts.compared}": [_number(row.delta, sign="+") for row in facts.rows],
        **{call: [_times(row, call) for row in facts.rows] for call in calls},
        "cosine with PyTorch": ["" if row.cosine is None else f"{row.cosine:.6f}" for row in facts.rows],
        "largest difference to PyTorch": ["" if row.parity is None else f"{row.parity:.1e}" for row in facts.rows],
    }
    columns = {name: cells for name, cells in columns.items() if any(cells)}
    rows = [list(columns), ["---"] * len(columns), *map(list, zip(*columns.values(), strict=True))]
    lines = ["| " + " | ".join(cell or "-" for cell in row) + " |" for row in rows]
    return "\n".join([*lines, *("\n" + note for note in _notes(facts, calls))])


def _notes(facts: Facts, calls: Sequence[str]) -> list[str]:
    notes = []
    models = [model for variant in facts.folder.variants.values() for model in variant.models.values()]
    if any(model.shared for model in models):
        notes.append(
            "MB are those of all files that a variant needs; large weights that several hold alike are in one."
        )
    if facts.metric is not None and facts.texts is not None:
        notes.append(f"{facts.metric} on {facts.texts:,} texts; behind ± its standard error, where that was estimated.")
    if calls and facts.cpu is not None:
        notes.append(f"Columns of texts x tokens: time of a call, and speed-up over {facts.compared}, on {facts.cpu}.")
    return notes


def _number(measured: Measured | None, sign: str = "") -> str:
    if measured is None:
        return ""
    error = "" if measured.error is None else f" ± {measured.error:.4f}"
    return f"{measured.value:{sign}.4f}{error}"


def _times(row: Row, call: str) -> str:
    said = [f"{row.milliseconds[call]:.2f} ms"] if call in row.milliseconds else []
    return ", ".join([*said, *([f"{row.speedups[call]:.1f}x"] if call in row.speedups else [])])


def _usage(facts: Facts, repo: str) -> str:
    helper = TASKS[facts.folder.task].helper
    if helper == "embed":
        name, call = "SentenceEncoder", 'SentenceEncoder(folder).encode(["a fine film"])'
    else:
        name = "Session"
        call = _CALLS.get(helper or "", "Session(folder).run({...})")
    shown = f"""## How to use

With numpy, onnxruntime and tokenizers (`pip install "losparse[runtime]" huggingface_hub`), no torch; of several
variants the one that suits the CPU opens, or the one that `variant=` names:

```python
from huggingface_hub import snapshot_download
from losparse_runtime import {name}

folder = snapshot_download("{repo}")
print({call})
```"""
    file = next((row.file for row in facts.rows if row.file is not None), None)
    if name != "SentenceEncoder" or file is None:
        return shown
    return f"""{shown}

With sentence-transformers and optimum:

```python
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("{repo}", backend="onnx", model_kwargs={{"file_name": "{file}"}})
```"""


def _made(facts: Facts) -> str:
    folder = facts.folder
    method = "" if folder.source.method is None else f"\n\nMethod: {_settings(folder.source.method)}."
    versions = ", ".join(f"{name} {version}" for name, version in folder.versions.items())
    return f"## How it was made\n\nWith {versions}.{method}"


def _settings(method: Any) -> str:
    """Return the plain settings of a method: names, numbers and switches; lists of layers are in losparse.json."""
    plain = {name: value for name, value in method.items() if isinstance(value, str | int | float)}
    return ", ".join(f"{name} {value}" for name, value in plain.items())
