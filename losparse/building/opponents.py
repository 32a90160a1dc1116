"""The dense model in OpenVINO's int8, where that is installed: what a user gets there for nothing."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from losparse_runtime.contract.task import TASKS

from .work import Work, defaults_of, task_of

if TYPE_CHECKING:
    from losparse_runtime import OpenVino, Session

logger = logging.getLogger(__name__)

OPENVINO = "openvino-int8"

# Texts on which OpenVINO's int8 must say the class that the dense model says, and how often: it is calibrated on random
# tokens, which flips what is undecided. An opponent that is wrong is none.
_ALIKE_TEXTS, _ALIKE = 64, 0.8


@contextmanager
def opened(work: Work, dense: Session) -> Iterator[Mapping[str, OpenVino]]:
    """Open the dense model in OpenVINO, quantised by one call, where there is that and where it is right.

    Args:
        work: of the build.
        dense: our export of the dense model in fp32, on as many threads.

    Yields:
        The model by its name in reports, or nothing.
    """
    from losparse_runtime import OpenVino, RunError, find_openvino

    facts = find_openvino() if work.recipe.bench.openvino else None
    if facts is None or "int8" not in facts.precisions:
        yield {}
        return
    with ExitStack() as stack:
        plain = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "plain"
        _export_plain(work, plain)
        found: dict[str, OpenVino] = {}
        try:
            with work.progress.stage(f"quantising ({OPENVINO})"):
                opponent = stack.enter_context(OpenVino(plain, "int8", threads=dense.threads))
            wrong = _wrong(work, opponent, dense)
        except RunError as error:
            wrong = str(error)
        if wrong is None:
            found[OPENVINO] = opponent
        else:
            logger.warning("%s is left out: %s", OPENVINO, wrong)
        yield found


def _export_plain(work: Work, folder: Path) -> None:
    """Export the dense model as torch writes it: OpenVINO reads no operators of onnxruntime's own."""
    from losparse_export.target import PLAIN

    settings = replace(
        work.recipe.export, precision=("fp32",), **defaults_of("target", "tune", "threads", "weight_bits")
    )
    work.tools.export(work.dense, folder, settings, task=task_of(work), target=PLAIN, progress=work.progress)


def _wrong(work: Work, opponent: OpenVino, dense: Session) -> str | None:
    """Say how an opponent differs from the dense model by more than its precision explains, or None."""
    from losparse_export import TextFile
    from losparse_export.opponents import difference
    from losparse_runtime import Draw

    data = work.recipe.data
    if data.measured is None or not TASKS[dense.task].names_classes:
        feeds = dense.signature.random_feeds(Draw(1, min(dense.max_length, 128)))
        return difference(opponent.run(feeds), dense.run(feeds), "int8")
    texts = TextFile(data.measured, data.text_column, data.pair_column).texts(dense.task)[:_ALIKE_TEXTS]
    pairs = None if isinstance(texts[0], str) else [second for _, second in texts]
    feeds = dense.encode(texts if pairs is None else [first for first, _ in texts], pairs)
    name = dense.outputs[0].name
    said = [np.asarray(model.run(feeds)[name]).argmax(-1) for model in (opponent, dense)]
    alike = float((said[0] == said[1]).mean())
    return None if alike >= _ALIKE else f"it agrees with the dense model on {alike:.0%} of the texts"
