"""Measured times, written into the folders that they are of: what `Session` chooses a variant by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..contract.fields import read_json
from ..contract.files import METADATA_FILE, read_folder, rewrite_metadata
from ..contract.variant import DEFAULT_PROVIDER
from ..engine.cpus import cpu_class
from ..errors import FolderError, InputError
from .benchmark import Benchmark


@dataclass(frozen=True)
class Recorded:
    """What was written of a benchmark.

    Attributes:
        calls: what the times are of, as "cpu-amx 1x128 1t": class of CPU, batch, length and threads.
        noisy: calls whose times the machine disturbed, so that none of them was written.
    """

    calls: tuple[str, ...]
    noisy: tuple[str, ...]


def times_of(
    results: Sequence[Mapping[str, Any]], threads: int, cpu: str | None = None
) -> tuple[dict[str, dict[str, float]], Recorded]:
    """Return the median times of a benchmark as folders say them, without the calls that the machine disturbed.

    Args:
        results: as `Benchmark.to_dict` has them.
        threads: inside one operator.
        cpu: class of the CPU; default: that of this one, whatever `CPU_VARIABLE` names.

    Returns:
        Milliseconds by call, by name of the model; and which calls these are, and which are left out. A call in which
        one of the models was disturbed is left out for all: times are there to be compared.
    """
    cpu = cpu_class(environ={}) if cpu is None else cpu
    disturbed = {(row["batch"], row["length"]) for row in results if row["noisy"]}
    calls: dict[str, bool] = {}
    times: dict[str, dict[str, float]] = {}
    for row in results:
        shape = row["batch"], row["length"]
        call = f"{cpu} {row['batch']}x{row['length']} {threads}t"
        calls[call] = shape in disturbed
        if shape not in disturbed:
            times.setdefault(row["model"], {})[call] = row["median_ms"]
    written = tuple(call for call, noisy in calls.items() if not noisy)
    return times, Recorded(written, tuple(call for call, noisy in calls.items() if noisy))


def record_times(found: Benchmark, cpu: str | None = None) -> Recorded:
    """Write the median times of a benchmark into the `losparse.json` of its folders, each file whole or not at all.

    Times of other classes of CPU stay, and so do those of other calls. What the machine disturbed is left out as
    `times_of` says it, and so are models in other runtimes.

    Args:
        found: of models on the CPU provider.
        cpu: class of the CPU; default: that of this one, whatever `CPU_VARIABLE` names.

    Returns:
        Which calls were written, and which were not.

    Raises:
        InputError: the models ran on another provider; times are by class of CPU.
        FolderError: a folder was exported again since, or cannot be written to.
    """
    if found.providers != (DEFAULT_PROVIDER,):
        raise InputError(
            f"times are recorded by class of CPU, so of {DEFAULT_PROVIDER} alone, got {', '.join(found.providers)}"
        )
    times, recorded = times_of([row.to_dict() for row in found.results], found.threads, cpu)
    for name, of_model in times.items():
        if "openvino" not in found.models[name]:
            _write(found.models[name], of_model)
    return recorded


def _write(model: Mapping[str, Any], times: Mapping[str, float]) -> None:
    """Add times of one model to what its folder says; what else the file says stays as it is."""
    folder = Path(model["folder"])
    contents, file = read_folder(folder), folder / METADATA_FILE
    name = model.get("variant") or next(iter(contents.variants))
    variant = contents.variants.get(name)
    if variant is None or model["fingerprint"] not in {each.fingerprint for each in variant.models.values()}:
        raise FolderError(f"{folder}: was exported again while it was timed; time it again")
    data = read_json(file).data
    entry: dict[str, Any] = data["variants"][name] if "variants" in data else data
    entry["times"] = {**(variant.times or {}), **times}
    try:
        rewrite_metadata(folder, data)
    except OSError as error:
        raise FolderError(f"{file}: times cannot be written there ({error.strerror}); make it writable") from error
