"""The last step but the page: what passes every gate is shipped, with all that was measured of it.

A variant that fails a gate is not in the folder. Where none is left there is no folder, not even an older one.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from losparse_runtime.contract.files import read_folder, write_json, write_metadata
from losparse_runtime.contract.gates import PassedGate
from losparse_runtime.errors import LosparseRuntimeError

from ..environment import machine, versions
from ..saving.staging import EXPORT, staged_folder
from .cache import read_record
from .gates import Again, Measured, TooSlow, Verdict, judge
from .variants import DENSE, OF_BASELINE, open_sessions, read_facts
from .work import MEASURING, Work

if TYPE_CHECKING:
    from losparse_runtime.contract.folder import Folder
    from losparse_runtime.contract.variant import Variant

BUILD = "build.json"
RECIPE = "recipe.yaml"
_VERSIONS = ("torch", "transformers", "onnx", "onnxruntime", "numpy")


def decide(work: Work) -> None:
    """Judge every variant, ship what passed, and write what the build found out."""
    models = describe_models(work)
    bench = read_facts(work, "bench") or {}
    found = {name: _measured(name, entry, bench) for name, entry in models.items()}
    verdicts = judge(work.recipe.gates, found, timed_again(work))
    _note_verdicts(models, verdicts, (read_facts(work, "export") or {}).get("failed", {}))
    passed = [name for name, entry in models.items() if entry.get("passed")]
    ship(work, passed, bench, verdicts)
    write_recipe(work)
    write_json(work.out / BUILD, _facts(work, models, bench, verdicts))


def timed_again(work: Work) -> Again:
    """Return what times a variant anew that was too slow: a machine that was disturbed shall refuse nothing."""

    def again(slow: TooSlow) -> float:
        from losparse_runtime import compare_latency

        sessions = open_sessions(work)
        if slow.against not in sessions:  # of another runtime, whose process has ended
            return slow.found
        verdict = compare_latency(
            sessions[slow.variant],
            sessions[slow.against],
            batch=slow.batch,
            length=slow.length,
            at_most_ratio=1 / slow.limit,
        )
        return max(slow.limit, 1 / verdict.ratio) if verdict.passed else min(1 / verdict.ratio, slow.found)

    return again


def describe_models(work: Work) -> dict[str, dict[str, Any]]:
    """Return what is known of every model that was measured, by name: the baseline's and every candidate."""
    accuracy = read_facts(work, "accuracy")
    found: dict[str, dict[str, Any]] = {}
    baseline, candidates = read_folder(work.baseline), read_folder(work.candidates)
    for variant, name in OF_BASELINE.items():
        if variant in baseline.variants:
            found[name] = _model("baseline", baseline, variant, _accuracy(accuracy, name))
    bench = read_facts(work, "bench") or {}
    for name in bench.get("models", {}):
        if name not in found and name not in candidates.variants:
            found[name] = {"kind": "baseline", "precision": "int8", "bytes": None, "accuracy": None}
    for name in candidates.variants:
        found[name] = _model("variant", candidates, name, _accuracy(accuracy, name))
    return found


def _model(kind: str, folder: Folder, variant: str, accuracy: Mapping[str, Any] | None) -> dict[str, Any]:
    chosen = folder.variants[variant]
    names = {name for model in chosen.models.values() for name in model.names if name in folder.files}
    found = {
        "kind": kind,
        "precision": chosen.precision,
        "bytes": sum(folder.files[name].bytes for name in names),
        "accuracy": accuracy,
    }
    if kind == "variant":
        files = [model.file for model in chosen.models.values()]
        found |= {"file": files[0], "parity": chosen.parity_json(), "passed": True, "failures": []}
    return found


def _accuracy(accuracy: Mapping[str, Any] | None, name: str) -> dict[str, Any] | None:
    if accuracy is None or name not in accuracy["models"]:
        return None
    return {**accuracy["models"][name], "deltas": accuracy["differences"].get(name, {})}


def _measured(name: str, entry: Mapping[str, Any], bench: Mapping[str, Any]) -> Measured:
    results = [row for row in bench.get("results", ()) if row["model"] == name]
    return Measured(entry["kind"] == "variant", entry["bytes"], entry["accuracy"], tuple(results))


