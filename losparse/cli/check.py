"""`losparse check ONNX_DIR [--reference DIR]`: is it as written, and the model it came from? Exit code 1 if not.

Every file is compared with its digest. With a reference the tokens of texts, what is done with numbers, and the numbers
themselves are compared too: against a checkpoint the reference is PyTorch with transformers' own tokenizer; against
another ONNX folder it is that, and no torch is loaded.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data.examples import load_texts
from ..errors import LosparseError
from .bench import check_alike
from .checkpoint import find_model
from .output import Advance, Progress, check_json_target, print_table, write_json
from .parser import refuse_idle
from .reading import Reading, changed_description, differences, read_session
from .run import add_session_options

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from losparse_runtime import Parity, Session

    Arrays = dict[str, NDArray[np.generic]]

_SHAPES = ((1, 2), (1, 7), (2, 7), (3, 24), (2, 128), (8, 64))
"""Texts in a batch, tokens in a text, for random token ids; from two texts on, half of them are padded."""

_BATCH = 32


@dataclass(frozen=True)
class Reference:
    """What a folder is compared with.

    Attributes:
        kind: "PyTorch" or "ONNX".
        run: outputs of one batch.
        explain: names the first layer that differs on a batch by more than a tolerance for outputs of magnitude 1,
            where that can be found out.
        reading: how it reads texts.
        precision: of its numbers.
    """

    kind: str
    run: Callable[[Arrays], Arrays]
    explain: Callable[[Arrays, float], str | None]
    reading: Reading
    precision: str = "fp32"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("folder", type=Path, metavar="ONNX_DIR", help="what `losparse export` wrote")
    parser.add_argument(
        "--reference",
        metavar="MODEL",
        help="its checkpoint, a folder or hub id, or another ONNX folder (default: only what the folder itself says)",
    )
    parser.add_argument(
        "--data", metavar="F", help="texts to compare on: csv, tsv, jsonl, a hub data set, or txt (a text a line)"
    )
    parser.add_argument("--text-column", metavar="NAME", help="column of texts, words or questions")
    parser.add_argument("--pair-column", metavar="NAME", help="column of second texts or contexts")
    parser.add_argument(
        "--tolerance", type=float, metavar="T", help="largest difference allowed (default: that of the precision)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the result to this file")
    add_session_options(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Compare, print, and return 1 if something differs."""
    from losparse_runtime import FolderError, Session, changed_files

    check_json_target(options.json)
    refuse_idle(options, ["text_column", "pair_column"], ["data"])
    refuse_idle(options, ["data", "tolerance"], ["reference"])
    if options.tolerance is not None and not 0 <= options.tolerance < math.inf:
        raise LosparseError(f"--tolerance must be a finite number of 0 or more, got {options.tolerance}")
    changes = changed_files(options.folder)
    try:
        session = Session(options.folder, providers=options.providers, threads=options.threads)
    except FolderError as error:
        if not changes:
            raise
        result = _no_comparison([*changes, f"it does not open: {error}"])
    else:
        changes += changed_description(session)
        result = _no_comparison(changes) if options.reference is None else _compare_model(session, options, changes)
    _print(result)
    if options.json is not None:
        write_json(options.json, {"folder": str(options.folder), "reference": options.reference, **result})
    return 0 if result["passed"] else 1


def _no_comparison(changes: list[str]) -> dict[str, Any]:
    """Return the result of a check that looked at the folder alone."""
    return {"passed": not changes, "against": None, "differences": changes, "parts": {}}


def _compare_model(session: Session, options: argparse.Namespace, changes: list[str]) -> dict[str, Any]:
    """Compare with the reference; `changes` are differences that were found before."""
    texts = None if options.data is None else _read_texts(options, session.task)
    progress = Progress(verbose=options.verbose)
    with progress.stage("opening the reference"):
        reference = open_reference(session, find_model(options.reference), threads=options.threads)
    result = check(session, reference, texts, progress, tolerance=options.tolerance)
    return {**result, "passed": result["passed"] and not changes, "differences": [*changes, *result["differences"]]}


def _read_texts(options: argparse.Namespace, task: str) -> tuple[list[str], list[str] | None]:
    return load_texts(options.data, task=task, text_column=options.text_column, pair_column=options.pair_column)


def open_reference(session: Session, folder: Path, *, threads: int | None = None) -> Reference:
    """Open what a session is to be compared with.

    Raises:
        LosparseError: it cannot be opened, or is for another task.
    """
    if (folder / "losparse.json").is_file():
        from losparse_runtime import Session as Runtime

        other = Runtime(folder, threads=threads)
        check_alike([session, other], labels=False)
        return Reference(
            "ONNX", other.run, lambda batch, tolerance: None, read_session(other), other.metadata.precision
        )
    from .reference import open_torch

    return open_torch(session, folder)


