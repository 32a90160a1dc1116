"""The part of an exported folder that one variant needs, as a folder of its own."""

from __future__ import annotations

import hashlib
import os
import shutil
from dataclasses import replace
from pathlib import Path, PurePosixPath

from ..contract.config import CONFIG_FILE
from ..contract.files import METADATA_FILE, ONCE_UNLISTED, record_files, write_metadata
from ..contract.folder import Folder
from ..contract.metadata import Metadata
from ..contract.variant import MODEL_FILE, PLAN_FILE
from ..engine.external import external_files
from ..errors import FolderError, InputError


def write_variant(folder: Path, metadata: Metadata, out: Path, *, copy: bool = False) -> Folder:
    """Write one variant by itself: an exported folder whose only graph is `model.onnx`.

    Args:
        folder: an exported folder.
        metadata: what it says of the variant.
        out: an empty folder.
        copy: copy the model's files also where a hard link would do.

    Returns:
        What `out` holds.

    Raises:
        InputError: the model has several graphs.
        FolderError: a file is not what the exporter wrote, or the model takes weights from one that is not listed.
    """
    if len(metadata.folder.graphs) > 1:
        raise InputError(
            f"{folder}: has the graphs {', '.join(metadata.folder.graphs)}, and a model of one graph is needed"
        )
    weights = _weights(folder, metadata)
    names = {metadata.model.file: MODEL_FILE, **weights}
    for source, target in names.items():
        _put(folder, source, out / target, metadata, link=not copy)
    for source in _others(folder, metadata, set(names)):
        target = PLAN_FILE if source == metadata.variant.plan else source
        _put(folder, source, out / target, metadata, link=False)
    contents = _described(metadata, tuple(weights.values()), out)
    write_metadata(out, contents)
    return contents


def _weights(folder: Path, metadata: Metadata) -> dict[str, str]:
    """Return the files that the graph takes weights from: by their path in the folder, the one it knows them by.

    A graph looks for them beside itself, by a name that it carries; so they keep that name.
    """
    beside = PurePosixPath(metadata.model.file).parent
    found = {(beside / name).as_posix(): name for name in external_files(folder / metadata.model.file)}
    for source, name in found.items():
        if source not in metadata.files or name in (MODEL_FILE, METADATA_FILE):
            raise FolderError(
                f"{folder}: {metadata.model.file} takes weights from {name!r}, which losparse.json does not list; "
                "export the folder again"
            )
    return found


def _others(folder: Path, metadata: Metadata, taken: set[str]) -> list[str]:
    """Return what a variant needs beside its model: all but the models and plans of the other variants."""
    files = list(metadata.files)
    if CONFIG_FILE not in metadata.files:  # earlier writers listed the model's files alone
        files += [name for name in ONCE_UNLISTED if name not in metadata.files and (folder / name).is_file()]
    variants = metadata.folder.variants
    left_out = {*taken, *metadata.folder.model_files(*variants)}
    left_out |= {variant.plan for variant in variants.values()} - {metadata.variant.plan}
    return [name for name in files if name not in left_out]


def _described(metadata: Metadata, weights: tuple[str, ...], out: Path) -> Folder:
    own = replace(metadata.model, file=MODEL_FILE, shared=weights)
    variant = replace(metadata.variant, models={metadata.graph_name: own}, plan=PLAN_FILE)
    return replace(metadata.folder, variants={metadata.variant_name: variant}, files=record_files(out))


def _put(folder: Path, source: str, target: Path, metadata: Metadata, *, link: bool) -> None:
    """Copy or link a file, and refuse one that is not as the exporter wrote it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    real = (folder / source).resolve()  # a hard link to a link is another link
    if not (link and _linked(real, target)):
        shutil.copyfile(real, target)
    with target.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    listed = metadata.files.get(source)
    if listed is not None and digest != listed.sha256:
        raise FolderError(
            f"{folder / source}: the file changed after the export ({METADATA_FILE} has another SHA-256); "
            "copy it again, or export it again"
        )


def _linked(source: Path, target: Path) -> bool:
    """Make a hard link; tell whether the file system has such links, and lets us make one."""
    try:
        os.link(source, target)
    except OSError:
        return False
    return True
