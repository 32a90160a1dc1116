"""What the demo measures: both models exported in fp32 and int8, against the best that a user has for nothing.

For nothing is the dense model in fp32, in our int8, and in OpenVINO's where a Python has that: it quantises a dense
model in one call. The best of them is another one on other machines, so it is named beside every time.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from losparse_export.check import check_session, open_reference
from losparse_export.target import PLAIN
from losparse_export.tracing.trace import TraceOnce
from losparse_runtime import OpenVino, RunError, Session, benchmark, find_openvino
from losparse_runtime.contract.progress import Advance, Progress

from ..data.examples import Examples
from ..environment import timing_report
from ..saving.contents import inspect_folder

logger = logging.getLogger(__name__)

Export = Callable[..., object]
"""Writes a checkpoint as an ONNX folder, as `export_model` does."""

NAMES = ("dense", "compressed")
OPENVINO = "openvino-int8"
FREE = ("dense", "dense-int8", OPENVINO)
"""What costs a user nothing, by the names of the report."""

# Texts on which a model in OpenVINO must say the class that the dense one says, and how often: int8 of random
# calibration flips what is undecided.
_ALIKE_TEXTS, _ALIKE = 64, 0.8


@dataclass(frozen=True)
class _Named:
    """A progress that says of which model its stages are."""

    inner: Progress
    name: str

    def stage(self, title: str, total: int | None = None) -> AbstractContextManager[Advance]:
        """Show a stage; see `Progress`."""
        return self.inner.stage(f"{title} ({self.name})", total)


def measure_models(
    folder: Path, test: Examples, export: Export, shapes: Sequence[tuple[int, int]], progress: Progress
) -> dict[str, Any]:
    """Export, check and time both models in both precisions.

    Args:
        folder: holds the checkpoints, and gets an ONNX folder of each in each precision.
        test: texts, to count right answers on.
        export: writes an ONNX folder.
        shapes: texts in a run and tokens in a text, for the times.
        progress: shows the stages.

    Returns:
        The measured part of the report: "models", "bench" and "best_free".
    """
    sessions: dict[str, Session] = {}
    rows: dict[str, Any] = {}
    tracers = {checkpoint: TraceOnce() for checkpoint in NAMES}
    for checkpoint, tracer in tracers.items():
        for precision in ("fp32", "int8"):
            name = checkpoint if precision == "fp32" else f"{checkpoint}-{precision}"
            target, named = folder / f"{name}-onnx", _Named(progress, name)
            export(folder / checkpoint, target, precision=precision, tracer=tracer, progress=named)
            sessions[name] = Session(target)
            rows[name] = _measure(sessions[name], folder / checkpoint, test, progress, name)
    plain = partial(
        export, folder / "dense", target=PLAIN, tracer=tracers["dense"], progress=_Named(progress, OPENVINO)
    )
    with _opponents(plain, sessions["dense"], test.texts, progress) as opponents:
        found = benchmark(sessions, shapes, opponents=opponents, progress=progress)
    times = timing_report(found.to_dict())
    for entry in times["models"].values():
        entry["folder"] = Path(entry["folder"]).name  # they were timed before OUT got its name
    for name, opponent in opponents.items():
        times["versions"] |= opponent.facts.versions
        times["models"][name]["folder"] = "dense"  # a plain export of it, which is not kept
    return {"models": rows, "bench": times, "best_free": best_free(times["results"])}


def best_free(results: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return which model that costs nothing is the fastest at every shape: "batch", "length", "model", "speedup"."""
    best: dict[tuple[int, int], Mapping[str, Any]] = {}
    for row in results:
        shape = row["batch"], row["length"]
        if row["model"] in FREE and (shape not in best or row["speedup"] > best[shape]["speedup"]):
            best[shape] = row
    return [{key: row[key] for key in ("batch", "length", "model", "speedup")} for row in best.values()]


def _measure(session: Session, checkpoint: Path, test: Examples, progress: Progress, name: str) -> dict[str, Any]:
    """Return what is reported of one model."""
    reference = open_reference(session, checkpoint)
    contents = inspect_folder(checkpoint)
    with progress.stage(f"classifying test texts ({name})"):
        right = accuracy(session, test)
    return {
        "test_accuracy": right,
        "layer_parameters": sum(layer.parameters for layer in contents.layers),
        "model_parameters": contents.model_parameters,
        "file_bytes": contents.file_bytes,
        "onnx_bytes": inspect_folder(session.folder).file_bytes,
        "check": check_session(session, reference, (test.texts, None), progress=progress).to_dict(),
    }


def accuracy(session: Session, examples: Examples) -> float:
    """Return the share of texts that the session puts into their class."""
    predicted = session.classify(examples.texts)
    names = examples.label_names
    right = sum(names[label] == result.label for label, result in zip(examples.labels, predicted, strict=True))
    return float(right) / len(examples)


@contextmanager
def _opponents(
    export: Export, dense: Session, texts: Sequence[str], progress: Progress
) -> Iterator[dict[str, OpenVino]]:
    """Open the dense model in OpenVINO, quantised, where there is that, and where it says what the dense model says."""
    with ExitStack() as stack:
        opponents: dict[str, OpenVino] = {}
        facts = find_openvino()
        if facts is not None and "int8" in facts.precisions:
            plain = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "plain"
            export(plain)
            try:
                with progress.stage(f"quantising ({OPENVINO})"):
                    opponent = stack.enter_context(OpenVino(plain, "int8", threads=dense.threads))
                alike = _alike(opponent, dense, texts[:_ALIKE_TEXTS])
            except RunError as error:  # the demo is about our models
                logger.warning("%s is left out: %s", OPENVINO, error)
            else:
                if alike >= _ALIKE:
                    opponents[OPENVINO] = opponent
                else:
                    logger.warning(
                        "%s is left out: it agrees with the dense model on %.0f %% of the texts, at least "
                        "%.0f %% are asked",
                        OPENVINO,
                        100 * alike,
                        100 * _ALIKE,
                    )
        yield opponents


def _alike(opponent: OpenVino, dense: Session, texts: Sequence[str]) -> float:
    """Return the share of texts for which both say the same class."""
    feeds = dense.encode(texts)
    (output,) = dense.signature.outputs
    said = [np.asarray(model.run(feeds)[output.name]).argmax(-1) for model in (opponent, dense)]
    return float((said[0] == said[1]).mean())
