"""Time folders of one model against each other at several shapes: the data of `losparse bench`.

report = benchmark(open_folders(["dense-onnx", "compressed-onnx"]), [(1, 128)])
report.results[1].latency.speedup
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..contract.files import read_folder
from ..contract.progress import SILENT, Progress
from ..contract.variant import DEFAULT_PROVIDER
from ..engine.choice import overflowing
from ..engine.options import Provider
from ..errors import InputError
from ..same_model import require_same_model
from ..session import Session
from .latency import Latency, Timed, check_named, measure
from .openvino import OpenVino

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Timing:
    """What one model took at one shape.

    Attributes:
        batch: texts in a run.
        length: tokens in a text.
        model: its name.
        latency: its times.
    """

    batch: int
    length: int
    model: str
    latency: Latency

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON values, those of the latency among them."""
        return {"batch": self.batch, "length": self.length, "model": self.model, **self.latency.to_dict()}


@dataclass(frozen=True)
class Benchmark:
    """Times of models at shapes.

    Attributes:
        providers: execution providers of the first model.
        threads: inside one operator, of the first model.
        models: "folder" and "fingerprint" of each by name, "variant" where its folder holds several, and the precision
            in "openvino" of those that run there; the first is the one the others are compared with.
        results: a timing for every shape and model, shape by shape.
    """

    providers: tuple[str, ...]
    threads: int
    models: dict[str, dict[str, Any]]
    results: tuple[Timing, ...]

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return {
            "providers": list(self.providers),
            "threads": self.threads,
            "models": self.models,
            "results": [timing.to_dict() for timing in self.results],
        }


def benchmark(
    sessions: Mapping[str, Session],
    shapes: Sequence[tuple[int, int]],
    *,
    opponents: Mapping[str, OpenVino] | None = None,
    runs: int | None = None,
    min_seconds: float | None = None,
    memory: bool = True,
    progress: Progress = SILENT,
) -> Benchmark:
    """Time sessions of one model in turns at every shape; see `measure`.

    Args:
        sessions: by name; speedups are against the first.
        shapes: texts in a run, tokens in a text.
        opponents: by name, not one of a session: folders in another runtime, to be timed in the same turns.
        runs: timed rounds; by default at least 10, until `min_seconds` have passed.
        min_seconds: timed seconds a session, in place of `runs`.
        memory: measure peak memory too, in processes of their own.
        progress: is told of the shapes.

    Raises:
        InputError: the sessions are of different models, an opponent has a session's name, or an argument is out of
            range.
        RunError: a model failed, or its outputs are not finite.
    """
    check_named(sessions)
    require_same_model(list(sessions.values()))
    first, opponents = next(iter(sessions.values())), opponents or {}
    taken = sorted(sessions.keys() & opponents.keys())
    if taken:
        raise InputError(f"opponents must have other names than sessions, got {taken[0]!r} for both")
    timed: dict[str, Timed] = {**sessions, **opponents}
    results: list[Timing] = []
    with progress.stage("timing", len(shapes)) as advance:
        for batch, length in shapes:
            times = measure(timed, batch=batch, length=length, runs=runs, min_seconds=min_seconds, memory=memory)
            results += [Timing(batch, length, name, latency) for name, latency in times.items()]
            advance(1)
    models = {name: _described(model) for name, model in timed.items()}
    for name, opponent in opponents.items():
        models[name]["openvino"] = opponent.precision
    return Benchmark(first.providers, first.threads, models, tuple(results))


def _described(model: Timed) -> dict[str, Any]:
    metadata = model.metadata
    variant = {"variant": metadata.variant_name} if len(metadata.folder.variants) > 1 else {}
    return {"folder": str(model.folder), "fingerprint": metadata.fingerprint, **variant}


Place = Path | str | tuple[Path | str, str]
"""A folder, or a folder and the name of one of its variants."""


def open_folders(
    folders: Sequence[Place],
    providers: Sequence[Provider] = (DEFAULT_PROVIDER,),
    threads: int | None = None,
    *,
    verify: bool | Path | str = False,
) -> dict[str, Session]:
    """Open folders to be compared, each under a name that tells it from the others.

    Of a folder of several variants all are opened, but for those that overflow on this CPU, which a warning names.

    Args:
        folders: that `losparse export` wrote, or pairs of a folder and the name of the only variant to open of it.
        providers: see `Session`.
        threads: see `Session`.
        verify: see `Session`.

    Returns:
        Sessions by the folders' own names, or by their paths where names are equal; of a folder of several variants
        "folder:variant", or the variant alone where no other folder is there.

    Raises:
        LosparseRuntimeError: a folder cannot be opened; see `Session`.
    """
    places = [(Path(each[0]), each[1]) if isinstance(each, tuple) else (Path(each), None) for each in folders]
    names, sessions = _names([folder for folder, _ in places]), []
    shown: list[str] = []
    for folder, variant in places:
        several = len(read_folder(folder).variants) > 1
        for each in _to_open(folder) if variant is None else [variant]:
            own = names[folder.resolve()]
            shown.append(own if not several else each if len(names) == 1 else f"{own}:{each}")
            sessions.append(Session(folder, providers=providers, threads=threads, variant=each, verify=verify))
    if len(set(shown)) < len(shown):  # one model beside itself
        shown = [f"{name} ({place})" for place, name in enumerate(shown, 1)]
    return dict(zip(shown, sessions, strict=True))


def _to_open(folder: Path) -> list[str]:
    """Return the variants that run here; all of them where none does, so that opening says why."""
    contents = read_folder(folder)
    wrong = overflowing(contents)
    left = [name for name in contents.variants if name not in wrong]
    for name, why in wrong.items() if left else ():
        logger.warning("%s: variant %s is left out: %s", folder, name, why)
    return left or list(contents.variants)


def _names(folders: Sequence[Path]) -> dict[Path, str]:
    """Return what to call folders, by where they really are: their own names, or their paths where those are equal."""
    paths = {folder.resolve(): str(folder) for folder in reversed(folders)}
    own = {place: place.name for place in paths}
    return own if len(set(own.values())) == len(own) else paths
