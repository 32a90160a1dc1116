"""What safetensors files say of their tensors, read without the numbers and without torch."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import LosparseError, names_extra

_NOTES = "__metadata__"
_SHOWN = 120
_SAYS_NOTHING = "Error while deserializing header: "


def read_header(path: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    """Read shape and element type of every tensor; all the bytes that the file announces must be there.

    Args:
        path: of a safetensors file.

    Returns:
        By name of the tensor; element types as safetensors calls them.

    Raises:
        LosparseError: the file is missing, damaged or cut short.
    """
    with _opened(path) as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (it has no other way to its names)
        return {name: (tuple(each.get_shape()), str(each.get_dtype())) for name, each in slices.items()}


def read_notes(path: Path) -> dict[str, str]:
    """Read the texts that a writer left beside the tensors, by key.

    Args:
        path: of a safetensors file.

    Raises:
        LosparseError: the file is missing, damaged or cut short.
    """
    with _opened(path) as file:
        return dict(file.metadata() or {})


def sort_notes(folder: Path) -> None:
    """Put the notes of a folder's safetensors files in order, in place.

    Their writer keeps them in a table without order, so that the same model gives files of other bytes every time.

    Args:
        folder: that was just written, and nobody reads yet.
    """
    for path in folder.glob("*.safetensors"):
        with path.open("r+b") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
            notes = header.pop(_NOTES, None)
            if not notes:
                continue
            ordered = {_NOTES: dict(sorted(notes.items())), **header}
            written = json.dumps(ordered, ensure_ascii=False, separators=(",", ":")).encode()
            if len(written) <= length:  # spaces behind the header are part of the format
                file.seek(8)
                file.write(written.ljust(length))


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open a file; its header is read and compared with its size, its tensors are only mapped."""
    # Here: the machine that serves ONNX folders, and looks into them, has no safetensors.
    with names_extra("reading a checkpoint", "train"):
        from safetensors import SafetensorError, safe_open

    try:
        file: Any = safe_open(path, framework="numpy")
    except (SafetensorError, OSError) as error:
        raise LosparseError(f"'{path}' is damaged or cut short: {_reason(path, error)}; copy it again") from error
    with file as opened:
        yield opened


def _reason(path: Path, error: Exception) -> str:
    """Say in a few words what safetensors found."""
    reason = " ".join(str(error).split()).removeprefix(_SAYS_NOTHING)
    if "not fully covered" in reason:  # by far the most common: a copy that was cut off
        return f"its header announces another number of bytes, it has {path.stat().st_size}"
    return reason if len(reason) <= _SHOWN else f"{reason[:_SHOWN]}..."