def _note_verdicts(models: dict[str, dict[str, Any]], verdicts: list[Verdict], failed: Mapping[str, str]) -> None:
    for verdict in verdicts:
        if not verdict.passed:
            models[verdict.variant]["passed"] = False
            models[verdict.variant]["failures"].append(verdict.words)
    for name, why in failed.items():  # of variants that PyTorch did not confirm
        models[name] = {"kind": "variant", "precision": name, "file": None, "bytes": None, "parity": None}
        models[name] |= {"accuracy": None, "passed": False, "failures": [f"parity: {why}"]}


def ship(work: Work, passed: list[str], bench: Mapping[str, Any], verdicts: Sequence[Verdict]) -> None:
    """Put the variants that passed into a folder of their own, with what was measured of them and what they passed."""
    from losparse_export import keep_variants

    before = _before(work.shipped)
    if not passed:
        shutil.rmtree(work.shipped, ignore_errors=True)
        return
    with staged_folder(work.shipped, overwrite=True, replaces=EXPORT) as folder:
        shutil.copytree(work.candidates, folder, dirs_exist_ok=True)
        keep_variants(folder, passed)
        contents = read_folder(folder)
        accuracy = read_facts(work, "accuracy")
        for name in passed:
            times = {**before.get(_fingerprints(contents.variants[name]), {}), **_times(name, bench)}
            gates = tuple(
                PassedGate(each.gate, each.limit, each.value)
                for each in verdicts
                if each.variant == name and each.value is not None
            )
            contents = contents.measured(name, accuracy=_told(accuracy, name), times=times, gates=gates)
        write_metadata(folder, contents)


def _before(folder: Path) -> dict[tuple[str, ...], Mapping[str, float]]:
    """Return the times that an earlier folder says of each model, those of other kinds of CPUs among them."""
    try:
        variants = read_folder(folder).variants.values()
    except LosparseRuntimeError:
        return {}
    return {_fingerprints(variant): variant.times or {} for variant in variants}


def _fingerprints(variant: Variant) -> tuple[str, ...]:
    return tuple(model.fingerprint for model in variant.models.values())


def _told(accuracy: Mapping[str, Any] | None, name: str) -> dict[str, Any] | None:
    """Return what a folder says of the accuracy of a variant."""
    if accuracy is None:
        return None
    models, texts = accuracy["models"], {key: accuracy[key] for key in ("file", "texts", "metric")}
    return {
        **texts,
        "pytorch": models["pytorch"]["value"],
        "onnx": models[name]["value"],
        "error": models[name]["error"],
        "differences": accuracy["differences"].get(name, {}),
    }


def _times(name: str, bench: Mapping[str, Any]) -> dict[str, float]:
    """Return median milliseconds by class of CPU, shape and threads, as folders say them."""
    from losparse_runtime.timing.record import times_of

    return times_of(bench["results"], bench["threads"])[0].get(name, {})


def write_recipe(work: Work) -> None:
    """Write the recipe with every default."""
    from yaml import safe_dump

    text = safe_dump(work.recipe.to_dict(), sort_keys=False, allow_unicode=True, default_flow_style=None, width=100)
    target = work.out / RECIPE
    temporary = target.with_name(f".{RECIPE}.tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(target)


def _facts(work: Work, models: Mapping[str, Any], bench: Mapping[str, Any], verdicts: list[Verdict]) -> dict[str, Any]:
    accuracy = read_facts(work, "accuracy") or {}
    steps = []
    for name in MEASURING:
        record = read_record(work.out, name)
        if record is not None:
            entry = {"name": name, "state": "done", "seconds": record.seconds}
            steps.append({**entry, "key": record.key, "digest": record.digest})
    return {
        "format": 1,
        "name": work.recipe.title,
        "recipe": work.recipe.to_dict(),
        "versions": versions(*_VERSIONS),
        "machine": machine(),
        "seconds": sum(step["seconds"] for step in steps),
        "steps": steps,
        "metric": accuracy.get("metric"),
        "texts": accuracy.get("texts"),
        "pytorch": accuracy.get("models", {}).get("pytorch"),
        "models": dict(sorted(models.items(), key=lambda item: (item[0] != DENSE, item[1]["kind"] != "baseline"))),
        "bench": dict(bench) or None,
        "verdicts": [verdict.to_dict() for verdict in verdicts],
        "details": read_facts(work, "details"),
    }
