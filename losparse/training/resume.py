"""Which checkpoint a training goes on from: the newest whole one, since a cut may come while one is written."""

from __future__ import annotations

import logging
import re
import shutil
import zipfile
from pathlib import Path

from losparse_runtime.contract.config import CONFIG_FILE

from ..errors import LosparseError
from ..saving.folder import INDEX, WEIGHTS
from ..saving.headers import read_header
from ..saving.schema import read_object

logger = logging.getLogger(__name__)

_NAME = re.compile(r"checkpoint-(\d+)")


def last_checkpoint(folder: Path, *, clean: bool) -> Path | None:
    """Return the newest whole checkpoint of a Trainer's folder, None if there is none; those cut off are logged.

    Args:
        folder: may be missing.
        clean: remove newer checkpoints that were cut off; for one process of a training.
    """
    found = [path for path in folder.glob("checkpoint-*") if path.is_dir() and _NAME.fullmatch(path.name)]
    for path in sorted(found, key=lambda path: int(path.name.rpartition("-")[2]), reverse=True):
        missing = missing_part(path)
        if missing is None:
            return path
        if clean:
            logger.warning("'%s' was cut off while it was written (%s), so it is left out and removed", path, missing)
            shutil.rmtree(path, ignore_errors=True)
    return None


def missing_part(checkpoint: Path) -> str | None:
    """Return what a checkpoint of a Trainer lacks, or the file that ends too early; None if it is whole."""
    state = checkpoint / "trainer_state.json"  # written last
    try:
        read_object(state)
        listed = read_object(checkpoint / INDEX).get("weight_map") if (checkpoint / INDEX).is_file() else {"": WEIGHTS}
    except LosparseError:
        listed = None
    if not isinstance(listed, dict) or not all(isinstance(name, str) for name in listed.values()):
        return state.name if not state.is_file() else "a damaged JSON file"
    try:
        read_object(checkpoint / CONFIG_FILE)  # the Trainer reads it before the weights
    except LosparseError:
        return CONFIG_FILE
    random = sorted(path.name for path in checkpoint.glob("rng_state*.pth")) or ["rng_state.pth"]
    for name in ("optimizer.pt", "scheduler.pt", *random):
        if not zipfile.is_zipfile(checkpoint / name):  # what torch.save writes, with its directory at the end
            return name
    for name in sorted(set(listed.values())):
        try:
            read_header(checkpoint / name)
        except LosparseError:
            return str(name)
    return None
