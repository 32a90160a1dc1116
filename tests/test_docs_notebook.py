"""The notebook is stored with what it printed: `make notebook` executes it, and this test reads what that left."""

from __future__ import annotations

import ast
import base64
import json
import re
from pathlib import Path
from typing import Any

import pytest

NOTEBOOK = Path(__file__).parent.parent / "docs" / "notebooks" / "losparse.ipynb"
LOCAL = re.compile(r"/(?:work|tmp|root|home|Users|opt|usr|var)/|[A-Z]:\\\\")


@pytest.fixture(scope="module")
def cells() -> list[dict[str, Any]]:
    """The cells of code."""
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert notebook["nbformat"] == 4
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def text_of(lines: str | list[str]) -> str:
    return "".join(lines)


def test_every_cell_was_executed_in_order_without_an_error(cells: list[dict[str, Any]]) -> None:
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1)), "run `make notebook`"
    for cell in cells:
        assert cell["outputs"], text_of(cell["source"])
        kinds = {output["output_type"] for output in cell["outputs"]}
        assert kinds <= {"stream", "display_data", "execute_result"}
        assert all(output.get("name") != "stderr" for output in cell["outputs"]), "a warning is no result"


def test_it_compiles_and_says_nothing_of_a_machine(cells: list[dict[str, Any]]) -> None:
    for cell in cells:
        source = "\n".join(line for line in text_of(cell["source"]).splitlines() if not line.startswith("%"))
        ast.parse(source)
        printed = [
            text_of(output.get("text", output.get("data", {}).get("text/plain", ""))) for output in cell["outputs"]
        ]
        assert not LOCAL.search("\n".join([source, *printed]))


def test_pictures_are_pictures_and_the_file_is_small(cells: list[dict[str, Any]]) -> None:
    data = [output["data"] for cell in cells for output in cell["outputs"] if "data" in output]
    pictures = [base64.b64decode(text_of(each["image/png"])) for each in data if "image/png" in each]
    assert len(pictures) >= 2 and all(picture.startswith(b"\x89PNG") for picture in pictures)
    assert NOTEBOOK.stat().st_size < 400_000


def test_a_path_of_a_machine_is_seen() -> None:
    assert LOCAL.search("Written to /home/somebody/out") and not LOCAL.search("owner/name, notebook-out/small-onnx")
