"""Runs the blocks of docs/clients.md: what a reader copies is what is tested."""

from __future__ import annotations

import contextlib
import re
import tempfile
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parent.parent.parent / "docs" / "clients.md"
BLOCK = re.compile(r"<!-- client: (\w+) -->\n```\w+\n(.*?)```", re.DOTALL)


def client_blocks() -> dict[str, str]:
    """Return the blocks by the name of their client."""
    return dict(BLOCK.findall(PAGE.read_text(encoding="utf-8")))


def run_block(client: str, folder: Path, file: str = "model.onnx", **names: Any) -> dict[str, Any]:
    """Run a block where OUT is a folder; returns the names that it leaves behind.

    Args:
        client: name of the block.
        folder: what OUT is.
        file: of the model, in the place of the one that the block names.
        names: what the block finds.
    """
    text = client_blocks()[client].replace("model.onnx", file)
    with tempfile.TemporaryDirectory() as place, contextlib.chdir(place):
        Path("OUT").symlink_to(folder.resolve())
        exec(compile(text, f"{PAGE.name}, {client}", "exec"), names)
    return names
