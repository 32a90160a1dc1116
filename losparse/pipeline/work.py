"""OUT.partial: where a training keeps its checkpoints, and from where it goes on when it was cut off."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from losparse_runtime.contract.files import write_json

from ..errors import LosparseError
from ..saving.schema import read_object

SETTINGS = "settings.json"


@contextmanager
def work_folder(out: Path, settings: dict[str, Any], *, resume: bool, overwrite: bool) -> Iterator[Path]:
    """Yield OUT.partial, which holds checkpoints; it is removed unless the block fails with a checkpoint in it.

    Args:
        out: where the result will be.
        settings: all that determines the training, as JSON values; a resumed training must have the same.
        resume: go on from an existing work folder.
        overwrite: throw an existing work folder away.

    Raises:
        LosparseError: there is an unfinished training that is neither resumed nor overwritten, or other settings.
    """
    work = check_work(out, settings, resume=resume, overwrite=overwrite)
    if not resume:
        shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True, exist_ok=True)
    write_json(work / SETTINGS, settings)
    try:
        yield work
    except BaseException as error:
        if not any(work.glob("checkpoint-*")):
            shutil.rmtree(work, ignore_errors=True)
        elif isinstance(error, KeyboardInterrupt):
            raise KeyboardInterrupt(f"add --resume to go on from '{work}'") from None
        raise
    shutil.rmtree(work)


def work_path(out: Path) -> Path:
    """Return OUT.partial."""
    return out.resolve().with_name(f"{out.resolve().name}.partial")


def check_work(out: Path, settings: dict[str, Any], *, resume: bool, overwrite: bool) -> Path:
    """Return the path of OUT.partial, if it may be used.

    Raises:
        LosparseError: see `work_folder`.
    """
    work = work_path(out)
    if not work.exists():
        return work
    if not (work / SETTINGS).is_file():
        raise LosparseError(f"'{work}' is needed for checkpoints and was not written by losparse; move it away")
    if not resume and not overwrite:
        raise LosparseError(
            f"'{work}' holds an unfinished training; add --resume to go on with it, or --overwrite to begin again"
        )
    if resume:
        before = _settings_before(work)
        changed = sorted(key for key in before.keys() | settings.keys() if before.get(key) != settings.get(key))
        if changed:
            raise LosparseError(
                f"--resume must have the settings that '{work}' began with; {', '.join(changed)} changed: "
                f"{before.get(changed[0])!r} then, {settings.get(changed[0])!r} now"
            )
    return work


def _settings_before(work: Path) -> dict[str, Any]:
    """Return the settings that the training in a work folder began with.

    Raises:
        LosparseError: their file is damaged.
    """
    try:
        return read_object(work / SETTINGS)
    except LosparseError:
        raise LosparseError(
            f"'{work / SETTINGS}' is damaged, so its training cannot go on; add --overwrite in place of --resume, or "
            f"remove '{work}', to begin again"
        ) from None
