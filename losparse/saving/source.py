"""Where a model is: in a folder of this machine, or on the hub, whose files are then fetched."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from ..errors import LosparseError

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_FILES = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja")  # no pickles, no code
_SHOWN = 300
"""Most characters of what the hub's client says."""

Download = Callable[[str, list[str]], str]
"""Fetches the files of a hub id whose names match one of the patterns; returns the folder they are in."""


def find_model(name: str | Path, *, download: Download | None = None) -> Path:
    """Return the folder of a model.

    Args:
        name: path of a folder, or a hub id ("owner/name"), whose files are fetched into the hub's cache.
        download: fetches them; by default huggingface_hub.

    Raises:
        LosparseError: there is no such folder, and no such model on the hub; or the path is of a file.
    """
    path = Path(name)
    if path.exists():
        if not path.is_dir():
            raise LosparseError(f"model folder '{path}' is a file; give the folder with config.json that it is in")
        return path
    if not (isinstance(name, str) and _HUB_ID.fullmatch(name)):
        raise LosparseError(
            f"model folder '{name}' does not exist; give a folder with config.json, or a hub id as owner/name"
        )
    try:
        return Path((download or _download)(name, list(_FILES)))
    except Exception as error:  # the hub client raises many unrelated types: network, no such name, no rights
        raise LosparseError(
            f"no model folder '{name}', and it could not be fetched from the hub: {hub_reason(error)}"
        ) from error


def hub_reason(error: Exception) -> str:
    """Return what the hub's client says: whole sentences of it, for it often adds a page of advice."""
    said = " ".join(str(error).split()) or type(error).__name__
    if len(said) <= _SHOWN:
        return said
    ends = [match.end() for match in re.finditer(r"[.!?](?= )", said[:_SHOWN])]
    return said[: ends[-1]] if ends else said[: said.rindex(" ", 0, _SHOWN)] + " ..." if " " in said[:_SHOWN] else said


def _download(name: str, patterns: list[str]) -> str:
    from huggingface_hub import snapshot_download

    return str(snapshot_download(name, allow_patterns=patterns))
