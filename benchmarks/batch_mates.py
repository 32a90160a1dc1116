"""How far the answers about a text move with the other texts of its batch, and what forms in which they do not cost.

    python benchmarks/batch_mates.py NAME=DIR [NAME=DIR ...] [--texts dev.csv] [--calibration train.csv]
                                     [--task feature-extraction] [--every 1] [--json FILE] [--seconds 2]
    python benchmarks/batch_mates.py --shape 6x384 12x768

A model is exported in every form. Every text then runs alone, and in batches of 32 texts of mixed lengths, padded to
the longest; what is said of it is compared: logits, or the mean of its tokens' vectors. Both are compared with fp32
alone, too. A form that PyTorch does not confirm is named with the reason.

A shape is an encoder of random weights, dense and at keep 0.2: times alone, which do not depend on weights.

Times are of sessions in turns on the same input, and `int8, one by one` is what `batch_invariant=True` did before there
were others to open. Calls of 12 tokens are short queries. Results have one entry a kind of machine and model.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _results import kind_of, locked, machine, versions
from encoder_latency import METHODS, build
from numpy.typing import NDArray
from transformers import PreTrainedModel

from losparse.data.tables import read_table
from losparse_export import ExportSettings, export_variants
from losparse_runtime import Session, measure

RESULTS = Path(__file__).parent / "results" / "batch_mates.json"
FORMS = ("fp32", "int8", "int8-vnni", "int8-rows", "int8-static", "int8-weights", "int4-weights", "fp16")
TIMED = ("fp32", "int8", "int8-rows", "int8-static")
ALONE = "int8, one by one"
CALLS = ((1, 12), (16, 12), (1, 128), (8, 128))
BATCH, CALIBRATION, RUNS = 32, 128, 16
Array = NDArray[Any]


def texts_of(file: Path) -> list[str]:
    """Return the column "text" of a table."""
    return [str(row["text"]) for row in read_table(file).rows]


def answers(session: Session, texts: Sequence[str], batch: int) -> Array:
    """Return one row a text: its logits, or the mean of its tokens' vectors; float64 (texts, numbers)."""
    rows = []
    for first in range(0, len(texts), batch):
        feeds = session.encode(list(texts[first : first + batch]))
        found = next(iter(session.run(feeds).values())).astype(np.float64)
        if found.ndim == 3:
            mask = feeds["attention_mask"][..., None]
            found = (found * mask).sum(axis=1) / mask.sum(axis=1)
        rows.append(found)
    return np.concatenate(rows)


def difference(found: Array, expected: Array, *, classifies: bool) -> dict[str, Any]:
    """Say how far answers are from others; of vectors by their cosines, of logits by the class too."""
    lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
    cosines = (found * expected).sum(axis=1) / lengths
    told: dict[str, Any] = {"max_abs": float(np.abs(found - expected).max())}
    if classifies:
        return told | {"other_class": int((found.argmax(axis=1) != expected.argmax(axis=1)).sum())}
    return told | {"mean_cosine": float(cosines.mean()), "worst_cosine": float(cosines.min())}


def compare_forms(folder: Path, names: Sequence[str], texts: Sequence[str]) -> list[dict[str, Any]]:
    """Compare every form with itself in a batch, and with fp32.

    Raises:
        SystemExit: fp32 or a form that does not say so moves by more than rounding.
    """
    rows, reference = [], None
    for name in names:
        session = Session(folder, threads=1, variant=name)
        alone, beside = (answers(session, texts, batch) for batch in (1, BATCH))
        reference = alone if reference is None else reference
        classifies = session.task == "text-classification"
        moved = difference(beside, alone, classifies=classifies)
        # Rounding of a sum that falls beside a step of int8 moves a number by that step, so 1e-3 and not 1e-5.
        if not session.metadata.variant.mixes_texts and moved["max_abs"] > 1e-3 * max(1.0, float(np.abs(alone).max())):
            raise SystemExit(
                f"{folder}: {name} moves by {moved['max_abs']:.1e} with the other texts, and says it does not"
            )
        fp32 = {
            "alone": difference(alone, reference, classifies=classifies),
            "in_batch": difference(beside, reference, classifies=classifies),
        }
        rows.append({"form": name, "texts": len(texts), "in_batch_beside_alone": moved, "beside_fp32": fp32})
        print(f"{folder.name} {name}: in a batch {moved}, beside fp32 {fp32}", flush=True)
    return rows