def check(
    session: Session,
    reference: Reference,
    texts: tuple[list[str], list[str] | None] | None,
    progress: Progress,
    *,
    tolerance: float | None = None,
) -> dict[str, Any]:
    """Compare how a session and its reference read texts, and their numbers on random token ids and on texts.

    Args:
        session: what is checked.
        reference: what is right by definition.
        texts: texts, and second texts or None, to compare on too.
        progress: shows a bar over the batches.
        tolerance: largest difference allowed; default: that of the coarser precision of both, for outputs as large as
            the reference's. What the folder says of that counts for nothing: it is what is checked. The cosine and the
            classes that a precision other than fp32 is judged by as well stay as they are.

    Returns:
        The result as JSON values; `passed` is the verdict.
    """
    from losparse_export.precision.table import allowed_difference, coarser_precision, relative_tolerance
    from losparse_runtime.text.cuts import cuts_told_once

    judge = coarser_precision(session.metadata.precision, reference.precision)
    allowed, largest = tolerance or 0.0, 0.0
    parts: dict[str, Callable[[], Iterator[Arrays]]] = {"random tokens": lambda: random_batches(session)}
    counts, read = {"random tokens": len(_SHAPES)}, {"random tokens": sum(batch for batch, _ in _SHAPES)}
    if texts is not None:
        read["texts"] = len(texts[0])
        parts["texts"] = lambda: text_batches(session, *texts)
        counts["texts"] = math.ceil(len(texts[0]) / _BATCH)
    results = {}
    with progress.stage("comparing tokens"):
        found = differences(session, reference.reading, texts)
    comparing = progress.stage(f"comparing with {reference.kind}", sum(counts.values()))
    with cuts_told_once(), comparing as advance:
        for name, batches in parts.items():
            parity, worst, scale = _compare(session, reference, batches(), advance)
            largest = max(largest, scale)
            if tolerance is None:
                allowed = allowed_difference(judge.difference, largest)
            failure = judge.failure(parity, allowed, classifies=session.task.endswith("classification"))
            passed = failure is None
            # For outputs of magnitude 1: every layer's allowance is scaled with what that layer returns.
            relative = judge.difference if tolerance is None else relative_tolerance(allowed, scale)
            layer = None if passed else reference.explain(worst, relative)
            sizes = {"batches": counts[name], "texts": read[name]}
            results[name] = {"passed": passed, **sizes, **parity.to_dict(), "first_layer": layer}
    return {
        "passed": not found and all(part["passed"] for part in results.values()),
        "against": reference.kind,
        "task": session.task,
        "differences": found,
        "precision": judge.name,
        "tolerance": allowed,
        "cosine": judge.cosine,
        "parts": results,
    }


def _compare(
    session: Session, reference: Reference, batches: Iterator[Arrays], advance: Advance
) -> tuple[Parity, Arrays, float]:
    """Return the differences over all batches, the batch that holds the largest, and the reference's largest output."""
    import numpy as np

    from losparse_runtime import Comparison

    overall, scale = Comparison(), 0.0
    per_token = session.outputs[0].shape[:2] == ("batch", "sequence")  # what is said at padding is never read
    seen: list[Arrays] = []
    for batch in batches:
        actual, expected = session.run(batch), reference.run(batch)
        overall.add(actual, expected, mask=batch["attention_mask"] if per_token else None)
        for values in expected.values():
            read = values[batch["attention_mask"].astype(bool)] if per_token else values
            scale = max(scale, float(np.abs(read).max(where=np.isfinite(read), initial=0.0)))
        seen.append(batch)
        advance(1)
    parity = overall.parity()
    return parity, seen[parity.worst_batch], scale


def random_batches(session: Session) -> Iterator[Arrays]:
    """Yield random token ids at several shapes; every second text of a batch is padded, where the folder pads."""
    from losparse_runtime.timing.latency import end_rows_, random_inputs

    for seed, (batch, length) in enumerate(_SHAPES):
        arrays = random_inputs(session.config, batch, min(length, session.max_length), seed)
        ids, mask = arrays["input_ids"], arrays["attention_mask"]
        real = (ids.shape[1] + 1) // 2
        mask[1::2, slice(real, None) if session.encoder.padding_side == "right" else slice(None, -real)] = 0
        ids[mask == 0] = session.config.pad_token_id or 0
        end_rows_(ids, mask, session.config)
        yield session.feed(arrays)


def text_batches(session: Session, texts: list[str], pairs: list[str] | None) -> Iterator[Arrays]:
    """Yield texts as the session encodes them, in their order."""
    for first in range(0, len(texts), _BATCH):
        rows = slice(first, first + _BATCH)
        yield session.encode(texts[rows], None if pairs is None else pairs[rows])


def _print(result: dict[str, Any]) -> None:
    for line in result["differences"]:
        print(f"differs: {' '.join(line.split())}")
    if result["parts"]:
        _print_parts(result)
    elif result["passed"]:
        print("the files are as they were written; --reference compares them with a model")
    print(_verdict(result))


def _print_parts(result: dict[str, Any]) -> None:
    rows = []
    # The largest entry of a vector is no answer; how far the worst of the vectors has turned is.
    vectors = result["task"] == "feature-extraction"
    for name, part in result["parts"].items():
        difference = f"{part['max_abs']:.1e}" if part["finite"] else "not finite"
        rows.append(
            [
                name,
                _count(part["texts"], part["rows"]),
                difference,
                f"{part['centred_cosine']:.6f}",
                f"{part['cosine']:.6f}" if vectors else f"{part['top1_agreement']:.2%}",
                _verdict(part),
            ]
        )
    title = f"against {result['against']}, {result['precision']}, largest difference allowed {result['tolerance']:.1e}"
    if result["cosine"] is not None:
        title += f", cosine {result['cosine']} or more"
    last = "worst cosine" if vectors else "same largest entry"
    columns = ["inputs", "texts", "largest difference", "cosine", last, "verdict"]
    print_table(title, columns, rows)
    for part in result["parts"].values():
        if part["first_layer"] is not None:
            print(f"first layer that differs: {part['first_layer']}")


def _count(texts: int, rows: int) -> str:
    """Say how many texts were compared, and how many rows of outputs where every token has one."""
    return f"{texts:,}" if rows == texts else f"{texts:,} ({rows:,} rows)"


def _verdict(part: dict[str, Any]) -> str:
    return "passed" if part["passed"] else "FAILED"
