"""The files by which sentence-transformers knows how to make one vector of a text."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from ..errors import LosparseError


def copy_pooling(source: Path, folder: Path) -> None:
    """Copy what says how a sentence encoder's token vectors become one, where its folder is of sentence-transformers.

    Copied are the list of modules, their settings, and the weights of those after the model. Folders that the list
    names outside of the source are not followed.
    """
    modules = source / "modules.json"
    if not modules.is_file():
        return
    # The second has the family's name in older folders: sentence_roberta_config.json.
    for pattern in ("modules.json", "sentence_*_config.json", "config_sentence_transformers.json"):
        for file in source.glob(pattern):
            shutil.copyfile(file, folder / file.name)
    try:
        entries = json.loads(modules.read_bytes())
    except (ValueError, RecursionError) as error:
        raise LosparseError(f"'{modules}' is not valid JSON: {error}") from None
    listed = entries if isinstance(entries, list) else []
    paths = [Path(str(entry.get("path", ""))) for entry in listed if isinstance(entry, dict)]
    for path in paths:
        inside = path.parts and not path.is_absolute() and ".." not in path.parts
        for file in sorted((source / path).glob("*")) if inside else []:
            if file.suffix in (".json", ".safetensors", ".txt") and file.is_file():
                (folder / path).mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, folder / path / file.name)