def time_forms(folder: Path, names: Sequence[str], seconds: float) -> list[dict[str, Any]]:
    """Time the forms that there are in turns."""
    sessions = {name: Session(folder, threads=1, variant=name) for name in TIMED if name in names}
    if "int8" in names:
        sessions[ALONE] = Session(folder, threads=1, variant="int8", batch_invariant=True)
    rows = []
    for batch, length in CALLS:
        for name, found in measure(sessions, batch=batch, length=length, min_seconds=seconds, memory=False).items():
            told = {key: value for key, value in found.to_dict().items() if key != "peak_memory_bytes"}
            rows.append({"batch": batch, "length": length, "form": name, **told})
            print(f"{folder.name} {batch}x{length} {name}: {found.median_ms:.2f} ms, {found.speedup:.2f}x", flush=True)
    return rows


def run(name: str, source: Path | PreTrainedModel, args: argparse.Namespace, texts: Sequence[str]) -> None:
    """Export a model, compare its forms, time them, and put it into the results.

    Args:
        name: of the model in the results.
        source: a checkpoint or a model.
        args: of the command line.
        texts: to compare on; none for times alone.
    """
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root) / name
        given = texts_of(args.calibration)[:CALIBRATION] if texts else _random_feeds(source)
        forms = FORMS if texts else TIMED
        report = export_variants(source, folder, ExportSettings(precision=forms), task=args.task, calibration=given)
        names = list(report.variants)
        found: dict[str, Any] = {"machine": machine(), "versions": versions(), "refused": dict(report.failed)}
        found["answers"] = compare_forms(folder, names, texts) if texts else []
        found["times"] = time_forms(folder, names, args.seconds)
    with locked(args.json) as data:
        data.setdefault("kinds", {}).setdefault(kind_of(machine()), {})[name] = found


def _random_feeds(source: Path | PreTrainedModel) -> list[Mapping[str, Array]]:
    """Return inputs to measure scales on for a model that has no tokenizer."""
    assert isinstance(source, PreTrainedModel), "a checkpoint has texts"
    ids = np.random.default_rng(0).integers(1, source.config.vocab_size, (RUNS, 1, 32))
    rest = {"attention_mask": np.ones_like(ids[0]), "token_type_ids": np.zeros_like(ids[0])}
    return [{"input_ids": each, **rest} for each in ids]


def main() -> None:
    """Run the models and shapes that are named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="NAME=DIR", help="checkpoints")
    parser.add_argument("--shape", nargs="*", default=[], metavar="LAYERSxHIDDEN", help="encoders of random weights")
    parser.add_argument("--texts", type=Path, metavar="FILE", help="a table with a column 'text', to compare on")
    parser.add_argument("--calibration", type=Path, metavar="FILE", help="the same, to measure fixed scales on")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="take every Nth text")
    parser.add_argument("--task", help="where the checkpoints do not say it")
    parser.add_argument("--json", type=Path, default=RESULTS, metavar="FILE")
    parser.add_argument("--seconds", type=float, default=2.0, metavar="S", help="timed, of a form at a call")
    args = parser.parse_args()
    if args.models and not (args.texts and args.calibration):
        raise SystemExit("checkpoints are compared on texts: give --texts and --calibration")
    torch.set_num_threads(1)
    for model in args.models:
        name, _, place = model.partition("=")
        run(name, Path(place), args, texts_of(args.texts)[:: args.every])
    args.task = "feature-extraction"
    for shape in args.shape:
        for form, method in (("dense", None), ("narrow", METHODS["narrow"])):
            run(f"{shape}-{form}", build(shape, method), args, ())


if __name__ == "__main__":
    main()
