"""What becomes of a folder here: which variant opens and why, and whether it answers."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from ..contract.feeds import Draw
from ..contract.files import read_folder
from ..contract.variant import DEFAULT_PROVIDER
from ..engine.options import Provider
from ..errors import LosparseRuntimeError, one_line
from ..session import Session
from .findings import Finding

_MB = 1_000_000
_TOKENS = 8


def has_int8(folder: Path) -> bool:
    """Whether a variant of a folder multiplies int8; False where the folder cannot be read."""
    try:
        return any(variant.precision.startswith("int8") for variant in read_folder(folder).variants.values())
    except LosparseRuntimeError:
        return False


def look_at_folder(
    folder: Path, providers: Sequence[Provider] = (DEFAULT_PROVIDER,), *, free: int | None = None
) -> list[Finding]:
    """Open a folder and run it once.

    Args:
        folder: an exported folder.
        providers: see `Session`.
        free: memory that may be taken, in bytes; None where that is not known.

    Returns:
        What is to be said of it; one problem alone where it does not open.
    """
    about = str(folder)
    begin = time.perf_counter()
    try:
        with Session(folder, providers) as session:
            opened = time.perf_counter()
            length = min(_TOKENS, session.max_length)
            session.run(session.signature.random_feeds(Draw(1, length)))
            ran = time.perf_counter()
            metadata, choice = session.metadata, session.choice
    except LosparseRuntimeError as error:
        return [Finding(about, "problem", one_line(error))]
    size = metadata.model_bytes
    said = f"{choice}; {size / _MB:.1f} MB, opens in {opened - begin:.2f} s, answers in {ran - opened:.2f} s"
    facts = {"variant": metadata.variant_name, "reason": choice, "bytes": size, "fingerprint": metadata.fingerprint}
    return [Finding(about, "ok", said, facts=facts), *_room(about, size, free)]


def _room(about: str, size: int, free: int | None) -> list[Finding]:
    """Tell that a model is large for the memory that is free."""
    needed = int(1.5 * size) + 150 * _MB
    if free is None or needed <= free:
        return []
    said = f"needs about {needed // _MB:,} MB while it runs, {free // _MB:,} MB are free"
    return [Finding(about, "warning", said, "grant more memory, or ship a smaller variant")]
