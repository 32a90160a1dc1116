"""Measure a language model, in whatever form it is: what `losparse eval` does."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from losparse_runtime.contract.files import METADATA_FILE
from losparse_runtime.contract.progress import SILENT, Progress
from losparse_runtime.contract.variant import DEFAULT_PROVIDER
from losparse_runtime.evaluation.choices import ChoiceScore, measure_choices
from losparse_runtime.evaluation.perplexity import Perplexity, measure_perplexity
from losparse_runtime.evaluation.rows import RUN_TOKENS, Scored

from ..environment import versions
from ..errors import LosparseError
from ..saving.source import find_model
from .reading import read_questions, read_texts

if TYPE_CHECKING:
    from losparse_runtime.engine.options import Provider


@dataclass(frozen=True)
class Evaluation:
    """How good a language model is.

    Attributes:
        source: what was measured.
        engine: what it runs in: "pytorch" or "onnxruntime".
        variant: which form of a folder; None of a checkpoint.
        files: names of the files of texts.
        perplexity: of the texts; None where there are none.
        choices_file: name of the file of questions; None where there is none.
        choices: of the questions; None where there are none.
        seconds: wall time of all runs, of opening and reading none.
        versions: of what ran.
    """

    source: str
    engine: str
    variant: str | None
    files: tuple[str, ...]
    perplexity: Perplexity | None
    choices_file: str | None
    choices: ChoiceScore | None
    seconds: float
    versions: dict[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        found: dict[str, Any] = {"format": 1, "source": self.source, "engine": self.engine, "variant": self.variant}
        if self.perplexity is not None:
            found["texts"] = {"files": list(self.files), **self.perplexity.to_dict()}
        if self.choices is not None:
            found["choices"] = {"file": self.choices_file, **self.choices.to_dict()}
        return {**found, "seconds": self.seconds, "versions": self.versions}


def evaluate(
    source: str | Path,
    texts: str | Path | Sequence[str | Path] = (),
    choices: str | Path | None = None,
    *,
    whole: bool = False,
    text_column: str | None = None,
    window: int | None = None,
    stride: int | None = None,
    limit: int | None = None,
    run_tokens: int = RUN_TOKENS,
    variant: str | None = None,
    providers: Sequence[Provider] = (DEFAULT_PROVIDER,),
    threads: int | None = None,
    progress: Progress = SILENT,
) -> Evaluation:
    """Measure a language model on texts, on questions of several choices, or on both.

    A checkpoint and the folders exported from it are asked in the same way: their numbers differ by their logits alone.

    Args:
        source: a checkpoint, dense or compressed: a folder or hub id; or an exported folder, which loads no torch.
        texts: files of texts to predict; see `reading.read_texts`.
        choices: file of questions; see `losparse.evaluation.reading`.
        whole: every file of texts is one text; see `reading.read_texts` and `measure_perplexity`.
        text_column: column of texts; default: the usual names.
        window: most tokens that are read at once; see `measure_perplexity`.
        stride: tokens between the beginnings of two windows.
        limit: most windows and most questions, evenly taken; default: all.
        run_tokens: most tokens in one run, padding included.
        variant: which form of a folder that holds several; default: the one that is best here.
        providers: of a folder: onnxruntime's execution providers, as `Session` takes them.
        threads: of one run; default: all CPUs granted.
        progress: shows the stages.

    Raises:
        LosparseError: nothing is to be measured, a file or a column is not there, the source is no language model, or
            an argument has no meaning for it.
        LosparseRuntimeError: a folder cannot be opened, or a number is out of its range.
    """
    files = (texts,) if isinstance(texts, str | Path) else tuple(texts)
    if not files and choices is None:
        raise LosparseError("there is nothing to measure; add --texts FILE for perplexity, or --choices FILE")
    if not files and (whole or any(each is not None for each in (text_column, window, stride))):
        raise LosparseError(
            "--whole, --text-column, --window and --stride are for --texts; add that, or leave them out"
        )
    given = read_texts(files, whole=whole, text_column=text_column) if files else None
    questions = None if choices is None else read_questions(choices)
    with progress.stage("opening the model"):
        model, engine, opened = _open(source, variant, providers, threads)
    started = time.perf_counter()
    found = asked = None
    if given is not None:
        found = measure_perplexity(
            model,
            given,
            window=window,
            stride=stride,
            whole=whole,
            limit=limit,
            run_tokens=run_tokens,
            progress=progress,
        )
    if questions is not None:
        asked = measure_choices(model, questions, limit=limit, run_tokens=run_tokens, progress=progress)
    return Evaluation(
        source=str(source),
        engine=engine,
        variant=opened,
        files=tuple(Path(file).name for file in files),
        perplexity=found,
        choices_file=None if choices is None else Path(choices).name,
        choices=asked,
        seconds=time.perf_counter() - started,
        versions=versions("numpy", *_PACKAGES[engine]),
    )


_PACKAGES = {"pytorch": ("torch", "transformers"), "onnxruntime": ("onnxruntime", "onnxruntime-gpu", "tokenizers")}


def _open(
    source: str | Path, variant: str | None, providers: Sequence[Provider], threads: int | None
) -> tuple[Scored, str, str | None]:
    """Return a model, what it runs in, and which variant of a folder it is."""
    if (Path(source) / METADATA_FILE).is_file():
        from losparse_runtime.evaluation.folder import FolderModel
        from losparse_runtime.session import Session

        session = Session(source, providers, threads, variant=variant)
        return FolderModel(session), "onnxruntime", session.variant
    refuse_providers(source, providers, variant)
    folder = find_model(source)
    from .checkpoint import open_checkpoint  # torch takes seconds to load: not before what is wrong was said

    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    return open_checkpoint(folder), "pytorch", None


def refuse_providers(source: str | Path, providers: Sequence[Provider], variant: str | None = None) -> None:
    """Refuse what has no meaning for a checkpoint.

    Raises:
        LosparseError: a variant is named, or a provider.
    """
    if variant is not None or tuple(providers) != (DEFAULT_PROVIDER,):
        raise LosparseError(
            f"--variant and --provider are for ONNX folders, and '{source}' is a checkpoint; leave them out"
        )
