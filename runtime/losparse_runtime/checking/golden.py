"""Golden outputs: what a reference says of some inputs, in a file, so that a check needs the reference no more.

The file is numpy's npz without pickles: arrays of inputs and outputs, and a text that says the rest, with a digest of
all of it. It holds how the reference reads texts, and the bounds to judge by: a check trusts nothing that the folder
says of itself.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..contract.tensors import Arrays
from ..errors import FolderError, InputError
from .bounds import Bounds

FORMAT = 1
_ABOUT = "about"


@dataclass(frozen=True)
class Case:
    """One run of the reference.

    Attributes:
        kind: of the inputs: "random tokens" or "texts".
        inputs: of the run.
        outputs: of the reference.
    """

    kind: str
    inputs: Arrays
    outputs: Arrays


@dataclass(frozen=True)
class Golden:
    """What a reference says.

    Attributes:
        task: what the model does.
        kind: what did the reference's arithmetic, as in "PyTorch".
        reference: name of the reference.
        precision: of its numbers, as `Variant.arithmetic` says it.
        cases: runs.
        bounds: by a variant's arithmetic.
        settings: of texts and numbers, by what a message calls them.
        text_settings: those that matter only where there is a tokenizer.
        tokenizer: the parts of tokenizer.json that tokens depend on; None where the reference has none.
        rows: texts, and ids and token types of each.
        operators: how many nodes of each kind a variant has once onnxruntime has fused what it fuses, by its name.
        versions: of what recorded it; operators are compared by the same onnxruntime alone.
    """

    task: str
    kind: str
    reference: str
    precision: str
    cases: tuple[Case, ...]
    bounds: Mapping[str, Bounds]
    settings: Mapping[str, Any]
    text_settings: Mapping[str, Any]
    tokenizer: Mapping[str, Any] | None
    rows: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]
    operators: Mapping[str, Mapping[str, int]]
    versions: Mapping[str, str]

    def bounds_of(self, arithmetic: str) -> Bounds:
        """Return the bounds of a variant; those of fp32 where the file has none of it."""
        return self.bounds.get(arithmetic, self.bounds["fp32"])


def write_golden(file: Path, golden: Golden) -> None:
    """Write a golden file, whole or not at all.

    Args:
        file: new, or to be replaced.
        golden: what to write.
    """
    arrays = _arrays(golden.cases)
    about = _about(golden)
    about["digest"] = _digest(about, arrays)
    temporary = file.with_name(f".{file.name}.tmp")
    try:
        with temporary.open("wb") as sink:
            text = np.frombuffer(json.dumps(about, ensure_ascii=False).encode(), np.uint8)
            np.savez_compressed(sink, **{_ABOUT: text, **arrays})
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)


def read_golden(file: Path | str) -> Golden:
    """Read a golden file.

    Raises:
        InputError: it is not there, no golden file, damaged, changed, or of a newer version.
    """
    path = Path(file)
    if not path.is_file():
        raise InputError(f"golden file '{path}' does not exist; record one with `losparse golden`")
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        about = json.loads(arrays.pop(_ABOUT).tobytes())
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, EOFError) as error:
        raise InputError(f"'{path}' is no golden file, or is damaged; record it with `losparse golden`") from error
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        found = about.get("format") if isinstance(about, dict) else None
        raise InputError(f"'{path}' has format {found!r}, this losparse_runtime reads {FORMAT}; record it again")
    if about.pop("digest", None) != _digest(about, arrays):
        raise InputError(f"'{path}' was changed after it was recorded; record it again with `losparse golden`")
    return _golden(about, arrays)


def _about(golden: Golden) -> dict[str, Any]:
    whole = {name: getattr(golden, name) for name in ("task", "kind", "reference", "precision", "tokenizer")}
    return {
        "format": FORMAT,
        **whole,
        "cases": [case.kind for case in golden.cases],
        "bounds": {name: asdict(bounds) for name, bounds in golden.bounds.items()},
        "settings": dict(golden.settings),
        "text_settings": dict(golden.text_settings),
        "rows": [[text, list(ids), list(types)] for text, ids, types in golden.rows],
        "operators": {name: dict(counts) for name, counts in golden.operators.items()},
        "versions": dict(golden.versions),
    }


def _arrays(cases: Sequence[Case]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for place, case in enumerate(cases):
        for side, values in (("input", case.inputs), ("output", case.outputs)):
            found |= {f"{place}/{side}/{name}": array for name, array in values.items()}
    return found


def _golden(about: Mapping[str, Any], arrays: Mapping[str, Any]) -> Golden:
    cases = []
    for place, kind in enumerate(about["cases"]):
        sides = ({}, {})  # type: tuple[dict[str, Any], dict[str, Any]]
        for side, found in zip(("input", "output"), sides, strict=True):
            prefix = f"{place}/{side}/"
            found |= {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
        cases.append(Case(kind, *sides))
    rows = tuple((text, tuple(ids), tuple(types)) for text, ids, types in about["rows"])
    bounds = {name: Bounds(**values) for name, values in about["bounds"].items()}
    others = {name: about[name] for name in about if name not in ("format", "cases", "bounds", "rows")}
    return Golden(cases=tuple(cases), bounds=bounds, rows=rows, **others)


def _digest(about: Mapping[str, Any], arrays: Mapping[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def require_task(golden: Golden, task: str, folder: Path) -> None:
    """Refuse a folder of another task.

    Raises:
        FolderError: see above.
    """
    if golden.task != task:
        raise FolderError(f"{folder}: does {task}, the golden outputs are of {golden.task}; take those of its model")
