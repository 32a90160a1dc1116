"""Whether an exported folder is as it was written, by itself."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from ..contract.fields import read_json
from ..contract.files import METADATA_FILE, changed_files, read_folder
from ..contract.folder import DESCRIPTION_KEY
from ..contract.variant import DEFAULT_PROVIDER
from ..engine.choice import overflowing
from ..engine.options import Provider
from ..errors import FolderError
from ..session import Session
from .differences import first_difference
from .numbers import Reference
from .preprocessing import preprocessing_of


def open_checked(
    folder: Path | str,
    providers: Sequence[Provider] = (DEFAULT_PROVIDER,),
    threads: int | None = None,
    variant: str | None = None,
) -> tuple[Session | None, list[str]]:
    """Open a folder, and say what is in it that its exporter did not write.

    Args:
        folder: an exported ONNX folder.
        providers: see `Session`.
        threads: see `Session`.
        variant: which one to open; None for the first that this CPU can run.

    Returns:
        The session, or None where the changes are why it does not open; and a line for every change.

    Raises:
        LosparseRuntimeError: the folder cannot be opened, and no file of it changed.
    """
    changes = changed_files(folder)
    try:
        name = _first_here(folder) if variant is None else variant
        session = Session(folder, providers=providers, threads=threads, variant=name)
        _require_compared(session)
    except FolderError as error:
        if not changes:
            raise
        return None, [*changes, f"it does not open: {error}"]
    return session, [*changes, *changed_description(session)]


def _first_here(folder: Path | str) -> str:
    """Return the first variant that this CPU can run, or the first one, whose opening says why it cannot.

    Not the one that is the fastest here, as `Session` opens: a check says the same on every machine.
    """
    contents = read_folder(folder)
    wrong = overflowing(contents)
    return next((name for name in contents.variants if name not in wrong), next(iter(contents.variants)))


def _require_compared(session: Session) -> None:
    """Refuse a folder with a variant that nobody compared; opening one looks at that one alone.

    Raises:
        FolderError: there is such a variant.
    """
    for name, variant in session.metadata.folder.variants.items():
        if variant.parity is None:
            raise FolderError(
                f"{session.folder}: variant {name!r} has no comparison with PyTorch ('parity' is null), so its export "
                "did not finish; export it again with `losparse export`"
            )


def changed_description(session: Session) -> list[str]:
    """Compare losparse.json with what the model file carries of it; files of earlier writers carry nothing."""
    carried, metadata = session.carried.get(DESCRIPTION_KEY), session.metadata
    written = {} if carried is None else json.loads(carried)
    found = read_json(session.folder / METADATA_FILE).data
    if "variants" in found:  # its facts are not side by side, as those of the model file are
        found = metadata.folder.description(metadata.variant_name, metadata.graph_name)
    line = first_difference({name: found.get(name) for name in written}, written, "", "the model file")
    return [] if line is None else [f"{METADATA_FILE}: {line}"]


def onnx_reference(session: Session) -> Reference:
    """Return an open folder as what another one is compared with."""
    return Reference("ONNX", session.run, preprocessing_of(session), session.metadata.arithmetic)
