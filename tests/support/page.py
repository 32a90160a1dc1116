"""The support matrix as one JSON file and as a page of the docs."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from .models import LEFT_OUT
from .steps import COLUMNS

_VERSIONS = ("torch", "transformers", "onnxruntime", "onnxscript", "onnx-ir")
_TITLES = {"svd": "SVD", "rom": "ROM", "one-shot": "one-shot LoSparse", "losparse": "LoSparse"}
_HEAD = """# What is supported

Every text architecture that transformers offers with a sequence classifier, more of them as encoders, and some with
other heads, each as a tiny model with random weights. It is made by `make support`, which also writes
`benchmarks/results/support.json`; a small part of it runs in `make test`.

* **SVD, ROM, one-shot LoSparse, LoSparse**: the model is compressed to half of its layers' parameters (LoSparse: one
  training step, masks moved, made small), saved, and opened again with transformers' own `from_pretrained`; "ok" says
  that it then gives the same numbers, bit for bit.
* **fp32, int8**: the LoSparse model (the dense one where compression is refused) is exported, and the folder is
  compared with a fresh PyTorch model at five shapes, from 1 x 5 to 1 x 200 tokens, with padding, beyond every window,
  block and original number of positions; "ok" says that it is within the bounds of its precision.
* A number is a refusal in words; the first of each kind stands below the table. Nothing else is possible: a wrong
  number or a crash fails `make support`.
"""


def write_page(
    rows: Sequence[Mapping[str, Any]], out: Path, page: Path, versions: Mapping[str, str] | None = None
) -> None:
    """Write the matrix.

    Args:
        rows: as `steps.run` returns them.
        out: the JSON file.
        page: the Markdown file.
        versions: of the packages that made the rows; by default those that are installed.
    """
    versions = dict(versions or {name: version(name) for name in _VERSIONS})
    data = {"versions": versions, "left_out": dict(LEFT_OUT), "rows": list(rows)}
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(_page(rows, versions), encoding="utf-8")


def _page(rows: Sequence[Mapping[str, Any]], versions: Mapping[str, str]) -> str:
    reasons: dict[str, str] = {}  # the first text of every kind of refusal
    table = [
        "| architecture | class | " + " | ".join(_TITLES.get(name, name) for name in COLUMNS) + " |",
        "|---" * (len(COLUMNS) + 2) + "|",
    ]
    for row in rows:
        cells = (_cell(row["cells"][column], row["class"], reasons) for column in COLUMNS)
        table.append(f"| {row['name']} | {row['class']} | " + " | ".join(cells) + " |")
    right = sum(cell == "ok" for row in rows for cell in row["cells"].values())
    total = sum(len(row["cells"]) for row in rows)
    seen = ", ".join(f"{name} {number}" for name, number in versions.items())
    parts = [
        _HEAD,
        f"{len(rows)} architectures, {right} of {total} cells ok; {seen}.\n",
        "\n".join(table) + "\n",
        "## Refusals\n",
        "\n".join(f"{number}. {said}" for number, said in enumerate(reasons.values(), 1)) + "\n",
        "## Left out\n",
        "\n".join(f"* {name}: {why}" for name, why in LEFT_OUT.items()) + "\n",
    ]
    return "\n".join(parts)


def _cell(text: str, architecture: str, reasons: dict[str, str]) -> str:
    """Return a cell of the table; a refusal becomes a number of the list below, which has the first of each kind."""
    if text == "ok":
        return text
    said = text.removeprefix("refused: ")
    # Classes, layers, numbers and places in files are the model's own; the rest is the kind.
    kind = re.sub(r"'[^']*'|\d+|\(\w+, line|of \w+\.py|^losparse: |^FOLDER: ", "", said.replace(architecture, ""))
    if kind not in reasons:
        reasons[kind] = said
    return str(list(reasons).index(kind) + 1)
