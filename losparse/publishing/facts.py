"""What is known of an exported folder: what it says itself, and what the build that made it measured.

A build writes `build.json` beside the folder `onnx` that it ships. Without one there is what the export measured.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from losparse_runtime.contract.files import METADATA_FILE, read_folder
from losparse_runtime.contract.folder import Folder
from losparse_runtime.contract.variant import Variant

from ..errors import LosparseError

BUILD_FILE = "build.json"
SHIPPED = "onnx"
"""The folder of a build that one ships."""


@dataclass(frozen=True)
class Measured:
    """A number, and its standard error where somebody estimated it."""

    value: float
    error: float | None = None


@dataclass(frozen=True)
class Row:
    """What is known of one variant, or of a model that it is compared with.

    Attributes:
        name: as folders and builds call it.
        file: of its graph; None for a model that is not in the folder.
        bytes: of all files that it needs; None where nobody counted.
        accuracy: by the task's metric; None where it was not measured, as with what follows.
        delta: how much more right it is than the first model, or than PyTorch where there is no build.
        speedups: over the first model, by call ("1 x 128").
        milliseconds: of a call, by call.
        parity: largest difference to PyTorch.
        cosine: of the angle between its outputs and PyTorch's.
    """

    name: str
    file: str | None
    bytes: int | None
    accuracy: Measured | None
    delta: Measured | None
    speedups: Mapping[str, float]
    milliseconds: Mapping[str, float]
    parity: float | None
    cosine: float | None


@dataclass(frozen=True)
class Facts:
    """What a card is made of.

    Attributes:
        place: the exported folder.
        folder: what it holds.
        rows: models that variants are compared with, then the variants.
        metric: by which `accuracy` is meant; None where nothing was measured.
        texts: that accuracy was measured on; None as above.
        compared: what `delta` is against; None where there is none.
        cpu: that times were taken on; None where none were.
    """

    place: Path
    folder: Folder
    rows: tuple[Row, ...]
    metric: str | None
    texts: int | None
    compared: str | None
    cpu: str | None


def read_facts(place: Path) -> Facts:
    """Read an exported folder, or the one that a build ships.

    Args:
        place: an exported folder, or the folder of a build.

    Raises:
        FolderError: there is no exported folder, or it is damaged.
        LosparseError: `build.json` cannot be read.
    """
    if (place / BUILD_FILE).is_file() and not (place / METADATA_FILE).is_file():
        place = place / SHIPPED
    folder = read_folder(place)
    build = place.resolve().parent / BUILD_FILE
    if place.resolve().name == SHIPPED and build.is_file():
        return _of_build(place, folder, _read(build))
    return _of_folder(place, folder)


def _read(file: Path) -> Mapping[str, Any]:
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise LosparseError(f"{file}: cannot be read as JSON ({error}); run the build again") from error
    if not isinstance(data, dict) or not isinstance(data.get("models"), dict):
        raise LosparseError(f"{file}: must hold an object with 'models'; run the build again")
    return data


def _of_folder(place: Path, folder: Folder) -> Facts:
    found = {name: variant.accuracy for name, variant in folder.variants.items() if variant.accuracy is not None}
    first = next(iter(found.values()), {})
    return Facts(
        place,
        folder,
        tuple(_variant_row(folder, name, variant) for name, variant in folder.variants.items()),
        first.get("metric"),
        first.get("texts"),
        "PyTorch" if found else None,
        None,
    )


def _variant_row(folder: Folder, name: str, variant: Variant) -> Row:
    said = variant.accuracy or {}
    accuracy = _measured(said.get("onnx"), said.get("error"))
    pytorch = _measured(said.get("pytorch"))
    delta = None if accuracy is None or pytorch is None else accuracy.value - pytorch.value
    return Row(
        name,
        next(iter(variant.models.values())).file,
        sum(folder.files[file].bytes for file in folder.model_files(name)),
        accuracy,
        _measured(delta, said.get("differences", {}).get("pytorch", {}).get("error")),
        {},
        dict(variant.times or {}),
        (variant.parity or {}).get("max_abs"),
        (variant.parity or {}).get("cosine"),
    )


def _of_build(place: Path, folder: Folder, build: Mapping[str, Any]) -> Facts:
    """Take what a build measured of the variants that are in the folder, and of what it compares them with."""
    first = next(iter(build["models"]), None)
    bench: Mapping[str, Any] = build.get("bench") or {}
    rows = []
    for name, model in build["models"].items():
        own = folder.variants.get(name)
        if model.get("kind") != "baseline" and own is None:
            continue  # it did not pass, so it is not shipped
        said = model.get("accuracy") or {}
        delta = (said.get("deltas") or {}).get(first) or {}
        speedups, milliseconds = _times(bench, name)
        known = None if own is None else _variant_row(folder, name, own)
        rows.append(
            Row(
                name,
                None if known is None else known.file,
                model.get("bytes") if known is None else known.bytes,
                _measured(said.get("value"), said.get("error")),
                _measured(delta.get("delta"), delta.get("error")),
                speedups if name != first else {},
                milliseconds,
                None if known is None else known.parity,
                None if known is None else known.cosine,
            )
        )
    cpu = (bench.get("machine") or {}).get("cpu")
    return Facts(place, folder, tuple(rows), build.get("metric"), build.get("texts"), first, cpu)


def _times(bench: Mapping[str, Any], name: str) -> tuple[dict[str, float], dict[str, float]]:
    """Return speed-ups and times of a model by call."""
    own = [each for each in bench.get("results", ()) if each.get("model") == name]
    calls = {f"{each['batch']} x {each['length']}": each for each in own}
    speedups = {call: each["speedup"] for call, each in calls.items() if each.get("speedup") is not None}
    return speedups, {call: each["median_ms"] for call, each in calls.items()}


def _measured(value: Any, error: Any = None) -> Measured | None:
    return None if value is None else Measured(float(value), None if error is None else float(error))
